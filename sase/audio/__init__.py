"""Read, write and resample audio: the only subpackage that opens sound files. Samples are float32 in [-1, 1]."""

from sase.audio.ffmpeg import SUFFIXES as FOREIGN_SUFFIXES
from sase.audio.kinds import CONTAINERS, FORMATS, Kind, container_of
from sase.audio.names import SUFFIXES, is_sound_file, sound_files
from sase.audio.piped import wav_writer
from sase.audio.reading import MAX_VALUES, blocks_of, info, open_any, open_blocks, read, read_mono
from sase.audio.resampling import RESAMPLER, Resampler, resample
from sase.audio.sound import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioInfo, Sound, check_limits
from sase.audio.writing import encode_vorbis, open_writer, write

__all__ = [
    "CONTAINERS",
    "FOREIGN_SUFFIXES",
    "FORMATS",
    "MAX_CHANNELS",
    "MAX_RATE",
    "MAX_VALUES",
    "MIN_RATE",
    "RESAMPLER",
    "SUFFIXES",
    "AudioInfo",
    "Kind",
    "Resampler",
    "Sound",
    "blocks_of",
    "check_limits",
    "container_of",
    "encode_vorbis",
    "info",
    "is_sound_file",
    "open_any",
    "open_blocks",
    "open_writer",
    "read",
    "read_mono",
    "resample",
    "sound_files",
    "wav_writer",
    "write",
]

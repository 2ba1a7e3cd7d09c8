"""Read, write and resample: the only file that opens sound files. Samples are float32 in [-1, 1]."""

import struct
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from sase.atomic import atomic_path
from sase.errors import InputError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
RESAMPLER = f"soxr {soxr.__version__} HQ"
_LOSSY_SUBTYPES = {".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a sound file says."""

    sample_rate: int
    num_samples: int
    num_channels: int

    @property
    def duration_s(self):
        return self.num_samples / self.sample_rate


def info(path):
    """Return the :class:`AudioInfo` of a sound file; raise InputError when it is missing, no sound file or cut short."""
    with _open(path) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def read(path):
    """Return all samples of a sound file.

    Args:
        path: a WAV, FLAC, OGG or MP3 file.

    Returns:
        float32 (channels, time) in [-1, 1], and the sample rate in Hz.

    Raises:
        InputError: a missing, unreadable, truncated or empty file, or samples that are NaN or infinite.
    """
    with _open(path) as file:
        wav = _read_frames(file, -1, path)
        if wav.shape[1] == 0:
            raise InputError(f"{path}: holds no samples")
        if wav.shape[1] < file.frames:
            raise InputError(f"{path}: is cut short: {wav.shape[1]} of {file.frames} samples can be read")
        return wav, file.samplerate


def read_mono(path, sample_rate=None):
    """Return a one-channel file as float32 (time,) and its rate, resampled when ``sample_rate`` (Hz) is given.

    Raises:
        InputError: as :func:`read`, and for a file of several channels.
    """
    wav, rate = read(path)
    if wav.shape[0] != 1:
        raise InputError(f"{path}: has {wav.shape[0]} channels; one is needed, choose one first")
    if sample_rate is None or sample_rate == rate:
        return wav[0], rate
    return resample(wav[0], rate, sample_rate), sample_rate


@contextmanager
def open_blocks(path, block_s=10.0):
    """Yield ``(info, blocks)`` of a sound file: an iterator over float32 (channels, time) blocks, in bounded memory.

    Raises:
        InputError: as :func:`read`, while the blocks are read.
    """
    with _open(path) as file:
        if file.frames == 0:
            raise InputError(f"{path}: holds no samples")
        size = max(1, round(block_s * file.samplerate))

        def blocks():
            done = 0
            while done < file.frames:
                wav = _read_frames(file, size, path)
                if wav.shape[1] == 0:
                    raise InputError(f"{path}: is cut short: {done} of {file.frames} samples can be read")
                done += wav.shape[1]
                yield wav

        yield AudioInfo(file.samplerate, file.frames, file.channels), blocks()


def write(path, wav, sample_rate):
    """Write float samples as a 16-bit WAV or FLAC, an OGG or an MP3, by the suffix; whole or not at all.

    Args:
        path: where to; its folder is made. Samples outside [-1, 1] are clipped.
        wav: float (time,) or (channels, time).
        sample_rate: in Hz.
    """
    with open_writer(path, sample_rate, 1 if np.ndim(wav) == 1 else len(wav)) as put:
        put(wav)


@contextmanager
def open_writer(path, sample_rate, num_channels):
    """Yield ``put(wav)``, which appends float (time,) or (channels, time) samples; the file appears when all is written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: cannot write '{suffix}' files; use one of {' '.join(SUFFIXES)}")
    with atomic_path(path) as partial:
        subtype = _LOSSY_SUBTYPES.get(suffix, "PCM_16")
        with soundfile.SoundFile(partial, "w", sample_rate, num_channels, subtype, format=suffix[1:].upper()) as file:

            def put(wav):
                wav = np.asarray(wav, dtype=np.float32)
                try:
                    file.write(np.clip(wav.T if wav.ndim == 2 else wav, -1.0, 1.0))
                except soundfile.SoundFileError as error:
                    raise OSError(f"{path}: cannot be written ({error}); is the disk full?") from None

            yield put


def resample(wav, from_rate, to_rate):
    """Return ``wav`` (..., time) at another rate, by soxr at its HQ setting, float32; equal rates return it as it is."""
    wav = np.asarray(wav, dtype=np.float32)
    if from_rate == to_rate:
        return wav
    if wav.ndim == 1:
        return soxr.resample(wav, from_rate, to_rate)
    return np.ascontiguousarray(soxr.resample(np.ascontiguousarray(wav.T), from_rate, to_rate).T)


@contextmanager
def _open(path):
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    _refuse_truncated_wav(path)
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable sound file ({error})") from None
    with file:
        yield file


def _read_frames(file, frames, path):
    try:
        wav = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be decoded ({error})") from None
    if not np.isfinite(wav).all():
        raise InputError(f"{path}: holds NaN or infinite samples")
    return np.ascontiguousarray(wav.T)  # (time, channels) -> (channels, time)


def _refuse_truncated_wav(path):
    """Raise InputError when a RIFF file ends before its data chunk does: libsndfile reads what is left without a word."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                # 0 and 2^32-1 are what programs write that stream to a pipe and cannot know the length.
                missing = file.tell() + length - size
                if missing > 0 and length != 0xFFFFFFFF:
                    raise InputError(f"{path}: is cut short: {missing} of {length} bytes of sound are missing")
                return
            file.seek(length + length % 2, 1)

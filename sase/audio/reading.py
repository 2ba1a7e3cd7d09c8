"""Read sound files; lengths are measured, not believed. Samples are float32 in [-1, 1]."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sase import containers
from sase.audio import ffmpeg
from sase.audio.kinds import Kind
from sase.audio.resampling import resample
from sase.audio.sound import AudioInfo, Sound, check_limits
from sase.errors import InputError

_MP3_SLACK = 2 * 1152  # samples: the length in most MP3 headers is off by less than two frames
MAX_VALUES = 1 << 30  # of a file that is read as a whole: 4 GB, six hours of one channel at 48 kHz
_SALVAGE_SAMPLES = 4096  # that are decoded at a time
_BLOCK_VALUES = 1 << 22  # that are decoded at a time at most
_WIDTHS = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
    "ULAW": 1,
    "ALAW": 1,
}

log = logging.getLogger(__name__)


def info(path: str | Path) -> AudioInfo:
    """Return the :class:`AudioInfo` of a sound file, with its measured length; raise InputError as :func:`read`."""
    with _open(path) as sound:
        return sound.info


def read(path: str | Path) -> tuple[np.ndarray, int]:
    """Return all samples of a sound file.

    Args:
        path: a WAV, FLAC, OGG or MP3 file.

    Returns:
        float32 (channels, time) in [-1, 1], and the sample rate in Hz.

    Raises:
        InputError: a missing, unreadable, truncated or empty file, or samples that are NaN or infinite.
    """
    with _open(path) as sound:
        info, samples = sound.info, bytearray()  # grows with what is there, not with what the header declares
        if info.num_samples * info.num_channels > MAX_VALUES:
            raise InputError(f"{path}: lasts {info.duration_s / 3600:.1f} h, too long to be read as a whole; split it")
        for block in sound.blocks(_BLOCK_VALUES // info.num_channels):
            samples += block.data.cast("B")
    wav = np.frombuffer(samples, dtype=np.float32).reshape(-1, info.num_channels)
    return np.ascontiguousarray(wav.T), info.sample_rate  # (time, channels) -> (channels, time)


def read_mono(path: str | Path, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Return a one-channel file as float32 (time,) and its rate, resampled if ``sample_rate`` (Hz) is given.

    Raises:
        InputError: as :func:`read`, or the file has several channels.
    """
    wav, rate = read(path)
    if wav.shape[0] != 1:
        raise InputError(f"{path}: has {wav.shape[0]} channels, expected one; select a channel first")
    if sample_rate is None or sample_rate == rate:
        return wav[0], rate
    return resample(wav[0], rate, sample_rate), sample_rate


@contextmanager
def open_blocks(path: str | Path, block_s: float = 10.0) -> Iterator[tuple[AudioInfo, Iterator[np.ndarray]]]:
    """Yield ``(info, blocks)`` of a sound file: an iterator over float32 (channels, time) blocks, in bounded memory.

    For an MP3, ``info`` may report slightly more samples than the blocks contain.

    Raises:
        InputError: as :func:`read`, possibly while the blocks are read.
    """
    with _open(path) as sound:
        yield sound.info, blocks_of(sound, block_s)


@contextmanager
def open_any(path: str | Path, salvage: bool = False) -> Iterator[Sound]:
    """Yield a sound file that libsndfile reads or else, where it is installed, ffmpeg: also the sound of a video.

    Args:
        path: of the file.
        salvage: read what is there of a truncated or damaged file; a warning says how much that is.

    Raises:
        InputError: as :func:`read`; a file that needs ffmpeg, which is not installed.
    """
    with ExitStack() as stack:
        try:
            sound: Sound = stack.enter_context(_open(path, salvage))
        except NotReadError as error:
            sound = stack.enter_context(ffmpeg.open_sound(Path(path), str(error), salvage))
        yield sound


def blocks_of(sound: Sound, block_s: float) -> Iterator[np.ndarray]:
    """Return an iterator over the blocks of an open file, float32 (channels, time), of at most ``block_s`` seconds.

    Raises:
        InputError: the file has no samples; and while blocks are read, as :func:`read`.
    """
    if sound.info.num_samples == 0:
        raise InputError(f"{sound.path}: contains no samples")
    size = max(1, min(round(block_s * sound.info.sample_rate), _BLOCK_VALUES // sound.info.num_channels))
    return (np.ascontiguousarray(block.T) for block in sound.blocks(size))


class NotReadError(InputError):
    """A file of a kind that libsndfile does not read, or that cannot be checked."""


class _Decoder(soundfile.SoundFile):
    """A file that is read from its beginning to its end, without the seek that soundfile adds after each block.

    After a seek, the decoder of MP3 lacks bits of earlier frames, and the first samples of every block are wrong.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False


@dataclass
class _Sound:
    """A file that libsndfile reads, and the number of samples that it holds."""

    path: Path
    file: soundfile.SoundFile
    info: AudioInfo
    kind: Kind
    salvaged: str = ""  # why it cannot be read to its end, if what is there is to be read

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield all samples, float32 (up to ``size``, channels); raise InputError if some are bad or missing."""
        done, total = 0, self.info.num_samples
        if self.salvaged:  # what precedes a fault is lost with its block
            size = min(size, _SALVAGE_SAMPLES)
        while done < total:
            try:
                wav = self.file.read(min(size, total - done), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                if self.salvaged:
                    break
                raise InputError(f"{self.path}: cannot be decoded ({error})") from None
            if not len(wav):
                break
            if not np.isfinite(wav).all():
                raise InputError(f"{self.path}: contains NaN or infinite samples")
            done += len(wav)
            yield wav
        if done == 0:
            raise InputError(f"{self.path}: contains no samples")
        if self.salvaged:
            log.warning("%s: %.2f s salvaged (%s)", self.path, done / self.info.sample_rate, self.salvaged)
        elif done < total - (_MP3_SLACK if self.file.format == "MP3" else 0):
            raise InputError(f"{self.path}: truncated: {done} of {total} samples can be read")


@contextmanager
def _open(path: str | Path, salvage: bool = False) -> Iterator[_Sound]:
    path, fault = Path(path), ""
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        extent = containers.measure(path)
    except containers.SeveralStreamsError as error:
        raise NotReadError(f"{path}: {error}") from None
    except containers.TornError as error:
        if ffmpeg.is_foreign(path):  # some bytes of it look like frames of an MP3
            raise NotReadError(f"{path}: not a readable sound file ({error})") from None
        if not salvage:
            raise InputError(f"{path}: {error}") from None
        extent, fault = None, str(error)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with ExitStack() as stack:
        file = stack.enter_context(_decoder(path, extent.patches if extent else {}))
        if fault:
            check_limits(path, file.samplerate, file.channels)
            yield _Sound(path, file, AudioInfo(file.samplerate, file.frames, file.channels), Kind.of(file), fault)
            return
        total = _total(path, file, extent)
        if total > file.frames and file.format == "MP3":
            # libsndfile estimates the length from the first frame, and reads no further.
            claimed_bytes = 2 * path.stat().st_size * (total // max(1, file.frames) + 1)
            file = stack.enter_context(_decoder(path, {}, claimed_bytes))
        if total > file.frames and not salvage:
            raise InputError(f"{path}: truncated: {file.frames} of {total} samples can be read")
        yield _Sound(path, file, AudioInfo(file.samplerate, min(total, file.frames), file.channels), Kind.of(file))


@contextmanager
def _decoder(
    path: Path, patches: Mapping[int, bytes], claimed_bytes: int | None = None
) -> Iterator[soundfile.SoundFile]:
    """Yield libsndfile's decoder of a file, with other bytes or another length if these are given."""
    with ExitStack() as stack:
        source: bytes | containers.PatchedFile = os.fsencode(path)  # a name may be of any bytes
        if patches or claimed_bytes:
            source = stack.enter_context(containers.PatchedFile(path, patches, claimed_bytes))
        try:
            file = _Decoder(source)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            raise NotReadError(f"{path}: not a readable sound file ({error})") from None
        yield stack.enter_context(file)


def _total(path: Path, file: soundfile.SoundFile, extent: containers.Extent | None) -> int:
    """Return the number of samples per channel: measured, or where its container needs no measuring libsndfile's.

    Raises:
        InputError: rate or channels beyond the limits, a container that cannot be measured, or one that ends too early.
    """
    check_limits(path, file.samplerate, file.channels)
    # The length of these, inside of other containers, is an estimate, or in a table of its own.
    inside = file.subtype.startswith(("MPEG", "ALAC")) and file.format != "MP3"
    if extent is None or file.format not in extent.formats or inside:
        what = f"{file.format} file ({file.subtype})"
        refused = NotReadError if inside else InputError  # ffmpeg knows the ends of the former
        raise refused(f"{path}: the end of a {what} cannot be checked; convert it to WAV or FLAC first")
    if extent.num_samples is not None:
        return extent.num_samples
    if extent.num_bytes is None or file.subtype not in _WIDTHS:
        return file.frames
    total, rest = divmod(extent.num_bytes, _WIDTHS[file.subtype] * file.channels)
    if rest and extent.open_ended:
        raise InputError(f"{path}: truncated: it ends within a sample")
    return total

"""Read, write and resample audio: the only module that opens sound files. Samples are float32 in [-1, 1]."""

import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from sase.atomic import atomic_path
from sase.errors import DiskFullError, InputError
from sase.filetree import files_below

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
RESAMPLER = f"soxr {soxr.__version__} HQ"
_LOSSY_SUBTYPES = {".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
_WRITE_FRAMES = 16384  # libvorbis allocates each call on the stack: minutes of audio would overflow it
_MP3_SLACK = 2 * 1152  # samples: the length in most MP3 headers is off by less than two frames

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioInfo:
    """The header of a sound file."""

    sample_rate: int
    num_samples: int
    num_channels: int

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate


def info(path: str | Path) -> AudioInfo:
    """Return the :class:`AudioInfo` of a sound file; raise InputError if it is missing, unreadable or truncated."""
    with _open(path) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def is_sound_file(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Return whether the name of a file is that of a sound file that is not hidden."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def sound_files(folder: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Return the sound files of a folder and its subfolders, also linked ones, sorted; hidden files are skipped.

    Args:
        folder: where to search.
        suffixes: of the files, in lower case.

    Raises:
        InputError: the folder does not exist or contains no such file.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    found = [path for path in files_below(folder) if is_sound_file(path, suffixes)]
    if not found:
        raise InputError(f"{folder}: contains no sound files ({' '.join(suffixes)})")
    return found


def read(path: str | Path) -> tuple[np.ndarray, int]:
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
            raise InputError(f"{path}: contains no samples")
        _reject_truncated(file, wav.shape[1], path)
        return wav, file.samplerate


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
    with _open(path) as file:
        if file.frames == 0:
            raise InputError(f"{path}: contains no samples")
        size = max(1, round(block_s * file.samplerate))

        def blocks() -> Iterator[np.ndarray]:
            done = 0
            while (wav := _read_frames(file, size, path)).shape[1]:
                done += wav.shape[1]
                yield wav
            _reject_truncated(file, done, path)

        yield AudioInfo(file.samplerate, file.frames, file.channels), blocks()


def write(path: str | Path, wav: npt.ArrayLike, sample_rate: int) -> None:
    """Write float samples as 16-bit WAV or FLAC, OGG or MP3, by the suffix; atomically.

    Args:
        path: of the file; its folder is created. Samples outside [-1, 1] are clipped, with a warning.
        wav: float (time,) or (channels, time).
        sample_rate: in Hz.
    """
    with open_writer(path, sample_rate, 1 if np.ndim(wav) == 1 else np.shape(wav)[0]) as put:
        put(wav)


@contextmanager
def open_writer(path: str | Path, sample_rate: int, num_channels: int) -> Iterator[Callable[[npt.ArrayLike], None]]:
    """Yield ``put(wav)``, which appends float (time,) or (channels, time) samples; the file appears when complete.

    Raises:
        InputError: unknown suffix, or a format without this rate or number of channels.
        OSError: the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: cannot write '{path.suffix}' files; use one of {' '.join(SUFFIXES)}")
    with atomic_path(path) as partial:
        file, clipped = _create(path, partial, sample_rate, num_channels), 0

        def put(wav: npt.ArrayLike) -> None:
            nonlocal clipped
            samples = np.asarray(wav, dtype=np.float32)
            clipped += int(np.count_nonzero(np.abs(samples) > 1.0))
            samples = np.clip(samples, -1.0, 1.0)
            for start in range(0, samples.shape[-1], _WRITE_FRAMES):
                with _write_errors(path):
                    file.write(samples[..., start : start + _WRITE_FRAMES].T)

        try:
            yield put
        finally:
            with _write_errors(path):
                file.close()
        if clipped:
            log.warning("%s: %d samples exceeded full scale and were clipped", path, clipped)


def resample(wav: npt.ArrayLike, from_rate: int, to_rate: int) -> np.ndarray:
    """Return ``wav`` (..., time) at another rate, float32, resampled by soxr HQ; unchanged if rates are equal."""
    wav = np.asarray(wav, dtype=np.float32)
    if from_rate == to_rate:
        return wav
    if wav.ndim == 1:
        return soxr.resample(wav, from_rate, to_rate)
    return np.ascontiguousarray(soxr.resample(np.ascontiguousarray(wav.T), from_rate, to_rate).T)


class Resampler:
    """Resamples a signal block by block; the concatenated output equals :func:`resample` of the whole.

    Args:
        from_rate, to_rate: in Hz; equal rates pass samples unchanged.
        num_channels: of the signal.
    """

    def __init__(self, from_rate: int, to_rate: int, num_channels: int) -> None:
        self._stream: soxr.ResampleStream | None = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, num_channels, dtype="float32")
        self._num_channels = num_channels

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Take the next samples, float32 (channels, n); return the samples that are ready, (channels, m), m ≥ 0."""
        return wav if self._stream is None else _resample_chunk(self._stream, wav)

    def flush(self) -> np.ndarray:
        """Return the remaining samples, (channels, rest)."""
        silence = np.zeros((self._num_channels, 0), dtype=np.float32)
        return silence if self._stream is None else _resample_chunk(self._stream, silence, last=True)


def _resample_chunk(stream: soxr.ResampleStream, wav: np.ndarray, last: bool = False) -> np.ndarray:
    return np.ascontiguousarray(stream.resample_chunk(np.ascontiguousarray(wav.T), last).T)


@contextmanager
def _open(path: str | Path) -> Iterator[soundfile.SoundFile]:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        _reject_truncated_wav(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable sound file ({error})") from None
    with file:
        yield file


def _create(path: Path, partial: Path, sample_rate: int, num_channels: int) -> soundfile.SoundFile:
    suffix = path.suffix.lower()
    subtype = _LOSSY_SUBTYPES.get(suffix, "PCM_16")
    try:
        return soundfile.SoundFile(partial, "w", sample_rate, num_channels, subtype, format=suffix[1:].upper())
    except soundfile.SoundFileError as error:
        reason = f"'{suffix}' files of {sample_rate} Hz and {num_channels} channels cannot be written"
        raise InputError(f"{path}: {reason} ({getattr(error, 'error_string', error)})") from None


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Raise libsndfile's errors while writing as OSError."""
    try:
        yield
    except (soundfile.SoundFileError, AssertionError) as error:  # the assertion: fewer samples written than given
        reason = str(error) or "not all samples could be written"
        raise DiskFullError(f"{path}: cannot be written ({reason}); is the disk full?") from None


def _reject_truncated(file: soundfile.SoundFile, num_samples: int, path: str | Path) -> None:
    slack = _MP3_SLACK if file.format == "MP3" else 0
    if num_samples < file.frames - slack:
        raise InputError(f"{path}: truncated: {num_samples} of {file.frames} samples can be read")


def _read_frames(file: soundfile.SoundFile, frames: int, path: str | Path) -> np.ndarray:
    try:
        wav = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be decoded ({error})") from None
    if not np.isfinite(wav).all():
        raise InputError(f"{path}: contains NaN or infinite samples")
    return np.ascontiguousarray(wav.T)  # (time, channels) -> (channels, time)


def _reject_truncated_wav(path: Path) -> None:
    """Raise InputError if a RIFF file ends before its data chunk does, which libsndfile does not report."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                # Programs that stream to a pipe do not know the length and write 0 or 2^32-1.
                missing = file.tell() + length - size
                if missing > 0 and length != 0xFFFFFFFF:
                    raise InputError(f"{path}: truncated: {missing} of {length} bytes of audio are missing")
                return
            file.seek(length + length % 2, 1)

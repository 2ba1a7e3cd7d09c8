"""Read, write and resample audio: the only module that opens sound files. Samples are float32 in [-1, 1]."""

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from sase import containers
from sase.atomic import atomic_path
from sase.errors import DiskFullError, InputError
from sase.filetree import files_below

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
RESAMPLER = f"soxr {soxr.__version__} HQ"
_LOSSY_SUBTYPES = {".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
_WRITE_FRAMES = 16384  # libvorbis allocates each call on the stack: minutes of audio would overflow it
_MP3_SLACK = 2 * 1152  # samples: the length in most MP3 headers is off by less than two frames
MIN_RATE, MAX_RATE = 1000, 768000  # Hz
MAX_CHANNELS = 64
MAX_VALUES = 1 << 30  # of a file that is read as a whole: 4 GB, six hours of one channel at 48 kHz
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
    """Return the :class:`AudioInfo` of a sound file, with its measured length; raise InputError as :func:`read`."""
    with _open(path) as sound:
        return sound.info


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
        if sound.info.num_samples == 0:
            raise InputError(f"{path}: contains no samples")
        size = max(1, min(round(block_s * sound.info.sample_rate), _BLOCK_VALUES // sound.info.num_channels))
        yield sound.info, (np.ascontiguousarray(block.T) for block in sound.blocks(size))


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


def encode_vorbis(wav: npt.ArrayLike, sample_rate: int) -> bytes:
    """Return float samples (time,) as an Ogg Vorbis file in memory; those outside [-1, 1] are clipped."""
    buffer, samples = io.BytesIO(), np.clip(np.asarray(wav, dtype=np.float32), -1.0, 1.0)
    with soundfile.SoundFile(buffer, "w", sample_rate, 1, "VORBIS", format="OGG") as file:
        for start in range(0, len(samples), _WRITE_FRAMES):
            file.write(samples[start : start + _WRITE_FRAMES])
    return buffer.getvalue()


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


class _Decoder(soundfile.SoundFile):
    """A file that is read from its beginning to its end, without the seek that soundfile adds after each block.

    After a seek, the decoder of MP3 lacks bits of earlier frames, and the first samples of every block are wrong.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False


@dataclass
class _Sound:
    """An open sound file and the number of samples that it holds."""

    path: Path
    file: soundfile.SoundFile
    info: AudioInfo

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield all samples, float32 (up to ``size``, channels); raise InputError if some are bad or missing."""
        done, total = 0, self.info.num_samples
        while done < total:
            try:
                wav = self.file.read(min(size, total - done), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise InputError(f"{self.path}: cannot be decoded ({error})") from None
            if not len(wav):
                break
            if not np.isfinite(wav).all():
                raise InputError(f"{self.path}: contains NaN or infinite samples")
            done += len(wav)
            yield wav
        if done == 0:
            raise InputError(f"{self.path}: contains no samples")
        if done < total - (_MP3_SLACK if self.file.format == "MP3" else 0):
            raise InputError(f"{self.path}: truncated: {done} of {total} samples can be read")


@contextmanager
def _open(path: str | Path) -> Iterator[_Sound]:
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        extent = containers.measure(path)
    except containers.TornError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with ExitStack() as stack:
        file = stack.enter_context(_decoder(path, extent.patches if extent else {}))
        total = _total(path, file, extent)
        if total > file.frames and file.format == "MP3":
            # libsndfile estimates the length from the first frame, and reads no further.
            claimed_bytes = 2 * path.stat().st_size * (total // max(1, file.frames) + 1)
            file = stack.enter_context(_decoder(path, {}, claimed_bytes))
        if total > file.frames:
            raise InputError(f"{path}: truncated: {file.frames} of {total} samples can be read")
        yield _Sound(path, file, AudioInfo(file.samplerate, total, file.channels))


@contextmanager
def _decoder(
    path: Path, patches: Mapping[int, bytes], claimed_bytes: int | None = None
) -> Iterator[soundfile.SoundFile]:
    """Yield libsndfile's decoder of a file, with other bytes or another length if these are given."""
    with ExitStack() as stack:
        source: Path | containers.PatchedFile = path
        if patches or claimed_bytes:
            source = stack.enter_context(containers.PatchedFile(path, patches, claimed_bytes))
        try:
            file = _Decoder(source)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            raise InputError(f"{path}: not a readable sound file ({error})") from None
        yield stack.enter_context(file)


def check_limits(where: str | Path, sample_rate: int, num_channels: int = 1) -> None:
    """Raise InputError, naming ``where``, unless a sample rate (Hz) and a number of channels are within the limits."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise InputError(f"{where}: has {sample_rate} Hz, must have {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise InputError(f"{where}: has {num_channels} channels, must have 1 to {MAX_CHANNELS}")


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
        raise InputError(f"{path}: the end of a {what} cannot be checked; convert it to WAV or FLAC first")
    if extent.num_samples is not None:
        return extent.num_samples
    if extent.num_bytes is None or file.subtype not in _WIDTHS:
        return file.frames
    total, rest = divmod(extent.num_bytes, _WIDTHS[file.subtype] * file.channels)
    if rest and extent.open_ended:
        raise InputError(f"{path}: truncated: it ends within a sample")
    return total


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

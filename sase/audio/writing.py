"""Write sound files, atomically."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from sase.atomic import atomic_path
from sase.audio.kinds import Kind, create
from sase.errors import DiskFullError

_WRITE_FRAMES = 16384  # libvorbis allocates each call on the stack: minutes of audio would overflow it

log = logging.getLogger(__name__)


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
def open_writer(
    path: str | Path, sample_rate: int, num_channels: int, kind: Kind | None = None
) -> Iterator[Callable[[npt.ArrayLike], None]]:
    """Yield ``put(wav)``, which appends float (time,) or (channels, time) samples; the file appears when complete.

    Args:
        path: of the file; its folder is created. Its suffix decides on the container.
        sample_rate: in Hz.
        num_channels: of the samples.
        kind: of :meth:`Kind.written_as`; None: 16 bits, or the usual compression.

    Raises:
        InputError: unknown suffix, or a format without this rate or number of channels.
        OSError: the disk is full.
    """
    path = Path(path)
    kind = kind or Kind().written_as(path)
    with atomic_path(path) as partial:
        file, clipped = create(path, partial, sample_rate, num_channels, kind), 0

        def put(wav: npt.ArrayLike) -> None:
            nonlocal clipped
            samples = np.asarray(wav, dtype=np.float32)
            if kind.subtype not in ("FLOAT", "DOUBLE"):
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


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Raise libsndfile's errors while writing as OSError."""
    try:
        yield
    except (soundfile.SoundFileError, AssertionError) as error:  # the assertion: fewer samples written than given
        reason = str(error) or "not all samples could be written"
        raise DiskFullError(f"{path}: cannot be written ({reason}); is the disk full?") from None

"""Arks: 16-bit mono sound, one utterance after the other, found by ``path.ark:offset``."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sase import audio
from sase.atomic import atomic_path
from sase.errors import InputError

FULL_SCALE = 32768.0  # a 16-bit sample of -32768 is -1.0
_MAX_CHUNKS = 100  # of an ark entry before its sound


@dataclass(frozen=True)
class Entry:
    """Position and number of the samples of one ark entry."""

    path: str
    first_byte: int
    sample_rate: int
    num_samples: int

    def read(self, start: int, count: int) -> np.ndarray:
        """Return ``count`` samples from ``start``, int16 (count,); raise InputError when the file is truncated."""
        wav = np.fromfile(self.path, dtype="<i2", count=count, offset=self.first_byte + 2 * start)
        if len(wav) < count:
            raise InputError(
                f"{self.path}: truncated: {len(wav)} of {count} samples can be read at byte "
                f"{self.first_byte + 2 * start}; run stage 2 again"
            )
        return wav


def read_entry(spec: str) -> Entry:
    """Return the :class:`Entry` of ``"path.ark:offset"``, from its header alone.

    Raises:
        InputError: the file is missing, or has no 16-bit mono sound at that offset.
    """
    path, _, offset = spec.rpartition(":")
    if not path or not re.fullmatch(r"[0-9]{1,18}", offset):
        raise InputError(f"{spec}: not an ark entry such as wav.1.ark:9; was the set dumped (stage 2)?")
    try:
        with open(path, "rb") as file:
            file.seek(int(offset))
            return _parse_header(file, spec, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run stage 2 again") from None


def read_int16(spec: str, start: int = 0, num_samples: int | None = None) -> np.ndarray:
    """Return samples of one ark entry; only the bytes needed are read.

    Args:
        spec: ``"path.ark:offset"``.
        start: first sample.
        num_samples: number of samples; up to the end when None or beyond it.

    Returns:
        int16 (time,).
    """
    entry = read_entry(spec)
    start = min(start, entry.num_samples)
    count = entry.num_samples - start if num_samples is None else min(num_samples, entry.num_samples - start)
    return entry.read(start, count)


def read_wav(spec: str, start: int = 0, num_samples: int | None = None) -> np.ndarray:
    """Return samples of one ark entry as float32 (time,) in [-1, 1).

    Args: as :func:`read_int16`.
    """
    return to_float(read_int16(spec, start, num_samples))


def to_float(wav: np.ndarray) -> np.ndarray:
    """Return int16 samples of any shape as float32 in [-1, 1)."""
    return wav.astype(np.float32) / np.float32(FULL_SCALE)


def to_int16(wav: np.ndarray | list[float]) -> np.ndarray:
    """Return float samples of any shape as int16, rounded and clipped; the exact inverse of :func:`to_float`."""
    return np.clip(np.rint(np.asarray(wav) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


@contextmanager
def ark_writer(path: Path, sample_rate: int) -> Iterator[Callable[[str, np.ndarray], str]]:
    """Yield ``write(utt, int16 wav) -> "path:offset"``; the ark appears when the block ends."""
    import kaldiio

    with atomic_path(path) as partial, open(partial, "wb") as file:

        def write(utt: str, wav: np.ndarray) -> str:
            offset = file.tell() + len(utt.encode()) + 1
            entry = io.BytesIO()  # kaldiio would print a traceback when the disk is full
            kaldiio.save_ark(entry, {utt: (sample_rate, wav)})
            file.write(entry.getvalue())
            return f"{path}:{offset}"

        yield write
        file.flush()


def _parse_header(file: BinaryIO, spec: str, path: str) -> Entry:
    """Return the Entry of a RIFF header at the current position of ``file``."""
    head, rate = file.read(12), None
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        for _ in range(_MAX_CHUNKS):
            header = file.read(8)
            if len(header) < 8:
                break
            name, size = struct.unpack("<4sI", header)
            begin = file.tell()
            if name == b"fmt " and len(body := file.read(16)) == 16:
                channels, rate, bits = *struct.unpack_from("<HI", body, 2), *struct.unpack_from("<H", body, 14)
                if channels != 1 or bits != 16:
                    raise InputError(f"{spec}: not 16-bit mono; run stage 2 again")
                audio.check_limits(spec, rate)
            elif name == b"data" and rate:
                there = os.fstat(file.fileno()).st_size - begin
                if there < size:
                    raise InputError(f"{spec}: truncated: {there // 2} of {size // 2} samples; run stage 2 again")
                return Entry(path, begin, rate, size // 2)
            file.seek(begin + size + size % 2)
    raise InputError(f"{spec}: no sound starts at this offset; is the table older than the ark? Run stage 2 again")

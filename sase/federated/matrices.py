"""Matrices with one row per silo, in a file instead of in memory, for rules that look at all updates at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

_BLOCK_BYTES = 1 << 22


def matrix_on_disk(rows: Iterable[Iterable[np.ndarray]], folder: Path | None) -> np.ndarray:
    """Return a matrix that is read from a file, which has no name and is gone with the matrix.

    Args:
        rows: for each row, arrays whose values are its columns, one after another; at least one row.
        folder: of the file; None: the system's for temporary files.

    Returns:
        float64 (rows, values), read-only.
    """
    count = 0
    with tempfile.TemporaryFile(dir=folder) as file:
        for row in rows:
            count += 1
            for array in row:
                file.write(np.asarray(array, dtype=np.float64).tobytes())
        size = file.tell()
        file.flush()
        if not size:
            return np.zeros((count, 0))
        return np.memmap(file, np.float64, "r", shape=(count, size // (8 * count)))


def column_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices that divide the columns of a matrix of float64 into blocks of a few MB."""
    width = max(1, _BLOCK_BYTES // (8 * rows))
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))

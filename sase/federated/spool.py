"""Arrays of a round on disk instead of in memory: what each silo sent, read array by array when it is needed.

Which replies count, and with which weights, is known only when all of them have arrived. Until then they wait here, so
that the memory of a round does not depend on the number of silos, and sums are taken in the order of the silos,
whatever the order of arrival.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from sase.federated.exchange import Reply

_ALIGNMENT = 64  # bytes

Places = Mapping[str, tuple[int, np.dtype, tuple[int, ...]]]


class StoredArrays(Mapping[str, np.ndarray]):
    """Arrays in one file, each of which is read from it on every access.

    Args:
        path: of the file.
        places: name to (offset in bytes, type, shape), the same object for all files of a layout: with hundreds of
            files, it would take as much memory as an update.
    """

    def __init__(self, path: Path, places: Places) -> None:
        self.path, self.places = path, places

    def __getitem__(self, name: str) -> np.ndarray:
        offset, dtype, shape = self.places[name]
        size = int(np.prod(shape, dtype=np.int64))
        return np.fromfile(self.path, dtype, size, offset=offset).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def store(path: Path, arrays: Mapping[str, np.ndarray]) -> StoredArrays:
    """Write arrays, one at a time, to a file of mode 0600; return them as they are in the file.

    Raises:
        OSError: the file cannot be written, or exists.
    """
    places = {}
    with open(path, "xb", opener=_private_file) as file:
        for name in arrays:
            value = np.asarray(arrays[name])
            file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
            places[name] = file.tell(), value.dtype, value.shape
            file.write(np.ascontiguousarray(value).data if value.size else b"")
    return StoredArrays(path, places)


class Spool:
    """The folder in which the replies of a round wait for its end.

    Args:
        folder: created, with mode 0700, with the first reply.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._numbers = count()
        self._places: Places = {}  # of the last reply

    def keep(self, reply: Reply) -> Reply:
        """Return a reply whose arrays are in a file of the folder.

        Raises:
            OSError: the file cannot be written, for example because the disk is full.
        """
        arrays = store(self.scratch() / f"reply-{next(self._numbers)}", reply.arrays)
        if arrays.places == self._places:
            arrays.places = self._places
        self._places = arrays.places
        return replace(reply, arrays=arrays)

    def scratch(self) -> Path:
        """Return the folder, which exists."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder

    def clear(self) -> None:
        """Remove the folder with all replies in it, those of a killed process included."""
        shutil.rmtree(self.folder, ignore_errors=True)


class EarlierModels:
    """The models that the last rounds started from, in ``sent/``: late replies are updates to them.

    A server that is started again begins without them, since no reply to the previous one will arrive.

    Args:
        exp_dir: the experiment folder.
        count: how many are kept.

    Attributes:
        models: round to the model, name to array.
    """

    def __init__(self, exp_dir: str | Path, count: int) -> None:
        self.folder, self.count = Path(exp_dir) / "sent", count
        self.models: dict[int, StoredArrays] = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, number: int, model: Mapping[str, np.ndarray]) -> None:
        """Keep the model that a round started from, and delete the oldest one beyond ``count``."""
        if not self.count:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.models[number] = store(self.folder / f"round-{number}", model)
        for old in [other for other in self.models if other <= number - self.count]:
            self.models.pop(old).path.unlink()


def _private_file(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

"""Recordings in .mat files of MATLAB (versions 4 to 7), read in bounded memory whatever the file declares."""

import faulthandler
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from sase import workers
from sase.errors import InputError

MAX_BYTES = 1 << 28  # of all variables together, unpacked: half an hour of doubles at 19,980 Hz
_NUMBERS = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
_COMPRESSED = 15  # type of an element
_BLOCK_BYTES = 1 << 20


def longest_vector(path: Path) -> np.ndarray:
    """Return the longest vector of real numbers in a .mat file, (length,), of the type that is stored.

    The file is read in a process of its own: scipy's reader takes the type of an element for an index unseen, and ends
    the process that it runs in on some damaged files.

    Raises:
        InputError: no readable .mat file, one with more than 256 MB of numbers, or one without a vector.
    """
    ((_, samples),) = workers.run(_read, [path], 2, lambda *_: None)  # with 1, it would be read in this process
    if isinstance(samples, workers.WorkerKilledError):
        raise InputError(f"{path}: not a readable .mat file (its reader was killed)")
    if isinstance(samples, Exception):
        raise samples
    return samples


def _read(path: Path, _report: object) -> np.ndarray:
    faulthandler.disable()  # a crash is one line of this process's parent
    return _longest_vector(path)


def _longest_vector(path: Path) -> np.ndarray:
    from scipy.io import loadmat, whosmat

    try:
        _check_unpacked_size(path)
        vectors = [(name, shape) for name, shape, kind in whosmat(path) if kind in _NUMBERS and _is_vector(shape)]
        name, shape = max(vectors, key=lambda vector: math.prod(vector[1]), default=("", (0,)))
        if 8 * math.prod(shape) > MAX_BYTES:
            raise InputError(f"{path}: declares {math.prod(shape)} numbers, more than {MAX_BYTES >> 20} MB")
        samples = loadmat(path, variable_names=[name])[name].reshape(-1) if name else np.zeros(0)
    except InputError:
        raise
    except Exception as error:  # scipy's reader raises many kinds of exceptions
        reason = ascii(f"{type(error).__name__}: {error}")[1:-1][:200]  # it may quote the file
        raise InputError(f"{path}: not a readable .mat file ({reason})") from None
    if not samples.size or samples.dtype.kind not in "iuf":
        raise InputError(f"{path}: contains no vector of numbers")
    return samples


def _is_vector(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) == max(shape, default=0) > 1


def _check_unpacked_size(path: Path) -> None:
    """Raise InputError if the elements of a file of version 5 to 7 hold too much, or more than there is."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(124)
        version = file.read(4)
        if version[2:] not in (b"IM", b"MI"):
            return  # version 4: whosmat reads what its headers declare, and nothing is packed
        order, left, position = "<" if version[2:] == b"IM" else ">", MAX_BYTES, 128
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack(order + "II", file.read(8))
            if position + 8 + length > size:
                raise InputError(f"{path}: truncated: an element of {length} bytes ends behind the file")
            if kind == _COMPRESSED:
                unpacker, rest = zlib.decompressobj(), length
                while rest and left > 0 and not unpacker.eof:
                    data = file.read(min(_BLOCK_BYTES // 16, rest))
                    rest -= len(data)
                    while data and left > 0:
                        left -= len(unpacker.decompress(data, _BLOCK_BYTES))
                        data = unpacker.unconsumed_tail
            else:
                left -= length
            if left <= 0:
                raise InputError(f"{path}: holds more than {MAX_BYTES >> 20} MB of numbers; cut it into parts")
            position += 8 + length

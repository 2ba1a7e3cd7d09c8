"""Encoding of a silo's upload: float32 weights, or updates as bfloat16 (half the bytes) or int8 (a quarter).

With float32 the trained weights themselves are sent, so the server gets them bit for bit. With the other two, what is
sent is the difference from the global model. One-dimensional arrays, norm statistics and counters are never compressed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch

_SCALE = "/scale"
_LARGEST = 127.0  # int8, symmetric


def encode(
    payload: str, arrays: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], compressed: Collection[str]
) -> dict[str, np.ndarray]:
    """Return the upload.

    Args:
        payload: ``float32``, ``bfloat16`` or ``int8``.
        arrays: name to float32 (or, for counters, integer) array.
        reference: the arrays of the global model.
        compressed: names that may be compressed; of these, arrays with two or more dimensions are.

    Returns:
        name to array: bfloat16 stored as uint16; int8 with one float32 scale per row (first dimension) in
        ``NAME/scale``.
    """
    upload = {}
    for name, value in arrays.items():
        if payload == "float32" or name not in compressed or value.ndim < 2:
            upload[name] = value
            continue
        update = (value.astype(np.float64) - reference[name]).astype(np.float32)
        if payload == "bfloat16":
            upload[name] = _to_bfloat16(update)
        else:
            upload[name], upload[name + _SCALE] = _to_int8(update)
    return upload


class Upload(Mapping[str, np.ndarray]):
    """The arrays of an upload, decoded one by one whenever they are read: what :func:`encode` packed, as float64.

    Args:
        payload, compressed: as for :func:`encode`.
        upload: what :func:`encode` returned, possibly damaged.
        reference: the arrays of the global model; the upload must hold exactly these.

    Raises:
        ValueError: an array is missing, unknown, or of the wrong type or shape; the message names it.
    """

    def __init__(
        self,
        payload: str,
        upload: Mapping[str, np.ndarray],
        reference: Mapping[str, np.ndarray],
        compressed: Collection[str],
    ) -> None:
        self._payload, self._upload, self._reference = payload, upload, reference
        self._packed = {
            name for name, old in reference.items() if payload != "float32" and name in compressed and old.ndim >= 2
        }
        known = set(reference)
        for name in reference:
            self._read(name)
            if name in self._packed and payload == "int8":
                self._scale(name)
                known.add(name + _SCALE)
        if unknown := sorted(set(upload) - known):
            raise ValueError(f"{unknown[0]} is not part of the model")

    def __getitem__(self, name: str) -> np.ndarray:
        value = self._read(name)
        if name not in self._packed:
            return value
        old = np.asarray(self._reference[name], dtype=np.float64)
        if self._payload == "bfloat16":
            return old + _from_bfloat16(value)
        rows = self._scale(name).astype(np.float64).reshape(-1, *[1] * (old.ndim - 1))
        with np.errstate(invalid="ignore"):  # an infinite scale: admission reports it by the array's name
            return old + value * rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._reference)

    def __len__(self) -> int:
        return len(self._reference)

    def _read(self, name: str) -> np.ndarray:
        old = self._reference[name]
        packed = {"bfloat16": "uint16", "int8": "int8"}
        dtype = np.dtype(packed[self._payload]) if name in self._packed else old.dtype
        return _checked_array(self._upload, name, old.shape, dtype)

    def _scale(self, name: str) -> np.ndarray:
        return _checked_array(self._upload, name + _SCALE, self._reference[name].shape[:1], np.dtype(np.float32))


class Part(Mapping[str, np.ndarray]):
    """Some arrays of another mapping, under other names; read from it on every access.

    Args:
        arrays: the mapping.
        names: name here to name there.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
        self._arrays, self._names = arrays, dict(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def num_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the total size of the arrays in bytes."""
    return sum(np.asarray(arrays[name]).nbytes for name in arrays)


def _checked_array(upload: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if name not in upload:
        raise ValueError(f"{name} is missing")
    value = np.asarray(upload[name])
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")
    if value.dtype != dtype:
        raise ValueError(f"{name} has type {value.dtype}, expected {dtype}")
    return value


def _to_bfloat16(value: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(value)).to(torch.bfloat16).view(torch.uint16).numpy()


def _from_bfloat16(value: np.ndarray) -> np.ndarray:
    # Copied, since arrays that arrive over the network may be read-only, which from_numpy warns about.
    return torch.from_numpy(value.copy()).view(torch.bfloat16).to(torch.float64).numpy()


def _to_int8(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 (rows, ...) and one float32 scale per row; a row with NaN or infinity gets a non-finite scale."""
    largest = np.abs(value).reshape(len(value), -1).max(axis=1)
    scale = (largest / _LARGEST).astype(np.float32)
    divisor = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0).reshape(-1, *[1] * (value.ndim - 1))
    steps = np.nan_to_num(value / divisor, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(np.rint(steps), -_LARGEST, _LARGEST).astype(np.int8), scale

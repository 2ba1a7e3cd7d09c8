"""Encoding of a silo's upload: float32 weights, or updates as bfloat16 (half the bytes) or int8 (a quarter).

With float32 the trained weights themselves are sent, so the server gets them bit for bit. With the other two, what is
sent is the difference from the global model. One-dimensional arrays, norm statistics and counters are never compressed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def decode(
    payload: str, upload: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], compressed: Collection[str]
) -> dict[str, np.ndarray]:
    """Invert :func:`encode`; compressed arrays are returned as float64, the others unchanged.

    Args:
        payload, compressed: as for :func:`encode`.
        upload: what :func:`encode` returned, possibly damaged.
        reference: the arrays of the global model; the upload must hold exactly these.

    Raises:
        ValueError: an array is missing, unknown, or of the wrong type or shape; the message names it.
    """
    arrays, known = {}, set()
    for name, old in reference.items():
        packed = payload != "float32" and name in compressed and old.ndim >= 2
        dtype = np.dtype({"bfloat16": "uint16", "int8": "int8"}[payload]) if packed else old.dtype
        value = _checked_array(upload, name, old.shape, dtype)
        known.add(name)
        if packed and payload == "bfloat16":
            value = np.asarray(old, dtype=np.float64) + _from_bfloat16(value)
        elif packed:
            scale = _checked_array(upload, name + _SCALE, old.shape[:1], np.dtype(np.float32))
            known.add(name + _SCALE)
            rows = scale.astype(np.float64).reshape(-1, *[1] * (old.ndim - 1))
            with np.errstate(invalid="ignore"):  # an infinite scale: admission reports it by the array's name
                value = np.asarray(old, dtype=np.float64) + value * rows
        arrays[name] = value
    if unknown := sorted(set(upload) - known):
        raise ValueError(f"{unknown[0]} is not part of the model")
    return arrays


def num_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the total size of the arrays in bytes."""
    return sum(np.asarray(value).nbytes for value in arrays.values())


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

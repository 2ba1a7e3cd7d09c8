"""What a silo's upload is made of: float32, or updates in bfloat16 (half the bytes) or int8 (a quarter).

float32 sends the trained arrays themselves, so that the server has them to the bit; the other two send how far they are
from the global model. Arrays of one dimension, norm statistics and counters always go as they are.
"""

import numpy as np

_SCALE = "/scale"
_LARGEST = 127.0  # of int8, used symmetrically


def encode(payload, arrays, reference, compressed):
    """Return an upload.

    Args:
        payload: ``float32``, ``bfloat16`` or ``int8``.
        arrays: name to float32 (or, for counters, integer) array.
        reference: the global model's.
        compressed: names that may be compressed; those of two and more dimensions are.

    Returns:
        name to array: bfloat16 as uint16, int8 with one float32 scale a row (of the first dimension) as ``NAME/scale``.
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


def decode(payload, upload, reference, compressed):
    """Return what was encoded: compressed arrays as float64, the others as they came.

    Args:
        payload, reference, compressed: as for :func:`encode`; ``reference`` names everything that must be there.

    Raises:
        ValueError: an array is missing, unknown, or of a wrong type or shape; the message names it.
    """
    arrays, known = {}, set()
    for name, old in reference.items():
        packed = payload != "float32" and name in compressed and old.ndim >= 2
        wanted = {"bfloat16": np.uint16, "int8": np.int8}[payload] if packed else old.dtype
        value = _take(upload, name, old.shape, wanted)
        known.add(name)
        if packed and payload == "bfloat16":
            value = np.asarray(old, dtype=np.float64) + _from_bfloat16(value)
        elif packed:
            scale = _take(upload, name + _SCALE, old.shape[:1], np.float32)
            known.add(name + _SCALE)
            rows = scale.astype(np.float64).reshape(-1, *[1] * (old.ndim - 1))
            with np.errstate(invalid="ignore"):  # an infinite scale: told later, with the array's name
                value = np.asarray(old, dtype=np.float64) + value * rows
        arrays[name] = value
    if unknown := sorted(set(upload) - known):
        raise ValueError(f"{unknown[0]} is not part of the model")
    return arrays


def num_bytes(arrays):
    """Return the bytes of all arrays."""
    return sum(np.asarray(value).nbytes for value in arrays.values())


def _take(upload, name, shape, dtype):
    if name not in upload:
        raise ValueError(f"{name} is missing")
    value = np.asarray(upload[name])
    if value.shape != tuple(shape):
        raise ValueError(f"{name} is of shape {value.shape}, not {tuple(shape)}")
    if value.dtype != dtype:
        raise ValueError(f"{name} is of type {value.dtype}, not {np.dtype(dtype)}")
    return value


def _to_bfloat16(value):
    """Round float32 to bfloat16, half to even, as uint16; what is not finite stays so."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isfinite(value), rounded, (bits >> 16) | np.isnan(value)).astype(np.uint16)


def _from_bfloat16(value):
    return (value.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _to_int8(value):
    """Return int8 (rows, ...) and a float32 scale a row; a row that is not finite gets a scale that is not."""
    largest = np.abs(value).reshape(len(value), -1).max(axis=1)
    scale = (largest / _LARGEST).astype(np.float32)
    divisor = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0).reshape(-1, *[1] * (value.ndim - 1))
    steps = np.nan_to_num(value / divisor, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(np.rint(steps), -_LARGEST, _LARGEST).astype(np.int8), scale

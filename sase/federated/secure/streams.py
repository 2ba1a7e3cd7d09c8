"""Masks: streams of pseudo-random integers from a key, by AES-256 in counter mode."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_BLOCK = 16  # bytes, of AES
_CHUNK = 1 << 16  # bytes of a stream at a time, which stay in a core's cache


def derive_key(secret: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes for one purpose (HKDF with SHA-256, RFC 5869).

    Args:
        secret: such as the result of a key agreement.
        info: names the purpose; different ones give independent keys.
    """
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def stream(key: bytes, count: int, dtype: str) -> np.ndarray:
    """Return ``count`` uniformly distributed integers, the same ones for the same key.

    Args:
        key: of 32 bytes, which is used for nothing else: the counter starts at 0.
        count: how many.
        dtype: ``uint32`` or ``uint64``.
    """
    integers = np.zeros(count, dtype)
    add_stream(integers, key)
    return integers


def add_stream(total: np.ndarray, key: bytes, subtract: bool = False) -> None:
    """Add :func:`stream` to integers in place, modulo 2^32 or 2^64, or subtract it.

    Block by block, so that neither the stream nor a sum takes memory of its own: fresh memory costs more than AES.

    Args:
        total: uint32 or uint64 (n,), contiguous.
        key: as for :func:`stream`.
        subtract: instead of adding.
    """
    combine = np.subtract if subtract else np.add
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
    plain, encrypted = bytes(_CHUNK), bytearray(_CHUNK + _BLOCK - 1)  # the length that update_into demands
    mask = np.frombuffer(encrypted, total.dtype.newbyteorder("<"), _CHUNK // total.itemsize)
    for start in range(0, total.size, mask.size):
        part = total[start : start + mask.size]
        encryptor.update_into(plain, encrypted)
        combine(part, mask[: part.size], out=part)

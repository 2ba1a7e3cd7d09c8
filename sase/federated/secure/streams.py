"""Masks: streams of pseudo-random integers from a key, by AES-256 in counter mode."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_BLOCK = 16  # bytes, of AES


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
    little_endian = np.dtype(dtype).newbyteorder("<")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
    return np.frombuffer(encryptor.update(bytes(count * little_endian.itemsize)), little_endian).astype(dtype)

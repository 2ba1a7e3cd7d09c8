"""The checksum of TensorBoard's event files; tensorboard's own takes every byte of sound and pictures in Python."""

from __future__ import annotations

from functools import cache

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)  # Castagnoli's, bits reversed
_ROW_BYTES = 64
_SHORT_BYTES = 1024  # for fewer, one byte after the other is as fast


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of RFC 3720, appendix B.4, from 0 to 2³² - 1.

    The checksum of a message is linear if it starts from 0, and zeros in front do not change it. So rows of equal
    length are computed side by side, and then joined in pairs: the checksum of the first of a pair, advanced by the
    bytes of the second, and that of the second add up.
    """
    by_byte, by_row = _tables()
    if len(data) < _SHORT_BYTES:
        checksum, table = 0xFFFFFFFF, by_byte.tolist()
        for byte in data:
            checksum = checksum >> 8 ^ table[(checksum ^ byte) & 255]
        return checksum ^ 0xFFFFFFFF
    rows = 1 << (-(-len(data) // _ROW_BYTES) - 1).bit_length()
    message = np.zeros(rows * _ROW_BYTES, np.uint8)
    first = len(message) - len(data)
    message[first:] = np.frombuffer(data, np.uint8)
    message[first : first + 4] ^= 255  # the same as a start from 2³² - 1
    checksums = np.zeros(rows, np.uint32)
    for column in message.reshape(rows, _ROW_BYTES).T:
        checksums = checksums >> 8 ^ by_byte[(checksums ^ column) & 255]
    while len(checksums) > 1:
        checksums = _advanced(checksums[::2], by_row) ^ checksums[1::2]
        by_row = _advanced(by_row, by_row)
    return int(checksums[0]) ^ 0xFFFFFFFF


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return uint32 (256,), each byte advanced by a byte, and (4, 256), each byte at its place advanced by a row."""
    values = np.arange(256, dtype=np.uint32)
    return _shifted(values, 1), np.stack([_shifted(values << np.uint32(8 * place), _ROW_BYTES) for place in range(4)])


def _shifted(checksums: np.ndarray, count: int) -> np.ndarray:
    """Return checksums, of any shape, advanced by so many zero bytes, bit by bit."""
    for _ in range(8 * count):
        checksums = checksums >> 1 ^ np.where(checksums & 1, _POLYNOMIAL, np.uint32(0))
    return checksums


def _advanced(checksums: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Return checksums, of any shape, advanced by as many zero bytes as (4, 256) tables of their bytes."""
    parts = [tables[place][checksums >> np.uint32(8 * place) & 255] for place in range(4)]
    return parts[0] ^ parts[1] ^ parts[2] ^ parts[3]

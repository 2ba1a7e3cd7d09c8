"""The file of weights of the C core, without torch: its envelope, and the same as C source. See docs/native.md."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from sase.atomic import atomic_path
from sase.errors import InputError

MAGIC, VERSION = b"SASECORE", 1
_CHECKED_FROM = len(MAGIC) + 8  # behind version and checksum


def seal(contents: bytes) -> bytes:
    """Return a file of weights: magic number, version and checksum before its number of floats, sizes and floats."""
    return MAGIC + struct.pack("<2I", VERSION, zlib.crc32(contents)) + contents


def read_sealed(path: str | Path) -> bytes:
    """Return a file of weights; raise InputError if it is none, or corrupt."""
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if seal(contents[_CHECKED_FROM:]) != contents:
        raise InputError(f"{path}: no weights for the C core, of another version, or corrupt")
    return contents


def write_weights(contents: bytes, path: str | Path) -> None:
    """Write a file of weights, or C source that defines them if its suffix is ``.c``; the write is atomic."""
    with atomic_path(path) as partial:
        partial.write_bytes(_c_source(contents) if Path(path).suffix == ".c" else contents)


def _c_source(contents: bytes) -> bytes:
    """Return C source that defines the file's contents as an array of words."""
    words = np.frombuffer(contents, "<u4")
    rows = (",".join(f"0x{word:x}" for word in words[start : start + 12]) for start in range(0, len(words), 12))
    return (
        "/* Weights of sase/native, written by sase export. */\n"
        f"const unsigned int sase_weights[{len(words)}] = {{\n" + ",\n".join(rows) + "\n};\n"
        f"const unsigned long sase_weights_size = {len(contents)};\n"
    ).encode()

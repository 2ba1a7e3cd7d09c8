"""Zip files of any origin: what the standard library raises for damaged ones."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path

# RuntimeError for encrypted ones and unknown methods, ValueError for impossible names and dates.
DAMAGES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError)


def is_zip_file(path: Path) -> bool:
    """Return whether a file has the directory of a zip file; raise OSError if it cannot be read."""
    try:
        return zipfile.is_zipfile(path)
    except DAMAGES:  # as for a directory that claims to be one of several disks
        return False

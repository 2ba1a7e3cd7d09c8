"""Records of finished work: a JSON file, written last, that holds the result and the fingerprint of its input.

Work whose record has the fingerprint of the present input need not be done again. Three records are of another form,
which folders made so far hold: decoding appends a line per utterance, a generated corpus has a line of text, and a
result of a study stores its whole configuration, so that a message can name what differs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sase import jsonfile


def fingerprint(parts: Iterable[str]) -> str:
    """Return the SHA-256 of texts, which are joined without a separator, in hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """Return a fingerprint of a file: size and modification time, or ``missing``."""
    try:
        stat = os.stat(path)
    except OSError:
        return "missing"  # reported when the file is read
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def write(path: str | Path, input_fingerprint: str, result: Mapping[str, Any]) -> None:
    """Write the record of finished work atomically, NaN as null."""
    jsonfile.write(path, {"input": input_fingerprint, **result}, indent=0)


def read_if_current(path: str | Path, input_fingerprint: str) -> dict[str, Any] | None:
    """Return a record, or None if the file is missing, is not a record, or belongs to other input."""
    try:
        record = jsonfile.read(path)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("input") == input_fingerprint else None

"""JSON and JSON Lines files.

JSON has no NaN, so :func:`write` stores null for it; :func:`null_to_nan` restores the tables in which null means that.
JSON Lines files hold Python's ``NaN`` as it is, since the histories written so far do.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sase.atomic import write_text
from sase.errors import InputError


def read(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: it is not valid JSON, such as a truncated file.
        OSError: it cannot be read.
    """
    return _parse(Path(path).read_bytes(), str(path), "delete it and run the same command again")


def write(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write a JSON file atomically, with null for NaN."""
    write_text(path, json.dumps(nan_to_null(value), indent=indent, allow_nan=False) + "\n")


def nan_to_null(value: Any) -> Any:
    """Return mappings and sequences of any depth with None for NaN."""
    return _replace(value, lambda leaf: None if isinstance(leaf, float) and math.isnan(leaf) else leaf)


def null_to_nan(value: Any) -> Any:
    """Return mappings and sequences of any depth with NaN for None."""
    return _replace(value, lambda leaf: math.nan if leaf is None else leaf)


def read_jsonl(path: str | Path, size: int | None = None) -> list[dict[str, Any]]:
    """Return the mappings of a JSON Lines file, one per line; an empty list if the file does not exist.

    Args:
        path: of the file.
        size: number of bytes to read; None for all.

    Raises:
        InputError: a line is not a mapping in JSON, such as the truncated last line of a killed writer.
    """
    path, entries = Path(path), []
    if not path.exists():
        return []
    for number, line in enumerate(path.read_bytes()[:size].split(b"\n"), 1):
        if line.strip():
            entry = _parse(line, f"{path}:{number}", "delete this line")
            if not isinstance(entry, dict):
                raise InputError(f"{path}:{number}: must be a mapping, is {line[:40]!r}; delete this line")
            entries.append(entry)
    return entries


def write_jsonl(path: str | Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write mappings, one per line, atomically."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def append_jsonl(path: str | Path, entry: Mapping[str, Any]) -> None:
    """Append one mapping as a line; not atomic, but never to the truncated line of a killed writer."""
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(entry).encode() + b"\n")


def _parse(text: bytes, where: str, advice: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}), truncated or edited; {advice}") from None


def _replace(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace(inner, leaf) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(inner, leaf) for inner in value]
    return leaf(value)

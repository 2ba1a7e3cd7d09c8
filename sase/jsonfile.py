"""JSON and JSON Lines files.

JSON has no NaN, so :func:`write` stores null for it; :func:`null_to_nan` restores the tables in which null means that.
JSON Lines files hold Python's ``NaN`` as it is, since the histories written so far do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sase.atomic import write_text


def read(path: str | Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write a JSON file atomically, with null for NaN."""
    write_text(path, json.dumps(nan_to_null(value), indent=indent, allow_nan=False) + "\n")


def nan_to_null(value: Any) -> Any:
    """Return mappings and sequences of any depth with None for NaN."""
    return _replace(value, lambda leaf: None if isinstance(leaf, float) and math.isnan(leaf) else leaf)


def null_to_nan(value: Any) -> Any:
    """Return mappings and sequences of any depth with NaN for None."""
    return _replace(value, lambda leaf: math.nan if leaf is None else leaf)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Return the mappings of a JSON Lines file, one per line; an empty list if the file does not exist."""
    path = Path(path)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_jsonl(path: str | Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write mappings, one per line, atomically."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def append_jsonl(path: str | Path, entry: Mapping[str, Any]) -> None:
    """Append one mapping as a line; not atomic."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _replace(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace(inner, leaf) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(inner, leaf) for inner in value]
    return leaf(value)

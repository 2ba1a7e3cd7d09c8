"""Atomic files and folders: written under a temporary name, then renamed."""

import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_NAME = 255  # bytes


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it replaces ``path`` when the block ends without an error.

    A killed or failing writer leaves the old file (or none), never a partial one.

    Args:
        path: of the file; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    """Return the path beside another one to write to, with a name that is no longer than file systems allow."""
    # The process id separates concurrent writers; the suffix stays last, since soundfile and numpy depend on it.
    rest = f".{os.getpid()}.partial{path.suffix}"
    stem = os.fsencode(path.stem)
    if len(stem) + len(os.fsencode(rest)) >= _MAX_NAME:
        stem = os.fsencode(f"{zlib.crc32(stem):08x}")
    return path.with_name(f".{os.fsdecode(stem)}{rest}")


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_leftovers(*folders: str | Path) -> None:
    """Delete temporary files of killed writers of :func:`atomic_path`; only for folders without active writers."""
    for folder in folders:
        for leftover in Path(folder).glob(".*.partial*"):
            leftover.unlink()


def remove_ended_leftovers(*folders: str | Path) -> None:
    """Delete temporary files of writers of :func:`atomic_path` that have ended, on this machine; others may be active.

    Args:
        folders: missing ones are skipped.
    """
    for folder in folders:
        for leftover in Path(folder).glob(".*.partial*"):
            if (match := re.search(r"\.(\d+)\.partial", leftover.name)) and not Path(f"/proc/{match[1]}").exists():
                leftover.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; it replaces ``path`` when the block ends without an error.

    A killed or failing writer leaves the old folder (or none), never a partial one; the next writer cleans up.

    Args:
        path: of the folder; an existing one is deleted at the end.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name}.{word}") for word in ("partial", "old"))
    for leftover in (partial, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
    finally:
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)

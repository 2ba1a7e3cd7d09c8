"""Atomic files and folders: written under a temporary name, then renamed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it replaces ``path`` when the block ends without an error.

    A killed or failing writer leaves the old file (or none), never a partial one.

    Args:
        path: of the file; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id separates concurrent writers; the suffix stays last, since soundfile and numpy depend on it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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

"""Files that are whole or not there: written beside their place, flushed to the disk, then renamed."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path):
    """Yield a path beside ``path`` to write to; it takes the place of ``path`` when the block ends without an error.

    A killed or failing writer leaves the old file (or none), never half a file.

    Args:
        path: where the file is to stand; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers of one file apart; the suffix stays last, since soundfile and numpy look at it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text):
    """Write ``text`` (UTF-8) to ``path``, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")

"""Files in a folder and its subfolders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def files_below(folder: str | Path, on_error: Callable[[OSError], object] | None = None) -> list[Path]:
    """Return the files below a folder, sorted, also in symbolic links to folders; each folder is entered once.

    ``Path.rglob`` passes over links to folders, of which the folders of many corpora consist.

    Args:
        folder: where to begin.
        on_error: called with the error of a folder that cannot be listed; None: such folders are passed over.
    """
    found, entered = [], set[tuple[int, int]]()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=on_error):
        stat = os.stat(parent)
        if (stat.st_dev, stat.st_ino) in entered:
            folders.clear()
            continue
        entered.add((stat.st_dev, stat.st_ino))
        folders.sort()  # which of two links to a folder is entered does not depend on the file system
        found += [Path(parent, name) for name in names]
    return sorted(found)

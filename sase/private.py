"""Files and folders that other users of the machine cannot access, whatever the umask.

SQLite, Flower, Ray and torch create files too, in this process and in its children. What they all follow is the umask,
so it is set here, in one place, rather than a mode with each file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_files() -> AbstractContextManager[None]:
    """Create files with mode 0600 and folders with 0700 in the block, in this process and those that it starts."""
    return _umask(_OTHERS)


def public_files() -> AbstractContextManager[None]:
    """Create files and folders that others can read in the block, which is inside one of :func:`private_files`."""
    return _umask(stat.S_IWGRP | stat.S_IWOTH)


def make_private(folder: str | Path, recursive: bool = True) -> None:
    """Withdraw other users' access to a folder and what is in it, as far as it is this user's.

    Args:
        folder: nothing happens if it does not exist.
        recursive: also for the contents of its subfolders; else for the files in it and the folder itself.
    """
    for parent, folders, files in os.walk(folder):  # does not follow links
        for name in ("", *files):
            _withdraw(Path(parent, name))
        if not recursive:
            folders.clear()


def _withdraw(path: Path) -> None:
    status = path.lstat()
    if status.st_uid == os.getuid() and status.st_mode & _OTHERS and not stat.S_ISLNK(status.st_mode):
        path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)

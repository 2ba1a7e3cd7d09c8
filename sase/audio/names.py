"""Which files are sound files, by their names."""

from __future__ import annotations

from pathlib import Path

from sase.errors import InputError
from sase.filetree import files_below

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")  # of corpora


def is_sound_file(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Return whether the name of a file is that of a sound file that is not hidden."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def sound_files(folder: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Return the sound files of a folder and its subfolders, also linked ones, sorted; hidden files are skipped.

    Args:
        folder: where to search.
        suffixes: of the files, in lower case.

    Raises:
        InputError: the folder does not exist or contains no such file.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    found = [path for path in files_below(folder) if is_sound_file(path, suffixes)]
    if not found:
        raise InputError(f"{folder}: contains no sound files ({' '.join(suffixes)})")
    return found

"""Which output file each input of ``sase enhance`` gets: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from sase import audio
from sase.errors import InputError
from sase.filetree import files_below


def plan_outputs(inputs: Sequence[str | Path], out: str | Path) -> list[tuple[Path, Path]]:
    """Return source and target of every sound file for ``sase enhance``, in the given order.

    A file is written to ``out`` under its own name, files of a folder keep their relative path, and files of a pattern
    their path relative to the first folder of the pattern. For a single input file, ``out`` may be a file.

    Args:
        inputs: files, folders and glob patterns (``**`` for folders at any depth).
        out: a folder, created if necessary, or a file.

    Raises:
        InputError: nothing to enhance, two inputs for one output, or an output that is an input.
    """
    out = Path(out)
    if out.suffix.lower() in audio.SUFFIXES and not out.is_dir():
        if len(inputs) != 1 or Path(inputs[0]).is_dir() or _is_pattern(inputs[0]):
            raise InputError(f"{out}: an output file needs exactly one input file; pass a folder for several")
        pairs = [(Path(inputs[0]), out)]
    else:
        pairs = [(source, out / name) for item in inputs for source, name in _find_files(item, out)]
    sources, targets = {os.path.realpath(source): source for source, _ in pairs}, dict[str, Path]()
    for source, target in pairs:
        place = os.path.realpath(target)
        if place in sources:
            raise InputError(f"{target}: is an input, which is never overwritten; choose another -o")
        if place in targets:
            raise InputError(f"{targets[place]} and {source} would both become {target}; enhance them separately")
        targets[place] = source
    return pairs


def _find_files(item: str | Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the sound files of a file, folder or pattern, and their paths relative to the output folder."""
    path = Path(item)
    found: Iterable[Path]
    if path.is_dir():
        base, found = path, files_below(path)
    elif _is_pattern(item):
        fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
        base, found = Path(*fixed), map(Path, glob.glob(str(item), recursive=True))
    else:
        yield path, Path(path.name)
        return
    files = [file for file in sorted(found) if audio.is_sound_file(file)]
    if out.resolve() != base.resolve():  # skip outputs of an earlier run inside the input folder
        files = [file for file in files if out.resolve() not in file.resolve().parents]
    if not files:
        raise InputError(f"{item}: no sound files found ({' '.join(audio.SUFFIXES)})")
    yield from ((file, file.relative_to(base)) for file in files)


def _is_pattern(item: str | Path) -> bool:
    return glob.has_magic(str(item)) and not Path(item).exists()

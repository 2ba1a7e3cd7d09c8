"""Which output file each input of ``sase enhance`` gets: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from sase import audio
from sase.errors import InputError
from sase.filetree import files_below

STANDARD = "-"  # standard input or output
SUFFIXES = (*audio.CONTAINERS, *audio.FOREIGN_SUFFIXES)  # of what a folder is searched for


@dataclass
class Plan:
    """What is to be written.

    Attributes:
        pairs: source and target of every file, in the order of the inputs.
        renamed: sources whose kind cannot be written, and becomes WAV.
        unreadable: folder to the reason why it cannot be searched.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    renamed: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def plan_outputs(inputs: Sequence[str | Path], out: str | Path, container: str | None = None) -> Plan:
    """Return the :class:`Plan` for ``sase enhance``.

    A file is written to ``out`` under its own name, files of a folder keep their relative path, and files of a pattern
    their path relative to the first folder of the pattern. For a single input file, ``out`` may be a file.

    Args:
        inputs: files, folders and glob patterns (``**`` for folders at any depth).
        out: a folder, created if necessary, or a file.
        container: of all outputs, one of ``audio.FORMATS``; None: as the inputs, or WAV where that cannot be written.

    Raises:
        InputError: an empty argument, nothing to enhance, two inputs for one output, an output that is an input, or
            an output file of unknown kind.
    """
    if not all(map(str, (*inputs, out))):
        raise InputError("an empty file name; is a shell variable unset?")
    is_file = _is_output_file(out)
    out, plan = Path(out), Plan()
    if is_file:
        if len(inputs) != 1 or Path(inputs[0]).is_dir() or _is_pattern(inputs[0]):
            raise InputError(f"{out}: an output file needs exactly one input file; pass a folder for several")
        if container is not None and audio.container_of(out) != audio.CONTAINERS[f".{container}"]:
            raise InputError(f"{out}: its extension is not that of {container}; leave out --format, or change the name")
        plan.pairs = [(Path(inputs[0]), out)]
    else:
        found = [(source, out / name) for item in inputs for source, name in _find_files(item, out, plan)]
        _set_targets(plan, found, container)
    _check(plan.pairs)
    return plan


def existing(pairs: Iterable[tuple[Path, Path]]) -> list[Path]:
    """Return the targets that exist already; a folder in the place of one is not among them."""
    return [target for _, target in pairs if os.path.lexists(target) and not target.is_dir()]


def _is_output_file(out: str | Path) -> bool:
    """Return whether ``out`` names a file; raise InputError if it might but cannot be written."""
    path = Path(out)
    if path.is_dir() or str(out).endswith(os.sep):
        return False
    suffix = path.suffix.lower()
    if suffix in audio.CONTAINERS:
        return True
    if any(map(str.isalpha, suffix)):  # a folder may be called results_v1.2
        known = " ".join(audio.CONTAINERS)
        raise InputError(f"{out}: cannot write '{suffix}' files; use one of {known}, or end with / for a folder")
    return False


def _set_targets(plan: Plan, found: Sequence[tuple[Path, Path]], container: str | None) -> None:
    """Give each target the suffix of a container that can be written."""
    kept = {target for _, target in found if target.suffix.lower() in audio.CONTAINERS}
    for source, target in found:
        if container is not None:
            if audio.CONTAINERS.get(target.suffix.lower()) != audio.CONTAINERS[f".{container}"]:
                target = target.with_suffix(f".{container}")
        elif target not in kept:
            plan.renamed.append(source)
            renamed = target.with_suffix(".wav")
            target = renamed if renamed not in kept else target.with_name(f"{target.name}.wav")
            kept.add(target)
        plan.pairs.append((source, target))


def _check(pairs: Sequence[tuple[Path, Path]]) -> None:
    sources, targets = {os.path.realpath(source): source for source, _ in pairs}, dict[str, Path]()
    for source, target in pairs:
        place = os.path.realpath(target)
        if place in sources:
            raise InputError(f"{target}: is an input, which is never overwritten; choose another -o")
        if place in targets:
            raise InputError(f"{targets[place]} and {source} would both become {target}; enhance them separately")
        targets[place] = source


def _find_files(item: str | Path, out: Path, plan: Plan) -> Iterator[tuple[Path, Path]]:
    """Yield the sound files of a file, folder or pattern, and their paths relative to the output folder."""
    path = Path(item)
    found: Iterable[Path]
    if path.is_dir():

        def unreadable(error: OSError) -> None:
            plan.unreadable[str(error.filename)] = f"cannot be searched ({error.strerror})"

        base, found = path, files_below(path, unreadable)
    elif _is_pattern(item):
        fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
        base, found = Path(*fixed), map(Path, glob.glob(str(item), recursive=True))
    else:
        yield path, Path(path.name)
        return
    files = [file for file in sorted(found) if file.suffix.lower() in SUFFIXES and not file.is_dir()]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(base).parts)]
    if out.resolve() != base.resolve():  # skip outputs of an earlier run inside the input folder
        files = [file for file in files if out.resolve() not in file.resolve().parents]
    if not files and not plan.unreadable:
        raise InputError(f"{item}: no sound files found ({' '.join(SUFFIXES)})")
    yield from ((file, file.relative_to(base)) for file in files)


def _is_pattern(item: str | Path) -> bool:
    return glob.has_magic(str(item)) and not os.path.lexists(item)

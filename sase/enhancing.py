"""``sase enhance``: many files in parallel; whatever happens to one of them is its own failure."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sase import audio, workers
from sase.atomic import remove_ended_leftovers
from sase.batch import Failures
from sase.enhancer import Enhancer
from sase.errors import InputError
from sase.outputs import STANDARD, existing, plan_outputs
from sase.progress import progress_bar, write_line

if TYPE_CHECKING:
    from tqdm import tqdm

_SHORT_S = 15.0  # an only file of so many seconds is done before a bar would be read


@dataclass(frozen=True)
class Options:
    """What is written, and how.

    Attributes:
        container: of the outputs, one of ``audio.FORMATS``; None: as the inputs.
        subtype: sample format; None: as the inputs.
        salvage: read what is there of truncated files.
        existing: ``error``, ``overwrite`` or ``skip`` outputs that exist.
        jobs: files to enhance at a time; None: one per core that this process may use.
        json: print the outcomes as JSON.
    """

    container: str | None = None
    subtype: str | None = None
    salvage: bool = False
    existing: str = "error"
    jobs: int | None = None
    json: bool = False


@dataclass
class Outcome:
    """What became of a file: ``status`` is ``enhanced``, ``skipped`` or ``failed``."""

    input: str
    output: str
    status: str
    duration_s: float = 0.0
    reason: str = ""


def enhance(inputs: Sequence[str], out: str, load: Callable[[], Enhancer], options: Options) -> None:
    """Enhance files, and print what became of them.

    Args:
        inputs: files, folders and patterns, or ``-``.
        out: a folder, a file, or ``-``.
        load: returns the Enhancer; called once it is known that there is something to do.
        options: for all files.

    Raises:
        InputError: nothing can be done, or some files failed.
    """
    started = time.monotonic()
    if STANDARD in inputs or out == STANDARD:
        outcomes = [_enhance_stream(inputs, out, load, options)]
    else:
        pairs, outcomes = _planned(inputs, out, options)
        outcomes = [*_enhance_pairs(load(), pairs, options), *outcomes] if pairs else outcomes
    counts = Counter(outcome.status for outcome in outcomes)
    seconds, wall = sum(outcome.duration_s for outcome in outcomes), time.monotonic() - started
    if options.json:
        numbers = {status: counts[status] for status in ("enhanced", "skipped", "failed")}
        report = {**numbers, "audio_s": round(seconds, 3), "wall_s": round(wall, 3)}
        print(json.dumps({**report, "files": [asdict(outcome) for outcome in outcomes]}))
    elif counts["enhanced"] or counts["skipped"]:
        skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
        line = f"{out}: {counts['enhanced']} files{skipped}, {seconds:.1f} s of audio in {wall:.1f} s"
        print(line, file=sys.stderr if out == STANDARD else sys.stdout)
    if counts["failed"]:
        raise InputError(f"{counts['failed']} of {len(outcomes)} failed")


def _log(line: str) -> None:
    write_line(f"sase enhance: {line}")


def _planned(inputs: Sequence[str], out: str, options: Options) -> tuple[list[tuple[Path, Path]], list[Outcome]]:
    """Return the files to enhance, source and target, and the outcomes of those that need no work."""
    plan = plan_outputs(inputs, out, options.container)
    if plan.renamed:
        kinds = " ".join(sorted({path.suffix or "no suffix" for path in plan.renamed}))
        _log(f"{len(plan.renamed)} files become WAV, since their kind cannot be written ({kinds})")
    ended = []
    for folder, reason in plan.unreadable.items():
        _log(f"{folder}: {reason}")
        ended.append(Outcome(folder, "", "failed", reason=reason))
    there = set(existing(plan.pairs))
    if there and options.existing == "error":
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(f"{min(there)}{others}: exists already; use --overwrite, --skip-existing or another -o")
    if options.existing == "skip":
        ended += [Outcome(str(source), str(target), "skipped") for source, target in plan.pairs if target in there]
        plan.pairs = [(source, target) for source, target in plan.pairs if target not in there]
    return plan.pairs, ended


def _enhance_pairs(enhancer: Enhancer, pairs: Sequence[tuple[Path, Path]], options: Options) -> list[Outcome]:
    """Enhance files in parallel; return what became of each, in their order; an only file that fails raises."""
    remove_ended_leftovers(*{target.parent for _, target in pairs})
    outcomes = [Outcome(str(source), str(target), "enhanced") for source, target in pairs]
    failures, single = Failures(_log), len(pairs) == 1

    def work(pair: tuple[Path, Path], report: Callable[[float], None]) -> float:
        return enhancer.enhance_file(*pair, report, subtype=options.subtype, salvage=options.salvage)

    with _bar(pairs, options) as bar:
        seconds_done = 0.0

        def on_report(index: int, seconds: float) -> None:
            nonlocal seconds_done
            seconds_done += seconds
            if bar is not None and single:
                bar.update(int(seconds_done) - bar.n)

        num_workers = min(options.jobs or len(os.sched_getaffinity(0)), len(pairs))
        with closing(workers.run(work, pairs, num_workers, on_report)) as results:
            for index, result in results:
                outcome = outcomes[index]
                if not isinstance(result, Exception):
                    outcome.duration_s = result
                elif single:
                    raise result
                else:
                    with failures.of(outcome.input):
                        raise result
                    outcome.status, outcome.reason = "failed", failures.reasons[outcome.input]
                if bar is not None and not single:
                    bar.update()
    return outcomes


def _enhance_stream(inputs: Sequence[str], out: str, load: Callable[[], Enhancer], options: Options) -> Outcome:
    """Enhance one file where the input or the output is a standard stream; return what became of it.

    Standard input is copied to a temporary file first: lengths are measured before anything is read. Standard output
    gets a WAV file of unknown length.
    """
    if len(inputs) != 1:
        raise InputError("standard input and output need exactly one input; pass a folder for several files")
    if out == STANDARD and (options.json or options.container not in (None, "wav")):
        raise InputError("standard output takes one WAV file and nothing else; name an output file with -o instead")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(inputs[0]), Path(out)
        if inputs[0] == STANDARD:
            source = Path(folder, "standard input")
            if out != STANDARD and not target.suffix:
                raise InputError(f"{out}: standard input needs an output file, such as {target / 'enhanced.wav'}, or -")
            with open(source, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        if out != STANDARD:
            pairs, ended = _planned([str(source)], out, options)
            if ended:
                return ended[0]
            [(source, target)] = pairs
        elif not inputs[0]:
            raise InputError("an empty file name; is a shell variable unset?")
        to = sys.stdout.buffer if out == STANDARD else target
        try:
            duration_s = load().enhance_file(source, to, subtype=options.subtype, salvage=options.salvage)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}{os.sep}", "")) from None
    return Outcome(inputs[0], out, "enhanced", duration_s)


def _bar(pairs: Sequence[tuple[Path, Path]], options: Options) -> AbstractContextManager[tqdm | None]:
    """Return the progress bar, seconds of a single file, else files; none for a single short file."""
    line = "{n_fmt} of {total_fmt} {unit} enhanced, {remaining} left"
    if len(pairs) != 1:
        return progress_bar("enhance", len(pairs), "files", _log, line, leave=False)
    total = None
    with suppress(InputError), audio.open_any(pairs[0][0], options.salvage) as sound:  # said when it is enhanced
        total = round(sound.info.duration_s)
    if total is not None and total <= _SHORT_S:
        return nullcontext()
    return progress_bar("enhance", total, "s", _log, line, leave=False)

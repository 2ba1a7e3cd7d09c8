"""Runs of a study, a grid of rows and seeds: each a process of its own, several at a time, resumable run by run."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from sase import jsonfile
from sase.atomic import write_text
from sase.config import Range, from_mapping, read_yaml
from sase.data.dataset import PairSet
from sase.data.fingerprint import RECORD, require_unchanged
from sase.errors import InputError
from sase.processes import child_environment, last_line, start
from sase.training.checkpoint import first_difference

RESULT = "result.json"
_POLL_S = 0.5

Result = dict[str, Any]
Results = dict[str, dict[int, Result]]  # row to seed to result
Seeds = Annotated[tuple[Annotated[int, Range(0, 2**63 - 1)], ...], Range(1, 10**4)]
Jobs = Annotated[int, Range(1, 1024)]
Plan = TypeVar("Plan")

log = logging.getLogger(__name__)


def load_plan(
    cls: type[Plan],
    path: str | Path,
    old_keys: Mapping[str, str] | None = None,
    old_row_keys: Mapping[str, str] | None = None,
) -> Plan:
    """Return the content of a study's YAML file.

    Args:
        cls: a frozen dataclass with ``rows`` (name to a dataclass; a row may be empty in the file), ``config`` and
            ``path``, which is the path of the file and not one of its keys.
        path: of the file.
        old_keys, old_row_keys: keys of earlier versions, of the file and of a row, to their present names.

    Raises:
        InputError: an unknown key, a value of a wrong type, no rows, or no config.
    """
    mapping = _renamed(read_yaml(path), old_keys or {})
    rows = mapping.get("rows")
    if not rows or not isinstance(rows, dict) or not mapping.get("config"):
        raise InputError(f"{path}: needs 'config:' (as conf/train_*.yaml) and 'rows:'")
    if "path" in mapping:
        raise InputError(f"{path}: unknown key path")
    rows = {name: {} if row is None else _renamed(row, old_row_keys or {}) for name, row in rows.items()}
    try:
        return from_mapping(cls, {**mapping, "rows": rows, "path": str(path)})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def merged(config: Mapping[str, Any], **changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with keys of its sections overridden, which may be missing in it.

    Raises:
        InputError: what should be a section is not one.
    """
    result = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items()}
    for name, change in changes.items():
        if not change and name not in result:
            continue
        section = result.setdefault(name, {})
        if not isinstance(section, dict):
            raise InputError(f"config: {name} must be a section of 'key: value' lines, not {section!r}")
        section.update(change)
    return result


def _renamed(mapping: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(mapping, dict):
        return mapping
    return {names.get(key, key): value for key, value in mapping.items()}


@dataclass(frozen=True)
class Grid:
    """A study's folder, the names of its rows, and the seeds of each row.

    Raises:
        InputError: no rows, two rows whose folders would have the same name, a row whose folder would have none, or a
            seed that occurs twice.
    """

    out: Path
    rows: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        folders: dict[Path, str] = {}
        if not self.rows:
            raise InputError("the study has no rows")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError("a seed occurs twice; every row needs different seeds")
        for row in self.rows:
            if not folder_name(row):
                raise InputError(f"row '{row}' names no folder; its name needs a letter or a digit")
            if (other := folders.setdefault(self.folder(row, 0), row)) != row:
                raise InputError(f"rows '{other}' and '{row}' would share a folder; rename one of them")

    def folder(self, row: str, seed: int) -> Path:
        """Return the folder of one row and seed."""
        return self.out / folder_name(row) / f"seed{seed}"

    def require_same_data(self, sets: Mapping[str, PairSet], *others: Path) -> None:
        """Compare the data with that of the finished runs, or record it where there are none yet.

        Args:
            sets: what each set is for, such as ``training set``, and the set.
            others: further files with results.

        Raises:
            InputError: a set has changed since.
        """
        finished = any(self.out.glob(f"*/seed*/{RESULT}")) or any(path.exists() for path in others)
        advice = f"its finished runs in {self.out} cannot be compared with new ones; use another --out"
        require_unchanged(self.out / RECORD, sets, finished, advice, what="study")

    def result(self, row: str, seed: int) -> Result | None:
        """Return the result of one row and seed; None if it is not finished."""
        path = self.folder(row, seed) / RESULT
        return jsonfile.read(path) if path.exists() else None

    def results(
        self,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> Results:
        """Return the results of all finished runs.

        Args:
            settings: row to its present settings, which those in a result must equal; results of earlier versions hold
                none.
            completed: returns settings of an earlier version with the defaults of the keys that it did not have.

        Raises:
            InputError: a result of other settings.
        """
        read = {row: {seed: self.result(row, seed) for seed in self.seeds} for row in self.rows}
        found = {row: {seed: result for seed, result in seeds.items() if result} for row, seeds in read.items()}
        for row, new in (settings or {}).items():
            for seed, result in found[row].items():
                self.require_same_settings(row, seed, completed(result.get("settings", new)), new)
        return found

    def require_same_settings(self, row: str, seed: int, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Raise InputError, with what differs, if a finished run was made with other settings than the present ones."""
        if difference := first_difference(old, new):
            folder = self.folder(row, seed)
            raise InputError(f"{folder}: made with other settings ({difference}); delete it, or use another --out")

    def write(self, row: str, seed: int, result: Result) -> None:
        """Write the result of one row and seed, which marks the run as finished."""
        write_text(self.folder(row, seed) / RESULT, json.dumps(result, indent=1) + "\n")

    def selected(self, only: Collection[str] | None) -> list[str]:
        """Return the rows named in ``only``, in the grid's order; all if None.

        Raises:
            InputError: an unknown row.
        """
        if unknown := sorted(set(only or ()) - set(self.rows)):
            raise InputError(f"no row {unknown[0]}; rows are {', '.join(self.rows)}")
        return [row for row in self.rows if only is None or row in only]

    def run(
        self, tasks: Iterable[tuple[str, int]], command: Callable[[str, int], Sequence[object]], jobs: int = 1
    ) -> None:
        """Run every task without a result, ``jobs`` single-threaded processes at a time; a failure stops no others.

        Args:
            tasks: (row, seed), in the order in which they start.
            command: (row, seed) -> command line of the process that writes the result.
            jobs: processes at a time.

        Raises:
            InputError: some failed; with the last log line of the first.
        """
        waiting = [(row, seed) for row, seed in tasks if not (self.folder(row, seed) / RESULT).exists()]
        running: dict[subprocess.Popen, tuple[str, int, float]] = {}
        failed, total = [], len(waiting)
        while waiting or running:
            while waiting and len(running) < jobs:
                row, seed = waiting.pop(0)
                log.info("%s, seed %d: started (%d of %d)", row, seed, total - len(waiting), total)
                process = start(command(row, seed), child_environment(1), self._log(row, seed))
                running[process] = row, seed, time.monotonic()
            time.sleep(_POLL_S)
            for process in [process for process in running if process.poll() is not None]:
                row, seed, started = running.pop(process)
                if process.returncode:
                    failed.append(f"{row}, seed {seed}: {last_line(self._log(row, seed))}")
                    log.warning("%s", failed[-1])
                else:
                    log.info("%s, seed %d: finished in %.0f s", row, seed, time.monotonic() - started)
        if failed:
            raise InputError(f"{len(failed)} of {total} failed; {failed[0]}; run the same command to retry")

    def _log(self, row: str, seed: int) -> Path:
        return self.folder(row, seed) / "run.log"


def folder_name(title: str) -> str:
    """Return a title in lower-case letters, digits and underscores."""
    return re.sub("[^a-z0-9]+", "_", title.lower()).strip("_")

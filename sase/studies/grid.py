"""Experiments of rows × seeds: each a process of its own, some side by side, kept when done; and their numbers."""

import json
import logging
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sase import metrics
from sase.atomic import write_text
from sase.config import from_mapping, read_yaml
from sase.errors import InputError
from sase.processes import child_environment, last_line, start
from sase.training.validation import validate

MEASURES = ("PESQ_WB", "STOI", "SI_SDR")
DECIMALS = {"PESQ_WB": 3, "STOI": 4, "SI_SDR": 2}
RESULT = "result.json"
_LOOK_EVERY_S = 0.5

log = logging.getLogger(__name__)


def load_plan(cls, path):
    """Return what the YAML file of an experiment says.

    Args:
        cls: a frozen dataclass with ``rows`` (name to a dataclass; in the file, a row may be empty), ``config`` and
            ``path``, which is no key of the file but its place.
        path: of the file.

    Raises:
        InputError: an unknown key or a value of a wrong type, no rows, or no config.
    """
    mapping = read_yaml(path)
    rows = mapping.get("rows")
    if not rows or not isinstance(rows, dict) or not mapping.get("config"):
        raise InputError(f"{path}: needs 'config:' (as conf/train_*.yaml) and 'rows:'")
    if "path" in mapping:
        raise InputError(f"{path}: unknown key path")
    rows = {name: {} if row is None else row for name, row in rows.items()}
    try:
        return from_mapping(cls, {**mapping, "rows": rows, "path": str(path)})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Grid:
    """The folder of an experiment, the names of its rows, and the seeds of each row.

    Raises:
        InputError: two rows whose folders would have the same name.
    """

    out: Path
    rows: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self):
        folders = {}
        for row in self.rows:
            if (other := folders.setdefault(self.folder(row, 0), row)) != row:
                raise InputError(f"rows '{other}' and '{row}' would share a folder; give one another name")

    def folder(self, row, seed):
        """Return the folder of one row and seed."""
        return self.out / folder_name(row) / f"seed{seed}"

    def result(self, row, seed):
        """Return what was written of one row and seed; None where it is not done."""
        path = self.folder(row, seed) / RESULT
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise InputError(f"{path}: is no JSON; delete it, and the same command makes it again") from None

    def results(self):
        """Return row to seed to result, of what is done."""
        found = {row: {seed: self.result(row, seed) for seed in self.seeds} for row in self.rows}
        return {row: {seed: result for seed, result in seeds.items() if result} for row, seeds in found.items()}

    def write(self, row, seed, result):
        """Write the result of one row and seed: from then on it is done."""
        write_text(self.folder(row, seed) / RESULT, json.dumps(result, indent=1) + "\n")

    def chosen(self, only):
        """Return the names of rows in ``only`` in their order; all when None.

        Raises:
            InputError: a name that is no row's.
        """
        if unknown := sorted(set(only or ()) - set(self.rows)):
            raise InputError(f"there is no row {unknown[0]}; there are {', '.join(self.rows)}")
        return [row for row in self.rows if only is None or row in only]

    def run(self, tasks, command, jobs=1, env=None):
        """Run what has no result yet, ``jobs`` processes of one thread side by side; if one fails, the rest goes on.

        Args:
            tasks: (row, seed) in the order in which they begin.
            command: (row, seed) -> words of the command that writes the result.
            jobs: how many at a time.
            env: their environment.

        Raises:
            InputError: some failed; with the last line of the first one's log.
        """
        waiting = [(row, seed) for row, seed in tasks if not (self.folder(row, seed) / RESULT).exists()]
        running, failed, total = {}, [], len(waiting)
        while waiting or running:
            while waiting and len(running) < jobs:
                row, seed = waiting.pop(0)
                log.info("%s, seed %d begins (%d of %d)", row, seed, total - len(waiting), total)
                process = start(command(row, seed), env or child_environment(1), self._log(row, seed))
                running[process] = row, seed, time.monotonic()
            time.sleep(_LOOK_EVERY_S)
            for process in [process for process in running if process.poll() is not None]:
                row, seed, began = running.pop(process)
                if process.returncode:
                    failed.append(f"{row}, seed {seed}: {last_line(self._log(row, seed))}")
                    log.warning("%s", failed[-1])
                else:
                    log.info("%s, seed %d is done, %.0f s", row, seed, time.monotonic() - began)
        if failed:
            raise InputError(f"{len(failed)} of {total} failed; {failed[0]}; the same command tries again")

    def _log(self, row, seed):
        return self.folder(row, seed) / "run.log"


def folder_name(title):
    """Return a title in small letters, digits and underscores."""
    return re.sub("[^a-z0-9]+", "_", title.lower()).strip("_")


class Unprocessed(nn.Module):
    """Gives what it gets: in the place of a network, it scores the noisy input."""

    def forward(self, noisy, lengths=None):
        """Return ``noisy``."""
        return noisy


def score_set(model, pairs, measures=MEASURES):
    """Return {utt: {measure: value}} of what a network makes of a set, in the set's order.

    Args:
        model: a :class:`sase.model.SASE`, or :class:`Unprocessed`.
        pairs: a :class:`sase.data.dataset.PairSet`.
        measures: names out of :data:`sase.metrics.measures.METRICS`.
    """
    signals = zip(pairs.utts, validate(model, pairs)[1])
    return {utt: metrics.evaluate(clean, wav, pairs.sample_rate, measures) for utt, (clean, wav) in signals}


def mean_std(values, decimals, sign=""):
    """Return ``mean ± standard deviation`` of values over seeds as text; of a single one, the value."""
    text = f"{statistics.fmean(values):{sign}.{decimals}f}"
    return f"{text} ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else text

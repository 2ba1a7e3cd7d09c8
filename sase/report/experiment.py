"""What an experiment's folder holds by now, as plain data; missing parts are noted, and nothing is locked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sase import jsonfile
from sase.config import read_yaml
from sase.data.datadir import DataDir, read_data_dir, read_table
from sase.errors import InputError
from sase.evaluation.results import SUMMARY
from sase.evaluation.scores import labels_of
from sase.evaluation.shards import UNPROCESSED
from sase.metrics.measures import measures_in
from sase.report import curves
from sase.report.federation import charts as federation_charts
from sase.report.federation import federation
from sase.textfile import read_text

CONFIGS = ("config.yaml", "fl.yaml")
LABELS = ("speaker", "noise", "snr")
_SIGNS = ("config.yaml", "history.jsonl", "rounds.jsonl", "best.pt")


@dataclass
class SetScores:
    """A scored or at least enhanced set.

    Attributes:
        values: {utt: {measure: value or None}} of the enhanced speech; ``unprocessed`` of the noisy speech.
        labels: {utt: {"speaker", "noise", "snr": text or dB}}.
        enhanced: {utt: file}.
        data: with the noisy and clean speech; None if it was not found.
        failed: {utt: reason}.
    """

    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    unprocessed: dict[str, dict[str, float | None]] = field(default_factory=dict)
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    enhanced: dict[str, str] = field(default_factory=dict)
    data: DataDir | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def utts(self) -> list[str]:
        """Everything that is known to belong to the set, sorted."""
        known = {*self.values, *self.unprocessed, *self.enhanced, *self.failed}
        return sorted(known | set(self.data.utts) if self.data else known)


@dataclass
class Experiment:
    """One experiment.

    Attributes:
        name: unique on the page.
        folder: of the experiment.
        sets: by name, such as ``tt``.
        charts: as :func:`sase.report.curves.charts` returns them.
        federation: as :func:`sase.report.federation.federation` returns it.
        configs: file name to text.
        settings: dotted key to value, of all configurations.
        notes: what is missing or damaged.
    """

    name: str
    folder: Path
    sets: dict[str, SetScores] = field(default_factory=dict)
    charts: list[curves.Chart] = field(default_factory=list)
    federation: dict[str, Any] | None = None
    configs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_experiments(
    folders: Sequence[str | Path], data_dirs: Sequence[str | Path] = (), unprocessed: str | Path | None = None
) -> list[Experiment]:
    """Return experiments, in the given order.

    Args:
        folders: of the experiments.
        data_dirs: data directories, each named after its set; by default those that scoring recorded, or ``dump/SET``
            in a folder above the experiment.
        unprocessed: folder with the scores of the unprocessed input, if it is none of the usual places.

    Raises:
        InputError: a folder is no experiment's.
    """
    paths, given = (
        [Path(folder).resolve() for folder in folders],
        {Path(path).resolve().name: path for path in data_dirs},
    )
    return [_read(path, name, given, unprocessed) for path, name in zip(paths, _names(paths))]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest last parts of paths that tell them apart."""
    if len(set(paths)) < len(paths):
        raise InputError("an experiment is named twice")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _read(folder: Path, name: str, given: Mapping[str, str | Path], unprocessed: str | Path | None) -> Experiment:
    found = Experiment(name, folder)
    enhanced = sorted(folder.glob("enhanced_*"))
    if not enhanced and not any((folder / sign).is_file() for sign in _SIGNS):
        raise InputError(f"{folder}: not the folder of an experiment (no {', '.join(_SIGNS)})")
    for config in CONFIGS:
        if (folder / config).is_file():
            found.configs[config] = read_text(folder / config)
            prefix = "" if config == CONFIGS[0] else "fl."
            found.settings |= {prefix + key: value for key, value in _flat(read_yaml(folder / config))}
    if not found.configs:
        found.notes.append("there is no configuration (config.yaml)")
    found.charts = curves.charts(folder, name, found.notes)
    ignored: list[str] = []  # damage of rounds.jsonl is noted once
    found.federation = federation(folder, ignored)
    found.charts += federation_charts(folder, name, ignored)
    found.notes += [note for note in dict.fromkeys(ignored) if note not in found.notes]
    if not found.charts:
        found.notes.append("no epoch or round is completed yet: there are no curves")
    for path in enhanced:
        set_name = path.name.removeprefix("enhanced_")
        found.sets[set_name] = _read_set(folder, path, set_name, given.get(set_name), unprocessed, found.notes)
    if not enhanced:
        found.notes.append("nothing is enhanced yet (stage 4): there are neither scores nor sound")
    return found


def _read_set(
    exp: Path, folder: Path, name: str, data: str | Path | None, unprocessed: str | Path | None, notes: list[str]
) -> SetScores:
    found, scoring = SetScores(), folder / "scoring"
    paths = _recorded_paths(scoring / SUMMARY, notes)
    data_dir = _first_folder(
        [data, paths.get("data"), *(parent / "dump" / name for parent in exp.parents)], "wav.scp", exp
    )
    if data_dir is None:
        notes.append(f"{name}: its data directory was not found, so there is no noisy and clean speech; use --data")
    else:
        try:
            found.data = read_data_dir(data_dir)
        except (InputError, OSError) as error:
            notes.append(str(error))
    if (folder / "spk1.scp").is_file():
        found.enhanced = read_table(folder / "spk1.scp")
    else:
        found.enhanced = {path.stem: str(path) for path in sorted((folder / "wav").glob("*.wav"))}
        notes.append(f"{name}: not completely enhanced yet (stage 4), {len(found.enhanced)} utterances so far")
    found.values, found.labels = _read_scores(scoring / "scores.csv")
    if not found.values:
        notes.append(f"{name}: not scored yet (stage 5)")
    if (scoring / "failed").is_file():
        found.failed = read_table(scoring / "failed")
    places = [unprocessed, paths.get("unprocessed"), scoring / UNPROCESSED, data_dir and data_dir / UNPROCESSED]
    if (place := _first_folder(places, "scores.csv", exp)) is not None:
        found.unprocessed, labels = _read_scores(place / "scores.csv")
        found.labels = {**labels, **found.labels}
    elif found.values:
        notes.append(f"{name}: the scores of the unprocessed input were not found; use --unprocessed")
    if found.data:
        tables = labels_of(found.data)
        for utt in found.data.utts:
            found.labels[utt] = {kind: table[utt] for kind, table in tables.items() if utt in table}
    return found


def _recorded_paths(summary: Path, notes: list[str]) -> dict[str, str]:
    if not summary.is_file():
        return {}
    try:
        return jsonfile.read(summary).get("paths", {})  # missing in summaries of an earlier version
    except (InputError, OSError) as error:
        notes.append(str(error))
        return {}


def _first_folder(places: Iterable[str | Path | None], name: str, exp: Path) -> Path | None:
    """Return the first of some folders, see :func:`located`, that has a file of this name."""
    for place in places:
        if place is not None and (found := located(Path(place) / name, exp)) is not None:
            return found.parent
    return None


def located(path: str | Path, exp: Path) -> Path | None:
    """Return an existing file, relative to the working directory or to a folder above an experiment; else None.

    Tables hold paths relative to the recipe's folder.
    """
    return next((base / path for base in (Path(), *exp.parents) if (base / path).is_file()), None)


def _read_scores(path: Path) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, Any]]]:
    """Return the values and labels of a ``scores.csv``; nothing if it does not exist yet."""
    values: dict[str, dict[str, float | None]] = {}
    labels: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return values, labels
    for row in csv.DictReader(io.StringIO(read_text(path))):
        values[row["utt"]] = {name: _number(row[name]) for name in measures_in(row)}
        labels[row["utt"]] = {kind: row[kind] for kind in LABELS if row.get(kind)}
        if (snr := _number(row.get("snr") or "")) is not None:
            labels[row["utt"]]["snr"] = snr
    return values, labels


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(experiments: Sequence[Experiment]) -> list[tuple[str, list[Any]]]:
    """Return (key, value of each experiment or None) of the settings that are not the same in all."""
    keys = dict.fromkeys(key for experiment in experiments for key in experiment.settings)
    rows = [(key, [experiment.settings.get(key) for experiment in experiments]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]

"""Scores per utterance: their means, their labels, and the tables that hold them.

``scores.csv`` has a row per utterance; a file ``MEASURE`` has ``utt value`` lines for each measure, and ``failed`` has
``utt reason`` lines.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sase.atomic import write_text
from sase.data.datadir import DataDir, write_table
from sase.errors import InputError
from sase.metrics.measures import measures_in

MISSING = "no enhanced file"
Labels = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Scores:
    """Scores of a set.

    Attributes:
        values: {utt: {measure: value}}, the same measures for all.
        failed: {utt: reason} of those without values.
        seconds: wall time.
        silent: utterances whose enhanced signal is silent; their values are the lowest of each measure.
        trimmed: {utt: number of samples that were cut off the longer signal}.
    """

    values: dict[str, dict[str, float]]
    failed: dict[str, str]
    seconds: float
    silent: list[str] = field(default_factory=list)
    trimmed: dict[str, int] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """The measures of the values, in the order of :data:`sase.metrics.measures.MEASURES`."""
        return measures_in(next(iter(self.values.values()), {}))

    def summary(self, utts: Iterable[str] | None = None) -> dict[str, Any]:
        """Return means, standard deviations and counts over all utterances, or the given ones, as plain dicts.

        Undefined values (NaN) are excluded from means and counted in ``undefined``; ``without_speech`` is the number of
        utterances with at least one, unless the enhanced signal is silent: they are counted in ``silent``. ``trimmed``
        is the number of trimmed pairs, and ``trimmed_samples`` the most that was cut off one. A mean over no values is
        None.
        """
        utts = None if utts is None else list(utts)
        scored = [utt for utt in (self.values if utts is None else utts) if utt in self.values]
        rows, silent = [self.values[utt] for utt in scored], set(self.silent)
        trimmed = [self.trimmed[utt] for utt in scored if utt in self.trimmed]
        columns = {name: np.array([row[name] for row in rows]) for name in self.measures}
        defined = {name: column[~np.isnan(column)] for name, column in columns.items()}
        return {
            "mean": {name: float(kept.mean()) if len(kept) else None for name, kept in defined.items()},
            "std": {name: float(kept.std()) if len(kept) else None for name, kept in defined.items()},
            "scored": len(rows),
            "failed": len(self.failed) if utts is None else sum(utt in self.failed for utt in utts),
            "missing": list(self.failed.values()).count(MISSING),
            "without_speech": sum(
                utt not in silent and any(map(math.isnan, row.values())) for utt, row in zip(scored, rows)
            ),
            "silent": len(silent.intersection(scored)),
            "trimmed": len(trimmed),
            "trimmed_samples": max(trimmed, default=0),
            "undefined": {name: len(rows) - len(kept) for name, kept in defined.items()},
        }


def require_some(scores: Scores, name: str) -> Scores:
    """Return ``scores``, or raise InputError if no utterance was scored."""
    if not scores.values:
        utt, reason = next(iter(scores.failed.items()))
        raise InputError(f"{name}: none of {len(scores.failed)} utterances could be scored; the first, {utt}: {reason}")
    return scores


def labels_of(data: DataDir) -> Labels:
    """Return {"speaker": {utt: name}, "noise": {utt: name}, "snr": {utt: dB}} of a data directory."""
    return {"speaker": data.utt2spk, "noise": data.utt2noise, "snr": data.utt2snr}


def groups(labels: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Return {group: [utt, ...]} for one kind of label, sorted."""
    members: dict[Any, list[str]] = {label: [] for label in sorted(set(labels.values()))}
    for utt, label in labels.items():
        members[label].append(utt)
    return members


def write_csv(path: str | Path, scores: Scores, labels: Labels | None = None) -> None:
    """Write a row per utterance: its name, the measures (empty if undefined), and the known labels.

    Args:
        path: the file to write.
        scores: :class:`Scores`.
        labels: as :func:`labels_of` returns them.
    """
    known = {kind: table for kind, table in (labels or {}).items() if table}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    measures = scores.measures
    writer.writerow(["utt", *measures, *known])
    for utt, row in sorted(scores.values.items()):
        numbers = ["" if math.isnan(row[name]) else f"{row[name]:.6f}" for name in measures]
        tags = [table.get(utt, "") for table in known.values()]
        writer.writerow([utt, *numbers, *(f"{tag:g}" if isinstance(tag, float) else tag for tag in tags)])
    write_text(path, buffer.getvalue())


def write_scores(folder: Path, scores: Scores, labels: Labels) -> None:
    """Write ``scores.csv``, a Kaldi table ``utt value`` for each measure, and the table ``failed``."""
    for name in scores.measures:
        write_table(folder / name, {utt: f"{row[name]:.6f}" for utt, row in scores.values.items()})
    write_table(folder / "failed", scores.failed)
    write_csv(folder / "scores.csv", scores, labels)

"""Which epoch of a training, or round of a federation, is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SI_SNR = "dev_SI_SNR"  # name of the score in a record, dB


def is_best(record: Mapping[str, Any], history: Sequence[Mapping[str, Any]], select_by: str, tolerance: float) -> bool:
    """Return whether a record is better than the best of those before it.

    Higher scores are better. Scores within the tolerance of the highest so far count as equal, since those of two seeds
    differ by more; of these, the one with the highest SI-SNR is the best. Scores that are not finite never count.

    Args:
        record: with ``dev_SI_SNR`` and ``dev_<select_by>``.
        history: the earlier records, which also hold ``best``: what this function returned for them.
        select_by: ``SI_SNR`` or ``PESQ_WB``.
        tolerance: in the unit of that score.
    """
    name = f"dev_{select_by}"
    score = record[name]
    if not math.isfinite(score):
        return False
    chosen = [earlier for earlier in history if earlier.get("best") and math.isfinite(earlier[name])]
    if not chosen:
        return True
    best = chosen[-1]
    lowest = max(score, *(earlier[name] for earlier in history if math.isfinite(earlier[name]))) - tolerance
    if score < lowest or best[name] < lowest:
        return bool(score >= lowest)
    return bool(tolerance > 0 and record[SI_SNR] > best[SI_SNR])


def mean_scores(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the means over development sets, each of which counts the same, and the scores of each.

    Args:
        scores: label of each set to its scores, by name.

    Returns:
        ``name`` to mean and, if there are several sets, ``name/label`` to score.
    """
    names = list(next(iter(scores.values())))
    means = {name: round(float(np.mean([of_set[name] for of_set in scores.values()])), 4) for name in names}
    if len(scores) == 1:
        return means
    return means | {f"{name}/{label}": of_set[name] for label, of_set in scores.items() for name in names}


def labels_of(paths: Sequence[str]) -> list[str]:
    """Return short names of folders, all different: the last part of each path, or what it takes of it."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(of_path[-count:]) for of_path in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{number} {path}" for number, path in enumerate(paths, 1)]

"""Scores per utterance of networks on a set, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sase.metrics.measures import METRICS, title_of
from sase.training.validation import measure_set

Scores = dict[str, dict[str, float]]  # utterance to measure to value

MEASURES = ("PESQ_WB", "STOI", "SI_SDR")
DECIMALS = {name: METRICS[name].decimals for name in MEASURES}
TITLES = {name: title_of(name) for name in MEASURES}


class Identity(nn.Module):
    """Returns its input: used in place of a network to score the unprocessed signal."""

    def forward(self, noisy: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``noisy``."""
        return noisy


def score_set(model: nn.Module, pairs: Any, measures: Sequence[str] = MEASURES) -> Scores:
    """Return the scores of a network's output for every utterance of a set, in the set's order.

    Args:
        model: a :class:`sase.model.SASE`, or :class:`Identity`.
        pairs: a :class:`sase.data.dataset.PairSet`, or a part of one.
        measures: names from :data:`sase.metrics.measures.METRICS`.
    """
    return dict(zip(pairs.utts, measure_set(model, pairs, measures)))


def mean(rows: Iterable[dict[str, float]], measure: str) -> float:
    """Return the mean of one measure over utterances for which it is defined; NaN if there are none."""
    values = np.array([row[measure] for row in rows])
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def means(rows: Iterable[dict[str, float]], measures: Sequence[str] = MEASURES) -> dict[str, float]:
    """Return {measure: :func:`mean`}; an empty mapping without utterances."""
    rows = list(rows)
    return {measure: mean(rows, measure) for measure in measures} if rows else {}

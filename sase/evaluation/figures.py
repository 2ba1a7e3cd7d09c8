"""Figures of a scored set, as PNG: the spectrograms of one utterance, and the improvements by noise and SNR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sase.errors import InputError
from sase.evaluation.scores import Labels, Scores, groups
from sase.metrics.measures import MEASURES, measures_in, title_of
from sase.plotting import MAX_GROUPS, draw_spectrograms, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXES = {"noise": "noise", "snr": "SNR of the unprocessed input (dB)"}
_BLUE, _GREY = "#4477aa", "#777777"
_SEED = 0  # of the horizontal jitter of the points in the box plots
_MAX_UPRIGHT = 6  # group names that fit side by side without rotation


def median_utt(unprocessed: Scores, enhanced: Scores, measure: str = "PESQ_WB") -> str:
    """Return the name of the utterance of median improvement, by SI_SDR if the measure is undefined everywhere.

    Args:
        unprocessed, enhanced: :class:`~sase.evaluation.scores.Scores`.
        measure: of the improvement.
    """
    gains = improvements(unprocessed, enhanced, measure) or improvements(unprocessed, enhanced, "SI_SDR")
    if not gains:
        raise InputError("no utterance has scores both unprocessed and enhanced: none to show")
    return sorted(gains, key=lambda utt: (gains[utt], utt))[len(gains) // 2]


def improvements(unprocessed: Scores, enhanced: Scores, measure: str) -> dict[str, float]:
    """Return {utt: enhanced - unprocessed} of one measure, where both are defined."""
    common = [utt for utt in enhanced.values if utt in unprocessed.values]
    if not {measure} <= {*enhanced.measures} & {*unprocessed.measures}:
        return {}
    gains = {utt: enhanced.values[utt][measure] - unprocessed.values[utt][measure] for utt in common}
    return {utt: gain for utt, gain in gains.items() if not math.isnan(gain)}


def drawn(scores: Scores) -> list[str]:
    """Return the names of those measures of the scores that figures show."""
    return [name for name in scores.measures if MEASURES[name].drawn]


def draw_example(
    path: str | Path,
    utt: str,
    signals: tuple[np.ndarray, np.ndarray, np.ndarray],
    sample_rate: int,
    unprocessed: Scores,
    enhanced: Scores,
) -> None:
    """Draw noisy, enhanced and clean spectrograms of one utterance, with its scores.

    Args:
        path: of the PNG.
        utt: its name.
        signals: (noisy, enhanced, clean), each float (time,).
        sample_rate: in Hz.
        unprocessed, enhanced: :class:`~sase.evaluation.scores.Scores`.
    """
    noisy, cleaned, clean = signals
    titles = [
        f"{name}: {_scores(table.values.get(utt, {}))}".rstrip(": ")
        for name, table in (("noisy", unprocessed), ("enhanced", enhanced))
    ]
    draw_spectrograms(path, {titles[0]: noisy, titles[1]: cleaned, "clean": clean}, sample_rate, utt)


def draw_improvements(path: str | Path, unprocessed: Scores, enhanced: Scores, labels: Labels) -> None:
    """Draw the improvements of the drawn measures by noise and by SNR: a box and a point per utterance for each group.

    Args:
        path: of the PNG.
        unprocessed, enhanced: :class:`~sase.evaluation.scores.Scores`.
        labels: as :func:`sase.evaluation.scores.labels_of` returns them; without noises and SNRs, one box shows all.
    """
    from matplotlib.figure import Figure

    kinds = {kind: labels.get(kind, {}) for kind in _AXES}
    kinds = {kind: table for kind, table in kinds.items() if 0 < len(set(table.values())) <= MAX_GROUPS}
    kinds = kinds or {"": dict.fromkeys(enhanced.values, "all")}
    shown = drawn(enhanced)
    figure = Figure(figsize=(1.5 + 4.5 * len(kinds), 0.5 + 3.0 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(kinds), sharey="row", squeeze=False)
    for row, measure in zip(axes, shown):
        gains = improvements(unprocessed, enhanced, measure)
        for axis, table in zip(row, kinds.values()):
            _boxes(axis, {group: [gains[u] for u in utts if u in gains] for group, utts in groups(table).items()})
        row[0].set_ylabel(f"improvement of {title_of(measure)}")
    for axis, kind in zip(axes[-1], kinds):
        axis.set_xlabel(_AXES.get(kind, ""))
    figure.suptitle("Enhanced minus unprocessed: every utterance, median, quartiles, 5 and 95 %", fontsize=11)
    save_figure(figure, path)


def _boxes(axis: Axes, values: Mapping[Any, list[float]]) -> None:
    """Draw a box and the points of every group that has values, with the count under its name."""
    shown = {group: gains for group, gains in values.items() if gains}
    if not shown:
        axis.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axis.transAxes)
        return
    names = [f"{group:g}" if isinstance(group, float) else str(group) for group in shown]
    rotation = 0 if len(shown) <= _MAX_UPRIGHT else 60
    axis.axhline(0, color=_GREY, linewidth=1, linestyle="--", zorder=0)
    rng = np.random.default_rng(_SEED)
    for place, gains in enumerate(shown.values(), 1):
        jittered = place + rng.uniform(-0.18, 0.18, len(gains))
        axis.plot(jittered, gains, ".", color=_BLUE, alpha=0.5, markersize=6, markeredgewidth=0, zorder=1)
    axis.boxplot(
        list(shown.values()), widths=0.5, whis=(5, 95), showfliers=False, medianprops={"color": "black", "lw": 1.5}
    )
    labels = [f"{name}\n(n = {len(gains)})" for name, gains in zip(names, shown.values())]
    axis.set_xticks(range(1, len(shown) + 1), labels, fontsize=8, rotation=rotation)
    axis.grid(axis="y", alpha=0.3)


def _scores(row: Mapping[str, float]) -> str:
    known = [name for name in measures_in(row) if MEASURES[name].drawn and not math.isnan(row[name])]
    return ", ".join(f"{name} {row[name]:.{MEASURES[name].decimals}f} {MEASURES[name].unit}".strip() for name in known)

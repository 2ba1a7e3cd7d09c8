"""The page and the figure of a probe: a column per system, a row per stimulus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sase.evaluation.probe.probing import SECTIONS, Report
from sase.markdown import table
from sase.plotting import save_figure

_DRAWN = list(SECTIONS)[:2]
_COLOURS = ("#777777", "#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_ABOUT = (
    "Mixtures are of every talker with kinds of noise in turn, at 0, 5, 10 and 15 dB. Every stimulus has a level of "
    "−26 dB RMS re full scale. The synthetic ones come from other code and parameters than the noises of training."
)


def lines(reports: Mapping[str, Report], described: str) -> list[str]:
    """Return the page in Markdown.

    Args:
        reports: name of the system -> report; all of the same material.
        described: the material.
    """
    page = ["# Probe", "", f"Stimuli: {described}. {_ABOUT}", ""]
    for title in next(iter(reports.values())):
        columns = [report[title] for report in reports.values()]
        rows = [[row, *(_cell(title, row, column.get(row, math.nan)) for column in columns)] for row in columns[0]]
        page += [f"## {title}", "", *table(["", *reports], rows, "lr"), ""]
    return page


def draw(path: str | Path, reports: Mapping[str, Report]) -> None:
    """Draw bars of the suppression by kind of noise and of the errors by band: a colour per system.

    Args:
        path: of the PNG.
        reports: as for :func:`lines`.
    """
    from matplotlib.figure import Figure

    counts = [len(next(iter(reports.values()))[title]) for title in _DRAWN]
    height = 1.2 + 0.09 * (2 + len(reports)) * sum(counts)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots(len(_DRAWN), 1, squeeze=False, gridspec_kw={"height_ratios": counts})[:, 0]
    for axis, title in zip(axes, _DRAWN):
        size = 0.8 / len(reports)
        for number, (name, report) in enumerate(reports.items()):
            values = [0.0 if math.isnan(value) else value for value in report[title].values()]
            places = np.arange(len(values)) + (number - (len(reports) - 1) / 2) * size
            axis.barh(places, values, size, label=name, color=_COLOURS[number % len(_COLOURS)])
        axis.set_yticks(range(len(values)), list(report[title]), fontsize=8)
        axis.invert_yaxis()
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[-1].legend(fontsize=8, loc="best")
    save_figure(figure, path)


def _cell(title: str, row: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    decimals = 3 if "STOI" in (row, title.rpartition(": ")[2]) else 2 if row == "PESQ_WB" or "(s)" in row else 1
    return f"{value:.{decimals}f}"

"""Figures of a study: differences with their intervals, and curves over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sase.plotting import save_figure

_COLOURS = ("C0", "C1")


def draw_differences(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], path: Path) -> None:
    """Draw the difference of every row to the row it is compared with, one panel per measure.

    A thick line is the interval, the dot the mean, thin strokes are the means of single seeds.

    Args:
        rows: those with differences, as in :mod:`sase.studies.page`.
        titles: measure to the title of its panel.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 3.2 * len(titles), 1.3 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    sets = list(next(iter(rows.values()))["differences"])
    for axis, (measure, title) in zip(axes, titles.items()):
        axis.axvline(0.0, color="black", linewidth=0.8)
        for shift, (name, colour) in enumerate(zip(sets, _COLOURS)):
            drawn = [
                (place + 0.28 * shift - 0.14, row["differences"][name]["all"][measure])
                for place, row in enumerate(rows.values())
                if measure in row["differences"][name]["all"]
            ]
            for place, difference in drawn:
                axis.plot(difference["interval"], [place, place], color=colour, linewidth=3, alpha=0.5)
                axis.plot(difference["seeds"], [place] * len(difference["seeds"]), "|", color=colour, markersize=7)
            means = [difference["mean"] for _, difference in drawn]
            axis.plot(means, [place for place, _ in drawn], "o", color=colour, markersize=5, label=f"{name} set")
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_yticks(range(len(rows)), [f"{name} − {row['against']}" for name, row in rows.items()], fontsize=8)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(sets), fontsize=8)
    save_figure(figure, path)


def draw_rounds(curves: Mapping[str, tuple[str, Sequence[float]]], path: Path) -> None:
    """Draw development scores over rounds.

    Args:
        curves: row to its line style and the scores from round 1.
        path: of the PNG.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axis, colours = figure.subplots(), colormaps["tab20"]
    for place, (row, (style, scores)) in enumerate(curves.items()):
        colour = colours(place % colours.N)
        axis.plot(range(1, len(scores) + 1), scores, style, color=colour, label=row, linewidth=1.5)
    _label_rounds(axis)
    axis.set_ylabel("SI-SNR on the development set (dB)")
    axis.legend(fontsize=8, ncols=2)
    save_figure(figure, path)


def draw_gap(rows: Mapping[str, tuple[float, float, float]], path: Path) -> None:
    """Draw the share of the gap that rows close over their number of rounds, and over the bytes that they send.

    Args:
        rows: row to number of rounds, megabytes sent up and down by all silos, and share of the gap.
        path: of the PNG.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes, colours = figure.subplots(1, 2, sharey=True), colormaps["tab20"]
    for axis, place, title in zip(axes, (0, 1), ("rounds", "sent in all (MB)")):
        for number, (row, values) in enumerate(rows.items()):
            marker = "os^Dv"[number // colours.N % 5]
            axis.plot(values[place], 100.0 * values[2], marker, color=colours(number % colours.N), label=row)
        axis.axhline(100.0, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("gap closed between silos alone and central training (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    save_figure(figure, path)


def draw_weights(panels: Mapping[str, Mapping[int, Mapping[int, float]]], path: Path) -> None:
    """Draw the aggregation weight of every silo over rounds, one panel per strategy.

    Args:
        panels: strategy to silo to round to weight.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(panels) + 0.8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (strategy, silos) in zip(axes, panels.items()):
        for silo, weights in sorted(silos.items()):
            axis.plot(list(weights), list(weights.values()), label=f"silo {silo}", linewidth=1.5)
        axis.set_title(strategy, fontsize=10)
        _label_rounds(axis)
    axes[0].set_ylim(0, None)  # of all panels
    axes[0].set_ylabel("weight of the silo, α")
    axes[-1].legend(fontsize=8)
    save_figure(figure, path)


def _label_rounds(axis: Any) -> None:
    axis.set_xlabel("round")
    axis.xaxis.get_major_locator().set_params(integer=True)

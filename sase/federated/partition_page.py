"""The page of a partition: a Markdown table, and a figure of hours, noises and SNRs per silo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sase import markdown
from sase.plotting import MAX_GROUPS, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEADER = (
    "silo",
    "hours",
    "share",
    "utterances",
    "speakers",
    "noises",
    "SNR (dB): min, mean, max",
    "test utterances",
)
_MAX_NAMES = 12  # noises named in a cell of the table


def text(summary: Mapping[str, Any]) -> str:
    """Return the page as Markdown.

    Args:
        summary: from :func:`sase.federated.partition.partition`.
    """
    settings = "".join(f", {name} {summary[name]:g}" for name in ("alpha", "seed") if name in summary)
    silos = summary["silos"]
    rows = []
    total = sum(silo["hours"] for silo in silos) or 1.0
    for k, silo in enumerate(silos):
        names, snr_db = list(silo["noises"]), silo["snr_db"]
        noises = ", ".join(names) if len(names) <= _MAX_NAMES else f"{len(names)} noises"
        cells = (
            k,
            f"{silo['hours']:.3f}",
            f"{100 * silo['hours'] / total:.0f} %",
            silo["utterances"],
            len(silo["speakers"]),
            noises or "unknown",
            ", ".join(f"{snr:.1f}" for snr in snr_db) if snr_db else "unknown",
            silo["test_utterances"],
        )
        rows.append(cells)
    shared = {
        what: sum(len(set(silo[what])) for silo in silos) - len({name for silo in silos for name in silo[what]})
        for what in ("speakers", "noises")
    }
    own = [f"no two silos share {what}" if not count else f"silos share {what}" for what, count in shared.items()]
    lines = [f"# {summary['num_silos']} silos of {summary['sets'][0]}, {_method(summary)}{settings}", ""]
    lines += markdown.table(_HEADER, rows, "rrrrrllr", compact=True)
    lines += ["", f"Of the training data: {'; '.join(own)}.", "", "![the partition](partition.png)", ""]
    return "\n".join(lines)


def draw(path: str | Path, summary: Mapping[str, Any], utt2snr: Mapping[str, float], silos: Mapping[str, int]) -> None:
    """Draw hours, noises and SNRs of the silos as PNG.

    Args:
        path: output file.
        summary: as for :func:`text`.
        utt2snr: {utterance: dB}; may be incomplete.
        silos: {utterance: silo}.
    """
    from matplotlib.figure import Figure

    count = summary["num_silos"]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    hours_axis, noise_axis, snr_axis = figure.subplots(1, 3, width_ratios=(1, 1.6, 1))
    hours = [silo["hours"] for silo in summary["silos"]]
    bars = hours_axis.bar(range(count), hours, color="#4477aa")
    hours_axis.bar_label(bars, [f"{len(silo['speakers'])} sp." for silo in summary["silos"]], fontsize=8)
    hours_axis.set_ylabel("hours of speech (number of speakers)")
    _draw_noises(figure, noise_axis, summary["silos"])
    snrs_db = [[utt2snr[utt] for utt in silos if silos[utt] == k and utt in utt2snr] for k in range(count)]
    if all(snrs_db):
        snr_axis.boxplot(snrs_db, positions=range(count), widths=0.5, whis=(0, 100))
        snr_axis.set_ylabel("SNR (dB): median, quartiles, range")
        snr_axis.grid(axis="y", alpha=0.3)
    else:
        _annotate(snr_axis, "SNRs unknown")
    for axis in (hours_axis, noise_axis, snr_axis):
        axis.set_xticks(range(count), [str(k) for k in range(count)])
        axis.set_xlabel("silo")
    figure.suptitle(f"{count} silos, {_method(summary)}", fontsize=11)
    save_figure(figure, path)


def _method(summary: Mapping[str, Any]) -> str:
    return "as assigned by stage 1" if summary["method"] == "silo" else f"by {summary['method']}"


def _draw_noises(figure: Figure, axis: Axes, silos: Sequence[Mapping[str, Any]]) -> None:
    names = sorted({noise for silo in silos for noise in silo["noises"]})
    if not 0 < len(names) <= MAX_GROUPS:
        _annotate(axis, f"{len(names)} noises" if names else "noises unknown")
        return
    minutes = 60 * np.array([[silo["noises"].get(name, 0.0) for silo in silos] for name in names])
    image = axis.imshow(minutes, aspect="auto", cmap="Blues", vmin=0)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(image, ax=axis, label="minutes of speech in this noise", pad=0.02)


def _annotate(axis: Axes, message: str) -> None:
    axis.text(0.5, 0.5, message, ha="center", va="center", transform=axis.transAxes)

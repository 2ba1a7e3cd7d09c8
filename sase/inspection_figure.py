"""The figure of an inspection: under the spectrogram the mask and the gates, then what attention learnt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sase.plotting import RANGE_DB, save_figure

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from matplotlib.image import AxesImage

    from sase.inspection import Inspection, Sigmoids

_MASK_DB = (-40.0, 10.0)


def draw_inspection(path: str | Path, inspection: Inspection, title: str = "") -> None:
    """Draw what :func:`sase.inspection.inspect_model` collected; what the network does not have is left out.

    Args:
        path: of the PNG.
        inspection: an :class:`~sase.inspection.Inspection`.
        title: above all.
    """
    from matplotlib.figure import Figure

    attention = [*inspection.memory_s, *inspection.weights]
    rows = {  # of the three parts of the figure, and the height of each row in inches
        _draw_along_time: (3 if inspection.gates else 2, 2.1),
        _draw_frequency_gates: (math.ceil(len(inspection.gates) / 2), 1.9),
        _draw_attention: (len(attention), 2.6),
    }
    rows = {draw: (count, height) for draw, (count, height) in rows.items() if count}
    heights = [count * height for count, height in rows.values()]
    figure = Figure(figsize=(11, 0.6 + sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (draw, (count, _)) in zip(parts, rows.items()):
        draw(part, count, inspection)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _draw_along_time(figure: SubFigure, rows: int, inspection: Inspection) -> None:
    """The spectrogram, the mask and the gates of each frame, on one time axis."""
    axes = figure.subplots(rows, 1, sharex=True)
    noisy, mask = (values[1:].cpu().numpy() for values in (inspection.noisy, inspection.mask))  # without DC
    level_db = 20.0 * np.log10(np.maximum(noisy / (noisy.max() or 1.0), 1e-9))
    _image(axes[0], level_db, inspection, "magma", (-RANGE_DB, 0.0), "level (dB)")
    axes[0].set_title("noisy input", loc="left", fontsize=10)
    _image(axes[1], 20.0 * np.log10(np.maximum(mask, 1e-6)), inspection, "viridis", _MASK_DB, "gain (dB)")
    axes[1].set_title("mask, magnitude", loc="left", fontsize=10)
    axes[-1].set_xlabel("time (s)")
    if not inspection.gates:
        return
    for name, gates in inspection.gates.items():
        time = gates.time.cpu().numpy()
        axes[2].plot((np.arange(len(time)) + 0.5) / inspection.frames_per_s, time, label=name, linewidth=1.2)
    axes[2].set_title("TF-GA: gate of each frame", loc="left", fontsize=10)
    axes[2].grid(alpha=0.3)
    axes[2].legend(fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _draw_frequency_gates(figure: SubFigure, rows: int, inspection: Inspection) -> None:
    """The gates of each frequency over time, all on one scale, so that they can be compared."""
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    maps = {name: gates.frequency.cpu().numpy() for name, gates in inspection.gates.items()}
    limits = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
    for axis, (name, values) in zip(axes.flat, maps.items()):
        image = _image(axis, values, inspection, "viridis", limits)
        axis.set_title(f"TF-GA: gate of each frequency, {name}", loc="left", fontsize=10)
    for axis in axes.flat[len(maps) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(maps) - 2) : len(maps)]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("time (s)")
    figure.colorbar(image, ax=axes, label="gate", pad=0.01, aspect=20 * rows)


def _draw_attention(figure: SubFigure, rows: int, inspection: Inspection) -> None:
    """A row for each attention: its sigmoids, and its memory (over time) or its weights (over frequency)."""
    axes = figure.subplots(rows, 2, squeeze=False)
    for pair, name in zip(axes, [*inspection.memory_s, *inspection.weights]):
        _draw_sigmoids(pair[0], inspection.sigmoids.get(name), name)
        if name in inspection.memory_s:
            _draw_memory(pair[1], inspection.memory_s[name], name)
        else:
            _draw_weights(pair[1], inspection.weights[name], name)


def _extent(inspection: Inspection) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of an image of all frames and frequencies: seconds and kHz."""
    return 0.0, inspection.noisy.shape[1] / inspection.frames_per_s, 0.0, inspection.sample_rate / 2000.0


def _image(
    axis: Axes,
    values: np.ndarray,
    inspection: Inspection,
    colours: str,
    limits: tuple[float, float],
    label: str | None = None,
) -> AxesImage:
    low, high = limits
    image = axis.imshow(
        values,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=_extent(inspection),
        cmap=colours,
        vmin=low,
        vmax=high,
    )
    if label:
        axis.figure.colorbar(image, ax=axis, label=label, pad=0.01)
    axis.set_ylabel("frequency (kHz)", fontsize=8)
    return image


def _draw_sigmoids(axis: Axes, sigmoids: Sigmoids | None, name: str) -> None:
    axis.set_title(f"{name}: sigmoids φ", loc="left", fontsize=10)
    if sigmoids is None:
        axis.text(0.5, 0.5, "softmax: no sigmoids", ha="center", va="center", transform=axis.transAxes)
        axis.set_xticks([], [])
        axis.set_yticks([], [])
        return
    axis.plot(sigmoids.input.cpu().numpy(), sigmoids.output.cpu().numpy().T, color="#4477aa", alpha=0.45, linewidth=0.9)
    axis.set_xlabel("projected query or key" if sigmoids.input[0] < 0 else "size of the projected query or key")
    axis.set_ylabel("φ")
    axis.grid(alpha=0.3)


def _draw_memory(axis: Axes, memory_s: torch.Tensor, name: str) -> None:
    values = memory_s.cpu().tolist()
    shown = [0.0 if math.isinf(value) else value for value in values]
    bars = axis.barh(range(len(values)), shown, color="#4477aa", height=0.5)
    axis.bar_label(bars, ["whole signal" if math.isinf(value) else f"{value:.2f} s" for value in values], padding=4)
    axis.set_yticks(range(len(values)), [f"head {i}" for i in range(len(values))])
    axis.set_xlim(0.0, 1.25 * max(shown) or 1.0)
    axis.set_ylim(len(values) - 0.4, -0.6)
    axis.set_xlabel("seconds")
    axis.set_title(f"{name}: memory", loc="left", fontsize=10)


def _draw_weights(axis: Axes, weights: torch.Tensor, name: str) -> None:
    # Relative to uniform attention.
    share = weights.cpu().numpy() * weights.shape[-1]
    spread = max(1.05, float(np.nanmax(share)), 1.0 / max(float(np.nanmin(share)), 0.05))
    image = axis.imshow(
        np.log2(np.maximum(share, 0.01)),
        origin="lower",
        aspect="auto",
        cmap="RdBu_r",
        interpolation="nearest",
        vmin=-math.log2(spread),
        vmax=math.log2(spread),
    )
    axis.figure.colorbar(image, ax=axis, label="log₂ relative to uniform attention", pad=0.01)
    axis.set_title(f"{name}: weights, mean over time", loc="left", fontsize=10)
    axis.set_xlabel("key position")
    axis.set_ylabel("query position")

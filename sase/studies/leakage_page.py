"""The page and the figures of what updates reveal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sase.atomic import write_text
from sase.markdown import table_of_mappings
from sase.plotting import draw_spectrograms, save_figure
from sase.studies.leakage import path_of
from sase.studies.leakage_setting import Attack

FIGURE, SCORES = "leakage.png", "leakage_scores.png"
_DRAWN = (
    "SGD, one step",
    "AdamW, one step",
    "4 steps",
    "a round",
    "a round, clipped, noise z = 1",
    "a round, masks: the mean of 4 silos",
)


def write_page(attack: Attack, results: Mapping[str, Mapping[str, Any]], out: str | Path) -> None:
    """Write ``RESULTS.md``, a figure of the scores, and one of the first victim's speech and what was recovered of it.

    Args:
        attack: the attack.
        results: of :func:`sase.studies.leakage.run`.
        out: its folder.
    """
    lines = [
        "# What an update reveals",
        "",
        f"Segments of {attack.config.data.segment_s:g} s, {attack.steps} steps of an inversion. "
        f"Inversions: {attack.inverted} silos, {attack.seeds} seeds each, mean ± deviation; in brackets, chance. "
        f"Identification: among {attack.candidates} recordings, {attack.victims} silos, {attack.seeds} seeds each; "
        f"chance is {100 / attack.candidates:g} %, a median rank of {(attack.candidates + 1) / 2:g}.",
        "",
        *table_of_mappings([_row(name, numbers) for name, numbers in results.items()]),
        "",
        f"![SI-SDR of what was recovered, beside chance]({SCORES})",
        "",
        f"![spectrograms of speech and of what was recovered of it]({FIGURE})",
    ]
    write_text(Path(out) / "RESULTS.md", "\n".join(lines) + "\n")
    if results:
        _draw_scores(Path(out) / SCORES, results)
    signals: dict[str, np.ndarray] = {}
    for name in _DRAWN:
        if name in results:
            with np.load(path_of(out, name).with_suffix(".npz")) as file:
                signals.setdefault("clean speech of the silo", file["clean"])
                signals[f"recovered: {name}"] = _scaled(file["found_clean"], file["clean"])
    if signals:
        draw_spectrograms(Path(out) / FIGURE, signals, attack.pairs.sample_rate)


def _row(name: str, numbers: Mapping[str, Any]) -> dict[str, str]:
    def pair(key: str, digits: int) -> str:
        return f"{_spread(numbers[key], digits)} ({_spread(numbers[key + '_chance'], digits)})"

    ranks = np.asarray(numbers["ranks"])
    return {
        "what the server sees": name,
        "noisy SI-SDR (dB)": pair("noisy", 1),
        "clean SI-SDR (dB)": pair("clean", 1),
        "spectrum": pair("spectrum", 2),
        "match": _spread(numbers["match"], 2),
        "identified (%)": f"{100 * np.mean(ranks == 0):.0f}",
        "median rank": f"{np.median(ranks) + 1:g}",
    }


def _spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def _draw_scores(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the clean speech's SI-SDR of every inversion, and of chance, as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.3 * len(results)), layout="constrained")
    axis = figure.subplots()
    for place, numbers in enumerate(results.values()):
        for key, shift, colour, label in (("clean", -0.15, "C0", "recovered"), ("clean_chance", 0.15, "0.6", "chance")):
            values = numbers[key]
            heights = np.full(len(values), place + shift)
            axis.plot(values, heights, "o", color=colour, markersize=4, label=label if place == 0 else None)
    axis.set_yticks(range(len(results)), list(results), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("SI-SDR of clean speech (dB); the speech itself: ∞")
    axis.axvline(0.0, color="0.8", linewidth=1)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="best", fontsize=8)
    save_figure(figure, path)


def _scaled(wav: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return a signal with the level of another one."""
    return wav * float(np.sqrt(np.mean(like**2)) / max(np.sqrt(np.mean(wav**2)), 1e-12))

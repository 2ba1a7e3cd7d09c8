"""The page and the figure of what updates reveal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sase.atomic import write_text
from sase.markdown import table_of_mappings
from sase.plotting import draw_spectrograms
from sase.studies.leakage import Attack, path_of

FIGURE = "leakage.png"
_DRAWN = ("SGD, one step", "AdamW, one step", "masks: the mean of 4 silos, one step each", "masks: one masked update")


def write_page(attack: Attack, results: Mapping[str, Mapping[str, Any]], out: str | Path) -> None:
    """Write ``RESULTS.md`` and a figure of the first victim's speech and what was recovered of it.

    Args:
        attack: the attack.
        results: of :func:`sase.studies.leakage.run`.
        out: its folder.
    """
    lines = [
        "# What an update reveals",
        "",
        f"Segments of {attack.config.data.segment_s:g} s, {attack.steps} steps of inversion; "
        f"identification among {attack.candidates} recordings, {attack.victims} updates. In brackets: chance.",
        "",
        *table_of_mappings([_row(name, numbers) for name, numbers in results.items()]),
        "",
        f"![spectrograms of speech and of what was recovered of it]({FIGURE})",
    ]
    write_text(Path(out) / "RESULTS.md", "\n".join(lines) + "\n")
    signals: dict[str, np.ndarray] = {}
    for name in _DRAWN:
        if name in results:
            with np.load(path_of(out, name).with_suffix(".npz")) as file:
                signals.setdefault("clean speech of the silo", file["clean"][0])
                signals[f"recovered: {name}"] = _scaled(file["found_clean"][0], file["clean"][0])
    if signals:
        draw_spectrograms(Path(out) / FIGURE, signals, attack.pairs.sample_rate)


def _row(name: str, numbers: Mapping[str, Any]) -> dict[str, str]:
    def pair(key: str, digits: int) -> str:
        return f"{numbers[key]:.{digits}f} ({numbers[key + '_chance']:.{digits}f})"

    return {
        "what the server sees": name,
        "noisy SI-SDR (dB)": pair("noisy", 1),
        "clean SI-SDR (dB)": pair("clean", 1),
        "spectrum": pair("spectrum", 2),
        "match": f"{numbers['match']:.3f}",
        "identified (%)": f"{100 * numbers['identified']:.0f} ({100 * numbers['identified_chance']:.0f})",
        "median rank": f"{numbers['rank']:g}",
    }


def _scaled(wav: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return a signal with the level of another one."""
    return wav * float(np.sqrt(np.mean(like**2)) / max(np.sqrt(np.mean(wav**2)), 1e-12))

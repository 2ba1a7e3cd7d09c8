"""What all figures share: spectrograms, and writing a PNG atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sase.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW, HOP, RANGE_DB = 512, 128, 80.0
MAX_GROUPS = 20  # of one kind; more are neither drawn nor listed in tables


def draw_spectrograms(path: str | Path, signals: Mapping[str, np.ndarray], sample_rate: int, title: str = "") -> None:
    """Draw stacked spectrograms with common axes and one colour scale.

    Args:
        path: of the PNG.
        signals: {title: float (time,)}, from top to bottom.
        sample_rate: in Hz.
        title: of the figure.
    """
    import librosa
    from librosa.display import specshow
    from matplotlib.figure import Figure

    padded = {name: librosa.util.fix_length(wav, size=max(len(wav), WINDOW)) for name, wav in signals.items()}
    spectra = {name: np.abs(librosa.stft(wav, n_fft=WINDOW, hop_length=HOP)) for name, wav in padded.items()}
    loudest = max(spec.max() for spec in spectra.values()) or 1.0
    figure = Figure(figsize=(8, 1.0 + 2.2 * len(signals)), layout="constrained")
    axes = figure.subplots(len(signals), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (name, spec) in zip(axes, spectra.items()):
        level_db = librosa.amplitude_to_db(spec, ref=loudest, amin=loudest * 1e-6, top_db=None)
        image = specshow(
            level_db,
            sr=sample_rate,
            hop_length=HOP,
            n_fft=WINDOW,
            x_axis="s",
            y_axis="linear",
            ax=axis,
            cmap="magma",
            vmin=-RANGE_DB,
            vmax=0,
        )
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_ylabel("frequency (kHz)")
        axis.yaxis.set_major_formatter(lambda hertz, _: f"{hertz / 1000:g}")
        axis.set_xlabel("")
    axes[-1].set_xlabel("time (s)")
    figure.colorbar(image, ax=list(axes), label="level (dB re maximum)", pad=0.02)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG atomically, without metadata that differs between versions of matplotlib."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120, format="png", metadata={"Software": None})

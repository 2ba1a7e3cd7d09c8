"""Figures of a scored set: the spectrograms of one utterance, and the improvements by noise and SNR. PNG files."""

import math

import numpy as np

from sase.atomic import atomic_path
from sase.errors import InputError
from sase.scoring import groups

WINDOW, HOP, RANGE_DB = 512, 128, 80.0
_SHOWN = {"PESQ_WB": "PESQ_WB", "SI_SDR": "SI_SDR (dB)"}
_TITLES = {"PESQ_WB": "PESQ_WB {:.2f}", "STOI": "STOI {:.3f}", "SI_SDR": "SI_SDR {:.1f} dB"}
_AXES = {"noise": "noise", "snr": "SNR of the unprocessed input (dB)"}
_BLUE, _GREY = "#4477aa", "#777777"
_SEED = 0  # of the sideways scatter of the points in the box plots
MAX_GROUPS = 20  # of one kind; more are neither drawn nor tabulated
_MAX_UPRIGHT = 6  # names beside each other that need not be turned


def median_utt(unprocessed, enhanced, measure="PESQ_WB"):
    """Return the name of the utterance whose improvement is the median one: neither a lucky nor an unlucky example.

    Args:
        unprocessed, enhanced: :class:`~sase.scoring.Scores`.
        measure: by which improvement is meant.
    """
    gains = improvements(unprocessed, enhanced, measure) or improvements(unprocessed, enhanced, "SI_SDR")
    if not gains:
        raise InputError("no utterance has scores both unprocessed and enhanced: there is none to show")
    return sorted(gains, key=lambda utt: (gains[utt], utt))[len(gains) // 2]


def improvements(unprocessed, enhanced, measure):
    """Return {utt: enhanced - unprocessed} of one measure, where both are defined."""
    common = [utt for utt in enhanced.values if utt in unprocessed.values]
    gains = {utt: enhanced.values[utt][measure] - unprocessed.values[utt][measure] for utt in common}
    return {utt: gain for utt, gain in gains.items() if not math.isnan(gain)}


def draw_spectrograms(path, signals, sample_rate, title=""):
    """Draw spectrograms one above the other, on common axes and one colour scale.

    Args:
        path: of the PNG.
        signals: {title: float (time,)}, from top to bottom.
        sample_rate: of all of them, in Hz.
        title: above all.
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
            level_db, sr=sample_rate, hop_length=HOP, n_fft=WINDOW, x_axis="s", y_axis="linear", ax=axis, cmap="magma",
            vmin=-RANGE_DB, vmax=0,
        )  # fmt: skip
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_ylabel("frequency (kHz)")
        axis.yaxis.set_major_formatter(lambda hertz, _: f"{hertz / 1000:g}")
        axis.set_xlabel("")
    axes[-1].set_xlabel("time (s)")
    figure.colorbar(image, ax=list(axes), label="level (dB, the loudest point of all being 0)", pad=0.02)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def draw_example(path, utt, signals, sample_rate, unprocessed, enhanced):
    """Draw noisy, enhanced and clean spectrograms of one utterance, with its scores.

    Args:
        path: of the PNG.
        utt: its name.
        signals: (noisy, enhanced, clean), each float (time,).
        sample_rate: in Hz.
        unprocessed, enhanced: :class:`~sase.scoring.Scores`.
    """
    noisy, cleaned, clean = signals
    titles = [f"{name}: {_scores(table.values.get(utt, {}))}".rstrip(": ") for name, table in
              (("noisy", unprocessed), ("enhanced", enhanced))]  # fmt: skip
    draw_spectrograms(path, {titles[0]: noisy, titles[1]: cleaned, "clean": clean}, sample_rate, utt)


def draw_improvements(path, unprocessed, enhanced, labels):
    """Draw how much PESQ_WB and SI_SDR improved, by noise and by SNR: a box and the utterances' points for each group.

    Args:
        path: of the PNG.
        unprocessed, enhanced: :class:`~sase.scoring.Scores`.
        labels: as :func:`sase.scoring.labels_of` gives them; without noises and SNRs, one box stands for all.
    """
    from matplotlib.figure import Figure

    kinds = {kind: labels.get(kind, {}) for kind in _AXES}
    kinds = {kind: table for kind, table in kinds.items() if 0 < len(set(table.values())) <= MAX_GROUPS}
    kinds = kinds or {"": dict.fromkeys(enhanced.values, "all")}
    figure = Figure(figsize=(1.5 + 4.5 * len(kinds), 6.5), layout="constrained")
    axes = figure.subplots(len(_SHOWN), len(kinds), sharey="row", squeeze=False)
    for row, (measure, name) in zip(axes, _SHOWN.items()):
        gains = improvements(unprocessed, enhanced, measure)
        for axis, (kind, table) in zip(row, kinds.items()):
            _boxes(axis, {group: [gains[u] for u in utts if u in gains] for group, utts in groups(table).items()})
        row[0].set_ylabel(f"improvement of {name}")
    for axis, kind in zip(axes[-1], kinds):
        axis.set_xlabel(_AXES.get(kind, ""))
    figure.suptitle("Enhanced minus unprocessed: every utterance, median, quartiles, 5 and 95 %", fontsize=11)
    save_figure(figure, path)


def _boxes(axis, values):
    """Draw one box and the points for every group that has values, with the count under its name."""
    shown = {group: gains for group, gains in values.items() if gains}
    if not shown:
        axis.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axis.transAxes)
        return
    names = [f"{group:g}" if isinstance(group, float) else str(group) for group in shown]
    rotation = 0 if len(shown) <= _MAX_UPRIGHT else 60
    axis.axhline(0, color=_GREY, linewidth=1, linestyle="--", zorder=0)
    rng = np.random.default_rng(_SEED)
    for place, gains in enumerate(shown.values(), 1):
        sideways = place + rng.uniform(-0.18, 0.18, len(gains))
        axis.plot(sideways, gains, ".", color=_BLUE, alpha=0.5, markersize=6, markeredgewidth=0, zorder=1)
    axis.boxplot(
        list(shown.values()), widths=0.5, whis=(5, 95), showfliers=False, medianprops={"color": "black", "lw": 1.5}
    )
    labels = [f"{name}\n(n = {len(gains)})" for name, gains in zip(names, shown.values())]
    axis.set_xticks(range(1, len(shown) + 1), labels, fontsize=8, rotation=rotation)
    axis.grid(axis="y", alpha=0.3)


def _scores(row):
    known = {name: row[name] for name in _TITLES if not math.isnan(row.get(name, math.nan))}
    return ", ".join(_TITLES[name].format(value) for name, value in known.items())


def save_figure(figure, path):
    """Write a figure as PNG, whole or not at all, without the version that would make equal ones differ."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120, format="png", metadata={"Software": None})

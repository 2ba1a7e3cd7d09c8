"""What an update reveals of the audio that it was trained on, to a server that tries to find out.

Every row of the study is one view of the server (:mod:`sase.studies.leakage_setting`); both attacks
(:mod:`sase.studies.leakage_attacks`) are repeated over several silos and seeds, beside what chance gives.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sase import jsonfile
from sase.data.remix import Batch
from sase.errors import InputError
from sase.metrics.measures import zero_mean_si_sdr
from sase.studies.leakage_attacks import Candidates, invert
from sase.studies.leakage_setting import ROWS, UNSEEN, Attack, Exposure, segments, trained_on
from sase.studies.leakage_views import Views

_DRAWS = 4  # of segments that nobody trained on, for the level of chance of each inversion
_SPECTRUM = 512  # FFT of the averaged spectra
MEASURES = ("noisy", "clean", "spectrum")

log = logging.getLogger(__name__)


def run(attack: Attack, out: str | Path, rows: Sequence[str] = tuple(ROWS)) -> dict[str, dict[str, Any]]:
    """Return {row: numbers}; a row that is finished is not computed again.

    Args:
        attack: the attack.
        out: folder for ``ROW.json`` and ``ROW.npz``, with the audio of the first inversion.
        rows: of :data:`ROWS`.

    Raises:
        InputError: a finished row is of another attack.
    """
    results: dict[str, dict[str, Any]] = {}
    views, candidates = Views(attack), None
    options = {name: getattr(attack, name) for name in ("steps", "candidates", "victims", "inverted", "seeds")}
    for name in ROWS:
        path = path_of(out, name)
        if path.exists():
            results[name] = jsonfile.read(path)
            if (made := results[name].get("attack")) != options:
                raise InputError(f"{path}: made with {made}, not {options}; use these or another folder")
        elif name in rows:
            candidates = candidates or Candidates(attack)
            log.info("%s", name)
            numbers, signals = _run_row(attack, ROWS[name], views, candidates)
            np.savez(path.with_suffix(".npz"), allow_pickle=False, **signals)
            results[name] = {"row": name, "attack": options, **numbers}
            jsonfile.write(path, results[name])
    return results


def path_of(out: str | Path, row: str) -> Path:
    """Return the file with the numbers of a row; with the suffix ``.npz`` its signals."""
    return Path(out) / f"{'-'.join(re.findall('[0-9A-Za-z]+', row))}.json"


def _run_row(
    attack: Attack, exposure: Exposure, views: Views, candidates: Candidates
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    ranks = [
        candidates.rank(views.of(exposure, victim, seed), exposure.optimizer, victim)
        for victim in range(attack.victims)
        for seed in range(attack.seeds)
    ]
    found: dict[str, list[float]] = {"match": []}
    signals: dict[str, np.ndarray] = {}
    for victim in range(attack.inverted):
        numbers = [number for silo in range(exposure.silos) for number in trained_on(exposure, victim, silo)]
        truth = segments(attack, numbers)
        unseen = [range(UNSEEN + draw * len(numbers), UNSEEN + (draw + 1) * len(numbers)) for draw in range(_DRAWS)]
        others = [segments(attack, part) for part in unseen]
        for seed in range(attack.seeds):
            view = views.of(exposure, victim, seed)
            audio, match = invert(attack, exposure, view, truth, seed=victim * attack.seeds + seed)
            found["match"].append(match)
            for name, value in scores(audio, truth).items():
                found.setdefault(name, []).append(value)
            chance = [scores(audio, other) for other in others]
            for name in MEASURES:
                found.setdefault(f"{name}_chance", []).append(float(np.mean([value[name] for value in chance])))
            signals = signals or _drawn(audio, truth)
    return {"ranks": ranks, **found}, signals


def _drawn(audio: Batch, truth: Batch) -> dict[str, np.ndarray]:
    """Return the silo's first segment, and of the recovered ones the most similar one, float32 (time,) each."""
    clean = truth.clean[0].numpy()
    index = int(np.argmax([zero_mean_si_sdr(clean, own.numpy()) for own in audio.clean]))
    result = {"noisy": truth.noisy[0], "clean": truth.clean[0]}
    result |= {"found_noisy": audio.noisy[index], "found_clean": audio.clean[index]}
    return {name: value.numpy() for name, value in result.items()}


def scores(found: Batch, truth: Batch) -> dict[str, float]:
    """Return how similar recovered audio is to audio: the best of all pairs of segments.

    Returns:
        ``noisy``, ``clean``: SI-SDR in dB; ``spectrum``: correlation, over frequency, of the clean audio's averaged
        log spectra.
    """

    def best(own: np.ndarray, other: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], float]) -> float:
        return float(np.nanmax([measure(a, b) for a in other for b in own]))

    noisy, clean = (found.noisy.numpy(), truth.noisy.numpy()), (found.clean.numpy(), truth.clean.numpy())
    spectra = [np.stack([_spectrum(wav) for wav in wavs]) for wavs in clean]
    return {
        "noisy": best(*noisy, zero_mean_si_sdr),
        "clean": best(*clean, zero_mean_si_sdr),
        "spectrum": best(spectra[0], spectra[1], lambda a, b: float(np.corrcoef(a, b)[0, 1])),
    }


def _spectrum(wav: np.ndarray) -> np.ndarray:
    """Return the averaged log power spectrum."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, _SPECTRUM)[:: _SPECTRUM // 2] * np.hanning(_SPECTRUM)
    return np.log(np.square(np.abs(np.fft.rfft(frames))).mean(axis=0) + 1e-10)

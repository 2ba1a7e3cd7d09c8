"""Run the probe: from a system and stimuli to a report, section by section."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from sase import metrics
from sase.evaluation.probe import measures
from sase.evaluation.probe.material import LEVEL_DB, Material, at_level
from sase.model import SASE

System = Callable[[np.ndarray], np.ndarray]  # (time,) -> (time,), at the material's sample rate
Section = dict[str, float]
Report = dict[str, Section]

_SETTLE_S = 1.0  # of noise alone, before its suppression is measured
_SNRS_DB = (0.0, 5.0, 10.0, 15.0)
_SHIFTS_DB = (-60, -40, -20, 0, 10)
_ROOM_TONES_DB = (-30, -40, -50)  # below the speech
_DRIFT_S = 60.0
_ONSET_S = 0.1
_CLIPPED_DB = (3, 9)  # above the RMS of the speech


def probe(system: System, material: Material) -> Report:
    """Return section -> row -> value of a system; rows without a value, such as a measure that is undefined, are NaN.

    Args:
        system: from a noisy signal, float32 (time,), to an enhanced one of the same length.
        material: the stimuli.
    """
    return {title: section(system, material) for title, section in SECTIONS.items()}


def system_of(model: SASE) -> System:
    """Return a network as a system, with its weights as they are."""
    import torch

    def system(wav: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(np.ascontiguousarray(wav))[None])[0].numpy()

    return system


def identity(wav: np.ndarray) -> np.ndarray:
    """The unprocessed input as a system."""
    return wav


def _mixtures(material: Material) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (clean, noise): every talker at every SNR, with the kinds of noise in turn; a kind meets several SNRs."""
    kinds, count = list(material.noises.values()), len(_SNRS_DB)
    for talker, speech in enumerate(material.speech):
        for turn in range(count):
            wav = np.resize(kinds[(talker * count + turn) % len(kinds)][0], len(speech))
            yield speech, at_level(wav, LEVEL_DB - _SNRS_DB[(talker + turn) % count])


def _suppression(system: System, material: Material) -> Section:
    settle = int(_SETTLE_S * material.sample_rate)
    return {
        kind: _mean(-measures.gain_db(wav[settle:], system(wav)[settle:]) for wav in wavs)
        for kind, wavs in material.noises.items()
    }


def _errors(system: System, material: Material) -> Section:
    rows = [
        measures.error_by_band(clean, system(clean + noise), material.sample_rate)
        for clean, noise in _mixtures(material)
    ]
    return {band: _mean(row[band] for row in rows) for band in rows[0]}


def _bins(system: System, material: Material) -> Section:
    pairs = [
        measures.bins_db(clean, noise, system(clean + noise), material.sample_rate)
        for clean, noise in _mixtures(material)
    ]
    strong, noisy = zip(*pairs)
    return {"speech 10 dB above the noise": _mean(strong), "noise 10 dB above the speech": _mean(noisy)}


def _octaves(system: System, material: Material) -> Section:
    rows = [
        measures.gain_of_speech_by_octave(clean, system(clean + noise), material.sample_rate)
        for clean, noise in _mixtures(material)
    ]
    return {band: _mean(row[band] for row in rows if band in row) for band in rows[0]}


def _clean(system: System, material: Material) -> Section:
    rate = material.sample_rate
    outputs = [(clean, system(clean)) for clean in material.speech]
    names = ["PESQ_WB", "STOI"] if rate == metrics.measures.PESQ_RATE else ["STOI"]
    scores = [metrics.evaluate(clean, output, rate, names) for clean, output in outputs]
    section = {name: _mean(score[name] for score in scores) for name in names}
    return {**section, "clean over error (dB)": _mean(measures.error_db(*pair) for pair in outputs)}


def _levels(system: System, material: Material) -> Section:
    pairs = list(_mixtures(material))[:: len(_SNRS_DB) // 2]
    return {
        f"{shift_db:+d} dB": _mean(
            metrics.measures.zero_mean_si_sdr(clean, system(np.float32(10 ** (shift_db / 20)) * (clean + noise)))
            for clean, noise in pairs
        )
        for shift_db in _SHIFTS_DB
    }


def _room_tone(system: System, material: Material) -> Section:
    """The level of a faint hiss in the pauses of speech, output over input."""
    rate, rng = material.sample_rate, np.random.default_rng(0)
    section = {}
    for tone_db in _ROOM_TONES_DB:
        gains = []
        for clean in material.speech:
            wav = clean + at_level(rng.uniform(-1, 1, len(clean)), LEVEL_DB + tone_db)
            levels = measures.levels_db(clean, rate)
            pause = np.repeat(levels < levels.max() - 60, math.ceil(len(wav) / len(levels)))[: len(wav)]
            if pause.any():
                gains.append(measures.gain_db(wav[pause], system(wav)[pause]))
        section[f"{-tone_db} dB below the speech"] = _mean(gains)
    return section


def _onset(system: System, material: Material) -> Section:
    """How fast noise is recognised, and how much of the first sound after silence is lost."""
    rate = material.sample_rate
    hiss = at_level(np.random.default_rng(1).uniform(-1, 1, 5 * rate))
    fall = measures.levels_db(system(hiss), rate)
    lost = []
    for clean in material.speech:
        begin = int(np.flatnonzero(np.abs(clean) > 0.1 * np.abs(clean).max())[0])
        wav = np.concatenate([np.zeros(rate, dtype=np.float32), clean[begin:]])
        output, length = system(wav)[rate:], int(_ONSET_S * rate)
        lost.append(
            measures.gain_db(wav[rate : rate + length], output[:length])
            - measures.gain_db(wav[rate + length :], output[length:])
        )
    return {
        "white noise is 10 dB down for good after (s)": measures.seconds_until(fall, LEVEL_DB - 10, rate),
        "first 0.1 s of speech over the rest (dB)": _mean(lost),
    }


def _drift(system: System, material: Material) -> Section:
    """The output of the same mixture, repeated for a minute: the last time over the second."""
    clean, noise = next(iter(_mixtures(material)))
    length = len(clean)
    count = max(3, round(_DRIFT_S * material.sample_rate / length))
    output = system(np.tile(clean + noise, count))
    return {f"{_DRIFT_S:g} s": measures.gain_db(output[length : 2 * length], output[-length:])}


def _clipping(system: System, material: Material) -> Section:
    """What becomes of the STOI of clean speech that was clipped so many dB above its RMS."""
    section, rate = {}, material.sample_rate
    for clip_db in _CLIPPED_DB:
        limit = 10 ** ((LEVEL_DB + clip_db) / 20)
        scores = [metrics.measures.stoi(c, system(np.clip(c, -limit, limit)), rate) for c in material.speech]
        section[f"{clip_db} dB above the RMS"] = _mean(scores)
    return section


def _mean(values: Iterator[float] | list[float] | tuple[float, ...]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


SECTIONS: dict[str, Callable[[System, Material], Section]] = {
    "Suppression of noise alone, after the first second (dB)": _suppression,
    "Clean speech over error in frames with speech (dB)": _errors,
    "Level of bins in frames with speech (dB)": _bins,
    "Gain of the speech in a mixture, by octave (dB)": _octaves,
    "Clean speech as input": _clean,
    "Level of the input: SI_SDR (dB)": _levels,
    "Room tone in pauses: output over input (dB)": _room_tone,
    "Onset": _onset,
    "Drift of the level (dB)": _drift,
    "Clipped speech as input: STOI": _clipping,
}

"""One function per measure of enhanced speech: (clean, enhanced, sample_rate) -> float, higher is better.

A value that the clean speech does not define (silence, no speech found, too short) is NaN, never a number that would
distort a mean. A silent enhanced signal has the lowest value of each measure, so that it does not vanish from a mean.
:func:`evaluate` computes several measures at once and what they share only once.

:data:`MEASURES` is the one list that scores, tables, figures and pages are made from.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sase.metrics import composite, dnsmos

PESQ_RATE = 16000
# The pesq library overflows its buffer, unchecked, beyond 50 segments of speech. A segment and the pause after it last
# at least 0.4 s, so 20 s are safe.
PESQ_PIECE_S = 20.0
PESQ_SILENT = 1.04  # the lowest MOS-LQO of P.862.2, for raw PESQ of -0.5
SI_SDR_LIMIT_DB = 100.0  # beyond the resolution of 16 bits; for a copy it would be infinite, and so would the mean
_STOI_RATE, _STOI_FRAME, _STOI_HOP, _STOI_FRAMES = 10000, 256, 128, 30
_STOI_TOO_SHORT = 1e-5  # pystoi's return value, along with a warning, for too few frames of speech


def pesq_wb(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return wide-band PESQ (ITU-T P.862.2, MOS-LQO from 1 to 4.64); NaN if it finds no speech, or under 0.25 s.

    P.862 is intended for about 8 to 30 s: for signals longer than 20 s, the mean over equal pieces is returned. A piece
    in which the enhanced signal is silent and the clean one has speech counts :data:`PESQ_SILENT`.

    Args:
        clean: (time,).
        enhanced: (time,).
        sample_rate: must be 16000.

    Raises:
        ValueError: for another sample rate.
    """
    clean, enhanced = _check(clean, enhanced)
    if sample_rate != PESQ_RATE:
        raise ValueError(f"PESQ_WB is defined at {PESQ_RATE} Hz, got {sample_rate} Hz; resample first")
    pieces = int(np.ceil(len(clean) / (PESQ_PIECE_S * PESQ_RATE)))
    scores = [_pesq(*pair) for pair in zip(np.array_split(clean, pieces), np.array_split(enhanced, pieces))]
    scores = [score for score in scores if score > 0]  # failures are negative codes, -7 where no speech is found
    return float(np.mean(scores)) if scores else float("nan")


def _pesq(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Return the PESQ of one piece; a negative number if there is none."""
    from pesq import PesqError, pesq

    if _silent(clean):
        return -1.0
    if _silent(enhanced):
        return min(PESQ_SILENT, pesq(PESQ_RATE, clean, clean, "wb", on_error=PesqError.RETURN_VALUES))
    return pesq(PESQ_RATE, clean, enhanced, "wb", on_error=PesqError.RETURN_VALUES)


def stoi(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the short-time objective intelligibility (Taal et al. 2011), up to 1; NaN below 0.4 s of speech.

    Args:
        clean: (time,).
        enhanced: (time,).
        sample_rate: in Hz.
    """
    return _pystoi(clean, enhanced, sample_rate, extended=False)


def estoi(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the extended STOI (Jensen and Taal 2016), up to 1; NaN below 0.4 s of speech.

    Args:
        clean: (time,).
        enhanced: (time,).
        sample_rate: in Hz.
    """
    return _pystoi(clean, enhanced, sample_rate, extended=True)


def seg_snr(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the segmental SNR in dB: the mean over 30 ms frames, each clipped to -10...35 dB; -10 for silence.

    It is NaN if the clean signal is silent.

    Frames whose clean signal is digital silence do not count, see :func:`sase.metrics.composite.segmental_snr`.

    Args:
        clean: (time,).
        enhanced: (time,).
        sample_rate: in Hz.
    """
    clean, enhanced = _check(clean, enhanced)
    value = composite.segmental_snr(clean, enhanced, sample_rate)
    return composite.SEGMENTAL_RANGE_DB[0] if _silent(enhanced) and not math.isnan(value) else value


def zero_mean_si_sdr(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int | None = None) -> float:
    """Return SI_SDR, the scale-invariant signal-to-distortion ratio in dB of zero-mean signals (Le Roux et al. 2019).

    It is clipped to ±100 dB; NaN if one of the signals is silent. The objective
    :func:`sase.losses.objectives.si_sdr` keeps the means, so it is lower if one of the signals has a constant offset.

    Args:
        clean: (time,).
        enhanced: (time,).
        sample_rate: unused; part of the common signature.
    """
    clean, enhanced = _check(clean, enhanced)
    if _silent(clean) or _silent(enhanced):
        return float("nan")
    clean, enhanced = clean - clean.mean(), enhanced - enhanced.mean()
    target = (enhanced @ clean) / (clean @ clean) * clean
    distortion = enhanced - target
    with np.errstate(divide="ignore"):
        ratio_db = 10 * np.log10(np.divide(target @ target, distortion @ distortion))
    return float(np.clip(ratio_db, -SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB))


def csig(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the predicted rating of signal distortion, 1 to 5 (Hu and Loizou 2008); NaN if PESQ is.

    Args: as :func:`pesq_wb`.
    """
    return evaluate(clean, enhanced, sample_rate, ["CSIG"])["CSIG"]


def cbak(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the predicted rating of background intrusiveness, 1 to 5 (Hu and Loizou 2008); NaN if PESQ is.

    Args: as :func:`pesq_wb`.
    """
    return evaluate(clean, enhanced, sample_rate, ["CBAK"])["CBAK"]


def covl(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the predicted rating of overall quality, 1 to 5 (Hu and Loizou 2008); NaN if PESQ is.

    Args: as :func:`pesq_wb`.
    """
    return evaluate(clean, enhanced, sample_rate, ["COVL"])["COVL"]


@dataclass(frozen=True)
class Measure:
    """A measure, and how tables, figures and pages show it.

    Attributes:
        function: (clean, enhanced, sample_rate) -> value, higher is better, NaN where undefined.
        decimals: in tables.
        unit: in tables; empty: none.
        silent: value of a silent enhanced signal, where the clean signal defines one; NaN: none, it is counted apart.
        drawn: whether figures show it, and pages at first.
        meaning: a sentence for the results page, for a measure that its introduction does not explain.
    """

    function: Callable[[np.ndarray, np.ndarray, int], float]
    decimals: int
    unit: str = ""
    silent: float = math.nan
    drawn: bool = True
    meaning: str = ""

    def __call__(self, clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
        """Return the value of one pair of signals."""
        return self.function(clean, enhanced, sample_rate)


METRICS: dict[str, Measure] = {
    "PESQ_WB": Measure(pesq_wb, decimals=3, silent=PESQ_SILENT),
    "STOI": Measure(stoi, decimals=4, silent=0.0),
    "ESTOI": Measure(estoi, decimals=4, silent=0.0, drawn=False),
    "CSIG": Measure(csig, decimals=3, silent=1.0, drawn=False),
    "CBAK": Measure(cbak, decimals=3, silent=1.0, drawn=False),
    "COVL": Measure(covl, decimals=3, silent=1.0, drawn=False),
    "SegSNR": Measure(seg_snr, decimals=2, unit="dB", silent=composite.SEGMENTAL_RANGE_DB[0], drawn=False),
    "SI_SDR": Measure(zero_mean_si_sdr, decimals=2, unit="dB"),
}

# Measures of the enhanced signal alone, from 1 to 5; their functions ignore the clean one.
WITHOUT_REFERENCE: dict[str, Measure] = {
    f"DNSMOS_{name}": Measure(
        lambda clean, enhanced, sample_rate, name=name: dnsmos.ratings(enhanced, sample_rate)[name],  # type: ignore[misc]
        decimals=3,
        drawn=name == "OVRL",
        meaning=f"DNSMOS_{name} is {what}, as a network predicts it without the clean signal.",
    )
    for name, what in dnsmos.RATINGS.items()
}

MEASURES: ChainMap[str, Measure] = ChainMap(METRICS, WITHOUT_REFERENCE)


def measures_in(names: Container[str]) -> list[str]:
    """Return those measures of :data:`MEASURES` that ``names`` contains, such as the keys of scores, in its order."""
    return [name for group in (METRICS, WITHOUT_REFERENCE) for name in group if name in names]


def title_of(name: str) -> str:
    """Return the title of a measure in tables, with its unit."""
    unit = MEASURES[name].unit
    return f"{name} ({unit})" if unit else name


def evaluate(
    clean: np.ndarray | None, enhanced: np.ndarray, sample_rate: int, measures: Iterable[str] | None = None
) -> dict[str, float]:
    """Return {measure: value} for one pair of signals.

    Args:
        clean: (time,); None if the measures need none.
        enhanced: (time,).
        sample_rate: in Hz; PESQ_WB and the measures based on it (CSIG, CBAK, COVL) need 16000, and so does DNSMOS.
        measures: keys of :data:`MEASURES`; all of :data:`METRICS` if None.

    Raises:
        ValueError: for an unknown measure, or signals that cannot be compared.
    """
    names = list(METRICS if measures is None else measures)
    if unknown := [name for name in names if name not in MEASURES]:
        raise ValueError(f"unknown measures {unknown}, must be among {list(MEASURES)}")
    if clean is None:
        if needing := [name for name in names if name in METRICS]:
            raise ValueError(f"{needing} need a clean signal")
        clean = enhanced
    clean, enhanced = _check(clean, enhanced)
    compared = [name for name in names if name in METRICS]
    if compared and _silent(enhanced) and not _silent(clean):
        defined = _evaluate(clean, clean, sample_rate, compared)
        values = {name: math.nan if math.isnan(defined[name]) else METRICS[name].silent for name in compared}
    else:
        values = _evaluate(clean, enhanced, sample_rate, compared)
    return {
        name: values[name] if name in values else WITHOUT_REFERENCE[name](clean, enhanced, sample_rate)
        for name in names
    }


def _evaluate(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int, names: Iterable[str]) -> dict[str, float]:
    """Return {measure: value} of measures of :data:`METRICS`, with what they share computed once."""
    names = list(names)
    parts = dict.fromkeys(part for name in names for part in _parts(name))
    functions: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {**composite.DISTANCES, **METRICS}
    values = {part: functions[part](clean, enhanced, sample_rate) for part in parts}
    return {name: composite.rating(name, values) if name in composite.RATINGS else values[name] for name in names}


def _parts(name: str) -> Iterable[str]:
    """Return the names of the distances that a composite measure is computed from; any other measure's own name."""
    return composite.RATINGS[name][1] if name in composite.RATINGS else (name,)


def _check(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both signals as float64 (time,), or raise ValueError."""
    clean, enhanced = np.asarray(clean, dtype=np.float64), np.asarray(enhanced, dtype=np.float64)
    if clean.ndim != 1 or clean.shape != enhanced.shape or not clean.size:
        raise ValueError(f"clean and enhanced must be (time,) of equal length, got {clean.shape} and {enhanced.shape}")
    if not (np.isfinite(clean).all() and np.isfinite(enhanced).all()):
        raise ValueError("clean and enhanced must be finite, got NaN or infinite samples")
    return clean, enhanced


def _silent(wav: np.ndarray) -> bool:
    """Whether a signal is constant, zero or not."""
    return bool((wav == wav[0]).all())


def _pystoi(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int, extended: bool) -> float:
    import warnings

    import pystoi

    clean, enhanced = _check(clean, enhanced)
    frames = (len(clean) * _STOI_RATE / sample_rate - _STOI_FRAME) / _STOI_HOP
    if _silent(clean) or frames < _STOI_FRAMES:
        return float("nan")
    if _silent(enhanced):  # pystoi decides from the clean signal whether there is enough speech
        return float("nan") if math.isnan(_pystoi(clean, clean, sample_rate, extended)) else 0.0
    with warnings.catch_warnings(), _fixed_noise():
        warnings.filterwarnings("ignore", "Not enough STFT frames", RuntimeWarning)
        score = float(pystoi.stoi(clean, enhanced, sample_rate, extended=extended))
    return float("nan") if score == _STOI_TOO_SHORT else score


@contextmanager
def _fixed_noise() -> Iterator[None]:
    """Seed numpy's global generator for pystoi, and restore its state afterwards.

    ESTOI adds noise of 1e-16, which determines the result where a band is silent.
    """
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)

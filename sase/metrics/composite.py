"""Hu and Loizou's composite measures of signal, background and overall quality, and the distances they combine.

Y. Hu and P. C. Loizou, "Evaluation of objective quality measures for speech enhancement", IEEE TASLP 16(1), 2008.
All frames of an utterance are processed at once. Samples are scaled to 16-bit range first, for which the measures are
defined: otherwise the floor of the band energies of the spectral slope would be far too high.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

FULL_SCALE = 32768.0
FRAME_S = 0.030
KEPT = 0.95  # fraction of frames, best first, over which the log-likelihood ratio and the spectral slope are averaged
SEGMENTAL_RANGE_DB = (-10.0, 35.0)

# Predicted rating = bias + sum of weight * distance, clipped to the rating scale from 1 to 5.
RATINGS: dict[str, tuple[float, dict[str, float]]] = {
    "CSIG": (3.093, {"LLR": -1.029, "PESQ_WB": 0.603, "WSS": -0.009}),
    "CBAK": (1.634, {"PESQ_WB": 0.478, "WSS": -0.007, "SegSNR": 0.063}),
    "COVL": (1.594, {"PESQ_WB": 0.805, "LLR": -0.512, "WSS": -0.007}),
}

# Klatt's critical bands (ICASSP 1982); each bandwidth is the distance to the next centre.
_CENTRES_HZ = np.array(
    [50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54]
    + [1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63]
)
_BANDWIDTHS_HZ = np.append(np.diff(_CENTRES_HZ), 346.136)
_FLOOR = 1e-10  # of band energies
_GLOBAL_PEAK, _LOCAL_PEAK = 20.0, 1.0  # dB, Klatt's constants: decay of a slope's weight below the peaks
_EPS = np.finfo(np.float64).eps


def rating(name: str, distances: Mapping[str, float]) -> float:
    """Return a predicted rating, from 1 to 5; NaN if one of its distances is.

    Args:
        name: CSIG, CBAK or COVL.
        distances: name -> value of the distances in :data:`RATINGS`.
    """
    bias, weights = RATINGS[name]
    return float(np.clip(bias + sum(weight * distances[part] for part, weight in weights.items()), 1.0, 5.0))


def segmental_snr(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the mean over frames of the SNR in dB, each clipped to -10...35 dB; NaN if the clean signal is silent.

    Frames in which the clean signal is digital silence have no SNR and are skipped. The authors' MATLAB program counts
    them as -10 dB, so its value depends on how much digital silence surrounds the speech.

    Args:
        clean: float64 (time,).
        enhanced: float64 (time,).
        sample_rate: in Hz.
    """
    frames = _frames(clean, sample_rate)
    active = frames.any(axis=1)
    if not active.any():
        return float("nan")
    signal = np.square(frames).sum(axis=1)[active]
    noise = np.square(_frames(clean - enhanced, sample_rate)).sum(axis=1)[active]
    snr_db = 10 * np.log10(signal / (noise + _EPS) + _EPS)
    return float(np.clip(snr_db, *SEGMENTAL_RANGE_DB).mean())


def log_likelihood_ratio(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return the log-likelihood ratio (LLR) of the linear predictions of enhanced and clean speech; 0 if equal.

    Frames in which the clean signal is digital silence have no spectrum and are skipped.

    Args:
        clean: float64 (time,).
        enhanced: float64 (time,).
        sample_rate: in Hz.
    """
    order = 10 if sample_rate < 10000 else 16
    clean, enhanced = _frames(clean, sample_rate), _frames(enhanced, sample_rate)
    active = clean.any(axis=1)
    if not active.any():
        return float("nan")
    correlation = _autocorrelation(clean[active], order)
    own = _prediction_filter(correlation)
    other = _prediction_filter(_autocorrelation(enhanced[active], order))
    lags = np.abs(np.subtract.outer(np.arange(order + 1), np.arange(order + 1)))
    matrix = correlation[:, lags]  # (frame, lag) -> (frame, order + 1, order + 1)
    ratio = _quadratic_form(other, matrix) / _quadratic_form(own, matrix)
    return _mean_of_best(np.log(ratio))


def weighted_spectral_slope(clean: np.ndarray, enhanced: np.ndarray, sample_rate: int) -> float:
    """Return Klatt's weighted spectral slope distance (WSS) between critical-band spectra; 0 if equal.

    Args:
        clean: float64 (time,).
        enhanced: float64 (time,).
        sample_rate: in Hz.
    """
    frames = [_frames(wav, sample_rate) for wav in (clean, enhanced)]
    if not frames[0].any():
        return float("nan")
    (clean_slope, clean_weight), (slope, weight) = (_slopes_and_weights(part, sample_rate) for part in frames)
    weight = (clean_weight + weight) / 2
    return _mean_of_best((weight * np.square(clean_slope - slope)).sum(axis=1) / weight.sum(axis=1))


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "SegSNR": segmental_snr,
    "LLR": log_likelihood_ratio,
    "WSS": weighted_spectral_slope,
}


def _frames(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return Hann-windowed frames at 16-bit scale, with 75 % overlap: (frame, sample)."""
    size = round(FRAME_S * sample_rate)
    step = size // 4
    count = (len(wav) - size) // step  # one fewer than fits, as in the authors' program
    if count < 1:
        return np.empty((0, size))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1))
    return np.lib.stride_tricks.sliding_window_view(wav, size)[: count * step : step] * (FULL_SCALE * window)


def _fft_size(frames: np.ndarray) -> int:
    """Return the smallest power of two that is at least twice the frame length."""
    return 1 << (2 * frames.shape[1] - 1).bit_length()


def _mean_of_best(distances: np.ndarray) -> float:
    return float(np.sort(distances)[: round(KEPT * len(distances))].mean())


def _autocorrelation(frames: np.ndarray, order: int) -> np.ndarray:
    """Return the lags 0 to ``order`` of every frame: (frame, order + 1)."""
    size = _fft_size(frames)
    return np.fft.irfft(np.square(np.abs(np.fft.rfft(frames, size))), size)[:, : order + 1]


def _prediction_filter(correlation: np.ndarray) -> np.ndarray:
    """Return the linear-prediction filters of all frames, by the Levinson-Durbin recursion.

    Args:
        correlation: (frame, order + 1).

    Returns:
        (frame, order + 1), the first coefficient 1; of frames that are silent or fully predicted, the others stay 0.
    """
    filters = np.zeros_like(correlation)
    filters[:, 0] = 1
    error = correlation[:, 0].copy()
    for lag in range(1, correlation.shape[1]):
        unsolved = error > _EPS * correlation[:, 0]
        numerator = (filters[:, :lag] * correlation[:, lag:0:-1]).sum(axis=1)
        reflection = np.divide(-numerator, error, out=np.zeros_like(error), where=unsolved)
        filters[:, 1 : lag + 1] += reflection[:, None] * filters[:, lag - 1 :: -1]
        error *= 1 - np.square(reflection)
    return filters


def _quadratic_form(filters: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the energy of the prediction error, given each frame's correlation matrix: (frame,)."""
    return np.einsum("fi,fij,fj->f", filters, matrix, filters, optimize=True)


def _slopes_and_weights(frames: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the slopes between adjacent critical bands in dB, and Klatt's weights for them: (frame, band - 1)."""
    size = _fft_size(frames)
    power = np.square(np.abs(np.fft.rfft(frames, size)[:, : size // 2]))
    energy = 10 * np.log10(np.maximum(power @ _band_filters(size, sample_rate).T, _FLOOR))  # (frame, band)
    slope = np.diff(energy, axis=1)
    lower = energy[:, :-1]
    peak = np.take_along_axis(energy, _nearest_peak(slope), axis=1)
    below_top = energy.max(axis=1, keepdims=True) - lower
    return slope, _GLOBAL_PEAK / (_GLOBAL_PEAK + below_top) * _LOCAL_PEAK / (_LOCAL_PEAK + peak - lower)


def _nearest_peak(slope: np.ndarray) -> np.ndarray:
    """Return the band of the peak nearest to every slope: (frame, band - 1).

    On a rising slope this is the band before the peak, as in the authors' program and thus in all published numbers.
    """
    index = np.arange(slope.shape[1])
    first_falling = np.where(slope <= 0, index, len(index))
    first_falling = np.minimum.accumulate(first_falling[:, ::-1], axis=1)[:, ::-1]
    last_rising = np.maximum.accumulate(np.where(slope > 0, index, -1), axis=1)
    return np.where(slope > 0, first_falling - 1, last_rising + 1)


def _band_filters(size: int, sample_rate: int) -> np.ndarray:
    """Return Gaussian filters on FFT bins, of equal area, truncated at -30 dB: (band, size / 2)."""
    per_hz = size / sample_rate
    distance = np.arange(size // 2) - np.floor(_CENTRES_HZ * per_hz)[:, None]
    filters = (
        _BANDWIDTHS_HZ[0]
        / _BANDWIDTHS_HZ[:, None]
        * np.exp(-11 * np.square(distance / (_BANDWIDTHS_HZ * per_hz)[:, None]))
    )
    return np.where(filters > np.exp(-30 / (2 * 2.303)), filters, 0.0)

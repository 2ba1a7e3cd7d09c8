"""Loudness of a signal, so that players can compare signals at equal loudness."""

from __future__ import annotations

import numpy as np

SILENT = -70.0  # LUFS: the absolute gate; what is below it is silence
_BLOCK_S, _OVERLAP = 0.4, 4
_RELATIVE_GATE = 10.0  # LU
_K_RATE = 48000  # Hz, of the filters in the recommendation's tables 1 and 2: (numerator, denominator)
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))


def loudness(wav: np.ndarray, sample_rate: int) -> float:
    """Return the gated loudness of one channel in LUFS (ITU-T BS.1770-4); −inf for silence.

    The K-weighting is applied to the power spectrum of each block of 400 ms, by the response of the recommendation's
    filters, so that any sample rate will do. A shorter signal is one block.

    Args:
        wav: float (time,).
        sample_rate: in Hz.
    """
    size = min(round(_BLOCK_S * sample_rate), len(wav))
    if not size:
        return float("-inf")
    blocks = np.lib.stride_tricks.sliding_window_view(wav, size)[:: max(1, size // _OVERLAP)]
    spectra = np.square(np.abs(np.fft.rfft(blocks))) * _weights(size, sample_rate)
    spectra[:, 1 : (size + 1) // 2] *= 2  # the negative frequencies
    powers = spectra.sum(axis=1) / size**2  # Parseval: the mean squares of the weighted blocks
    powers = powers[_lufs(powers) > SILENT]
    if not len(powers):
        return float("-inf")
    return float(_lufs(powers[_lufs(powers) > _lufs(powers.mean()) - _RELATIVE_GATE].mean()))


def equal_gains_db(signals: dict[str, np.ndarray], sample_rate: int, target: float = -23.0) -> dict[str, float]:
    """Return {name: gain in dB} that makes signals equally loud, at ``target`` LUFS or as loud as none of them clips.

    Args:
        signals: {name: float (time,)}.
        sample_rate: in Hz.
        target: in LUFS (EBU R 128).
    """
    found = {name: loudness(wav, sample_rate) for name, wav in signals.items()}
    for name, wav in signals.items():
        if np.isfinite(found[name]):
            target = min(target, found[name] - 20 * np.log10(np.abs(wav).max()))
    return {name: float(target - value) if np.isfinite(value) else 0.0 for name, value in found.items()}


def _lufs(power: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -0.691 + 10 * np.log10(power)


def _weights(size: int, sample_rate: int) -> np.ndarray:
    """Return the power response of the K-weighting at the frequencies of ``rfft`` of ``size`` samples."""
    unit = np.exp(-2j * np.pi * np.fft.rfftfreq(size, 1 / sample_rate) / _K_RATE)
    response = np.ones(len(unit), dtype=complex)
    for numerator, denominator in (_SHELF, _HIGH_PASS):
        response *= np.polyval(numerator[::-1], unit) / np.polyval(denominator[::-1], unit)
    return np.square(np.abs(response))

"""Numbers about a system's output, in dB: plain functions of signals (time,) in any float type.

For an output that equals the input all gains are 0 dB and the error is the least that is measured; a gain of −6 dB
gives −6 dB; silence gives −:data:`LIMIT_DB`.
"""

import numpy as np

LIMIT_DB = 100.0  # of all ratios, on both sides
STRONG_DB = 10.0
BANDS_HZ = {"below 1 kHz": (0.0, 1000.0), "1 to 4 kHz": (1000.0, 4000.0), "above 4 kHz": (4000.0, np.inf)}
OCTAVES_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)  # centres; the last octave ends at half the sample rate
_HOP_S = 0.016  # of spectra; the window is twice as long
_SPEECH_RANGE_DB = 25.0  # frames with speech are at most so much below the loudest
_WEAK_DB = 50.0  # bins further below the loudest are not counted as speech


def ratio_db(numerator: float, denominator: float) -> float:
    """Return the ratio of two energies in dB, within ±:data:`LIMIT_DB`; 0 dB if both are zero."""
    tiny = np.finfo(np.float64).tiny
    difference = np.log10(numerator + tiny) - np.log10(denominator + tiny)
    return float(np.clip(10 * difference, -LIMIT_DB, LIMIT_DB))


def gain_db(before: np.ndarray, after: np.ndarray) -> float:
    """Return the energy of one signal over that of another in dB."""
    return ratio_db(_energy(after), _energy(before))


def error_db(clean: np.ndarray, output: np.ndarray) -> float:
    """Return the energy of clean speech over that of the error in dB; sensitive to the level."""
    return ratio_db(_energy(clean), _energy(np.subtract(output, clean, dtype=np.float64)))


def error_by_band(clean: np.ndarray, output: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Return band of :data:`BANDS_HZ` -> energy of clean speech over that of the error in dB, in frames with speech."""
    speech, error = (spectrum(wav, sample_rate) for wav in (clean, np.subtract(output, clean, dtype=np.float64)))
    frames, hz = speech_frames(speech), frequencies(sample_rate)
    return {
        name: ratio_db(_energy(speech[band][:, frames]), _energy(error[band][:, frames]))
        for name, (low, high) in BANDS_HZ.items()
        if (band := (hz >= low) & (hz < high)).any()
    }


def bins_db(clean: np.ndarray, noise: np.ndarray, output: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """Return how bins come out in frames with speech, as mean gains in dB; NaN where there are none.

    Returns:
        Where speech is at least 10 dB above the noise, the output over the clean speech; where the noise is at least
        10 dB above the speech, the output over the noise.
    """
    speech, noise, output = (np.abs(spectrum(wav, sample_rate)) for wav in (clean, noise, output))
    audible = speech_frames(speech)[None] & (np.maximum(speech, noise) > speech.max() * 10 ** (-_WEAK_DB / 20))
    margin = 10 ** (STRONG_DB / 20)
    return (
        _mean_gain_db(speech, output, audible & (speech >= margin * noise)),
        _mean_gain_db(noise, output, audible & (noise >= margin * speech)),
    )


def gain_of_speech_by_octave(clean: np.ndarray, output: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Return octave -> gain in dB of the part of the output that is clean speech, in frames with speech.

    The part is the projection on the clean spectrum, so noise that remains, being unrelated to it, does not count as
    speech; ``all`` is over all frequencies.
    """
    speech, output = (spectrum(wav, sample_rate) for wav in (clean, output))
    frames, hz = speech_frames(speech), frequencies(sample_rate)
    bands = {"all": hz > 0}
    for centre in OCTAVES_HZ:
        bands[f"{centre} Hz"] = (hz >= centre / 2**0.5) & (hz < centre * 2**0.5)
    gains = {}
    for name, band in bands.items():
        reference = speech[band][:, frames]
        if energy := _energy(reference):
            projection = max(0.0, float(np.vdot(reference, output[band][:, frames]).real))
            gains[name] = ratio_db(projection**2, energy**2)
    return gains


def seconds_until(levels_db: np.ndarray, target_db: float, sample_rate: int) -> float:
    """Return after how many seconds a level (frames,) stays below a target in dB; the duration if it never does."""
    above = np.flatnonzero(levels_db > target_db)
    return float((above[-1] + 1 if len(above) else 0) * _hop(sample_rate) / sample_rate)


def levels_db(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the level of successive 16 ms of a signal in dB re full scale, (frames,)."""
    hop = _hop(sample_rate)
    power = np.square(wav[: len(wav) // hop * hop], dtype=np.float64).reshape(-1, hop).mean(1)
    return 10 * np.log10(np.maximum(power, 10 ** (-2 * LIMIT_DB / 10)))


def spectrum(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the short-time spectrum of a signal: complex (freq, frames); Hann window of 32 ms, hop of 16 ms."""
    size, hop = 2 * _hop(sample_rate), _hop(sample_rate)
    padded = np.pad(np.asarray(wav, dtype=np.float64), (hop, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.fft.rfft(frames * np.hanning(size + 1)[:-1]).T


def frequencies(sample_rate: int) -> np.ndarray:
    """Return the frequencies of :func:`spectrum` in Hz, (freq,)."""
    return np.fft.rfftfreq(2 * _hop(sample_rate), 1 / sample_rate)


def speech_frames(clean: np.ndarray) -> np.ndarray:
    """Return which frames of a clean spectrum (freq, frames) have speech: not 25 dB below the loudest, (frames,)."""
    power = np.square(np.abs(clean)).sum(0)
    return power > power.max() * 10 ** (-_SPEECH_RANGE_DB / 10)


def _mean_gain_db(reference: np.ndarray, output: np.ndarray, chosen: np.ndarray) -> float:
    if not chosen.any():
        return float("nan")
    ratio = np.maximum(output[chosen] / reference[chosen], 10 ** (-LIMIT_DB / 20))
    return float(20 * np.log10(ratio).mean())


def _energy(values: np.ndarray) -> float:
    return float(np.square(np.abs(values), dtype=np.float64).sum())


def _hop(sample_rate: int) -> int:
    return round(_HOP_S * sample_rate)

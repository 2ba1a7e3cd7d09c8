"""Synthetic noises that no training uses.

Their waveforms come from other methods than those of :mod:`sase.data.noises` and :mod:`sase.data.tonal`: distorted and
rectified sines, pulse waves, plucked strings, filters of random impulses. Each function takes (num_samples, sample_rate
in Hz, np.random.Generator) and returns float64 (num_samples,) of any level.
"""

from collections.abc import Callable

import numpy as np

Noise = Callable[[int, int, np.random.Generator], np.ndarray]


def _time(num_samples: int, sample_rate: int) -> np.ndarray:
    return np.arange(num_samples) / sample_rate


def _tone(hz: float) -> Noise:
    return lambda num_samples, sample_rate, rng: np.sin(2 * np.pi * hz * _time(num_samples, sample_rate))


def _white(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1.0, 1.0, num_samples)


def _low_hiss(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """White noise through a one-pole low-pass at 300 Hz: a ventilation duct."""
    from scipy.signal import lfilter

    pole = np.exp(-2 * np.pi * 300 / sample_rate)
    return lfilter([1 - pole], [1.0, -pole], rng.uniform(-1.0, 1.0, num_samples))


def _distorted_hum(hz: float) -> Noise:
    """An overdriven sine: odd harmonics."""
    return lambda num_samples, sample_rate, rng: np.tanh(3 * np.sin(2 * np.pi * hz * _time(num_samples, sample_rate)))


def _rectified_hum(hz: float) -> Noise:
    """A half-wave rectified sine without its mean: the fundamental and even harmonics."""

    def noise(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
        return np.maximum(0.0, np.sin(2 * np.pi * hz * _time(num_samples, sample_rate))) - 1 / np.pi

    return noise


def _siren(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A wailing siren of 12 cycles a minute whose pitch charges and discharges like a capacitor, 600 to 1350 Hz."""
    period, charge = 5.0, 0.8
    time_s = (_time(num_samples, sample_rate) + 1.0) % period
    half, full = period / 2, 1 - np.exp(-period / 2 / charge)
    rising = (1 - np.exp(-time_s / charge)) / full
    level = np.where(time_s < half, rising, np.exp(-(time_s - half) / charge))
    return np.tanh(2 * np.sin(2 * np.pi * np.cumsum(600 + 750 * level) / sample_rate))


def _horn(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A car's horn of 415 and 523 Hz, narrow pulses softened by 4 samples, in blasts of 0.7 s with pauses of 0.4 s."""
    time_s = _time(num_samples, sample_rate)
    low, high = (((hz * time_s) % 1.0 < 0.15) - 0.15 for hz in (415.0, 523.0))
    return np.convolve(low + high, np.ones(4) / 4)[:num_samples] * (time_s % 1.1 < 0.7)


def _reversing_beeps(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A square wave of 1250 Hz, half a second on and half off."""
    time_s = _time(num_samples, sample_rate)
    return np.sign(np.sin(2 * np.pi * 1250 * time_s)) * (time_s % 1.0 < 0.5)


def _telephone(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """An electronic ringer: 1,430 and 1,760 Hz in turn, 14 times a second, one second on and one off."""
    time_s = _time(num_samples, sample_rate)
    hz = np.where((14 * time_s) % 1.0 < 0.5, 1430.0, 1760.0)
    return np.sin(2 * np.pi * np.cumsum(hz) / sample_rate) * (time_s % 2.0 < 1.0)


def _plucked_strings(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A tune on plucked strings (Karplus and Strong 1983), a note every 0.25 s."""
    from scipy.signal import lfilter

    wav, step = np.zeros(num_samples), sample_rate // 4
    for start in range(0, num_samples, step):
        period = round(sample_rate / (220 * 2 ** (rng.choice([0, 2, 4, 7, 9, 12]) / 12)))
        pluck = np.zeros(min(num_samples - start, 4 * step))
        pluck[:period] = rng.uniform(-1, 1, min(period, len(pluck)))
        loop = np.zeros(period + 2)
        loop[0], loop[period], loop[period + 1] = 1.0, -0.498, -0.498
        wav[start : start + len(pluck)] += lfilter([1.0], loop, pluck)
    return wav


def _clatter(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Random impulses, eight a second, through three sharp resonances: dishes."""
    from scipy.signal import iirpeak, lfilter

    impulses = rng.exponential(1.0, num_samples) * (rng.uniform(size=num_samples) < 8 / sample_rate)
    impulses[0] = 1.0
    wav = np.zeros(num_samples)
    for hz in (1870.0, 2930.0, 4410.0):
        if hz < 0.45 * sample_rate:
            wav += lfilter(*iirpeak(hz, hz / 40, fs=sample_rate), impulses)
    return wav


NOISES: dict[str, Noise] = {
    "white noise": _white,
    "duct": _low_hiss,
    "hum 50 Hz": _distorted_hum(50.0),
    "hum 60 Hz": _rectified_hum(60.0),
    "tone 350 Hz": _tone(350.0),
    "tone 1 kHz": _tone(1000.0),
    "tone 3.15 kHz": _tone(3150.0),
    "siren": _siren,
    "horn": _horn,
    "reversing beeps": _reversing_beeps,
    "telephone": _telephone,
    "plucked strings": _plucked_strings,
    "clatter": _clatter,
}

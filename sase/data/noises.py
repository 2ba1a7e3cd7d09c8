"""Computed noises: every call draws a different engine, a different rain, from the given random generator.

Each function takes (num_samples, sample_rate in Hz, np.random.Generator) and returns float32 (num_samples,) with an RMS
of 0.1, or less if the peak would exceed 1. Frequencies are in Hz, so a noise sounds the same at every sample rate.
"""

from collections.abc import Callable

import numpy as np

from sase.data.mixing import set_level

Noise = Callable[[int, int, np.random.Generator], np.ndarray]
_Gain = Callable[[np.ndarray], np.ndarray]


def white(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """White noise."""
    return set_level(_gaussian(num_samples, generator))


def pink(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Pink noise: −3 dB per octave."""
    return set_level(_shaped(num_samples, sample_rate, generator, lambda f: np.maximum(f, 20) ** -0.5))


def brown(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Brown noise: −6 dB per octave."""
    return set_level(_shaped(num_samples, sample_rate, generator, lambda f: 1 / np.maximum(f, 20)))


def speech_shaped(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Stationary noise with the spectrum of speech: flat up to 500 Hz, then −9 dB per octave."""
    return set_level(
        _shaped(num_samples, sample_rate, generator, lambda f: _high_pass(f, 100) * (1 + (f / 500) ** 2) ** -0.75)
    )


def hum(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Mains hum of 50 or 60 Hz with its harmonics, over a soft hiss."""
    mains = generator.choice([50.0, 60.0]) * generator.uniform(0.995, 1.005)
    orders = np.arange(1, 1 + min(40, _harmonics_below_nyquist(mains, sample_rate)))
    amplitudes = generator.uniform(0.1, 1.0, len(orders)) * orders ** -generator.uniform(0.4, 1.0)
    tone = _periodic(_phase(np.full(num_samples, mains), sample_rate, generator), amplitudes, generator)
    return set_level(set_level(tone) + generator.uniform(0.05, 0.2) * pink(num_samples, sample_rate, generator))


def engine(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """An engine: harmonics of a slowly varying, irregular firing rate, and air noise modulated by it."""
    firing = generator.uniform(25, 70) * (1 + 0.15 * _slow(num_samples, sample_rate, generator, 0.7))
    phase = _phase(firing / 4, sample_rate, generator)  # four different shots per revolution
    orders = np.arange(1, 1 + min(200, _harmonics_below_nyquist(firing.max() / 4, sample_rate)))
    amplitudes = generator.exponential(1.0, len(orders)) * orders ** -generator.uniform(0.7, 1.3)
    amplitudes[3::4] *= generator.uniform(2, 6)
    air = _shaped(num_samples, sample_rate, generator, lambda f: _high_pass(f, 80) / (1 + (f / 600) ** 2))
    air = set_level(air) * (1 + 0.7 * np.cos(8 * np.pi * phase))
    return set_level(set_level(_periodic(phase, amplitudes, generator)) + generator.uniform(0.2, 0.7) * air)


def helicopter(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Rotor blades at 10 to 18 Hz, and the whine of a turbine."""
    rate = generator.uniform(10, 18) * (1 + 0.05 * _slow(num_samples, sample_rate, generator, 0.5))
    turn = _phase(rate, sample_rate, generator) % 1.0
    slap = np.exp(-turn * generator.uniform(4, 9)) + 0.15
    low = _shaped(num_samples, sample_rate, generator, lambda f: _high_pass(f, 40) / (1 + (f / 250) ** 2))
    high = _shaped(num_samples, sample_rate, generator, lambda f: _high_pass(f, 300) / (1 + (f / 1500) ** 2))
    whine = _periodic(_phase(50 * rate, sample_rate, generator), np.array([1.0, 0.4]), generator)
    body = set_level(low) + generator.uniform(0.2, 0.6) * set_level(high)
    return set_level(slap * body + generator.uniform(0.02, 0.1) * set_level(whine))


def siren(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A tone with harmonics that rises and falls."""
    low, high = generator.uniform(400, 700), generator.uniform(900, 1500)
    sweep = 0.5 - 0.5 * np.cos(_ramp(num_samples, sample_rate, generator, generator.uniform(0.3, 2.5)))
    amplitudes = generator.uniform(0.5, 1.0) ** np.arange(min(6, _harmonics_below_nyquist(high, sample_rate)))
    tone = _periodic(_phase(low + (high - low) * sweep, sample_rate, generator), amplitudes, generator)
    return set_level(set_level(tone) + 0.1 * pink(num_samples, sample_rate, generator))


def machinegun(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Bursts of shots with pauses between them."""
    wav = 0.01 * _gaussian(num_samples, generator)
    rate, decay_s = generator.uniform(8, 14), generator.uniform(0.012, 0.035)
    length = max(1, int(8 * decay_s * sample_rate))
    envelope = np.exp(-np.arange(length) / (decay_s * sample_rate))
    time_s = generator.uniform(0, 0.2)
    while time_s * sample_rate < num_samples:
        for _ in range(generator.integers(3, 12)):
            shot = _shaped(length, sample_rate, generator, lambda f: _high_pass(f, 60) / (1 + f / 800)) * envelope
            start = int(time_s * sample_rate)
            part = wav[start : start + length]
            part += (shot / np.abs(shot).max() * generator.uniform(0.7, 1.0))[: len(part)]
            time_s += generator.uniform(0.95, 1.05) / rate
        time_s += generator.uniform(0.2, 0.6)
    return set_level(wav)


def rain(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A stationary hiss and many drops."""
    hiss = _shaped(num_samples, sample_rate, generator, lambda f: _high_pass(f, 700) / (1 + (f / 5000) ** 2) ** 0.5)
    drops = np.zeros(num_samples, dtype=np.float32)
    count = generator.poisson(generator.uniform(100, 600) * num_samples / sample_rate)
    np.add.at(drops, generator.integers(num_samples, size=count), generator.exponential(1.0, count).astype(np.float32))
    centre = generator.uniform(1500, 4000)
    drops = _filtered(drops, sample_rate, lambda f: (f / centre) / (1 + (f / centre) ** 4) + 1e-4)
    return set_level(set_level(hiss) + generator.uniform(0.3, 1.0) * set_level(drops))


def wind(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Gusts: a low roar of varying level, and a whistle in strong gusts."""
    gust = np.clip(0.6 + 0.5 * _slow(num_samples, sample_rate, generator, 1.5), 0.05, None)
    roar = _shaped(num_samples, sample_rate, generator, lambda f: _high_pass(f, 30) * (1 + (f / 150) ** 2) ** -0.6)
    centre = generator.uniform(500, 1200)
    whistle = _shaped(num_samples, sample_rate, generator, lambda f: np.exp(-(((f - centre) / 60) ** 2)) + 1e-4)
    return set_level(set_level(roar) * gust + generator.uniform(0.02, 0.15) * set_level(whistle) * gust**3)


def typing(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Four to nine keystrokes per second, in a quiet room."""
    room = pink(num_samples, sample_rate, generator)
    keys = np.zeros(num_samples, dtype=np.float32)
    rate = generator.uniform(4, 9)
    time_s = generator.uniform(0, 1 / rate)
    while (start := int(time_s * sample_rate)) < num_samples:
        length = int(0.06 * sample_rate)
        t = np.arange(length) / sample_rate
        click = generator.standard_normal(length) * np.exp(-t / generator.uniform(0.001, 0.004))
        thud = np.sin(2 * np.pi * generator.uniform(150, 400) * t) * np.exp(-t / 0.012)
        part = keys[start : start + length]
        part += (generator.uniform(0.5, 1.0) * (click + generator.uniform(0.3, 1.0) * thud))[: len(part)]
        time_s += generator.gamma(4.0, 1 / rate / 4.0) + 0.02
    return set_level(set_level(keys) + 0.1 * room)


NOISES: dict[str, Noise] = {
    "white": white,
    "pink": pink,
    "brown": brown,
    "speech_shaped": speech_shaped,
    "hum": hum,
    "engine": engine,
    "helicopter": helicopter,
    "siren": siren,
    "machinegun": machinegun,
    "rain": rain,
    "wind": wind,
    "typing": typing,
}


def _require_samples(num_samples: int) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")


def _gaussian(num_samples: int, generator: np.random.Generator) -> np.ndarray:
    _require_samples(num_samples)
    return generator.standard_normal(num_samples, dtype=np.float32)


def _filtered(wav: np.ndarray, sample_rate: int, gain: _Gain) -> np.ndarray:
    """Return ``wav`` (time,) with its spectrum multiplied by ``gain(frequencies in Hz)``."""
    size = -(-len(wav) // 4096) * 4096  # a fast FFT length
    return np.fft.irfft(np.fft.rfft(wav, size) * gain(np.fft.rfftfreq(size, 1 / sample_rate)), size)[: len(wav)]


def _shaped(num_samples: int, sample_rate: int, generator: np.random.Generator, gain: _Gain) -> np.ndarray:
    """Return Gaussian noise with the amplitude spectrum ``gain(frequencies in Hz)``."""
    size = -(-num_samples // 4096) * 4096
    return _filtered(_gaussian(size, generator), sample_rate, gain)[:num_samples]


def _high_pass(frequencies: np.ndarray, corner: float) -> np.ndarray:
    return frequencies**2 / (frequencies**2 + corner**2)


def _slow(num_samples: int, sample_rate: int, generator: np.random.Generator, points_per_s: float) -> np.ndarray:
    """Return a piecewise linear curve (num_samples,) through random points in [-1, 1]."""
    _require_samples(num_samples)
    knots = np.arange(0.0, num_samples / sample_rate + 2 / points_per_s, 1 / points_per_s)
    return np.interp(np.arange(num_samples) / sample_rate, knots, generator.uniform(-1, 1, len(knots)))


def _ramp(num_samples: int, sample_rate: int, generator: np.random.Generator, hz: float) -> np.ndarray:
    return 2 * np.pi * (generator.uniform() + hz * np.arange(num_samples) / sample_rate)


def _phase(frequency: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return the phase in cycles, (time,), of an oscillator with the given frequency (time,) in Hz."""
    _require_samples(len(frequency))
    return generator.uniform() + np.cumsum(frequency) / sample_rate


def _harmonics_below_nyquist(hz: float, sample_rate: int) -> int:
    return max(1, int(0.45 * sample_rate / hz))


def _periodic(phase: np.ndarray, amplitudes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a wave with harmonics of the given amplitudes and random phases, at a phase in cycles (time,)."""
    size = 64 * (len(amplitudes) + 1)  # points per cycle, interpolated linearly
    spectrum = np.zeros(size // 2 + 1, dtype=np.complex128)
    spectrum[1 : len(amplitudes) + 1] = amplitudes * np.exp(2j * np.pi * generator.uniform(size=len(amplitudes)))
    table = np.fft.irfft(spectrum, size)
    return np.interp(phase % 1.0, np.arange(size + 1) / size, np.append(table, table[0]))

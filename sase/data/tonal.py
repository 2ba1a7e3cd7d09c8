"""Computed noises that are tones, warnings or knocks: what a network that heard only hiss and engines takes for speech.

The functions are like those of :mod:`sase.data.noises`: (num_samples, sample_rate in Hz, np.random.Generator) ->
float32 (num_samples,) with an RMS of 0.1, or less if the peak would exceed 1. :func:`draw` draws one of either module.
"""

from collections.abc import Mapping

import numpy as np

from sase.data.mixing import set_level
from sase.data.noises import NOISES, Noise, pink

_SEMITONES = (
    (0, 4, 7),
    (0, 3, 7),
    (0, 4, 7, 10),
    (0, 5, 7),
    (0, 7),
    (0, 6),
)  # of chords


def draw(
    num_samples: int, sample_rate: int, generator: np.random.Generator, weights: Mapping[str, float] | None = None
) -> np.ndarray:
    """Return a noise of this module or, half as often, of :mod:`sase.data.noises`.

    Args:
        num_samples: its length.
        sample_rate: in Hz.
        generator: of all that is drawn.
        weights: how much more often than by default kinds of either module are drawn, by their names.
    """
    if weights:
        shares = {**dict.fromkeys(TONAL, 2 / len(TONAL)), **dict.fromkeys(NOISES, 1 / len(NOISES))}
        chances = np.array([share * weights.get(name, 1.0) for name, share in shares.items()])
        name = list(shares)[generator.choice(len(shares), p=chances / chances.sum())]
        return {**TONAL, **NOISES}[name](num_samples, sample_rate, generator)
    kinds: list[Noise] = [*TONAL.values()] if generator.uniform() < 2 / 3 else [*NOISES.values()]
    return kinds[generator.integers(len(kinds))](num_samples, sample_rate, generator)


def tone(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """One or two steady tones without harmonics, of 80 Hz to 6 kHz."""
    wav = np.zeros(num_samples)
    for _ in range(generator.integers(1, 3)):
        hz = _pitch(generator, 80, min(6000, 0.45 * sample_rate))
        wav += generator.uniform(0.3, 1.0) * _stack(np.full(num_samples, hz), np.ones(1), sample_rate, generator)
    return _with_room(wav, sample_rate, generator)


def buzz(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A steady stack of harmonics of 40 Hz to 1.5 kHz, such as a transformer, a fan or a razor."""
    hz = _pitch(generator, 40, 1500)
    amplitudes = generator.uniform(0.05, 1.0, 30) * np.arange(1, 31) ** -generator.uniform(0.0, 1.5)
    return _with_room(_stack(np.full(num_samples, hz), amplitudes, sample_rate, generator), sample_rate, generator)


def mains(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Mains hum of 50 or 60 Hz: the fundamental, or the even harmonics of a rectifier, or both."""
    hz = generator.choice([50.0, 60.0]) * generator.uniform(0.998, 1.002)
    amplitudes = generator.uniform(0.1, 1.0, 24) * np.arange(1, 25) ** -generator.uniform(0.5, 3.0)
    kind = generator.integers(3)
    if kind == 0:  # the fundamental is strongest, as on a cable
        amplitudes[0] = 2.0
    elif kind == 1:  # as from a transformer
        amplitudes[0::2] *= 0.05
    return _with_room(_stack(np.full(num_samples, hz), amplitudes, sample_rate, generator), sample_rate, generator)


def horn(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Blasts of a vehicle's horn: one to three notes, rich in harmonics."""
    root = _pitch(generator, 150, 600)
    notes = root * np.array([1.0, generator.uniform(1.15, 1.35), generator.uniform(1.4, 1.6)])
    wav = np.zeros(num_samples)
    for hz in notes[: generator.integers(1, 4)]:
        amplitudes = generator.uniform(0.3, 1.0, 20) * np.arange(1, 21) ** -generator.uniform(0.2, 1.2)
        wav += _stack(np.full(num_samples, hz), amplitudes, sample_rate, generator)
    gate = _on_and_off(num_samples, sample_rate, generator, (0.15, 2.5), (0.1, 1.5))
    return _with_room(wav * gate, sample_rate, generator)


def alarm(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A siren that wails, yelps or alternates between two tones."""
    low = _pitch(generator, 300, 1200)
    high, rate = low * generator.uniform(1.2, 2.6), _pitch(generator, 0.1, 6)
    turn = (generator.uniform() + rate * np.arange(num_samples) / sample_rate) % 1.0
    shape = (2 * np.abs(turn - 0.5), turn, 1.0 - turn, (turn < 0.5).astype(float))[generator.integers(4)]
    amplitudes = generator.uniform(0.2, 0.9) ** np.arange(12) * generator.uniform(0.3, 1.0, 12)
    return _with_room(_stack(low * (high / low) ** shape, amplitudes, sample_rate, generator), sample_rate, generator)


def sweep(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A tone that glides once through several octaves."""
    ends = np.log([_pitch(generator, 60, 3500), _pitch(generator, 60, 3500)])
    hz = np.exp(np.linspace(ends[0], ends[1], num_samples))
    amplitudes = generator.uniform(0.0, 0.7) ** np.arange(6)
    return _with_room(_stack(hz, amplitudes, sample_rate, generator), sample_rate, generator)


def beeps(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Beeps of one or two pitches: alarm clocks, reversing lorries, telephones, microwave ovens."""
    first, second = _pitch(generator, 400, 4000), _pitch(generator, 400, 4000)
    wav = _stack(np.full(num_samples, first), generator.uniform(0.0, 0.6) ** np.arange(4), sample_rate, generator)
    length_s = _pitch(generator, 0.03, 0.8)
    gate = _on_and_off(num_samples, sample_rate, generator, (length_s, length_s), (length_s, 3 * length_s))
    wav = wav * gate
    if generator.uniform() < 0.3:
        wav += (1 - gate) * _stack(np.full(num_samples, second), np.ones(1), sample_rate, generator)
    return _with_room(wav, sample_rate, generator)


def chords(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Music of a kind: chords that are struck and decay, with an octave below as the bass."""
    wav = np.zeros(num_samples)
    beat_s, root, decay_s = generator.uniform(0.2, 1.0), _pitch(generator, 100, 500), generator.uniform(0.15, 3.0)
    length = int(beat_s * sample_rate)
    for start in range(-int(generator.integers(max(1, length))), num_samples, max(1, length)):
        span = slice(max(0, start), min(num_samples, start + length))
        size = span.stop - span.start
        if size < 1:
            continue
        hz = root * 2 ** (generator.integers(-5, 8) / 12)
        for semitones in (-12, *_SEMITONES[generator.integers(len(_SEMITONES))]):
            amplitudes = generator.uniform(0.2, 0.8) ** np.arange(10)
            wav[span] += _stack(np.full(size, hz * 2 ** (semitones / 12)), amplitudes, sample_rate, generator)
        wav[span] *= np.exp(-np.arange(size) / (decay_s * sample_rate)) * np.minimum(np.arange(size) / 160, 1.0)
    return _with_room(wav, sample_rate, generator)


def bell(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Strokes of bells, glasses and plates: inharmonic partials that ring on."""
    partials = _pitch(generator, 250, 2500) * np.array([0.5, 1.0, 1.19, 1.56, 2.0, 2.66, 3.76])
    partials = partials * generator.uniform(0.9, 1.1, len(partials))
    wav = _strokes(num_samples, sample_rate, generator, (0.5, 8.0), partials, (0.05, 1.5), 0.0)
    return _with_room(wav, sample_rate, generator)


def knocks(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Knocks, steps and handling: low, short resonances with a burst of noise."""
    partials = _pitch(generator, 60, 600) * np.array([1.0, 1.6, 2.3, 3.1])
    wav = _strokes(num_samples, sample_rate, generator, (1.0, 8.0), partials, (0.008, 0.06), 0.5)
    return _with_room(wav, sample_rate, generator)


def clicks(num_samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Clicks and crackle of single samples to 3 ms: switches, mouse buttons, a bad contact, a scratched record."""
    wav = _strokes(num_samples, sample_rate, generator, (1.0, 40.0), np.array([3000.0]), (0.0001, 0.003), 2.0)
    return _with_room(wav, sample_rate, generator)


TONAL: dict[str, Noise] = {
    "tone": tone,
    "buzz": buzz,
    "mains": mains,
    "horn": horn,
    "alarm": alarm,
    "sweep": sweep,
    "beeps": beeps,
    "chords": chords,
    "bell": bell,
    "knocks": knocks,
    "clicks": clicks,
}


def _pitch(generator: np.random.Generator, low: float, high: float) -> float:
    """Return a number between two, evenly distributed on a logarithmic scale."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def _stack(hz: np.ndarray, amplitudes: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return harmonics of the given amplitudes of a fundamental (time,) in Hz, as far as 0.45 of the sample rate."""
    # Horner's rule on powers of one phasor: a cosine per harmonic takes four times as long.
    turns = np.cumsum(hz) / sample_rate
    phasor = np.exp(2j * np.pi * (turns % 1.0)).astype(np.complex64)
    offsets = np.exp(2j * np.pi * generator.uniform(size=len(amplitudes)))  # drawn also for harmonics left out
    heard = np.arange(1, len(amplitudes) + 1) * hz.max(initial=0.0) < 0.45 * sample_rate
    total = np.zeros(len(hz), dtype=np.complex64)
    for weight in (amplitudes * offsets)[heard].astype(np.complex64)[::-1]:
        total = (total + weight) * phasor
    return total.real.astype(np.float64)


def _on_and_off(
    num_samples: int,
    sample_rate: int,
    generator: np.random.Generator,
    on_s: tuple[float, float],
    off_s: tuple[float, float],
) -> np.ndarray:
    """Return a gate (time,) between 0 and 1 with ramps of 5 ms, open at the beginning."""
    gate = np.zeros(num_samples)
    start = -generator.uniform(0, on_s[0]) * sample_rate
    while start < num_samples:
        end = start + generator.uniform(*on_s) * sample_rate
        gate[max(0, int(start)) : max(0, int(end))] = 1.0
        start = end + generator.uniform(*off_s) * sample_rate
    ramp = max(1, int(0.005 * sample_rate))
    return np.convolve(gate, np.ones(ramp) / ramp)[:num_samples] if num_samples else gate


def _strokes(
    num_samples: int,
    sample_rate: int,
    generator: np.random.Generator,
    per_s: tuple[float, float],
    partials: np.ndarray,
    decay_s: tuple[float, float],
    noisiness: float,
) -> np.ndarray:
    """Return strokes at random times, each of decaying partials in Hz and a burst of noise; the first at once."""
    wav = np.zeros(num_samples)
    rate, decay = _pitch(generator, *per_s), _pitch(generator, *decay_s)
    partials = partials[partials < 0.45 * sample_rate]
    amplitudes = generator.uniform(0.2, 1.0, len(partials))
    t = np.arange(min(num_samples, max(1, int(6 * decay * sample_rate)))) / sample_rate
    time_s = 0.0
    while (start := int(time_s * sample_rate)) < num_samples:
        ring = sum(
            (a * np.cos(2 * np.pi * hz * t + generator.uniform(0, 6.28)) for a, hz in zip(amplitudes, partials)),
            np.zeros(len(t)),
        )
        stroke = (ring + noisiness * generator.standard_normal(len(t))) * np.exp(-t / decay)
        part = wav[start : start + len(t)]
        part += generator.uniform(0.3, 1.0) * stroke[: len(part)]
        time_s += 0.02 + generator.gamma(4.0, 1 / rate / 4.0)
    return wav


def _with_room(wav: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return a signal over faint noise, 30 to 60 dB below it: no recording is silent between two beeps."""
    room = pink(len(wav), sample_rate, generator)
    return set_level(set_level(wav) + 10 ** (-generator.uniform(30, 60) / 20) * room)

"""A synthetic talker: glottal pulses and frication through formants, in syllables and phrases with pauses.

It is no substitute for recorded speech, but needs no data, and it has what a network has to keep: voiced and unvoiced
sounds, formants that move, and silence between phrases.
"""

import numpy as np

_VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (660, 1720, 2410),
)
_BANDWIDTHS = (80, 100, 140)
_TREMOR_HZ = 5.0


def talk(seconds: float, pitch_hz: float, sample_rate: int, seed: int) -> np.ndarray:
    """Return speech-like sound, float64 (time,), with a peak of 1; digital silence between phrases.

    Args:
        seconds: duration.
        pitch_hz: mean fundamental frequency: 110 for a low voice, 210 for a high one, 300 for a child's.
        sample_rate: in Hz.
        seed: of syllables and pauses.
    """
    rng, total = np.random.default_rng(seed), int(seconds * sample_rate)
    wav, place = np.zeros(total), int(0.2 * sample_rate)
    while place < total:
        syllables = rng.integers(3, 7)
        for number in range(syllables):
            part = _syllable(rng, pitch_hz * (1.15 - 0.3 * number / syllables), sample_rate)[: total - place]
            wav[place : place + len(part)] += part
            place += len(part)
        place += int(rng.uniform(0.3, 0.5) * sample_rate)
    return wav / np.abs(wav).max()


def _syllable(rng: np.random.Generator, pitch_hz: float, sample_rate: int) -> np.ndarray:
    """Return a consonant and a vowel."""
    consonant = _frication(rng, int(rng.uniform(0.04, 0.09) * sample_rate), sample_rate)
    vowel = _vowel(rng, pitch_hz, int(rng.uniform(0.12, 0.22) * sample_rate), sample_rate)
    return np.concatenate([rng.uniform(0.05, 0.2) * consonant, rng.uniform(0.6, 1.0) * vowel])


def _vowel(rng: np.random.Generator, pitch_hz: float, length: int, sample_rate: int) -> np.ndarray:
    from scipy.signal import lfilter

    time_s = np.arange(length) / sample_rate
    pitch = pitch_hz * (1 + 0.02 * np.sin(2 * np.pi * _TREMOR_HZ * time_s) - 0.3 * time_s)
    phase = np.cumsum(pitch) / sample_rate
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = lfilter([1.0], [1.0, -0.95], pulses)  # −6 dB per octave: the glottis −12, the radiation from the lips +6
    source += 0.01 * rng.standard_normal(length)
    stretch = (pitch_hz / 120) ** 0.2  # high voices have short vocal tracts
    for formant, bandwidth in zip(_VOWELS[rng.integers(len(_VOWELS))], _BANDWIDTHS):
        source = lfilter(*_resonator(formant * stretch, bandwidth, sample_rate), source)
    return _faded(source, sample_rate)


def _frication(rng: np.random.Generator, length: int, sample_rate: int) -> np.ndarray:
    from scipy.signal import lfilter

    centre = rng.uniform(2500, 0.4 * sample_rate)
    return _faded(lfilter(*_resonator(centre, 1500, sample_rate), rng.standard_normal(length)), sample_rate)


def _resonator(hz: float, bandwidth: float, sample_rate: int) -> tuple[list[float], list[float]]:
    """Return numerator and denominator of a two-pole resonator with gain 1 at 0 Hz."""
    radius = np.exp(-np.pi * bandwidth / sample_rate)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * hz / sample_rate), radius**2
    return [1 + a1 + a2], [1.0, a1, a2]


def _faded(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return a sound with a peak of 1 that begins and ends within 15 ms."""
    ramp = np.minimum(1.0, np.arange(len(wav)) / (0.015 * sample_rate))
    return wav * ramp * ramp[::-1] / np.abs(wav).max()

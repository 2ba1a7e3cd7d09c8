"""Mix speech and noise at an SNR; make babble from speech; rules for level and clipping."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.1  # RMS of computed noise
PEAK = 0.99  # maximum of any mixture


def mix_at_snr(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> tuple[np.ndarray, np.ndarray]:
    """Return clean and noisy speech, both scaled down by the same factor if the mixture would clip.

    Powers are means over the whole signals, including pauses.

    Args:
        clean: float (time,)
        noise: float (time,), of the same length as ``clean``.
        snr_db: ratio of the powers of ``clean`` and the scaled noise, in dB.

    Returns:
        clean, noisy: float32 (time,)

    Raises:
        ValueError: other shapes, or one of them is silent, so that no SNR exists.
    """
    clean, noise = np.asarray(clean), np.asarray(noise)
    if clean.ndim != 1 or clean.shape != noise.shape:
        raise ValueError(f"clean and noise must be (time,) of equal length, got {clean.shape} and {noise.shape}")
    clean_power, noise_power = (np.mean(np.square(wav, dtype=np.float64)) for wav in (clean, noise))
    if not clean_power > 0 or not noise_power > 0:
        raise ValueError("silence has no signal-to-noise ratio: neither clean nor noise may be silent")
    noisy = clean + noise * np.sqrt(clean_power / noise_power / 10 ** (snr_db / 10))
    scale = min(1.0, PEAK / max(np.abs(noisy).max(), np.abs(clean).max()))
    return (clean * scale).astype(np.float32), (noisy * scale).astype(np.float32)


def babble(speech: Sequence[np.ndarray], talkers: int, generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """Return several simultaneous talkers, each at the same level.

    Args:
        speech: sentences, float (time,) each, of any talkers; silent ones are skipped.
        talkers: number of simultaneous sentences.
        generator: random generator that selects and orders the sentences.
        num_samples: length.

    Returns:
        float32 (num_samples,) with an RMS of ``LEVEL``

    Raises:
        ValueError: no talkers, no samples, or no sentence that is not silent.
    """
    speech = [wav for wav in speech if np.any(wav)]
    if not speech or talkers < 1 or num_samples < 1:
        raise ValueError(f"babble of {talkers} talkers, {len(speech)} sentences with sound, {num_samples} samples")
    total = np.zeros(num_samples, dtype=np.float64)
    for _ in range(talkers):
        line: list[np.ndarray] = []
        length = 0
        offset = None
        while offset is None or length < offset + num_samples:
            wav = speech[generator.integers(len(speech))]
            if offset is None:  # start in the middle of a sentence
                offset = int(generator.integers(len(wav)))
            line.append(wav / np.sqrt(np.mean(np.square(wav, dtype=np.float64))))
            length += len(wav)
        total += np.concatenate(line)[offset : offset + num_samples]
    return set_level(total)


def set_level(wav: np.ndarray) -> np.ndarray:
    """Return a signal scaled to an RMS of ``LEVEL``, or less if its peak would exceed 1; float32, same shape."""
    scale = LEVEL / max(np.sqrt(np.mean(np.square(wav, dtype=np.float64))), 1e-12)
    return (wav * min(scale, 1.0 / max(np.abs(wav).max(), 1e-12))).astype(np.float32)

"""Put noise under speech at an SNR; babble out of speech; the level and clipping rules."""

import numpy as np

LEVEL = 0.1  # root mean square of generated noise
PEAK = 0.99  # no mixture goes beyond


def mix_at_snr(clean, noise, snr_db):
    """Return speech and the same speech in noise, both scaled down by one factor where the sum would clip.

    Powers are means over the whole signals, pauses included.

    Args:
        clean: float (time,)
        noise: float (time,), as long as ``clean``.
        snr_db: ratio of the power of ``clean`` to that of the noise under it, in dB.

    Returns:
        clean, noisy: float32 (time,)

    Raises:
        ValueError: for other shapes, or where either is silent and no ratio exists.
    """
    clean, noise = np.asarray(clean), np.asarray(noise)
    if clean.ndim != 1 or clean.shape != noise.shape:
        raise ValueError(f"clean and noise must be (time,) of one length, are {clean.shape} and {noise.shape}")
    clean_power, noise_power = (np.mean(np.square(wav, dtype=np.float64)) for wav in (clean, noise))
    if not clean_power > 0 or not noise_power > 0:
        raise ValueError("silence has no signal-to-noise ratio: clean and noise must both hold sound")
    noisy = clean + noise * np.sqrt(clean_power / noise_power / 10 ** (snr_db / 10))
    scale = min(1.0, PEAK / max(np.abs(noisy).max(), np.abs(clean).max()))
    return (clean * scale).astype(np.float32), (noisy * scale).astype(np.float32)


def babble(speech, talkers, generator, num_samples):
    """Return the murmur of several people who talk at once, each at the same level.

    Args:
        speech: list of float (time,), sentences of any talkers; silent ones are left out.
        talkers: how many sentences sound at a time.
        generator: np.random.Generator, which chooses and orders them.
        num_samples: length.

    Returns:
        float32 (num_samples,), root mean square ``LEVEL``
    """
    speech = [wav for wav in speech if np.any(wav)]
    if not speech or talkers < 1 or num_samples < 1:
        raise ValueError(f"babble of {talkers} talkers, {len(speech)} sentences with sound, {num_samples} samples")
    total = np.zeros(num_samples, dtype=np.float64)
    for _ in range(talkers):
        line, length = [], 0
        offset = None
        while offset is None or length < offset + num_samples:
            wav = speech[generator.integers(len(speech))]
            if offset is None:  # nobody starts a sentence at the first sample
                offset = int(generator.integers(len(wav)))
            line.append(wav / np.sqrt(np.mean(np.square(wav, dtype=np.float64))))
            length += len(wav)
        total += np.concatenate(line)[offset : offset + num_samples]
    return set_level(total)


def set_level(wav):
    """Return a signal at the root mean square ``LEVEL``, or below where its peak would pass 1; float32, same shape."""
    scale = LEVEL / max(np.sqrt(np.mean(np.square(wav, dtype=np.float64))), 1e-12)
    return (wav * min(scale, 1.0 / max(np.abs(wav).max(), 1e-12))).astype(np.float32)

"""The differentiable STOI against pystoi."""

import numpy as np
import pystoi
import pytest
import soundfile
import torch
from pystoi.utils import resample_oct

from sase.losses.stoi import resample_to_10k, stoi


def bursts(time, seed):
    """Noise in bursts with silence between them, and the same with noise added, both float64 (time,)."""
    rng = np.random.default_rng(seed)
    clean = rng.standard_normal(time) * np.clip(np.sin(np.arange(time) / 2000), 1e-4, 1)
    return clean, clean + 0.3 * rng.standard_normal(time)


@pytest.mark.parametrize("time", [1, 7, 8, 1000, 16001])
def test_the_resampler_equals_pystoi(time):
    wav, _ = bursts(time, 0)
    resampled = resample_to_10k(torch.as_tensor(wav)[None])[0]
    np.testing.assert_allclose(resampled, resample_oct(wav, 10000, 16000), atol=1e-12)


def test_equals_pystoi_per_utterance_with_lengths():
    lengths = [32000, 27777, 22001]
    pairs = [bursts(32000, seed) for seed in range(3)]
    expected = [pystoi.stoi(clean[:n], noisy[:n], 16000) for (clean, noisy), n in zip(pairs, lengths)]
    padding = torch.arange(32000) >= torch.tensor(lengths)[:, None]
    clean, noisy = (torch.tensor(np.array(x)).masked_fill(padding, 0.0) for x in zip(*pairs))
    np.testing.assert_allclose(stoi(noisy, clean, torch.tensor(lengths)), expected, atol=1e-6)
    np.testing.assert_allclose(stoi(noisy.float(), clean.float(), torch.tensor(lengths)), expected, atol=1e-5)


def test_too_short_input_is_zero_and_the_level_does_not_matter():
    clean, noisy = (torch.as_tensor(x)[None] for x in bursts(16000, 0))
    assert stoi(noisy[:, :5000], clean[:, :5000]).item() == 0
    assert stoi(clean, clean).item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(stoi(0.001 * noisy, 0.01 * clean), stoi(noisy, clean), atol=1e-6, rtol=0)


def test_equals_pystoi_on_real_pairs(real_audio):
    folder = real_audio / "vbd_test_part"
    for path in sorted((folder / "clean_testset_wav").iterdir())[::10]:
        clean, noisy = (soundfile.read(x)[0] for x in (path, folder / "noisy_testset_wav" / path.name))
        ours = stoi(torch.tensor(noisy).float()[None], torch.tensor(clean).float()[None])
        assert ours.item() == pytest.approx(pystoi.stoi(clean, noisy, 16000), abs=1e-5)

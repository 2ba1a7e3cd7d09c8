"""Offline networks, which use the whole signal: what holds for them beyond the properties of all networks."""

import numpy as np
import pytest
import torch

from sase.losses.loss import build_loss
from sase.metrics.measures import zero_mean_si_sdr
from sase.model import build_model

RATE = 16000


def voice(batch, seconds, seed):
    """Harmonic tones of random pitch with syllables and pauses, float32 (batch, time)."""
    generator = torch.Generator().manual_seed(seed)
    time_s = torch.arange(round(seconds * RATE)) / RATE
    pitch = 100.0 + 100.0 * torch.rand(batch, 1, generator=generator)
    rhythm = 2.0 + 2.0 * torch.rand(batch, 1, generator=generator)
    phase = 2 * torch.pi * (pitch * time_s + 3.0 * torch.sin(2 * torch.pi * 0.7 * time_s))
    tones = sum(torch.sin(order * phase) / order for order in range(1, 12))
    return 0.05 * tones * torch.clamp(torch.sin(2 * torch.pi * rhythm * time_s), min=0.0)


def noise(batch, seconds, seed):
    return 0.05 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def trained(steps):
    """Return a small offline network after a short training, so that its output means something."""
    torch.manual_seed(0)
    model = build_model({"preset": "mini", "causal": False}).train()
    criterion = build_loss({"si_snr": 1.0})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        clean = voice(4, 1.0, 2 * step)
        optimizer.zero_grad()
        loss, _ = criterion(model(clean + noise(4, 1.0, 2 * step + 1)), clean)
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.recipe
def test_blocks_cost_no_quality():
    """Blocks of 10 s with cross-fades of 2 s are within 0.1 dB SI-SDR of one pass over 30 s."""
    model, clean = trained(100), voice(1, 30.0, 1000)
    noisy = clean + noise(1, 30.0, 1001)
    with torch.no_grad():
        blocks, one_pass = model(noisy), model.forward_whole(noisy)
    assert not torch.equal(blocks, one_pass)
    unprocessed, scores = zero_mean_si_sdr(clean[0].numpy(), noisy[0].numpy()), []
    for enhanced in (blocks, one_pass):
        scores.append(zero_mean_si_sdr(clean[0].numpy(), enhanced[0].numpy()))
    assert min(scores) > unprocessed + 3.0
    assert abs(scores[0] - scores[1]) <= 0.1


@pytest.mark.recipe
def test_the_output_depends_on_the_future():
    model = trained(15)
    noisy = voice(1, 2.0, 5) + noise(1, 2.0, 6)
    changed = torch.cat([noisy[:, : RATE + 4000], noise(1, 2.0, 7)[:, RATE + 4000 :]], 1)
    with torch.no_grad():
        difference = (model(noisy) - model(changed))[0, :RATE].abs()
    assert difference.max() > 1e-5


@pytest.mark.parametrize("attention", ["sigmoid", "softmax"])
@torch.no_grad()
def test_an_utterance_does_not_depend_on_its_batch(attention):
    torch.manual_seed(0)
    model = build_model({"preset": "mini", "causal": False, "attention": attention}).eval()
    lengths = torch.tensor([12 * RATE, 11 * RATE - 77])
    batch = model(noise(2, 12.0, 8), lengths)
    single = model(noise(2, 12.0, 8)[1:, : lengths[1]])
    np.testing.assert_allclose(batch[1:, : lengths[1]], single, atol=1e-5)
    assert not batch[1, lengths[1] :].any()

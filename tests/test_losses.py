"""Objectives against their oracles, and what holds for every one of them."""

import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio

from sase.errors import InputError
from sase.losses import LOSSES, build_loss, si_snr


def speech_like(batch=3, time=16000, seed=0):
    """Noise with the slope, and the slow swings of level, of speech: clean and enhanced (batch, time)."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(batch, time, generator=generator)
    clean = torch.nn.functional.conv1d(white[:, None], torch.tensor([[[1.0, 1.6, 1.0]]]), padding=1)[:, 0]
    clean = 0.05 * clean * (1.1 + torch.sin(torch.arange(time) / 16000 * 25)) ** 2
    return clean, 0.8 * clean + 0.03 * torch.randn(batch, time, generator=generator)


def test_si_snr_equals_torchmetrics_row_by_row():
    clean, enhanced = speech_like()
    expected = scale_invariant_signal_noise_ratio(enhanced, clean)
    torch.testing.assert_close(si_snr(enhanced, clean), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_padded_batch_equals_the_single_utterances(name):
    clean, enhanced = speech_like()
    lengths = torch.tensor([16000, 12345, 9000])
    singles = [LOSSES[name](enhanced[i : i + 1, :n], clean[i : i + 1, :n]) for i, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        clean[i, n:], enhanced[i, n:] = float("nan"), 1e9
    batch = LOSSES[name](enhanced, clean, lengths)
    torch.testing.assert_close(batch, torch.stack(singles).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("silent", ["clean", "enhanced", "both"])
def test_silence_has_a_finite_value_and_gradient(name, silent):
    clean, enhanced = speech_like()
    clean = torch.zeros_like(clean) if silent != "enhanced" else clean
    enhanced = (torch.zeros_like(enhanced) if silent != "clean" else enhanced).requires_grad_()
    loss = LOSSES[name](enhanced, clean)
    loss.backward()
    assert loss.isfinite() and enhanced.grad.isfinite().all()


def test_an_unknown_objective_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="unknown objective 'pesq'; known: .*si_snr"):
        build_loss({"pesq": 1.0})

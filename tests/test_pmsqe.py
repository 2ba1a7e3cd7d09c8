"""PMSQE: psychoacoustics in closed form, properties, and agreement with PESQ."""

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import spearmanr

from sase.losses.loss import LOSSES
from sase.losses.pair import spectrum
from sase.losses.pmsqe import _bark, _hearing_threshold, _hertz, _loudness, _scale, pmsqe


def speech_like(batch, seed):
    """Low-pass noise with a speech-like envelope: (batch, time)."""
    white = torch.randn(batch, 1, 16000, generator=torch.Generator().manual_seed(seed))
    coloured = torch.nn.functional.conv1d(white, torch.tensor([[[1.0, 1.6, 1.0]]]), padding=1)[:, 0]
    return 0.05 * coloured * (1.1 + torch.sin(torch.arange(16000) / 640 + seed)) ** 2


def power(wav):
    return spectrum(wav).abs().square()


def test_the_psychoacoustic_scales_match_their_definitions():
    # Traunmüller's table of critical bands; Terhardt's threshold; Zwicker's reference loudness
    np.testing.assert_allclose(_bark(np.array([200.0, 1000.0, 4000.0])), [1.95, 8.53, 17.46], atol=0.01)
    np.testing.assert_allclose(_hertz(_bark(np.array([50.0, 800.0, 8000.0]))), [50, 800, 8000])
    assert 10 * np.log10(_hearing_threshold(1000.0)) == pytest.approx(3.37, abs=0.01)
    scale = _scale(257, 16000, torch.float64, torch.device("cpu"))
    bands = _hertz(_bark(50.0) + scale["width"] * (np.arange(49) + 0.5))
    at_40_db = _loudness(torch.full((1, 1, 49), 1e4, dtype=torch.float64), scale)[0, 0]
    assert np.interp(1000.0, bands, at_40_db) == pytest.approx(1.0, abs=0.01)
    assert (_loudness(scale["threshold"], scale) == 0).all()
    # for a flat spectrum, the power of a band is proportional to its width in Hz
    edges = _hertz(_bark(50.0) + scale["width"] * np.arange(50))
    np.testing.assert_allclose(scale["bands"].sum(0) * scale["width"] * 31.25, np.diff(edges), rtol=1e-9)


def test_equal_signals_have_zero_distance_and_the_level_does_not_matter():
    clean = speech_like(2, 0)
    enhanced = clean + speech_like(2, 1)
    assert (pmsqe(power(clean), power(clean)) < 1e-3).all()
    expected = pmsqe(power(enhanced), power(clean))
    assert (expected > 0.1).all()
    torch.testing.assert_close(pmsqe(power(0.01 * enhanced), power(5.0 * clean)), expected, rtol=1e-3, atol=0)


def test_padding_frames_are_ignored():
    clean, enhanced = power(speech_like(2, 0)), power(speech_like(2, 1))
    num_frames = torch.tensor([63, 20])
    together = pmsqe(enhanced, clean, num_frames)
    torch.testing.assert_close(together[1:], pmsqe(enhanced[1:, :, :20], clean[1:, :, :20]))


def test_the_distance_is_monotone_in_snr():
    clean, noise = speech_like(3, 0), speech_like(3, 1)
    values = torch.stack([LOSSES["pmsqe"](clean + 10 ** (-snr_db / 20) * noise, clean) for snr_db in range(-20, 46, 5)])
    assert (values.diff() < 0).all()


@pytest.mark.recipe
def test_the_distance_ranks_real_pairs_like_pesq(real_audio):
    from pesq import pesq

    folder = real_audio / "vbd_test_part"
    distances, scores = [], []
    for path in sorted((folder / "clean_testset_wav").iterdir()):
        clean, noisy = (soundfile.read(x, dtype="float32")[0] for x in (path, folder / "noisy_testset_wav" / path.name))
        distances.append(LOSSES["pmsqe"](torch.as_tensor(noisy)[None], torch.as_tensor(clean)[None]).item())
        scores.append(pesq(16000, clean, noisy, "wb"))
    assert spearmanr(distances, scores).statistic < -0.9

"""Objectives against their oracles, and properties of all of them."""

import numpy as np
import pytest
import torch

from sase.errors import InputError
from sase.losses.loss import LOSSES, build_loss
from sase.losses.objectives import sdr, si_sdr, si_snr

NEED_REFERENCE = {"si_snr", "si_sdr", "sdr", "stoi", "pmsqe", "contrastive"}


def speech_like(batch=3, time=16000, seed=0, dtype=torch.float32):
    """Coloured noise with a speech-like envelope: clean and enhanced, each (batch, time)."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(batch, 1, time, generator=generator, dtype=dtype)
    clean = torch.nn.functional.conv1d(white, torch.tensor([[[1.0, 1.6, 1.0]]], dtype=dtype), padding=1)[:, 0]
    envelope = 1.1 + torch.sin(torch.arange(time) / 16000 * 25 + torch.arange(batch)[:, None])
    clean = 0.05 * clean * envelope.to(dtype) ** 2
    return clean, 0.8 * clean + 0.03 * torch.randn(batch, time, generator=generator, dtype=dtype)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (si_snr, "scale_invariant_signal_noise_ratio"),
        (si_sdr, "scale_invariant_signal_distortion_ratio"),
        (sdr, "signal_noise_ratio"),
    ],
)
def test_ratios_equal_torchmetrics_row_by_row(ratio, expected):
    from torchmetrics.functional import audio

    (clean, enhanced), expected = speech_like(), getattr(audio, expected)
    clean, enhanced = clean + 0.02, enhanced - 0.01  # means matter to two of them
    torch.testing.assert_close(ratio(enhanced, clean), expected(enhanced, clean), atol=1e-4, rtol=0)
    lengths = torch.tensor([16000, 12345, 777])
    for row, length, db in zip(range(3), lengths, ratio(enhanced, clean, lengths)):
        torch.testing.assert_close(db, expected(enhanced[row, :length], clean[row, :length]), atol=1e-4, rtol=0)


def test_ratios_equal_a_known_snr_at_any_level():
    time = torch.arange(16000) / 16000
    clean, noise = torch.sin(2 * torch.pi * 440 * time)[None], torch.sin(2 * torch.pi * 1000 * time)[None]
    for snr_db in (-20.0, 0.0, 25.0, 60.0):
        enhanced = clean + 10 ** (-snr_db / 20) * noise
        for ratio in (si_snr, si_sdr, sdr):
            for level in (1.0, 1e-3):
                assert ratio(level * enhanced, level * clean).item() == pytest.approx(snr_db, abs=0.1)
        assert si_snr(1e-4 * enhanced + 0.5, clean).item() == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("name", ["si_snr", "si_sdr", "sdr"])
def test_ratios_are_clamped_at_30_db_with_zero_gradient_beyond(name):
    clean, noise = speech_like(2)
    enhanced = (clean + torch.tensor([[1e-4], [1.0]]) * noise).requires_grad_()
    values = [LOSSES[name](enhanced[row : row + 1], clean[row : row + 1]) for row in (0, 1)]
    assert values[0].item() == -30
    assert values[1].item() > -30
    sum(values).backward()
    assert (enhanced.grad[0] == 0).all()
    assert (enhanced.grad[1] != 0).any()


def reference_spectra(enhanced, clean):
    """The spectra of one utterance by numpy: complex (freq, frames)."""
    window = np.hanning(513)[:-1]
    padded = [np.pad(x[0].double().numpy(), 256) for x in (enhanced, clean)]
    starts = range(0, len(padded[0]) - 511, 256)
    return [np.fft.rfft([window * x[start : start + 512] for start in starts]).T for x in padded]


def test_mse_and_compressed_spectral_equal_numpy():
    clean, enhanced = speech_like(1, 7000)
    assert LOSSES["mse"](enhanced, clean).item() == pytest.approx(np.mean((enhanced - clean).numpy() ** 2), rel=1e-5)
    a, b = (abs(x) ** 0.3 * np.exp(1j * np.angle(x)) for x in reference_spectra(enhanced, clean))
    expected = 0.7 * np.mean((abs(a) - abs(b)) ** 2) + 0.3 * np.mean(abs(a - b) ** 2)
    assert LOSSES["compressed_spectral"](enhanced, clean).item() == pytest.approx(expected, rel=1e-3)


def test_compressed_complex_and_over_suppression_equal_numpy():
    clean, enhanced = speech_like(1, 7000)
    a, b = (abs(x) ** 0.3 * np.exp(1j * np.angle(x)) for x in reference_spectra(enhanced, clean))
    assert LOSSES["compressed_complex"](enhanced, clean).item() == pytest.approx(np.mean(abs(a - b) ** 2), rel=1e-3)
    expected = np.mean(np.maximum(abs(b) - abs(a), 0.0) ** 2)
    assert LOSSES["over_suppression"](enhanced, clean).item() == pytest.approx(expected, rel=1e-3)


def test_over_suppression_is_of_speech_that_is_lost():
    clean, _ = speech_like(2)
    assert LOSSES["over_suppression"](2.0 * clean, clean).item() == 0.0
    power = np.mean([np.mean(abs(reference_spectra(wav[None], wav[None])[0]) ** 0.6) for wav in clean])
    lost = LOSSES["over_suppression"](0.5 * clean, clean).item()
    assert lost == pytest.approx((1 - 0.5**0.3) ** 2 * power, rel=1e-3)


def test_residual_noise_is_the_level_where_the_reference_is_silent():
    clean, enhanced = speech_like(4)
    clean[[1, 3]] = 0.0
    enhanced[3] *= 1e-5
    level = 10 * np.log10(np.mean(enhanced[1].numpy() ** 2) + 1e-7)
    assert LOSSES["residual_noise"](enhanced, clean).item() == pytest.approx((level - 70.0) / 2, abs=0.01)
    assert LOSSES["residual_noise"](enhanced[[0, 2]], clean[[0, 2]]).item() == 0.0
    lengths = torch.tensor([9000, 5000, 9000, 9000])
    level = 10 * np.log10(np.mean(enhanced[1, :5000].numpy() ** 2) + 1e-7)
    assert LOSSES["residual_noise"](enhanced, clean, lengths).item() == pytest.approx((level - 70.0) / 2, abs=0.01)


def test_log_mel_equals_librosa():
    import librosa

    clean, enhanced = speech_like(1, 7000)
    powers = [abs(x) ** 2 for x in reference_spectra(enhanced, clean)]
    distances = []
    for num_bands in (16, 32, 64):
        bands = librosa.filters.mel(sr=16000, n_fft=512, n_mels=num_bands, norm=1, dtype=np.float64)
        distances.append(np.abs(np.subtract(*(np.log(bands @ power + 1e-6) for power in powers))).mean())
    doubles = LOSSES["log_mel"](enhanced.double(), clean.double())
    assert doubles.item() == pytest.approx(np.mean(distances), abs=1e-6)
    assert LOSSES["log_mel"](enhanced, clean).item() == pytest.approx(np.mean(distances), rel=1e-4)


def test_contrastive_is_half_si_sdr_and_half_nt_xent():
    clean, enhanced = speech_like(3, 6000)
    spectra = [reference_spectra(x[row : row + 1], x[row : row + 1])[0] for x in (enhanced, clean) for row in range(3)]
    vectors = [(x / (abs(x) + 1e-4)).ravel() for x in spectra]
    vectors = np.array([np.concatenate([x.real, x.imag]) / np.linalg.norm(x) for x in vectors])
    similarity = np.exp(vectors @ vectors.T / 0.2)
    np.fill_diagonal(similarity, 0.0)
    contrast = [-np.log(similarity[i, (i + 3) % 6] / similarity[i].sum()) for i in range(6)]
    expected = -0.5 * si_sdr(enhanced, clean).mean().item() + 0.5 * np.mean(contrast)
    assert LOSSES["contrastive"](enhanced, clean).item() == pytest.approx(expected, rel=1e-4)
    alone = LOSSES["contrastive"](enhanced[:1], clean[:1])
    torch.testing.assert_close(alone, -0.5 * si_sdr(enhanced[:1], clean[:1])[0])


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"contrastive"}))
def test_a_padded_batch_equals_the_mean_of_the_single_utterances(name):
    clean, enhanced = speech_like()
    lengths = torch.tensor([16000, 12345, 9000])
    singles = [LOSSES[name](enhanced[i : i + 1, :n], clean[i : i + 1, :n]) for i, n in enumerate(lengths)]
    batch = LOSSES[name](enhanced, clean, lengths)
    torch.testing.assert_close(batch, torch.stack(singles).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("padding_value", [1e9, float("nan")])
def test_the_values_of_the_padding_are_ignored(name, padding_value):
    clean, enhanced = speech_like()
    lengths = torch.tensor([16000, 12345, 9000])
    expected = LOSSES[name](enhanced, clean, lengths)
    padding = torch.arange(20000) >= lengths[:, None]
    clean, enhanced = (
        torch.nn.functional.pad(x, (0, 4000)).masked_fill(padding, padding_value) for x in (clean, enhanced)
    )
    loss = LOSSES[name](enhanced.requires_grad_(), clean, lengths)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    assert (enhanced.grad[padding] == 0).all()
    assert enhanced.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("time", [1, 255, 256, 5000])
@pytest.mark.parametrize("silent", ["clean", "enhanced", "both", "neither"])
def test_silence_and_short_input_have_a_finite_value_and_gradient(name, time, silent):
    clean, enhanced = speech_like(2, time)
    clean = clean * (silent not in ("clean", "both"))
    enhanced = (enhanced * (silent not in ("enhanced", "both"))).requires_grad_()
    loss = LOSSES[name](enhanced, clean)
    loss.backward()
    assert loss.isfinite()
    assert enhanced.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_silent_references_are_excluded_from_the_terms_that_need_one(name):
    clean, enhanced = speech_like(4)
    clean[1], clean[2] = 0.0, 0.3  # a constant offset is silence
    loss = build_loss({name: 1.0})
    total, _ = loss(enhanced, clean)
    assert loss.silent_references == 2
    others, _ = loss(enhanced[[0, 3]], clean[[0, 3]])
    assert loss.silent_references == 0
    assert torch.isclose(total, others, rtol=1e-5).item() == (name in NEED_REFERENCE)
    all_silent, _ = loss(enhanced[1:3], clean[1:3])
    assert loss.silent_references == 2
    assert (all_silent == 0) == (name in NEED_REFERENCE)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_gradient_equals_a_finite_difference(name):
    clean, enhanced = speech_like(2, 8000, dtype=torch.float64)
    direction = speech_like(2, 8000, seed=1, dtype=torch.float64)[1]
    enhanced.requires_grad_()
    LOSSES[name](enhanced, clean).backward()
    step = 1e-7 * direction
    slope = (LOSSES[name](enhanced + step, clean) - LOSSES[name](enhanced - step, clean)) / 2e-7
    assert (enhanced.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_less_noise_is_a_lower_loss(name):
    clean, enhanced = speech_like(3, seed=2)
    values = [LOSSES[name](clean + gain * (enhanced - 0.8 * clean), clean).item() for gain in (1.0, 0.5, 0.25, 0.1)]
    assert values == sorted(values, reverse=True)


def test_the_total_is_the_weighted_sum_and_the_terms_are_detached():
    clean, enhanced = speech_like()
    lengths = [16000, 9000, 10]
    weights = {name: 0.5 + i for i, name in enumerate(LOSSES)}
    loss = build_loss(weights)
    total, terms = loss(enhanced.requires_grad_(), clean, lengths)
    assert list(terms) == list(weights)
    assert total.requires_grad
    assert not any(term.requires_grad for term in terms.values())
    for name, term in terms.items():
        torch.testing.assert_close(term, LOSSES[name](enhanced.detach(), clean, lengths))
    torch.testing.assert_close(total.detach(), sum(weights[name] * term for name, term in terms.items()))


def test_half_precision_is_computed_in_float32():
    clean, enhanced = speech_like()
    loss = build_loss(dict.fromkeys(LOSSES, 1.0))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(enhanced, clean)
    assert total.dtype == torch.float32
    assert total == loss(enhanced, clean)[0]
    rounded = enhanced.bfloat16()
    assert loss(rounded, clean)[0] == loss(rounded.float(), clean)[0]


def test_bad_names_weights_and_shapes_are_rejected():
    with pytest.raises(InputError, match=r"unknown objective 'pesq'; known: .*si_snr"):
        build_loss({"pesq": 1.0})
    with pytest.raises(InputError, match="names no objective"):
        build_loss({})
    for weight in (0.0, -1.0, float("nan"), float("inf"), "1", True):
        with pytest.raises(InputError, match="weight of mse must be a positive number"):
            build_loss({"mse": weight})
    wav = torch.zeros(2, 100)
    with pytest.raises(ValueError, match=r"\(2, 100\) and \(2, 99\)"):
        LOSSES["mse"](wav, wav[:, :99])
    with pytest.raises(ValueError, match=r"\(100,\)"):
        LOSSES["mse"](wav[0], wav[0])
    with pytest.raises(ValueError, match=r"lengths must be \(2,\), got \(3,\)"):
        LOSSES["mse"](wav, wav, torch.tensor([1, 2, 3]))

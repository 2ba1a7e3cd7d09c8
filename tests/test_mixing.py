"""Mixing: the SNR asked for is the SNR there is, nothing clips, babble is several people at one level."""

import numpy as np
import pytest

from sase.data import mixing


def snr_db(clean, noisy):
    clean, noisy = clean.astype(np.float64), noisy.astype(np.float64)
    return 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))


@pytest.mark.parametrize("wanted", [-5.0, 0.0, 2.5, 17.5])
@pytest.mark.parametrize("level", [1e-3, 0.1, 3.0])
def test_the_snr_is_exact_and_nothing_clips(wanted, level):
    generator = np.random.default_rng(0)
    clean, noise = level * generator.standard_normal(8000), 7 * generator.standard_normal(8000) + 1
    mixed, noisy = mixing.mix_at_snr(clean, noise, wanted)
    assert mixed.dtype == noisy.dtype == np.float32
    assert mixed.shape == noisy.shape == (8000,)
    assert snr_db(mixed, noisy) == pytest.approx(wanted, abs=1e-3)
    assert max(np.abs(noisy).max(), np.abs(mixed).max()) <= mixing.PEAK + 1e-6


def test_both_are_scaled_by_one_factor_and_only_where_the_sum_would_clip():
    clean, noise = np.array([0.5, -0.5, 0.5, -0.5]), np.array([1.0, -1.0, -1.0, 1.0])
    quiet, noisy = mixing.mix_at_snr(clean, noise, 6.0206)  # a quarter of the power: noise at 0.25
    np.testing.assert_allclose(quiet, clean, atol=1e-6)
    np.testing.assert_allclose(noisy, [0.75, -0.75, 0.25, -0.25], atol=1e-4)
    scaled, noisy = mixing.mix_at_snr(clean, noise, 0.0)
    np.testing.assert_allclose(scaled, clean * mixing.PEAK, atol=1e-6)
    np.testing.assert_allclose(noisy, [mixing.PEAK, -mixing.PEAK, 0, 0], atol=1e-6)


def test_what_cannot_be_mixed():
    wav = np.ones(10)
    for clean, noise in ((wav, np.zeros(10)), (np.zeros(10), wav)):
        with pytest.raises(ValueError, match="silence"):
            mixing.mix_at_snr(clean, noise, 0)
    for noise in (np.ones(11), np.ones((1, 10))):
        with pytest.raises(ValueError, match=r"\(10,\)"):
            mixing.mix_at_snr(wav, noise, 0)


@pytest.mark.parametrize("num_samples", [1, 159, 5000])
def test_babble_is_the_sum_of_its_talkers(num_samples):
    speech = [np.random.default_rng(i).standard_normal(700 + i) * 10.0**-i for i in range(4)]
    murmur = mixing.babble([*speech, np.zeros(100)], 5, np.random.default_rng(1), num_samples)
    assert murmur.shape == (num_samples,)
    assert murmur.dtype == np.float32
    assert np.sqrt(np.mean(murmur.astype(np.float64) ** 2)) == pytest.approx(mixing.LEVEL, rel=1e-4)
    again = mixing.babble([*speech, np.zeros(100)], 5, np.random.default_rng(1), num_samples)
    np.testing.assert_array_equal(murmur, again)


def test_talkers_are_equally_loud_whatever_their_recordings_were():
    """Two talkers with tones of their own, one recorded 60 dB below the other: the tones come out alike."""
    time_s = np.arange(16000) / 16000
    speech = [np.sin(2 * np.pi * 500 * time_s), 1e-3 * np.sin(2 * np.pi * 900 * time_s)]
    murmur = mixing.babble(speech, 400, np.random.default_rng(0), 16000)
    power = np.abs(np.fft.rfft(murmur)) ** 2
    # 400 talkers of random phase: power within 6 dB of the other tone's, not 60
    assert abs(10 * np.log10(power[500] / power[900])) < 12


def test_babble_of_nobody():
    sound = [np.ones(5)]
    for speech, talkers, num_samples in (([], 2, 10), ([np.zeros(5)], 2, 10), (sound, 0, 10), (sound, 1, 0)):
        with pytest.raises(ValueError, match="talkers"):
            mixing.babble(speech, talkers, np.random.default_rng(0), num_samples)


def test_the_level_gives_way_to_the_peak():
    wav = np.zeros(10000)
    wav[5] = 3.0
    assert np.abs(mixing.set_level(wav)).max() == pytest.approx(1.0)
    assert not mixing.set_level(np.zeros(10)).any()

"""Generated noises: every length and rate, the same bytes from the same generator, the spectra that they promise."""

import numpy as np
import pytest

from sase.data.noises import NOISES


@pytest.mark.parametrize("name", NOISES)
def test_lengths_rates_and_levels(name):
    for sample_rate in (8000, 16000, 48000):
        for num_samples in (1, 159, 4096, 4097, 24000):
            wav = NOISES[name](num_samples, sample_rate, np.random.default_rng(num_samples))
            assert wav.shape == (num_samples,)
            assert wav.dtype == np.float32
            assert np.isfinite(wav).all()
            assert 0 < np.abs(wav).max() <= 1.0
    wav = NOISES[name](5 * 16000, 16000, np.random.default_rng(0)).astype(np.float64)
    assert 0.02 < np.sqrt(np.mean(wav**2)) < 0.1001


@pytest.mark.parametrize("name", NOISES)
def test_the_generator_decides_alone(name):
    first, again, other = (NOISES[name](8000, 16000, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.9


@pytest.mark.parametrize("name", NOISES)
def test_nothing_is_not_a_length(name):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        NOISES[name](0, 16000, np.random.default_rng(0))


@pytest.mark.parametrize(("name", "slope"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_colours_fall_by_so_many_db_an_octave(name, slope):
    wav = NOISES[name](20 * 16000, 16000, np.random.default_rng(0))
    power, hz = np.abs(np.fft.rfft(wav)) ** 2, np.fft.rfftfreq(len(wav), 1 / 16000)
    octaves_db = [10 * np.log10(power[(hz >= f) & (hz < 2 * f)].mean()) for f in (125, 250, 500, 1000, 2000)]
    # The mean over an octave of 1/f and 1/f² falls as they do.
    np.testing.assert_allclose(np.diff(octaves_db), slope, atol=0.5)


def test_hum_is_made_of_harmonics_of_the_mains():
    wav = NOISES["hum"](10 * 16000, 16000, np.random.default_rng(0))
    power, hz = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2, np.fft.rfftfreq(len(wav), 1 / 16000)
    peaks = hz[np.argsort(power)[-3:]]
    fundamental = min((50.0, 60.0), key=lambda mains: sum(abs(p / mains - round(p / mains)) for p in peaks))
    for peak in peaks:
        assert abs(peak / fundamental - round(peak / fundamental)) < 0.006 * round(peak / fundamental)


def test_some_are_steady_and_some_come_in_bursts():
    """The loudest 20 ms against the middle one: a little for hiss and tones, far more for shots and keys."""

    def spread_db(name):
        wav = NOISES[name](10 * 16000, 16000, np.random.default_rng(0)).astype(np.float64)
        powers = np.mean(wav.reshape(-1, 320) ** 2, axis=1)
        return 10 * np.log10(powers.max() / np.median(powers))

    assert all(spread_db(name) < 3 for name in ("white", "hum", "rain", "siren"))
    assert all(spread_db(name) > 9 for name in ("machinegun", "typing"))

"""Computed tones and warnings: every length and rate, the same bytes from the same generator, their spectra."""

import numpy as np
import pytest

from sase.config import from_mapping
from sase.data import tonal
from sase.data.noises import NOISES
from sase.data.remix import DataConfig
from sase.data.tonal import TONAL, draw
from sase.errors import InputError

RATE = 16000


def spectrum_of(name, seed, seconds=4):
    wav = TONAL[name](seconds * RATE, RATE, np.random.default_rng(seed)).astype(np.float64)
    return np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2, np.fft.rfftfreq(len(wav), 1 / RATE)


def flatness_db(power):
    """How far the spectrum is from that of white noise: 0 dB for white noise, less for tones."""
    return 10 * (np.log10(power[1:] + 1e-12).mean() - np.log10(power[1:].mean()))


@pytest.mark.parametrize("name", TONAL)
def test_lengths_rates_and_levels(name):
    for sample_rate in (8000, 16000, 48000):
        for num_samples in (1, 159, 4097, 24000):
            wav = TONAL[name](num_samples, sample_rate, np.random.default_rng(num_samples))
            assert wav.shape == (num_samples,)
            assert wav.dtype == np.float32
            assert np.isfinite(wav).all()
            assert 0 < np.abs(wav).max() <= 1.0
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TONAL[name](0, RATE, np.random.default_rng(0))


@pytest.mark.parametrize("name", TONAL)
def test_the_generator_decides_alone(name):
    first, again, other = (TONAL[name](8000, RATE, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.9


@pytest.mark.parametrize("name", [name for name in TONAL if name not in ("knocks", "clicks")])
def test_tonal_noises_are_far_from_white(name):
    assert all(flatness_db(spectrum_of(name, seed)[0]) < -15 for seed in range(8))


def test_a_tone_is_one_or_two_lines():
    for seed in range(10):
        power, hz = spectrum_of("tone", seed)
        lines = hz[power > 1e-2 * power.max()]
        groups = 1 + np.count_nonzero(np.diff(lines) > 5)
        assert groups <= 2
        assert lines.min() > 79
        assert lines.max() < 6001


def test_mains_has_50_or_60_hz_and_its_harmonics_alone():
    found = set()
    for seed in range(12):
        power, hz = spectrum_of("mains", seed)
        shares = {}
        for mains in (50, 60):
            order = np.round(hz / mains)
            shares[mains] = power[(np.abs(hz - mains * order) < 0.003 * hz + 1) & (order > 0)].sum() / power.sum()
        found.add(max(shares, key=lambda mains: shares[mains]))
        assert max(shares.values()) > 0.97
    assert found == {50, 60}


@pytest.mark.parametrize(("name", "low", "high"), [("horn", 150, 600), ("buzz", 40, 1500)])
def test_stacks_have_harmonics_of_a_pitch_in_their_range(name, low, high):
    for seed in range(6):
        power, hz = spectrum_of(name, seed)
        strong = hz[power > 1e-3 * power.max()]
        assert strong.min() > 0.95 * low
        assert len(np.unique(np.round(strong / (1.1 * low)))) > 2 or strong.min() > high / 2


def test_beeps_and_horns_pause_and_a_siren_does_not():
    def levels_db(name, seed):
        wav = TONAL[name](6 * RATE, RATE, np.random.default_rng(seed)).astype(np.float64)
        power = np.mean(wav.reshape(-1, 320) ** 2, axis=1)
        return 10 * np.log10(power / power.max())

    quiet = {name: [np.mean(levels_db(name, seed) < -20) for seed in range(12)] for name in ("beeps", "horn", "alarm")}
    assert max(quiet["beeps"]) > 0.4
    assert np.median(quiet["horn"]) > 0.1
    assert max(quiet["alarm"]) == 0


def test_a_sweep_glides_through_octaves():
    spread = []
    for seed in range(10):
        wav = TONAL["sweep"](4 * RATE, RATE, np.random.default_rng(seed))
        peaks = [np.abs(np.fft.rfft(part * np.hanning(2048))).argmax() for part in wav[: 31 * 2048].reshape(-1, 2048)]
        spread.append(abs(np.log2((peaks[-1] + 1) / (peaks[0] + 1))))
    assert max(spread) > 2


def test_clicks_and_knocks_are_impulsive():
    for name in ("clicks", "knocks", "bell"):
        wavs = [TONAL[name](6 * RATE, RATE, np.random.default_rng(seed)).astype(np.float64) for seed in range(8)]
        crests = [np.abs(wav).max() / np.sqrt(np.mean(wav**2)) for wav in wavs]
        assert np.median(crests) > {"clicks": 10, "knocks": 6, "bell": 3}[name]


def test_two_thirds_of_what_is_drawn_is_tonal():
    rng = np.random.default_rng(0)
    powers = [np.abs(np.fft.rfft(draw(4000, RATE, rng) * np.hanning(4000))) ** 2 for _ in range(300)]
    tonal = np.mean([flatness_db(power) < -12 for power in powers])
    assert 0.5 < tonal < 0.85


def test_kinds_that_weigh_more_are_drawn_more_often():
    weights = {"mains": 8.0, "horn": 8.0, "white": 4.0}
    shares = dict.fromkeys(TONAL, 2 / 11 / (2 / 11 * 25 + 15 / 12)) | {"white": 4 / 12 / (2 / 11 * 25 + 15 / 12)}
    shares |= {name: 8 * shares[name] for name in ("mains", "horn")}
    drawn = []
    kinds = {name: lambda *_, name=name: drawn.append(name) for name in [*TONAL, *NOISES]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tonal, "TONAL", {name: kinds[name] for name in TONAL})
        patch.setattr(tonal, "NOISES", {name: kinds[name] for name in NOISES})
        rng = np.random.default_rng(0)
        for _ in range(4000):
            draw(10, RATE, rng, weights)
    for name, share in shares.items():
        assert abs(drawn.count(name) / 4000 - share) < 4 * np.sqrt(share / 4000)


def test_weights_name_kinds_of_noise():
    assert not set(TONAL) & set(NOISES)
    with pytest.raises(InputError, match="data.computed_weights has 'horns'; choose from white, .*, horn, "):
        from_mapping(DataConfig, {"computed_weights": {"horns": 2}}, "data")
    with pytest.raises(InputError, match=r"data.computed_weights.horn must be above 0"):
        from_mapping(DataConfig, {"computed_weights": {"horn": 0}}, "data")

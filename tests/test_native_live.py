"""The C core at the rate of a host: resamplers, the band above the network's, the attenuation limit."""

import numpy as np
import pytest
import soxr

from helpers.audio import noise
from helpers.native import Live, assert_same, signals, with_level
from sase import Enhancer
from sase.bench.enhancing import whole_band_snr
from sase.native import NativeModel, library

BAD_RATE = 9  # of sase_status in sase.h


def band(wav, rate, low, high):
    """The part of a signal between two frequencies."""
    spec, frequencies = np.fft.rfft(wav), np.fft.rfftfreq(len(wav), 1 / rate)
    return np.fft.irfft(spec * ((frequencies >= low) & (frequencies < high)), len(wav))


def snr_db(reference, wav):
    return 10 * np.log10(np.sum(reference**2) / np.sum((wav - reference) ** 2))


@pytest.fixture
def live(core_build, core_weights):
    return lambda rate: Live(core_build / "_core.so", core_weights["tiny"], rate)


@pytest.fixture
def model(core_build, core_weights):
    return NativeModel(core_weights["tiny"], core_build / "_core.so")


@pytest.mark.parametrize("gain_db", [-60, -40, -20, 0, 10])
def test_at_the_networks_rate_it_equals_numpy(live, model, gain_db):
    wav, stream = (signals() * 10 ** (gain_db / 20)).astype("f4"), live(16000)
    assert_same(stream.enhance(wav), with_level(model, wav))
    assert stream.delay == 511  # a hop less one sample, and the delay of the core


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_it_equals_resampling_with_soxr(live, model, rate):
    wav = soxr.resample(signals(32000), 16000, rate, quality="VHQ")
    stream = live(rate)
    enhanced = stream.enhance(wav)
    expected = with_level(model, soxr.resample(wav, rate, 16000, quality="VHQ"))
    expected = soxr.resample(expected, 16000, rate, quality="VHQ")
    expected = np.pad(expected, (0, max(0, len(wav) - len(expected))))[: len(wav)]
    edge = 0.8 * min(rate, 16000) / 2
    # The resamplers differ by less; the network amplifies it.
    assert snr_db(band(expected, rate, 0, edge), band(enhanced, rate, 0, edge)) > 30
    assert stream.delay / rate < 0.040


def test_a_quiet_signal_is_enhanced_as_a_loud_one(live):
    wav = 0.2 * noise(16000)
    loud, quiet = (live(16000).enhance(wav * np.float32(gain)) / gain for gain in (1.0, 0.001))
    assert snr_db(loud, quiet) > 60


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_a_limit_of_0_db_is_the_delayed_input(live, rate):
    wav = 0.3 * noise(20000)
    assert np.abs(live(rate).enhance(wav, limit=1.0) - wav).max() < 1e-6


def test_the_limit_mixes_the_input_in(live):
    wav = 0.3 * noise(20000)
    expected = 0.25 * wav + 0.75 * live(48000).enhance(wav)
    assert np.abs(live(48000).enhance(wav, limit=0.25) - expected).max() < 1e-6


def test_a_new_limit_makes_no_step(live):
    """A constant signal, which the network removes, comes back without a step when the limit is set to 0 dB."""
    stream, wav = live(48000), 0.5 * np.ones(30000, np.float32)
    stream.feed(wav)
    out = stream.feed(wav, limit=1.0)
    assert np.abs(np.diff(out)).max() < 0.01
    assert abs(out[-1] - 0.5) < 1e-3


def test_the_band_above_is_turned_down_with_the_noise(live):
    """White noise at 48 kHz: above 8 kHz it loses about as much as the network takes from its upper band."""
    wav = 0.1 * noise(3 * 48000, seed=2)
    enhanced = live(48000).enhance(wav)[48000:]
    noisy = wav[48000:]

    def gain_db(low, high):
        return 10 * np.log10(np.sum(band(enhanced, 48000, low, high) ** 2) / np.sum(band(noisy, 48000, low, high) ** 2))

    assert gain_db(9000, 20000) < -6
    assert abs(gain_db(9000, 20000) - gain_db(6000, 6800)) < 3


@pytest.mark.recipe
def test_keeping_the_highs_of_real_speech_is_worth_it(live, real_audio):
    """The SNR of the whole band: the network alone, which loses what is above 8 kHz, and live.h."""
    ways = (Enhancer.from_pretrained("tiny", highs="drop").enhance, lambda wav, rate: live(rate).enhance(wav))
    rows = whole_band_snr(ways, real_audio / "cv-corpus-zh-CN/zh-CN/clips", 16000, 4)
    gains = {row["noise"]: row["SNR"][1] - row["SNR"][0] for row in rows}
    assert gains["none"] > 1.5
    assert min(gains["white"], gains["pink"]) > 0.4


def test_bad_samples_count_as_zero(live):
    wav = signals(8000)
    broken, repaired = wav.copy(), wav.copy()
    broken[500:505] = [np.nan, np.inf, -np.inf, 3e38, -2e6]
    repaired[500:505] = 0
    assert np.array_equal(live(48000).enhance(broken), live(48000).enhance(repaired))


def test_a_reset_starts_again(live):
    stream, wav = live(44100), noise(9000)
    first = stream.feed(wav)
    stream.reset()
    assert np.array_equal(stream.feed(wav), first)


@pytest.mark.parametrize("rate", [0, 7999, 44101, 192100])
def test_other_rates_are_refused(live, rate, core_build):
    assert live(rate).status == BAD_RATE
    assert b"sample rate" in library.load(core_build / "_core.so").sase_message(BAD_RATE)

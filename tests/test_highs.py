"""What is above the network's band: kept, turned down with the noise, in files and streams."""

import numpy as np
import pytest
import torch

from helpers.audio import noise
from sase import Enhancer
from sase.bench.enhancing import bench_files, bench_highs, bench_levels
from sase.errors import InputError
from sase.model import build_model


class Passing:
    """An engine that returns a multiple of its input at once."""

    sample_rate, causal, delay, latency_s, name = 16000, True, 0, 0.016, "passing"

    def __init__(self, gain=1.0):
        self.gain = np.float32(gain)

    def stream(self):
        return self

    def feed(self, wav):
        return self.gain * wav

    def flush(self):
        return np.zeros(0, np.float32)

    def enhance(self, wav):
        return self.gain * wav


def enhancer(gain=1.0, **options):
    from sase.engines import Engine

    Engine.register(Passing)
    return Enhancer(Passing(gain), **options)


def snr_db(wav, other):
    return 10 * np.log10(np.sum(wav**2) / np.sum((wav - other) ** 2))


@pytest.mark.parametrize("rate", [17000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_a_constant_gain_reaches_the_whole_band_and_nothing_moves(rate, gain):
    wav = noise(1, rate + 333)[0]
    out = enhancer(gain).enhance(wav, rate)
    inner = slice(rate // 4, -rate // 10)  # at the beginning the gain rises, at the end it meets silence
    assert out.shape == wav.shape
    assert snr_db(gain * wav[inner], out[inner]) > 40
    assert snr_db(wav, enhancer(highs="drop").enhance(wav, rate)) < 20 if rate > 20000 else True


@pytest.mark.parametrize("hz", [7000, 7150, 7300, 7900, 8000, 9000, 15000])
def test_there_is_no_notch_where_the_bands_meet(hz):
    tone = 0.1 * np.sin(2 * np.pi * hz * np.arange(48000) / 48000).astype(np.float32)
    wav = tone + 0.01 * noise(1, 48000)[0]
    out = enhancer().enhance(wav, 48000)
    assert snr_db(wav[9600:-9600], out[9600:-9600]) > 40


@pytest.mark.parametrize("rate", [22050, 48000])
def test_a_stream_equals_the_whole(rate):
    torch.manual_seed(0)
    causal = Enhancer(build_model("mini"))
    wav, sizes = noise(2, rate + 77), [1, 7, 5000, 0, 12345]
    stream = causal.stream(rate, 2)
    parts = [stream.feed(part) for part in np.split(wav, np.cumsum(sizes), axis=1)]
    streamed = np.concatenate([*parts, stream.flush()], axis=1)
    np.testing.assert_allclose(streamed, causal.enhance(wav, rate), atol=1e-5)


def test_the_band_above_follows_the_network_in_time():
    class Gate(Passing):
        def enhance(self, wav):
            return wav * (np.arange(len(wav)) // 4000 % 2)  # on and off, every quarter of a second

    gated = enhancer()
    gated.engine = Gate()
    wav = noise(1, 96000)[0]
    high = np.fft.rfft(gated.enhance(wav, 48000))
    high[: (9000 * 2)] = 0  # Hz, in bins of half a hertz
    energy = np.square(np.fft.irfft(high)).reshape(8, 12000)[:, 2400:-2400].sum(axis=1)
    assert energy[0::2].max() < 1e-3 * energy[1::2].min()


def test_silence_and_what_has_no_highs_stay():
    assert not enhancer().enhance(np.zeros(48000, np.float32), 48000).any()
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
    out = enhancer().enhance(tone, 48000)
    assert snr_db(tone[4800:-4800], out[4800:-4800]) > 40


@pytest.mark.parametrize("rate", [8000, 16000])
def test_at_the_rate_of_the_network_or_below_there_is_nothing_to_keep(rate):
    wav = noise(1, rate)[0]
    np.testing.assert_array_equal(enhancer().enhance(wav, rate), enhancer(highs="drop").enhance(wav, rate))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("limit_db", [0.0, 6.0, 20.0])
def test_the_attenuation_limit_mixes_the_aligned_input(rate, limit_db):
    torch.manual_seed(0)
    model = build_model("mini")
    wav = noise(2, rate + 99)
    share = 10 ** (-limit_db / 20)
    enhanced = Enhancer(model).enhance(wav, rate)
    limited = Enhancer(model, limit_db=limit_db).enhance(wav, rate)
    np.testing.assert_allclose(limited, enhanced + share * (wav - enhanced), atol=1e-6)
    stream = Enhancer(model, limit_db=limit_db).stream(rate, 2)
    parts = [stream.feed(part) for part in np.array_split(wav, 7, axis=1)]
    np.testing.assert_allclose(np.concatenate([*parts, stream.flush()], axis=1), limited, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"limit_db": -1.0}, "limit_db"), ({"limit_db": float("nan")}, "limit_db"), ({"highs": "mute"}, "keep or drop")],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        enhancer(**options)


@pytest.mark.recipe
def test_keeping_the_highs_of_real_speech_is_worth_it(real_audio):
    rows = bench_highs(["tiny"], real_audio / "cv-corpus-zh-CN/zh-CN/clips", 4)
    gains = {row["noise"]: row["gain"] for row in rows}
    assert gains["none"] > 1.5
    assert min(gains["white"], gains["pink"]) > 0.4


@pytest.mark.recipe
def test_the_measurements_of_levels_and_files_measure_what_they_say(real_audio):
    pairs = real_audio / "vbd_test_part"
    clean, noisy = (pairs / f"{kind}_testset_wav" for kind in ("clean", "noisy"))
    loud, quiet = bench_levels(["tiny"], clean, noisy, [0.0, -60.0], 2)
    assert abs(loud["adapting"] - quiet["adapting"]) < 0.3
    assert quiet["as it is"] < quiet["adapting"] - 1
    assert abs(loud["noisy"] - quiet["noisy"]) < 1e-3
    [row] = bench_files(0.05, 2, "tiny")
    assert row["files"] == 2
    assert row["CPU s"] > 0
    assert 20 < row["peak MB"] < 1000

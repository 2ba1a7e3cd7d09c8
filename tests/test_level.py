"""Adapting to the level of a signal: no level matters, in files and in streams, and nothing is clipped or delayed."""

import numpy as np
import pytest

from helpers.audio import noise
from sase import Enhancer, audio
from sase.stages.level import TARGET_DB, Level

RATE, HOP = 16000, 256


def through(wav, network=lambda scaled: scaled, sizes=None):
    """What a network returns, restored, and what it received."""
    level, received, restored = Level(RATE, HOP, len(wav)), [], []
    for part in np.split(wav, np.cumsum(sizes or []), axis=1):
        received.append(level.scale.feed(part))
        restored.append(level.restore.feed(network(received[-1])))
    received.append(level.scale.flush())
    restored.append(level.restore.feed(network(received[-1])))
    return np.concatenate(restored, axis=1), np.concatenate(received, axis=1)


def syllables(seconds, level_db, seed=0):
    wav = 10 ** (level_db / 20) * noise(1, round(seconds * RATE), seed=seed) / 0.1
    return (wav * (np.sin(2 * np.pi * 2 * np.arange(wav.shape[1]) / RATE) > 0)).astype(np.float32)


def level_db(wav):
    return 10 * np.log10(np.mean(np.square(wav)) + 1e-30)


def test_what_an_unchanging_network_returns_is_the_input_whatever_the_blocks():
    wav = noise(2, 10001) * np.array([[1.0], [1e-3]], np.float32)
    out, received = through(wav)
    np.testing.assert_allclose(out, wav, rtol=1e-6, atol=1e-9)
    parts, received_parts = through(wav, sizes=[1, 0, 255, 256, 257, 3000])
    np.testing.assert_array_equal(received_parts, received)
    np.testing.assert_array_equal(parts, out)
    alone, _ = through(wav[1:])
    np.testing.assert_array_equal(alone[0], out[1])


@pytest.mark.parametrize("gain_db", [-60, -40, -20, 10])
def test_a_network_receives_the_same_at_every_level_from_the_first_sample_on(gain_db):
    wav = syllables(3.0, -25.0) + 0.02 * noise(1, 3 * RATE, seed=1)
    gain = np.float32(10 ** (gain_db / 20))
    np.testing.assert_allclose(through(wav * gain)[1], through(wav)[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gain_db", [-70, -30, 0])
def test_speech_after_noise_comes_to_the_level_of_the_training(gain_db):
    quiet = noise(1, RATE // 2, seed=1) * 10 ** ((gain_db - 20) / 20)
    _, received = through(np.concatenate([quiet, syllables(3.0, gain_db - 20)], axis=1).astype(np.float32))
    hops = received[0, RATE:][: RATE // HOP * HOP].reshape(-1, HOP)
    assert abs(max(level_db(hop) for hop in hops) - TARGET_DB) < 9.5


def test_the_level_is_causal():
    wav = syllables(2.0, -30.0)
    other = wav.copy()
    other[:, RATE:] *= 30
    received, changed = through(wav)[1], through(other)[1]
    begin = RATE // HOP * HOP  # of the hop with the first sample that differs
    np.testing.assert_array_equal(received[:, :begin], changed[:, :begin])
    assert not np.array_equal(received[:, begin:], changed[:, begin:])


def test_pauses_clicks_slams_and_silence_leave_the_level_where_networks_work():
    speech = syllables(4.0, -30.0)
    after = slice(-RATE, None)
    expected = level_db(through(speech)[1][:, after])
    pause = np.zeros((1, 5 * RATE), np.float32)
    click = np.zeros((1, HOP), np.float32)
    click[0, :20] = 1.0
    slam = noise(1, RATE // 4, seed=3) / 0.2  # 25 dB above the speech
    for between in (pause, 1e-3 * noise(1, 3 * RATE), click, slam):
        joined = np.concatenate([speech, between.astype(np.float32), speech], axis=1)
        assert abs(level_db(through(joined)[1][:, after]) - expected) < 13.0  # of the 30 dB that networks bear
    _, received = through(np.concatenate([click, pause, speech], axis=1))
    assert abs(level_db(received[:, after]) - expected) < 12.0
    assert not through(pause)[0].any()


def test_a_sudden_rise_is_followed_within_a_second():
    wav = np.concatenate([syllables(3.0, -70.0), syllables(2.0, -20.0)], axis=1)
    _, received = through(wav)
    assert level_db(received[:, 4 * RATE :]) < TARGET_DB + 20
    assert np.isfinite(received).all()


def si_sdr(clean, wav):
    clean, wav = clean - clean.mean(), wav - wav.mean()
    target = (clean @ wav) / (clean @ clean) * clean
    return 10 * np.log10(np.sum(target**2) / np.sum((wav - target) ** 2))


@pytest.mark.recipe
@pytest.mark.parametrize("name", ["small", "tiny"])
def test_real_speech_at_any_level_is_enhanced_as_well_as_unscaled(real_audio, name):
    enhancer, pairs = Enhancer.from_pretrained(name, engine="torch"), real_audio / "vbd_test_part"
    plain = Enhancer(enhancer.engine, level=False)
    for utt in ("p232_010", "p257_024"):
        noisy, clean = (audio.read_mono(pairs / f"{kind}_testset_wav/{utt}.flac")[0] for kind in ("noisy", "clean"))
        unscaled = enhancer.enhance(noisy, RATE)
        for gain_db in (-60, -40, -20, 10):
            gain = np.float32(10 ** (gain_db / 20))
            out = enhancer.enhance(noisy * gain, RATE) / gain
            start = RATE // 2  # the first half second apart
            for part in (slice(None), slice(start, None), slice(0, start)):
                assert abs(si_sdr(clean[part], out[part]) - si_sdr(clean[part], unscaled[part])) < 0.3
        assert si_sdr(clean, unscaled) > si_sdr(clean, plain.enhance(noisy, RATE)) - 0.5
        quiet = np.float32(0.001)
        assert si_sdr(clean, plain.enhance(noisy * quiet, RATE)) < si_sdr(clean, unscaled) - 2  # what it is for

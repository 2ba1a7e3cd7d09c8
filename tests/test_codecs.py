"""Codecs on segments of sound: no delay, the right band, and what a batch keeps of the reference."""

import numpy as np
import pytest
import torch

from helpers.dumps import dumped
from sase.audio.codecs import CODECS, draw
from sase.data.dataset import PairSet
from sase.data.remix import DataConfig, Mixtures

RATES = (8000, 16000, 44100, 48000)


def voiced(seconds, rate, seed=0):
    """Return harmonics of a gliding fundamental under a slow envelope, up to 7 kHz, and faint noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(150 + 50 * np.sin(2 * np.pi * 1.3 * t)) / rate
    harmonics = [k for k in range(1, 35) if 200 * k < 0.48 * rate]
    wav = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in harmonics)
    wav = wav * (0.1 + np.abs(np.sin(2 * np.pi * 1.7 * t))) + 0.003 * rng.normal(size=len(t))
    return 0.5 * wav / np.abs(wav).max()


def ratio_db(wanted, heard):
    return 10 * np.log10(np.square(wanted).sum() / np.square(heard - wanted).sum())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_what_is_heard_is_not_delayed(name, rate, size):
    codec = CODECS[name]
    if not codec.takes(rate):
        assert (name, rate) == ("opus", 44100)
        return
    wav = voiced(1.0, rate)
    heard, band = codec.transmit(wav, rate, size), codec.band(wav, rate)
    assert heard.shape == band.shape == wav.shape
    assert heard.dtype == band.dtype == np.float32
    margin = rate // 20
    lags = np.correlate(heard.astype(float), band[margin:-margin].astype(float), "valid")
    assert abs(int(lags.argmax()) - margin) <= max(1, 2 * rate / 48000)
    assert 4.0 < ratio_db(band, heard) < 60.0
    assert not np.array_equal(heard, band)


@pytest.mark.parametrize("name", ["opus", "vorbis", "mp3"])
def test_a_smaller_size_is_worse(name):
    wav = voiced(1.0, 16000)
    errors = [ratio_db(wav, CODECS[name].transmit(wav, 16000, size)) for size in (0.0, 1.0)]
    assert errors[0] > errors[1] + 1.0


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("count", [1, 7, 160, 321])
def test_short_and_silent_signals(name, count):
    for wav in (np.zeros(count, dtype=np.float32), voiced(1.0, 16000)[:count]):
        heard = CODECS[name].transmit(wav, 16000, 0.5)
        assert heard.shape == (count,)
        assert np.isfinite(heard).all()
        assert np.abs(heard).max() < 1.0
        assert wav.any() or np.abs(heard).max() < 1e-3


def test_all_codecs_are_drawn():
    rng = np.random.default_rng(0)
    drawn = [draw(44100, rng) for _ in range(300)]
    assert {id(codec) for codec, _ in drawn} == {id(c) for name, c in CODECS.items() if name != "opus"}
    assert 0.0 <= min(size for _, size in drawn) < 0.05 < 0.95 < max(size for _, size in drawn) <= 1.0


def test_codecs_that_libsndfile_lacks_are_not_drawn(monkeypatch):
    monkeypatch.setattr("soundfile.check_format", lambda container, coding: container == "WAV")
    rng = np.random.default_rng(0)
    assert {draw(16000, rng)[0].container for _ in range(50)} == {"WAV"}


def test_of_the_reference_of_a_telephone_the_frequencies_remain_that_it_carries(tmp_path, monkeypatch):
    pairs = PairSet(dumped(tmp_path))
    config = {"batch_size": 8, "segment_s": 0.25, "coloured": 1.0, "snr_db": (0.0, 0.0), "room_tone": 1.0}
    plain = Mixtures(pairs, DataConfig(**config), 0).batch(2)
    monkeypatch.setattr("sase.audio.codecs.draw", lambda rate, rng: (CODECS["gsm"], 0.5))
    batch, again = (Mixtures(pairs, DataConfig(**config, coded=1.0), 0).batch(2) for _ in range(2))
    assert torch.equal(batch.noisy, again.noisy)

    def share_above_4_khz(wav):
        power = torch.fft.rfft(wav * torch.hann_window(4000)).abs().square().sum(0)
        return float(power[1060:].sum() / power.sum())

    for coded, uncoded in ((batch.noisy, plain.noisy), (batch.clean, plain.clean)):
        assert share_above_4_khz(coded) < 1e-5 < 1e-3 * share_above_4_khz(uncoded) + 1e-5
    low = [torch.fft.rfft(wav)[:, :900] for wav in (batch.clean, plain.clean)]
    assert (low[0] - low[1]).abs().square().sum() < 1e-3 * low[1].abs().square().sum()


def test_padding_stays_silent(tmp_path):
    pairs = PairSet(dumped(tmp_path))
    batch = Mixtures(pairs, DataConfig(batch_size=8, segment_s=1.0, coded=1.0), 0).batch(0)
    assert (batch.lengths < 16000).any()
    for noisy, clean, length in zip(batch.noisy, batch.clean, batch.lengths):
        assert noisy[:length].any()
        assert not noisy[length:].any()
        assert not clean[length:].any()


def test_the_configured_share_is_coded(tmp_path):
    pairs = PairSet(dumped(tmp_path))
    config = {"batch_size": 400, "segment_s": 0.02}
    plain, coded = (Mixtures(pairs, DataConfig(**config, coded=share), 0).batch(0).noisy for share in (0.0, 0.25))
    changed = (plain != coded).any(1).float().mean()
    assert 0.17 < changed < 0.33

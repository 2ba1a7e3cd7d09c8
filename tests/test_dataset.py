"""Batches drawn from a dumped set."""

import os
import threading
from types import SimpleNamespace

import pytest
import torch

from helpers.dumps import dumped
from sase.data.dataset import PairSet
from sase.data.feed import draw_batches
from sase.data.filters import equaliser_gain, room_response, set_level, tilt
from sase.data.remix import DataConfig, Mixtures
from sase.errors import InputError

RATE = 16000


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return PairSet(dumped(tmp_path_factory.mktemp("set")))


def ratio_db(a, b):
    return 10 * torch.log10(a.square().sum(-1) / b.square().sum(-1))


def test_segments_are_the_samples_of_their_utterances(pairs):
    noisy, clean, lengths = pairs.segments(torch.tensor([1, 2]), torch.tensor([100, 3500]), 1000)
    assert lengths.tolist() == [1000, 500]
    expected = 0.2 * torch.sin(2 * torch.pi * 500 * torch.arange(100, 1100) / RATE)
    torch.testing.assert_close(clean[0], expected, atol=1e-4, rtol=0)
    assert not clean[1, 500:].any()
    assert not noisy[1, 500:].any()
    assert noisy[1, :500].any()
    _, wrapped, lengths = pairs.segments(torch.tensor([2]), torch.tensor([3500]), 1000, wrap=True)
    assert lengths.tolist() == [1000]
    torch.testing.assert_close(wrapped[0, 500:], pairs.segments(torch.tensor([2]), torch.tensor([0]), 500)[1][0])


@pytest.mark.parametrize("wrap", [False, True])
def test_a_set_left_on_the_disk_gives_what_a_held_one_gives(pairs, tmp_path, wrap):
    places = pairs.draw(40, 6000, torch.Generator().manual_seed(1))
    folder = dumped(tmp_path)
    on_disk = PairSet(folder, max_bytes=4 * 33000 - 1)
    held = PairSet(folder, max_bytes=4 * 33000)
    for got, wanted in zip(on_disk.segments(*places, 6000, wrap), held.segments(*places, 6000, wrap)):
        assert torch.equal(got, wanted)
    config = DataConfig(batch_size=4, segment_s=0.3, babble=0.5, second_noise=0.5)
    batches = [Mixtures(each, config, 3).batch(5) for each in (on_disk, held)]
    assert torch.equal(batches[0].noisy, batches[1].noisy)
    assert batches[0].utts == batches[1].utts
    os.truncate(folder / "wav.1.ark", 9000 + 200)
    held.segments(*places, 6000, wrap)
    with pytest.raises(InputError, match="wav.1.ark: truncated"):
        on_disk.segments(*places, 6000, wrap)


def test_every_sample_is_drawn_equally_often(pairs):
    utt, first = pairs.draw(6000, 1000, torch.Generator().manual_seed(0))
    share = torch.bincount(utt, minlength=3) / 6000
    torch.testing.assert_close(share, torch.tensor([9.0, 20.0, 4.0]) / 33, atol=0.03, rtol=0)
    room = pairs.lengths[utt] - 1000
    assert (first >= 0).all()
    assert (first <= room).all()
    assert first.max() > 18000


def test_a_batch_is_the_same_whenever_it_is_drawn(pairs):
    config = DataConfig(batch_size=3, segment_s=0.2, babble=0.3, coloured=0.3, second_noise=0.3, tilt_db=2.0)
    first, again = Mixtures(pairs, config, 5), Mixtures(pairs, config, 5)
    first.batch(0)
    for a, b in ((first.batch(7), again.batch(7)),):
        assert torch.equal(a.noisy, b.noisy)
        assert torch.equal(a.clean, b.clean)
        assert a.utts == b.utts
    assert not torch.equal(first.batch(8).noisy, first.batch(7).noisy)
    assert not torch.equal(Mixtures(pairs, config, 6).batch(7).noisy, first.batch(7).noisy)


@pytest.mark.parametrize(
    "more", [{}, {"babble": 1.0}, {"coloured": 1.0}, {"computed": 1.0}, {"second_noise": 1.0}, {"tilt_db": 3.0}]
)
def test_mixtures_have_the_snr_and_the_level_asked_for(pairs, more):
    config = DataConfig(batch_size=16, segment_s=0.25, snr_db=(3.0, 6.0), level_db=(-30.0, -25.0), **more)
    batch = Mixtures(pairs, config, 0).batch(3)
    snr = ratio_db(batch.clean, batch.noisy - batch.clean)
    assert snr.min() > 2.99
    assert snr.max() < 6.01
    level = 10 * torch.log10(batch.clean.square().sum(1) / batch.lengths)
    assert level.min() > -30.01
    assert level.max() < -24.99
    assert batch.noisy.abs().max() <= 1.0
    assert len(batch.utts) == 16


FILTERS = {"equaliser_db": 6.0, "reverberant": 1.0, "band_limited": 1.0}


@pytest.mark.parametrize("name", FILTERS)
def test_filtered_mixtures_have_the_snr_asked_for_and_can_be_drawn_again(pairs, name):
    config = DataConfig(batch_size=8, segment_s=0.25, snr_db=(3.0, 6.0), **{name: FILTERS[name]})
    plain = DataConfig(batch_size=8, segment_s=0.25, snr_db=(3.0, 6.0))
    batch, again = (Mixtures(pairs, config, 0).batch(3) for _ in range(2))
    assert torch.equal(batch.noisy, again.noisy)
    assert not torch.allclose(batch.noisy, Mixtures(pairs, plain, 0).batch(3).noisy, atol=1e-3)
    snr = ratio_db(batch.clean, batch.noisy - batch.clean)
    assert snr.min() > 2.99
    assert snr.max() < 6.01


def test_a_band_limit_ends_speech_and_noise_at_one_frequency(pairs):
    config = DataConfig(batch_size=16, segment_s=0.25, snr_db=(0.0, 0.0), coloured=1.0, band_limited=1.0)
    batch = Mixtures(pairs, config, 0).batch(0)
    power = torch.fft.rfft(batch.noisy * (batch.lengths == 4000)[:, None]).abs().square()
    whole = power[batch.lengths == 4000]
    share = whole.flip(1).cumsum(1).flip(1) / whole.sum(1, keepdim=True)  # of the power from each bin on
    last = (share > 1e-9).sum(1) * 4.0  # Hz
    assert (last > 1990).all()
    assert last.min() < 5000
    assert last.max() - last.min() > 1000


def test_the_equaliser_goes_through_its_gains():
    frequency = torch.tensor([62.5, 125.0, 1000.0, 1414.2, 8000.0])
    gain_db = torch.arange(8.0)[None] * 3.0
    expected = torch.tensor([[0.0, 3.0, 12.0, 13.5, 21.0]])
    torch.testing.assert_close(20 * torch.log10(equaliser_gain(gain_db, frequency)), expected, atol=0.01, rtol=0)


def test_a_room_falls_by_60_db_in_its_decay_time():
    noise = torch.randn(4, 2 * RATE, generator=torch.Generator().manual_seed(0))
    room = room_response(noise, torch.full((4, 1), 0.4), torch.zeros(4, 1), RATE)
    power = room[:, 1:].square().unfold(1, 800, 800).mean(2).mean(0)  # 50 ms
    fall_db = 10 * torch.log10(power[0] / power[8])  # 0.4 s later
    assert abs(fall_db - 60) < 2
    torch.testing.assert_close(room[:, 0].square(), room[:, 1:].square().sum(1))


def test_reverberant_speech_keeps_its_early_reflections_in_the_reference(pairs):
    dry, wet = (
        Mixtures(pairs, DataConfig(batch_size=16, segment_s=0.25, clean=1.0, level_db=(-25.0, -25.0), **more), 0).batch(
            0
        )
        for more in ({}, {"speech_room": 1.0})
    )
    assert torch.equal(dry.noisy, dry.clean)
    late = wet.noisy - wet.clean
    assert late[:, : int(0.05 * RATE) - 1].abs().max() < 1e-5  # nothing arrives late before 50 ms
    assert (late.square().sum(1) > 1e-4 * wet.clean.square().sum(1)).float().mean() > 0.7
    level = 10 * torch.log10(wet.clean.square().sum(1) / wet.lengths)
    torch.testing.assert_close(level, torch.full((16,), -25.0), atol=0.01, rtol=0)


def test_clipping_hits_the_loudest_samples_of_the_noisy_signal_alone(pairs):
    plain, clipped = (
        Mixtures(pairs, DataConfig(batch_size=16, segment_s=0.25, **more), 0).batch(0)
        for more in ({}, {"clipped": 1.0})
    )
    assert torch.equal(plain.clean, clipped.clean)
    peak = clipped.noisy.abs().amax(1, keepdim=True)
    hit = plain.noisy.abs() >= peak
    share = hit.sum(1) / plain.lengths
    assert share.min() > 0.0005
    assert share.max() < 0.055
    torch.testing.assert_close(clipped.noisy, torch.maximum(torch.minimum(plain.noisy, peak), -peak))


def test_batches_are_fed_in_order(pairs):
    mixtures = Mixtures(pairs, DataConfig(batch_size=2, segment_s=0.1), 0)
    for number, batch in zip(range(3, 6), draw_batches(mixtures, range(3, 6)), strict=True):
        assert torch.equal(batch.noisy, mixtures.batch(number).noisy)
    assert list(draw_batches(mixtures, range(2, 2))) == []


def test_batches_for_a_gpu_are_fed_in_order_and_errors_arrive(pairs):
    mixtures = Mixtures(pairs, DataConfig(batch_size=2, segment_s=0.1), 0)
    drawn = []

    class OnGpu:  # a set on another device, whose batches are drawn by a thread
        pairs = SimpleNamespace(device=torch.device("cuda"))

        @staticmethod
        def batch(number):
            if number == 9:
                raise InputError("the dump was truncated")
            drawn.append((number, threading.current_thread().name))
            return mixtures.batch(number)

    for number, batch in zip(range(3, 6), draw_batches(OnGpu(), range(3, 6)), strict=True):
        assert torch.equal(batch.noisy, mixtures.batch(number).noisy)
    assert [number for number, _ in drawn] == [3, 4, 5]
    assert all(name.startswith("batches") for _, name in drawn)
    with pytest.raises(InputError, match="truncated"):
        list(draw_batches(OnGpu(), range(8, 11)))


def test_a_room_tone_is_part_of_the_clean_signal(pairs):
    with_tone, without = (
        Mixtures(pairs, DataConfig(batch_size=16, segment_s=0.25, level_db=(-20.0, -20.0), **more), 0).batch(0)
        for more in ({"room_tone": 1.0, "clean": 1.0}, {"clean": 1.0})
    )
    assert torch.equal(with_tone.noisy, with_tone.clean)
    ratio = ratio_db(without.clean, with_tone.clean - without.clean)
    assert 24.9 < ratio.min() < 32
    assert 48 < ratio.max() < 55.1


def test_computed_noise_is_another_one_in_every_segment(pairs):
    config = DataConfig(batch_size=40, segment_s=0.25, computed=1.0)
    batch, again = (Mixtures(pairs, config, 0).batch(0) for _ in range(2))
    assert torch.equal(batch.noisy, again.noisy)
    noise = torch.nn.functional.normalize(batch.noisy - batch.clean)
    assert (noise @ noise.T - torch.eye(40)).abs().max() < 0.99


def test_shares_without_noise_and_without_speech(pairs):
    shares = {"clean": 0.3, "speechless": 0.3}
    batch = Mixtures(pairs, DataConfig(batch_size=400, segment_s=0.05, **shares), 0).batch(0)
    silent, quiet = ~batch.clean.any(1), ~(batch.noisy - batch.clean).any(1)
    assert 0.22 < silent.float().mean() < 0.38
    assert 0.22 < quiet.float().mean() < 0.38
    assert torch.isfinite(batch.noisy).all()


def test_mixtures_do_not_clip(pairs):
    config = DataConfig(batch_size=8, segment_s=0.25, snr_db=(-5.0, -5.0), level_db=(-3.0, -3.0))
    batch = Mixtures(pairs, config, 0).batch(0)
    assert 0.99 < batch.noisy.abs().max() <= 1.0
    ratio = ratio_db(batch.clean, batch.noisy - batch.clean)
    torch.testing.assert_close(ratio, torch.full((8,), -5.0), atol=0.01, rtol=0)


def test_without_remixing_the_pairs_are_as_they_are(pairs):
    batch = Mixtures(pairs, DataConfig(batch_size=8, segment_s=0.25, remix=False), 0).batch(0)
    assert 7 < ratio_db(batch.clean, batch.noisy - batch.clean).min() < 10  # a tone of 0.2 over noise of 0.05: 9 dB


def test_silent_speech_and_absent_noise_stay_finite():
    silence, lengths = torch.zeros(2, 100), torch.tensor([100, 50])
    assert not set_level(silence, torch.tensor([[-20.0], [-20.0]]), lengths).any()


def test_tilt_has_the_slope_asked_for():
    time = torch.arange(16000) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (1000.0, 2000.0, 500.0, 4000.0)])
    out = tilt(tones, torch.full((4, 1), -3.0), RATE)
    torch.testing.assert_close(ratio_db(out, tones), torch.tensor([0.0, -3.0, 3.0, -6.0]), atol=0.01, rtol=0)


def test_an_empty_or_missing_set_is_refused(tmp_path):
    with pytest.raises(InputError):
        PairSet(tmp_path / "nothing")

"""Sound files: round trips, errors of bad files, and block-wise reading."""

import resource

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.audio import bad_files, noise
from sase import audio, containers
from sase.errors import InputError


@pytest.mark.parametrize("suffix", audio.SUFFIXES)
@pytest.mark.parametrize(("rate", "num_samples", "channels"), [(8000, 1, 1), (44100, 30001, 2), (48000, 159, 1)])
def test_round_trip(tmp_path, suffix, rate, num_samples, channels):
    path, wav = tmp_path / f"new/a{suffix}", noise(channels, num_samples)
    audio.write(path, wav, rate)
    assert audio.info(path) == audio.AudioInfo(rate, num_samples, channels)
    assert audio.info(path).duration_s == num_samples / rate
    read, read_rate = audio.read(path)
    assert read_rate == rate
    assert read.dtype == np.float32
    assert read.shape == wav.shape
    if suffix in (".wav", ".flac"):
        np.testing.assert_allclose(read, wav, atol=1.01 / 32768)
        assert soundfile.info(path).subtype == "PCM_16"
    with audio.open_blocks(path, block_s=0.05) as (_info, blocks):
        parts = list(blocks)
    assert max(part.shape[1] for part in parts) <= round(0.05 * rate)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), read)


def test_samples_beyond_full_scale_are_clipped_and_1d_is_mono(tmp_path):
    audio.write(tmp_path / "a.wav", np.array([2.0, -2.0, 0.5, 0.0]), 16000)
    wav, _ = audio.read_mono(tmp_path / "a.wav")
    np.testing.assert_allclose(wav, [1.0, -1.0, 0.5, 0.0], atol=1e-4)


@pytest.mark.recipe
def test_long_ogg(tmp_path):
    audio.write(tmp_path / "a.ogg", noise(2, 48000 * 70), 48000)  # written in one call, this crashes libsndfile 1.2
    assert audio.info(tmp_path / "a.ogg").num_samples == 48000 * 70


@pytest.mark.parametrize(
    ("name", "rate", "channels"), [("a.mp3", 96000, 1), ("a.mp3", 16000, 3), ("a.flac", 16000, 9), ("a.txt", 16000, 1)]
)
def test_unsupported_formats_are_rejected(tmp_path, name, rate, channels):
    with pytest.raises(InputError, match=name) as error:
        audio.write(tmp_path / name, noise(channels, 100), rate)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_rejected(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(InputError, match=message) as error:
            audio.read(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=message), audio.open_blocks(tmp_path / name) as (_, blocks):
            list(blocks)


def test_unreadable_files_are_rejected(tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied")

    soundfile.write(tmp_path / "a.wav", noise(10), 16000)
    monkeypatch.setattr(containers, "measure", deny)  # root could read any file
    with pytest.raises(InputError, match="a.wav: cannot be read .Permission denied"):
        audio.read(tmp_path / "a.wav")


def test_a_wav_from_a_pipe_has_an_unknown_length(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1000), 16000)
    wav = bytearray((tmp_path / "a.wav").read_bytes())
    place = wav.index(b"data") + 4
    wav[place : place + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(wav)
    assert audio.read(tmp_path / "a.wav")[0].shape == (1, 1000)


def test_mp3_headers_may_overstate_the_length(real_audio):
    for path in sorted((real_audio / "cv-corpus-zh-CN/zh-CN/clips").glob("*.mp3"))[:5]:
        wav, rate = audio.read(path)
        assert rate == 48000
        assert 0 <= audio.info(path).num_samples - wav.shape[1] < 2304


def test_read_mono_requires_one_channel(tmp_path):
    audio.write(tmp_path / "a.wav", noise(2, 100), 16000)
    with pytest.raises(InputError, match="2 channels"):
        audio.read_mono(tmp_path / "a.wav")
    audio.write(tmp_path / "b.wav", noise(4800), 48000)
    wav, rate = audio.read_mono(tmp_path / "b.wav", 16000)
    assert rate == 16000
    assert wav.shape == (1600,)


@pytest.mark.parametrize("suffix", audio.SUFFIXES)
def test_a_full_disk_leaves_nothing(tmp_path, suffix):
    path, limit = tmp_path / f"a{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    audio.write(path, noise(100), 16000)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limit[1]))  # writes beyond fail, as on a full disk
    try:
        with pytest.raises(OSError, match="is the disk full"):
            audio.write(path, noise(200000), 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), audio.open_writer(tmp_path / "a.wav", 16000, 1) as put:
        put(noise(100))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([(48000, 16000), (16000, 48000), (44100, 16000), (16000, 44100), (8000, 16000), (19980, 16000)]),
    st.lists(st.integers(0, 5000), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_resampling_in_blocks_equals_resampling_the_whole(rates, sizes, channels):
    wav = noise(channels, sum(sizes))
    resampler = audio.Resampler(*rates, channels)
    parts = [resampler.feed(part) for part in np.split(wav, np.cumsum(sizes)[:-1], axis=1)]
    joined = np.concatenate([*parts, resampler.flush()], axis=1)
    np.testing.assert_allclose(joined, audio.resample(wav, *rates), atol=1e-6)


def test_resampling_preserves_a_tone_and_its_phase():
    time_s = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 1000 * time_s).astype(np.float32)
    out = audio.resample(tone, 48000, 16000)
    np.testing.assert_allclose(out[500:-500], tone[::3][500:-500], atol=1e-4)
    assert audio.resample(tone, 48000, 48000) is tone
    resampler = audio.Resampler(16000, 16000, 1)
    assert resampler.feed(tone[None]).shape == (1, 48000)
    assert resampler.flush().shape == (1, 0)


def test_clipping_is_reported(tmp_path, caplog):
    audio.write(tmp_path / "quiet.wav", np.array([0.5, -1.0, 1.0], dtype=np.float32), 16000)
    assert not caplog.records
    audio.write(tmp_path / "loud.wav", np.array([0.5, -1.5, 2.0], dtype=np.float32), 16000)
    assert "loud.wav: 2 samples exceeded full scale" in caplog.text
    assert np.abs(audio.read(tmp_path / "loud.wav")[0]).max() <= 1.0

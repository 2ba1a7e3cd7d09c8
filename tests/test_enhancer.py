"""Enhancing arrays and files: same shape, rate and place in time, whatever comes in."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from sase import Enhancer, audio
from sase.errors import InputError
from sase.model import build_model, save_model
from sase.outputs import plan_outputs

RATES = (8000, 16000, 44100, 48000)


def made(**config):
    torch.manual_seed(0)
    model = build_model({"preset": "mini", **config})
    with torch.no_grad():
        model.train()(0.1 * torch.randn(2, 8000))  # the norms have seen something
    return Enhancer(model)


def passing(**config):
    """An Enhancer whose network leaves every spectrum as it is."""
    enhancer = made(**config)
    enhancer.model.enhance_spec = lambda spec, state=None, valid=None: spec
    return enhancer


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def enhancer():
    return made()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("num_samples", [1, 159, 160, 16000, 16001, 165001])
def test_shape_and_type_stay_and_each_channel_is_alone(enhancer, num_samples, rate):
    stereo = noise(2, num_samples)
    out = enhancer.enhance(stereo, rate)
    assert out.shape == stereo.shape
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    mono = enhancer.enhance(stereo[1], rate)
    assert mono.shape == (num_samples,)
    np.testing.assert_array_equal(mono, out[1])
    if num_samples == 16001:
        assert mono.any()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_kinds_of_arrays(enhancer, rate):
    wav = noise(2, 4000)
    expected = enhancer.enhance(wav, rate)
    before = wav.copy()
    for dtype in (np.float16, np.float64):
        out = enhancer.enhance(wav.astype(dtype), rate)
        assert out.dtype == dtype
        np.testing.assert_allclose(out, expected, atol=2e-3 if dtype == np.float16 else 0)
    np.testing.assert_array_equal(enhancer.enhance(np.asfortranarray(wav), rate), expected)
    np.testing.assert_array_equal(enhancer.enhance(np.repeat(wav, 2, axis=1)[:, ::2], rate), expected)
    leaf = torch.from_numpy(wav).double().requires_grad_()
    out = enhancer.enhance(leaf, rate)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == torch.float64
    assert not out.requires_grad
    np.testing.assert_array_equal(out.float().numpy(), expected)
    (out * leaf).sum().backward()  # what comes out may be used in training
    np.testing.assert_array_equal(wav, before)


@pytest.mark.parametrize("rate", [0, -1, 1, 999, 768001, float("nan"), float("inf")])
def test_impossible_rates_are_refused(enhancer, rate):
    with pytest.raises(InputError, match="sample_rate"):
        enhancer.enhance(noise(100), rate)


@pytest.mark.parametrize(
    ("wav", "words"),
    [
        (np.zeros(0, np.float32), r"\(0,\)"),
        (np.zeros((2, 0), np.float32), r"\(2, 0\)"),
        (np.zeros((1, 2, 100)), r"\(1, 2, 100\)"),
        (np.zeros((16000, 2)), r"\(16000, 2\): is it \(time, channels\)"),
        (np.zeros(100, np.int16), "int16; divide"),
        (torch.zeros(100, dtype=torch.int32), "int32; divide"),
        ([0.0, 0.1], "list"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (torch.tensor([0.0, -torch.inf]), "infinity"),
    ],
)
def test_what_is_no_signal_is_refused(enhancer, wav, words):
    with pytest.raises(ValueError, match=words):
        enhancer.enhance(wav, 16000)


@pytest.mark.parametrize("rate", RATES)
def test_silence_stays_silence(enhancer, rate):
    assert not enhancer.enhance(np.zeros((2, 3 * rate + 1), np.float32), rate).any()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rate", RATES)
def test_nothing_moves_in_time(tmp_path, rate, causal):
    # Tones below 4 kHz pass both resamplers; what an unchanging network gives back is the input, to the last sample.
    time_s = np.arange(9 * rate + 137) / rate
    wav = np.stack([0.2 * np.sin(2 * np.pi * f * time_s) for f in (440.0, 2900.0)]).astype(np.float32)
    wav *= np.minimum(1.0, 20 * np.minimum(time_s, time_s[-1] - time_s)).astype(np.float32)
    enhancer = passing(causal=causal)
    np.testing.assert_allclose(enhancer.enhance(wav, rate), wav, atol=1e-3)
    soundfile.write(tmp_path / "in.wav", wav.T, rate, subtype="FLOAT")
    assert enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "out.wav") == pytest.approx(wav.shape[1] / rate)
    out, out_rate = audio.read(tmp_path / "out.wav")
    assert out_rate == rate
    np.testing.assert_allclose(out, wav, atol=1e-3)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("rate", "seconds", "channels"), [(16000, 9.1, 1), (44100, 5.01, 2), (8000, 0.001, 3)])
def test_a_file_gets_what_its_samples_get(tmp_path, rate, seconds, channels, causal):
    enhancer = made(causal=causal)
    wav = noise(channels, round(seconds * rate))
    soundfile.write(tmp_path / "in.flac", wav.T, rate)
    durations = []
    enhancer.enhance_file(tmp_path / "in.flac", tmp_path / "out.flac", durations.append)
    expected = enhancer.enhance(audio.read(tmp_path / "in.flac")[0], rate)
    out, out_rate = audio.read(tmp_path / "out.flac")
    assert out_rate == rate
    assert out.shape == wav.shape
    np.testing.assert_allclose(out, np.clip(expected, -1, 1), atol=2 / 32768)
    assert sum(durations) == pytest.approx(wav.shape[1] / rate)


@pytest.mark.parametrize("suffix", audio.SUFFIXES)
def test_every_format_in_and_out(tmp_path, enhancer, suffix):
    source, target = tmp_path / f"a{suffix}", tmp_path / f"new/b{suffix.upper()}"
    audio.write(source, noise(2, 50001), 44100)
    enhancer.enhance_file(source, target)
    assert audio.info(target) == audio.AudioInfo(44100, 50001, 2)
    assert soundfile.info(target).format == soundfile.info(source).format
    assert {path.name for path in tmp_path.rglob("*")} == {f"a{suffix}", "new", f"b{suffix.upper()}"}


def test_mp3_whose_header_tells_too_much(tmp_path, real_audio, enhancer):
    source = sorted((real_audio / "cv-corpus-zh-CN/zh-CN/clips").glob("*.mp3"))[0]
    wav, rate = audio.read(source)
    enhancer.enhance_file(source, tmp_path / "out.wav")
    assert audio.info(tmp_path / "out.wav") == audio.AudioInfo(rate, wav.shape[1], wav.shape[0])


def test_the_input_is_not_overwritten(tmp_path, enhancer):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    before = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "link.wav").symlink_to("a.wav")
    for target in (tmp_path / "a.wav", tmp_path / "link.wav", tmp_path / "x/../a.wav"):
        with pytest.raises(InputError, match="never overwritten"):
            enhancer.enhance_file(tmp_path / "a.wav", target)
    assert (tmp_path / "a.wav").read_bytes() == before


GROWTH = """
import resource, sys
import numpy as np, torch
from sase import Enhancer, audio
from sase.model import build_model

torch.set_num_threads(1)
enhancer, folder = Enhancer(build_model("mini")), sys.argv[1]

def peak_mb(seconds):
    block = 0.1 * np.random.default_rng(0).standard_normal((2, 48000))
    with audio.open_writer(f"{folder}/in.wav", 48000, 2) as put:
        for _ in range(seconds):
            put(block)
    enhancer.enhance_file(f"{folder}/in.wav", f"{folder}/out.wav")
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    with open("/proc/self/status") as status:  # Linux' ru_maxrss begins with what the starting process had
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / (1 << 10)

short = peak_mb(20)
print(short, peak_mb(300) - short)
assert audio.info(f"{folder}/out.wav") == audio.AudioInfo(48000, 300 * 48000, 2)
"""


@pytest.mark.recipe
def test_memory_does_not_grow_with_the_file(tmp_path, root):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path], cwd=root, capture_output=True, text=True, check=True
    )
    peak_mb, growth_mb = map(float, done.stdout.split())
    assert growth_mb < 40
    assert peak_mb < 700


def files_below(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def planned(folder, inputs, out):
    """The plan as names below ``folder``."""
    pairs = plan_outputs([str(folder / item) for item in inputs], folder / out).pairs
    return {source.relative_to(folder).as_posix(): target.relative_to(folder).as_posix() for source, target in pairs}


def test_plan_of_files_folders_and_patterns(tmp_path):
    files_below(tmp_path, "n/a.wav", "n/b/c.FLAC", "n/b/d[1].ogg", "n/b/x.txt", "n/b/.e.wav", "m.mp3")
    files = {"n/a.wav": "o/a.wav", "n/b/c.FLAC": "o/b/c.FLAC", "n/b/d[1].ogg": "o/b/d[1].ogg"}
    assert planned(tmp_path, ["n"], "o") == files
    assert planned(tmp_path, ["n", "m.mp3"], "o") == {**files, "m.mp3": "o/m.mp3"}
    assert planned(tmp_path, ["n/**/*.*"], "o") == files
    assert planned(tmp_path, ["n/*/*.FLAC"], "o") == {"n/b/c.FLAC": "o/b/c.FLAC"}
    assert planned(tmp_path, ["n/b/d[1].ogg"], "o") == {"n/b/d[1].ogg": "o/d[1].ogg"}
    assert planned(tmp_path, ["m.mp3"], "o/p.wav") == {"m.mp3": "o/p.wav"}
    assert planned(tmp_path, ["gone.wav"], "o") == {"gone.wav": "o/gone.wav"}  # reported when it is read
    (tmp_path / "o.wav").mkdir()
    assert planned(tmp_path, ["m.mp3"], "o.wav") == {"m.mp3": "o.wav/m.mp3"}


def test_results_below_the_input_folder_are_no_input(tmp_path):
    files_below(tmp_path, "n/a.wav", "n/enhanced/a.wav", "n/enhanced/b/c.wav")
    assert planned(tmp_path, ["n"], "n/enhanced") == {"n/a.wav": "n/enhanced/a.wav"}
    assert planned(tmp_path, ["n/**/*.wav"], "n/enhanced") == {"n/a.wav": "n/enhanced/a.wav"}


@pytest.mark.parametrize(
    ("inputs", "out", "words"),
    [
        (["n"], "n", "never overwritten"),
        (["n/a.wav"], "n", "never overwritten"),
        (["n/a.wav"], "n/a.wav", "never overwritten"),
        (["n/a.wav", "m/a.wav"], "o", "would both become"),
        (["n/a.wav", "n/a.wav"], "o", "would both become"),
        (["n", "m"], "o", "would both become"),
        (["n"], "o.wav", "one input file"),
        (["n/*.wav"], "o.wav", "one input file"),
        (["n/a.wav", "m/b.wav"], "o.wav", "one input file"),
        (["empty"], "o", "no sound files"),
        (["n/*.flac"], "o", "no sound files"),
    ],
)
def test_plans_that_are_refused(tmp_path, inputs, out, words):
    files_below(tmp_path, "n/a.wav", "m/a.wav", "m/b.wav", "empty/x.txt")
    with pytest.raises(InputError, match=words) as error:
        planned(tmp_path, inputs, out)
    assert "\n" not in str(error.value)


def test_a_file_of_unknown_length_is_enhanced_to_its_end_and_a_torn_one_not_at_all(tmp_path, enhancer):
    audio.write(tmp_path / "a.wav", noise(40000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = struct.pack("<I", 0x7FFFF000)  # as sox writes to a pipe
    (tmp_path / "piped.wav").write_bytes(content)
    for name in ("a", "piped"):
        enhancer.enhance_file(tmp_path / f"{name}.wav", tmp_path / f"{name}.flac")
    np.testing.assert_array_equal(audio.read(tmp_path / "piped.flac")[0], audio.read(tmp_path / "a.flac")[0])
    for kind in ("OGG", "RF64", "AIFF", "AU", "MP3", "CAF"):
        soundfile.write(tmp_path / "cut", noise(40000), 16000, format=kind)
        whole = (tmp_path / "cut").read_bytes()
        (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="cut: truncated"):
            enhancer.enhance_file(tmp_path / "cut", tmp_path / "out.wav")
        assert not (tmp_path / "out.wav").exists()


def test_from_pretrained(tmp_path, enhancer):
    save_model(enhancer.model, tmp_path / "exp/best.pt")
    for name in (tmp_path / "exp/best.pt", str(tmp_path / "exp")):
        loaded = Enhancer.from_pretrained(name)
        assert loaded.sample_rate == 16000
        assert not loaded.model.training
        np.testing.assert_array_equal(loaded.enhance(noise(5000), 16000), enhancer.enhance(noise(5000), 16000))
    with torch.inference_mode():
        loaded = Enhancer.from_pretrained(name)
        np.testing.assert_array_equal(loaded.enhance(noise(5000), 16000), enhancer.enhance(noise(5000), 16000))
    with pytest.raises(InputError, match="huge: model not found; give one of"):
        Enhancer.from_pretrained("huge")
    with pytest.raises(InputError, match="device abacus"):
        Enhancer.from_pretrained(tmp_path / "exp", "abacus")


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 3), (48000, 1)])
def test_a_stream_gives_what_a_file_gets(tmp_path, enhancer, rate, channels):
    wav = noise(channels, round(2.3 * rate), seed=7)
    soundfile.write(tmp_path / "in.wav", wav.T, rate, subtype="PCM_16")
    wav = audio.read(tmp_path / "in.wav")[0]
    enhancer.enhance_file(tmp_path / "in.wav", tmp_path / "out.wav")
    stream, parts, start = enhancer.stream(rate, channels), [], 0
    for size in (1, 0, 100, 7777, 160, 160, 50000, wav.shape[1]):
        block = wav[:, start : start + size]
        start += size
        parts.append(stream.feed(block[0] if channels == 1 else block))
        assert parts[-1].ndim == (1 if channels == 1 else 2)
    parts.append(stream.flush())
    out = np.atleast_2d(np.concatenate(parts, axis=-1))
    assert out.shape == wav.shape
    np.testing.assert_allclose(out, audio.read(tmp_path / "out.wav")[0], atol=1.01 / 32768)
    np.testing.assert_allclose(out, enhancer.enhance(wav, rate), atol=1e-5)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_stream_keeps_nothing_of_a_buffer_that_its_caller_uses_again(enhancer, rate):
    limited = Enhancer(enhancer.engine, limit_db=6.0)
    wav, stream, parts = noise(rate, seed=8), limited.stream(rate), []
    for block in np.split(wav, range(500, rate, 500)):
        buffer = block.copy()
        parts.append(stream.feed(buffer))
        buffer[:] = 0.5
    out = np.concatenate([*parts, stream.flush()])
    np.testing.assert_allclose(out, limited.enhance(wav, rate), atol=1e-5)


def test_a_stream_refuses_what_is_no_signal_and_stays_as_it_was(enhancer):
    wav, stream = noise(2, 9000), enhancer.stream(48000, 2)
    parts = [stream.feed(wav[:, :5000])]
    nan = wav[:, :3].copy()
    nan[1, 1] = np.nan
    huge = wav[:, :3].copy()
    huge[1, 1] = 2e12
    for bad in (nan, huge, wav[0], wav[:1], wav.T, np.zeros((2, 5), np.int16), [0.0], np.zeros((1, 2, 5))):
        with pytest.raises(ValueError):
            stream.feed(bad)
    parts += [stream.feed(wav[:, 5000:]), stream.flush()]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), enhancer.enhance(wav, 48000), atol=1e-5)
    for call in (lambda: stream.feed(wav), stream.flush):
        with pytest.raises(ValueError, match="flushed"):
            call()
    with pytest.raises(InputError, match="offline"):
        made(causal=False).stream(16000)
    with pytest.raises(InputError, match="sample_rate"):
        enhancer.stream(10)
    with pytest.raises(InputError, match="num_channels"):
        enhancer.stream(16000, 0)

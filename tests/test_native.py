"""The C core against the network in torch, hop by hop and as a whole, and what it refuses."""

import json
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.audio import noise
from helpers.native import SHIPPED, assert_same, in_torch, signals
from helpers.parameters import quick
from sase import audio, pretrained
from sase.errors import InputError
from sase.export.core_weights import core_weights as weights_by_name
from sase.export.native import export_native, native_weights
from sase.model import PRESETS, build_model
from sase.native import NativeModel, library
from sase.pretrained import load

UNUSUAL = replace(  # sizes and switches that no shipped network has
    PRESETS["mini"],
    window=128,
    hop=32,
    fft=128,
    channels=(8, 8, 8),
    bands=10,
    recurrent=24,
    gates=True,
    compression=0.5,
)
CONFIGS = {
    "mini": PRESETS["mini"],
    "unusual": UNUSUAL,
    "one unit": replace(PRESETS["tiny"], channels=(4,), blocks=3),
    "fft 2048": replace(PRESETS["mini"], window=1024, hop=512, fft=2048, compression=1.0),
}


@pytest.fixture
def tiny(core_build, core_weights):
    return NativeModel(core_weights["tiny"], core_build / "_core.so")


def randomised(config):
    """A network of this config in which nothing has its initial value, and everything matters."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_cov"):
                buffer[:2].uniform_(0.3, 1.0)
                buffer[2].uniform_(-0.2, 0.2)
    return model


@pytest.mark.parametrize("name", quick([*SHIPPED, *CONFIGS], len(SHIPPED)))
def test_whole_signals_equal_torch(core_build, name):
    model = load(name) if name in SHIPPED else randomised(CONFIGS[name])
    wav = signals()
    native, expected = NativeModel(native_weights(model), core_build / "_core.so").enhance(wav), in_torch(model, wav)
    assert_same(native, expected)
    assert np.abs(expected - wav).max() > 0.05  # the network does something
    assert np.abs(expected).max() > 0.05


@pytest.mark.parametrize("name", quick(SHIPPED))
def test_blocks_equal_the_stream_in_torch(core_build, core_weights, name):
    native, stream = NativeModel(core_weights[name], core_build / "_core.so").stream(), load(name).stream()
    wav, sizes = signals(8000), [1, 255, 256, 0, 257, 700, *[256] * 40, 5000]
    for size, start in zip(sizes, np.cumsum([0, *sizes])):
        block = wav[start : start + size]
        assert_same(native.feed(block), stream.feed(torch.from_numpy(block)[None])[0].numpy())
    assert_same(native.flush(), stream.flush()[0].numpy())


@pytest.mark.parametrize("num_samples", [1, 255, 256, 257, 511, 512, 513])
def test_short_signals(tiny, num_samples):
    wav = noise(num_samples)
    assert_same(tiny.enhance(wav), in_torch(load("tiny"), wav))


@pytest.mark.recipe
def test_five_minutes(tiny):
    wav = np.tile(signals(32000), 60)[: 300 * 16000]
    assert_same(tiny.enhance(wav), in_torch(load("tiny"), wav))


def test_real_speech(tiny, real_audio):
    for path in sorted((real_audio / "vbd_test_part/noisy_testset_wav").glob("*.flac"))[:3]:
        wav, rate = audio.read_mono(path)
        wav = audio.resample(wav[None], rate, 16000)[0]
        assert_same(tiny.enhance(wav), in_torch(load("tiny"), wav))


def test_silence_stays_silent(tiny):
    assert not tiny.enhance(np.zeros(20000, np.float32)).any()


def test_streams_are_independent_and_reset_starts_again(tiny):
    wavs = signals(8000), noise(20000, seed=5)
    alone = [tiny.enhance(wav) for wav in wavs]
    streams, outputs = [tiny.stream(), tiny.stream()], [[], []]
    for start in range(0, 20000, 300):
        for stream, output, wav in zip(streams, outputs, wavs):
            output.append(stream.feed(wav[start : start + 300]))
    for stream, output, expected in zip(streams, outputs, alone):
        assert np.array_equal(np.concatenate([*output, stream.flush()]), expected)
        stream.reset()
        again = [stream.feed(wavs[0]), stream.flush()]
        assert np.array_equal(np.concatenate(again), alone[0])


@pytest.mark.parametrize(
    "bad",
    [np.full(700, np.nan, "f4"), np.array([0.0, np.inf]), np.array([1e13]), np.zeros((1, 256)), np.zeros(256, "i2")],
)
def test_refused_samples_leave_the_stream_unchanged(tiny, bad):
    wav, stream = noise(5000), tiny.stream()
    parts = [stream.feed(wav[:1000])]
    with pytest.raises(ValueError, match="NaN, infinity or magnitudes|needs floats"):
        stream.feed(bad)
    parts += [stream.feed(wav[1000:]), stream.flush()]
    assert np.array_equal(np.concatenate(parts), tiny.enhance(wav))
    with pytest.raises(ValueError, match="flushed"):
        stream.feed(wav)


def checked(contents):
    """The contents of a weights file with the checksum that they should have."""
    return contents[:12] + struct.pack("<I", zlib.crc32(contents[16:])) + contents[16:]


def refuses(core_build, contents, message):
    with pytest.raises(InputError, match=message):
        NativeModel(contents, core_build / "_core.so")


@pytest.mark.parametrize("word", range(4, 16))
@pytest.mark.parametrize("value", [0, 3, 2**31 - 1, 2**31, 2**32 - 1, "+1", "+8", "-8"])
def test_headers_that_lie_are_refused(core_build, core_weights, word, value):
    """Every size is changed while the checksum is right, so that the sizes themselves must be checked."""
    contents = bytearray(core_weights["tiny"].read_bytes())
    old = struct.unpack_from("<I", contents, 4 * word)[0]
    new = (old + int(value)) % 2**32 if isinstance(value, str) else value
    struct.pack_into("<I", contents, 4 * word, new)
    if new == old:
        return
    if word == 5 and 1 <= new <= 1_000_000:  # another sample rate is no lie that can be found
        assert NativeModel(checked(bytes(contents)), core_build / "_core.so").sample_rate == new
        return
    refuses(core_build, checked(bytes(contents)), "does not support|truncated or longer")


def test_corrupt_weights_are_refused(core_build, core_weights, tmp_path):
    contents = core_weights["tiny"].read_bytes()
    for length in (0, 7, 63, 64, 1000, len(contents) - 1):
        refuses(core_build, contents[:length], "not a file of weights|truncated")
    refuses(core_build, contents + b"\0\0\0\0", "truncated or longer")
    refuses(core_build, b"RIFF" + contents[4:], "not a file of weights")
    refuses(core_build, contents[:8] + struct.pack(">I", 1) + contents[12:], "another version")
    for at in (12, 64, 5000, len(contents) - 1):
        refuses(core_build, contents[:at] + bytes([contents[at] ^ 16]) + contents[at + 1 :], "corrupt")
    for value in (np.nan, np.inf, 1e10):
        refuses(core_build, checked(contents[:400] + struct.pack("<f", value) + contents[404:]), "NaN, infinite")
    with pytest.raises(InputError, match=r"gone.sase: cannot be read"):
        NativeModel(tmp_path / "gone.sase", core_build / "_core.so")
    (tmp_path / "text.sase").write_text("no weights\n" * 100)
    with pytest.raises(InputError, match=r"text.sase: not a file of weights"):
        NativeModel(tmp_path / "text.sase", core_build / "_core.so")


@pytest.mark.recipe
def test_the_command_exports(root, tmp_path):
    # The file, since weights that are shipped for the core are copied; processors differ in the last bits of folding.
    path = pretrained.available()["tiny"]
    command = [sys.executable, "-m", "sase.bin.main", "export", "--model", path, "--to", "native", "-o"]
    done = subprocess.run([*command, tmp_path / "tiny.sase"], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("tiny.sase: written\n")
    assert (tmp_path / "tiny.sase").read_bytes() == native_weights(load("tiny"))


@pytest.mark.parametrize(
    "preset, changes",
    [
        ("paper", {}),
        ("mini", {"heads": 2}),
        ("mini", {"norm": "layer"}),
        ("mini", {"mask": "polar"}),
        ("mini", {"causal": False}),
        ("mini", {"attention": "softmax"}),
        ("mini", {"time_attention": False}),
        ("mini", {"frequency_attention": False}),
        ("mini", {"recurrent": 12}),
        ("mini", {"channels": (6, 6)}),
        ("mini", {"channels": (4,) * 10}),
        ("mini", {"blocks": 9}),
        ("mini", {"fft": 1024}),
    ],
)
def test_networks_that_the_core_was_not_written_for_are_not_exported(tmp_path, preset, changes):
    model = build_model({"preset": preset, **changes}).eval()
    with pytest.raises(InputError, match=f"the C core needs model.{next(iter(changes), 'network')} "):
        export_native(model, tmp_path / "model.sase")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_exported():
    model = build_model("mini").eval()
    with torch.no_grad():
        model.network.to_features.bias[0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        native_weights(model)


def test_a_core_that_is_not_built_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library.load.cache_clear()
    with pytest.raises(InputError, match=r"not built; run make -C"):
        NativeModel(b"")
    (tmp_path / "core.so").write_bytes(b"no library")
    with pytest.raises(InputError, match=r"core.so: not a C core"):
        NativeModel(b"", tmp_path / "core.so")


def test_it_runs_without_torch(root, core_build, core_weights):
    script = (
        "import sys, numpy as np; from pathlib import Path; from sase.native import NativeModel\n"
        f"model = NativeModel({str(core_weights['tiny'])!r}, Path({str(core_build / '_core.so')!r}))\n"
        "assert len(model.enhance(np.zeros(1000, 'f4'))) == 1000\n"
        "import json; print(json.dumps(sorted({'torch', 'soundfile', 'scipy'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.recipe
def test_the_benchmark_compares_in_one_run(core_build, monkeypatch):
    from sase.bench import native

    monkeypatch.setattr(library, "find", lambda: core_build / "_core.so")
    library.load.cache_clear()
    monkeypatch.setattr(native, "_ROUNDS", 1)
    row = native.bench_native({"mini": build_model("mini").eval()})[0]
    assert row["real-time factor"] == pytest.approx(row["ms median"] / 16)
    assert 0 < row["ms median"] <= row["ms 99 %"]
    assert row["native / torch"] > 0
    with pytest.raises(InputError, match="as many graphs"):
        native.bench_native({"mini": build_model("mini").eval()}, ["a.onnx", "b.onnx"])


@pytest.mark.parametrize("format", ["native", "web"])
def test_shipped_weights_are_exported_without_torch(tmp_path, format):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "sase.bin.main", "export", "--model", "tiny", "--to", format, "-o"]
    done = subprocess.run([*command, tmp_path / "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").stat().st_size > 100_000


def test_files_of_weights_are_checked_before_they_are_exported(tmp_path, core_weights):
    contents = core_weights["tiny"].read_bytes()
    assert weights_by_name(core_weights["tiny"]) == contents
    for broken in (b"", b"text", contents[:-4], contents[:-1] + bytes([contents[-1] ^ 1])):
        (tmp_path / "broken.sase").write_bytes(broken)
        with pytest.raises(InputError, match="broken.sase: no weights for the C core"):
            weights_by_name(tmp_path / "broken.sase")

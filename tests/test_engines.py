"""Engines: the same network in C, in ONNX Runtime and in torch, chosen by what is there, with and without torch."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from helpers.audio import noise
from helpers.native import SHIPPED, signals
from helpers.parameters import quick
from sase import Enhancer, audio, engines, pretrained
from sase.engines.onnx import OnnxEngine
from sase.engines.torch import TorchEngine
from sase.errors import InputError
from sase.evaluation import release
from sase.model import build_model, save_model
from sase.native import library
from sase.profiling import count_parameters, profile

TOLERANCE = {"native": 1e-5, "onnx": 1e-4}


@pytest.fixture
def core(core_build, monkeypatch):
    """The C core in the place where the package finds it."""
    monkeypatch.setattr(library, "find", lambda: core_build / "_core.so")
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@pytest.fixture
def no_core(monkeypatch):
    monkeypatch.setattr(library, "find", lambda: None)
    library.load.cache_clear()


def hide(monkeypatch, *modules):
    """Let imports of these fail, as where they are not installed."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"sase.engines.{name}", raising=False)


@pytest.mark.parametrize("engine", TOLERANCE)
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_the_same_in_every_engine(core, name, engine):
    wav = signals(16000)
    other, expected = engines.load(name, engine), engines.load(name, "torch")
    assert (other.name, expected.name) == (engine, "torch")
    assert (other.sample_rate, other.delay, other.causal) == (16000, expected.delay, True)
    assert other.latency_s == pytest.approx(expected.latency_s)
    assert other.latency_s == pytest.approx(0.032)
    out, like = other.enhance(wav), expected.enhance(wav)
    assert out.dtype == np.float32
    assert out.shape == wav.shape
    assert np.abs(out - like).max() < TOLERANCE[engine]
    assert np.abs(like - wav).max() > 0.05


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_streams_equal_the_whole_signal_and_start_again(core, engine):
    loaded, wav = engines.load("tiny", engine), signals(6000)
    expected, streams = loaded.enhance(wav), [loaded.stream(), loaded.stream()]
    sizes = itertools.cycle([1, 255, 0, 256, 257, 1000])
    parts, start = [[], []], 0
    while start < len(wav):
        size = next(sizes)
        for stream, part, scale in zip(streams, parts, (1, 0.5)):  # turn by turn: they share no state
            part.append(stream.feed((scale * wav[start : start + size]).astype(np.float32)))
        start += size
    out = [np.concatenate([*part, stream.flush()]) for stream, part in zip(streams, parts)]
    np.testing.assert_allclose(out[0], expected, atol=1e-5)
    np.testing.assert_allclose(out[1], loaded.enhance(0.5 * wav), atol=1e-5)
    streams[1].reset()
    np.testing.assert_allclose(np.concatenate([streams[1].feed(wav), streams[1].flush()]), expected, atol=1e-5)
    with pytest.raises(ValueError, match="flushed"):
        streams[1].feed(wav)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_samples_that_are_no_signal_leave_a_stream_as_it_was(core, engine):
    loaded, wav = engines.load("tiny", engine), noise(3000)
    stream = loaded.stream()
    parts = [stream.feed(wav[:1000])]
    for bad in (np.full(700, np.nan, "f4"), np.array([np.inf], "f4"), np.zeros((2, 256), "f4"), np.zeros(256, "i2")):
        with pytest.raises(ValueError):
            stream.feed(bad)
    parts += [stream.feed(wav[1000:]), stream.flush()]
    np.testing.assert_allclose(np.concatenate(parts), loaded.enhance(wav), atol=1e-6)


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("rate", quick([16000, 44100]))
def test_files_arrays_and_streams_get_the_same_in_every_engine(core, tmp_path, engine, rate):
    enhancer, wav = Enhancer.from_pretrained("tiny", engine=engine), noise(2, 3 * rate // 2 + 7)
    audio.write(tmp_path / "a.wav", wav, rate)
    wav = audio.read(tmp_path / "a.wav")[0]
    expected = Enhancer.from_pretrained("tiny", engine="torch").enhance(wav, rate)
    enhancer.enhance_file(tmp_path / "a.wav", tmp_path / "b.wav")
    stream = enhancer.stream(rate, 2)
    streamed = np.concatenate([stream.feed(wav[:, :4000]), stream.feed(wav[:, 4000:]), stream.flush()], axis=1)
    np.testing.assert_allclose(enhancer.enhance(wav, rate), expected, atol=1e-4)
    np.testing.assert_allclose(streamed, expected, atol=1e-4)
    np.testing.assert_allclose(audio.read(tmp_path / "b.wav")[0], streamed, atol=1.01 / 32768)


def test_the_first_that_is_available_is_chosen(core, monkeypatch, tmp_path):
    save_model(build_model("mini"), tmp_path / "best.pt")
    assert engines.load("tiny").name == "native"
    assert engines.load(tmp_path).name == engines.load(tmp_path / "best.pt").name == "torch"
    assert engines.load(pretrained.FOLDER / "tiny.sase").name == "native"
    assert engines.load(pretrained.FOLDER / "tiny.onnx").name == "onnx"
    assert engines.load(pretrained.FOLDER / "tiny.safetensors").name == "torch"
    assert isinstance(engines.load("tiny", device="cpu"), engines.Engine)
    with pytest.raises(InputError, match="device abacus: cannot be used"):  # in torch, which alone has devices
        engines.load("tiny", device="abacus")
    monkeypatch.setattr(library, "find", lambda: None)
    library.load.cache_clear()
    assert engines.load("tiny").name == "onnx"
    hide(monkeypatch, "onnxruntime")
    assert engines.load("tiny").name == "torch"


def test_an_engine_that_cannot_be_had_is_one_line_with_the_command_that_brings_it(no_core, monkeypatch, tmp_path, root):
    save_model(build_model("mini"), tmp_path / "best.pt")
    hide(monkeypatch, "onnxruntime", "torch")
    missing = {
        "native": r"engine native: the C core is not built; run make -C \S+/native",
        "onnx": "engine onnx: the package onnxruntime is not installed; pip install onnxruntime",
        "torch": rf"engine torch: the package torch is not installed; pip install '?{root}\[train\]'?",
    }
    for name, message in missing.items():
        with pytest.raises(engines.EngineUnavailableError, match=f"^tiny: {message}") as caught:
            engines.load("tiny", name)
        assert "\n" not in str(caught.value)
    with pytest.raises(engines.EngineUnavailableError, match=".*; ".join(missing.values())):
        engines.load("tiny")
    with pytest.raises(engines.EngineUnavailableError, match=f"best.pt: {missing['torch']}"):
        engines.load(tmp_path / "best.pt")


def test_what_fits_no_engine_is_one_line(core, tmp_path):
    save_model(build_model("mini"), tmp_path / "best.pt")
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "text.sase").write_text("no weights")
    for arguments, message in {
        ("tiny", "cuda"): "no such engine: cuda; choose from auto, native, onnx, torch",
        ("huge", "native"): "huge: model not found; give one of small, tiny",
        ("tiny", "native", "cuda"): "native runs on the CPU only; device cuda needs the engine torch",
        (
            tmp_path / "best.pt",
            "native",
        ): "no weights for the engine native; make them with sase export ",
        (tmp_path / "best.pt", "onnx"): r"make them with sase export .* --to onnx -o best.onnx",
        (pretrained.FOLDER / "tiny.sase", "torch"): "holds weights for the engine native, not for torch",
        (pretrained.FOLDER / "tiny.onnx", "native"): "holds weights for the engine onnx, not for native",
        (pretrained.FOLDER / "tiny.onnx", "auto", "cuda"): "holds weights for the engine onnx, not for torch",
        (tmp_path / "text.onnx",): "text.onnx: not a graph that ONNX Runtime can load",
        (tmp_path / "text.sase",): "text.sase: not a file of weights",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            engines.load(*arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("format", "other", "format is 'other'"),
        ("hop", None, "hop"),
        ("hop", "255", "shapes of its inputs"),
        ("delay", "-1", "out of range"),
        ("latency_s", "nan", "out of range"),
        ("sample_rate", "many", "invalid literal"),
        ("states", "[]", "not those of its metadata"),
        ("states", "3", "not iterable"),
        ("states", "[" * 100000, "recursion"),
    ],
)
def test_graphs_that_are_no_networks_of_ours_are_refused(tmp_path, key, value, message):
    graph = onnx.load(pretrained.FOLDER / "tiny.onnx")
    metadata = {entry.key: entry.value for entry in graph.metadata_props if entry.key != key or value is not None}
    onnx.helper.set_model_props(graph, metadata if value is None else {**metadata, key: value})
    onnx.save(graph, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=f"a.onnx: not a streaming graph of SASE .*{message}") as caught:
        OnnxEngine(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size, message", [(1 << 27, "too large"), ("frames", "shapes of its inputs"), (8, None)])
def test_states_of_any_size_are_not_allocated(tmp_path, size, message):
    """A graph that passes its input and one state on."""
    pairs = {"noisy": "enhanced", "past": "next.past"}
    shapes = {"noisy": [1, 4], "past": [size], "enhanced": [1, 4], "next.past": [size]}
    value = {name: onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()}
    nodes = [onnx.helper.make_node("Identity", [name], [output]) for name, output in pairs.items()]
    inputs, outputs = [value[name] for name in pairs], [value[name] for name in pairs.values()]
    graph = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    metadata = {"format": "sase-1", "sample_rate": "16000", "hop": "4", "delay": "3", "latency_s": "1e-3"}
    onnx.helper.set_model_props(graph, {**metadata, "states": '["past"]'})
    onnx.save(graph, tmp_path / "a.onnx")
    if message is None:
        wav = noise(10)
        np.testing.assert_array_equal(OnnxEngine(tmp_path / "a.onnx").enhance(wav), [*wav[3:], 0, 0, 0])
        return
    with pytest.raises(InputError, match=message):
        OnnxEngine(tmp_path / "a.onnx")


def test_only_torch_has_a_model_and_offline_networks_need_it(core):
    offline = TorchEngine(build_model({"preset": "mini", "causal": False}))
    assert (offline.causal, offline.delay, offline.latency_s) == (False, 0, float("inf"))
    with pytest.raises(InputError, match="offline"):
        offline.stream()
    assert offline.enhance(noise(3000)).shape == (3000,)
    assert isinstance(Enhancer(offline).model, torch.nn.Module)
    with pytest.raises(AttributeError, match="engine native has no model"):
        _ = Enhancer.from_pretrained("tiny", engine="native").model


@pytest.mark.parametrize("name", sorted(pretrained.available()))
def test_shipped_files_belong_together(name):
    files, recorded = pretrained.files(name), pretrained.record(name)
    assert set(files) == set(engines.ENGINES)
    weights = pretrained.fingerprint(files["torch"])
    graph = OnnxEngine(files["onnx"])
    assert graph.metadata["fingerprint"] == weights
    assert graph.metadata["card"] == pretrained.card(name)
    assert f"\nSHA-256 of the weights: `{weights}`\n" in pretrained.card(name)
    assert recorded["files"] == {file.name: pretrained.fingerprint(file) for file in files.values()}
    assert recorded["cost"]["parameters"] == count_parameters(pretrained.load(name))
    assert recorded["config"] == json.loads(graph.metadata["model_config"])


@pytest.mark.recipe
@pytest.mark.parametrize("name", sorted(pretrained.available()))
def test_the_recorded_cost_is_that_of_the_network(name):
    assert pretrained.record(name)["cost"] == profile(pretrained.load(name))


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of our own in the place of the shipped weights, with ``tiny``."""
    for path in pretrained.FOLDER.glob("tiny.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".sase"])
def test_a_file_of_other_weights_beside_the_rest_is_noticed(core, shipped, suffix):
    stale = shipped / f"tiny{suffix}"
    content = bytearray(stale.read_bytes())
    content[-5] ^= 1
    for change in (lambda: stale.write_bytes(content), stale.unlink):
        change()
        if suffix == ".safetensors" and not stale.exists():
            continue  # no weights of that name any more
        with pytest.raises(InputError, match=rf"tiny{suffix}: not the file that .* sase release --refresh tiny"):
            engines.load("tiny")


@pytest.mark.recipe
def test_refresh_ties_new_weights_to_new_formats(core, shipped, monkeypatch):
    monkeypatch.setattr(
        release, "profile", lambda model: {"parameters": count_parameters(model)}
    )  # the rest takes long
    torch.manual_seed(0)
    model = build_model({"preset": "mini", "gates": True}).eval()
    pretrained.save(model, shipped / "tiny.safetensors")
    made = release.refresh(shipped / "tiny.safetensors")
    assert [path.name for path in made] == ["tiny.onnx", "tiny.sase", "tiny.json"]
    wav, text = noise(5000), pretrained.card("tiny")
    expected = engines.load("tiny", "torch").enhance(wav)
    for engine, tolerance in TOLERANCE.items():
        assert np.abs(engines.load("tiny", engine).enhance(wav) - expected).max() < tolerance
    assert text.count("SHA-256 of the weights: ") == 1
    assert pretrained.fingerprint(shipped / "tiny.safetensors") in text
    pretrained.save(build_model({"preset": "mini", "causal": False}), shipped / "tiny.safetensors")
    assert [path.name for path in release.refresh(shipped / "tiny.safetensors")] == ["tiny.json"]
    assert set(pretrained.files("tiny")) == {"torch"}
    assert not (shipped / "tiny.onnx").exists()
    assert engines.load("tiny").name == "torch"


WITHOUT_TORCH = """
import os, shlex, sys
from sase.native import library
library.find = lambda: os.environ["CORE"] or None
for name in ("torch", "safetensors", *os.environ["HIDDEN"].split()):
    sys.modules[name] = None
sys.argv = ["sase", *sys.argv[1:]]
from sase.bin.main import main
main()
"""


def without_torch(root, *words, core="", hidden=""):
    """Run ``sase words`` where torch, its companions and other modules cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)]
    environment = {"PATH": "/usr/bin:/bin", "CORE": str(core), "HIDDEN": hidden}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("engine", quick(["native", "onnx"]))
def test_files_are_enhanced_without_torch(root, core_build, tmp_path, engine):
    wav = noise(2, 30000)
    audio.write(tmp_path / "a.wav", wav, 44100)
    core = core_build / "_core.so" if engine == "native" else ""
    hidden = "onnxruntime tqdm" if engine == "native" else "tqdm"  # no bar is drawn for a second of sound
    done = without_torch(root, "enhance", tmp_path / "a.wav", "-o", tmp_path / "b.wav", core=core, hidden=hidden)
    assert (done.returncode, done.stderr) == (0, "")
    enhancer = Enhancer.from_pretrained(engine="torch")
    expected = enhancer.enhance(audio.read(tmp_path / "a.wav")[0], 44100)
    np.testing.assert_allclose(audio.read(tmp_path / "b.wav")[0], expected, atol=2e-4)


@pytest.mark.recipe
def test_what_needs_no_torch_runs_without_it(root):
    done = without_torch(root, "info", "--shipped")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"| {name} | band_recurrent | 16000 Hz |" in done.stdout for name in SHIPPED)
    assert json.loads(without_torch(root, "info", "--model", "tiny", "--json").stdout)["tiny"]["config"]["bands"] == 24
    assert without_torch(root, "info", "--card", "tiny").stdout.startswith("# tiny\n")
    assert "enhance" in without_torch(root, "--help").stdout


@pytest.mark.parametrize(
    "words",
    quick(
        [
            ("enhance", "--engine", "torch", "{in}", "-o", "{out}"),
            ("enhance", "--model", "{model}", "{in}", "-o", "{out}"),
            ("info",),
            ("info", "--model", "{model}"),
            ("export", "--model", "tiny", "--to", "onnx", "-o", "{out}"),
            ("inspect", "{in}", "-o", "{out}"),
            ("decode", "--model", "{model}", "--data", "{out}", "--out", "{out}"),
            ("train", "--config", "c", "--train-set", "t", "--dev-set", "v", "--exp", "{out}"),
            ("bench", "enhance"),
        ],
        2,
    ),
)
def test_what_needs_torch_says_in_one_line_which_extra_brings_it(root, tmp_path, words):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    save_model(build_model("mini"), tmp_path / "best.pt")
    places = {"in": tmp_path / "a.wav", "out": tmp_path / "b.wav", "model": tmp_path / "best.pt"}
    done = without_torch(root, *(word.format(**places) for word in words))
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "the package torch is not installed; pip install " in done.stderr
    assert "[train]" in done.stderr
    assert not (tmp_path / "b.wav").exists()

"""Exported networks against the networks that they were made from."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from sase import pretrained
from sase.errors import InputError
from sase.export import onnx as export
from sase.export.fourier import FourierTransform
from sase.export.step import HopStep
from sase.model import build_model

KINDS = {
    "mini": {"preset": "mini"},
    "mini, gated": {"preset": "mini", "gates": True, "norm": "layer", "mask": "polar"},
    "softmax": {"preset": "mini", "attention": "softmax", "attention_memory_s": 0.5},
    "paper, tiny": {"preset": "paper", "channels": [2, 2, 4, 4], "recurrent": 16, "heads": 2},
}


def network(config):
    """A causal network in eval mode whose norms have running statistics."""
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        model.train()(0.1 * torch.randn(2, 8000))
    return model.eval()


def noise(num_samples, seed=1):
    return 0.1 * torch.randn(1, num_samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 320, 400, 512, 514])
def test_the_transform_equals_that_of_torch(size):
    transform, x = FourierTransform(size), torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    expected = torch.fft.rfft(x.double())[:, 1:]
    bins = transform(x)
    torch.testing.assert_close(torch.complex(*bins.double().unbind(1)), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(transform.inverse(bins), x - x.mean(1, keepdim=True), atol=1e-6, rtol=1e-4)


def test_the_inverse_ignores_the_imaginary_part_at_nyquist():
    bins = torch.randn(1, 2, 256, generator=torch.Generator().manual_seed(0))
    spec = torch.nn.functional.pad(torch.complex(*bins.unbind(1)), (1, 0))
    torch.testing.assert_close(FourierTransform(512).inverse(bins), torch.fft.irfft(spec, n=512), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_steps_equal_the_whole_signal(kind):
    model = network(KINDS[kind])
    step, hop = HopStep(model), model.config.hop
    wav = noise(30 * hop)
    states, parts = step.initial_state(), []
    for noisy in wav.split(hop, dim=1):
        enhanced, *states = step(noisy, *states)
        parts.append(enhanced)
    out = torch.cat(parts, 1)[:, model.stft.context :]
    torch.testing.assert_close(out, model(wav)[:, : out.shape[1]], atol=1e-6, rtol=1e-4)
    assert len(set(step.names)) == len(step.names) == len(states)


@pytest.mark.recipe
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_equals_the_network(kind, tmp_path):
    model = network(KINDS[kind])
    assert export.export_onnx(model, tmp_path / "m.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    hop, delay, names = int(metadata["hop"]), int(metadata["delay"]), json.loads(metadata["states"])
    assert (hop, delay, int(metadata["sample_rate"])) == (model.config.hop, model.stft.context, 16000)
    assert json.loads(metadata["model_config"])["bands"] == model.config.bands
    assert [value.name for value in session.get_inputs()] == ["noisy", *names]
    states = {v.name: np.zeros(v.shape, np.float32) for v in session.get_inputs()[1:]}
    wav, parts = noise(40 * hop, seed=3), []
    for noisy in wav.numpy()[0].reshape(-1, 1, hop):
        enhanced, *values = session.run(None, {"noisy": noisy, **states})
        states = dict(zip(names, values))
        parts.append(enhanced[0])
    with torch.no_grad():
        expected = model(wav)[0, : 40 * hop - delay].numpy()
    np.testing.assert_allclose(np.concatenate(parts)[delay:], expected, atol=1e-5)


@pytest.mark.recipe
def test_a_program_without_torch_runs_shipped_weights(tmp_path):
    """The shapes of all inputs are in the graph, the rest is in its metadata."""
    path = tmp_path / "tiny.onnx"
    command = [sys.executable, "-m", "sase.bin.main", "export", "--model", "tiny", "--to", "onnx", "-o", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: written, differs from the network by ")
    wav = noise(256 * 63).numpy()[0]
    np.save(tmp_path / "noisy.npy", wav)
    script = """
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1] + "/tiny.onnx")
hop = int(session.get_modelmeta().custom_metadata_map["hop"])
states = {v.name: np.zeros(v.shape, np.float32) for v in session.get_inputs()[1:]}
parts = []
for noisy in np.load(sys.argv[1] + "/noisy.npy").reshape(-1, 1, hop):
    enhanced, *values = session.run(None, {"noisy": noisy, **states})
    states = dict(zip(states, values))
    parts.append(enhanced[0])
assert "torch" not in sys.modules
np.save(sys.argv[1] + "/enhanced.npy", np.concatenate(parts))
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    with torch.no_grad():
        expected = pretrained.load("tiny")(torch.from_numpy(wav)[None])[0].numpy()
    out = np.load(tmp_path / "enhanced.npy")[256:]
    np.testing.assert_allclose(out, expected[: len(out)], atol=1e-5)
    assert "22.9 k parameters" in onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["card"]


@pytest.mark.recipe
def test_what_differs_is_not_written(tmp_path, monkeypatch):
    for difference in (2e-4, float("nan")):
        monkeypatch.setattr(export, "_difference", lambda step, graph, result=difference: result)
        with pytest.raises(InputError, match="not written, since the graph differs"):
            export.export_onnx(network(KINDS["mini"]), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.recipe
def test_a_graph_with_other_weights_is_noticed(tmp_path):
    step, other = HopStep(network({"preset": "mini"})).eval(), HopStep(build_model("mini").eval()).eval()
    assert export._difference(step, export._graph(step)) < 1e-5
    assert export._difference(step, export._graph(other)) > 1e-3


def test_an_offline_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="offline"):
        export.export_onnx(network({"preset": "mini", "causal": False}), tmp_path / "m.onnx")

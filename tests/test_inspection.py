"""What is collected of a network at work, by its numbers; the figure and the command that draws it."""

import math

import numpy as np
import pytest
import torch

from sase import audio
from sase.bin import inspect as command
from sase.errors import InputError
from sase.inspection import inspect_model
from sase.model import build_model, save_model
from sase.nn.attention import SAGUEA

SMALL_PAPER = {"preset": "paper", "channels": [2, 2, 4, 4], "recurrent": 16, "heads": 2}
KINDS = {
    "mini": {"preset": "mini", "blocks": 2, "gates": True},
    "offline": {"preset": "mini", "causal": False, "gates": True},
    "paper": SMALL_PAPER,
    "softmax": {"preset": "mini", "attention": "softmax", "attention_memory_s": 0.5},
    "dccrn": {**SMALL_PAPER, "gates": False, "time_attention": False, "frequency_attention": False},
}
GATES = ["first", "encoder.0", "decoder.0"]
LEVELS = [*(f"encoder.{i}" for i in range(4)), *(f"decoder.{i}" for i in range(3))]
NAMES = {  # of gates, attention over time, attention over frequency
    "mini": (GATES, ["blocks.1.over_time"], ["blocks.0.over_bands", "blocks.1.over_bands"]),
    "offline": (GATES, ["blocks.0.over_time"], ["blocks.0.over_bands"]),
    "paper": (LEVELS, ["attention"], ["over_frequency.0"]),
    "softmax": ([], ["blocks.0.over_time"], ["blocks.0.over_bands"]),
    "dccrn": ([], [], []),
}


def made(kind):
    torch.manual_seed(0)
    model = build_model(KINDS[kind])
    with torch.no_grad():
        model.train()(0.1 * torch.randn(2, 8000))
    return model.eval()


def sound(num_samples=20000):
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_collected_and_the_network_is_unchanged(kind):
    model, wav = made(kind), sound()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model.forward_whole(wav[None], None).detach()
    inspection = inspect_model(model, wav)
    assert (list(inspection.gates), list(inspection.memory_s), list(inspection.weights)) == NAMES[kind]
    assert set(inspection.sigmoids) == (set() if kind == "softmax" else {*inspection.memory_s, *inspection.weights})
    freq, frames = inspection.noisy.shape
    assert freq == 257
    assert inspection.mask.shape == (freq, frames)
    assert frames == model.stft.num_frames(len(wav))
    for gates in inspection.gates.values():
        assert gates.time.shape == (frames,)
        assert gates.frequency.shape[1] == (1 if kind == "offline" else frames)
        assert all(values.min() > 0 and values.max() < 1 for values in (gates.frequency, gates.time))
    for weights in inspection.weights.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)), atol=1e-4, rtol=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert not model.training
    torch.testing.assert_close(model.forward_whole(wav[None], None).detach(), expected)


@pytest.mark.parametrize("kind", ["mini", "paper"])
@torch.no_grad()
def test_the_mask_is_what_the_spectrum_is_multiplied_by(kind):
    model, wav = made(kind), sound()
    inspection = inspect_model(model.train(), wav)
    assert model.training  # as it was found
    frames = inspection.noisy.shape[1]
    padded = torch.nn.functional.pad(wav[None], (model.stft.context, frames * model.stft.hop - len(wav)))
    enhanced = model.eval().enhance_spec(model.stft(padded))[0].abs()
    torch.testing.assert_close(inspection.mask * inspection.noisy, enhanced, atol=1e-5, rtol=1e-4)
    assert not inspection.mask[0].any()  # DC


def test_gates_are_those_that_the_network_used():
    model, seen = made("mini"), []
    gate = model.network.first.gate
    handle = gate.register_forward_hook(lambda layer, arguments, output: seen.append((arguments[0], output)))
    gates = inspect_model(model, sound()).gates["first"]
    handle.remove()
    ((z, gated),) = seen
    torch.testing.assert_close(z[0] * gates.frequency * gates.time, gated[0], atol=1e-5, rtol=1e-4)


def test_memory_is_what_lambda_says_and_where_softmax_ends():
    model = made("paper")
    with torch.no_grad():
        model.network.attention.log_memory.copy_(torch.log(torch.tensor([160.0, 40.0])))  # frames, 160 a second
    memory_s = inspect_model(model, sound()).memory_s["attention"]
    torch.testing.assert_close(memory_s, torch.tensor([1.0, 0.25]))
    decay = model.network.attention.decay().double()
    assert (decay ** (memory_s.double() * 160.0)).tolist() == pytest.approx([math.exp(-1.0)] * 2, rel=1e-3)
    assert inspect_model(made("offline"), sound()).memory_s["blocks.0.over_time"].isinf().all()
    (memory_s,) = inspect_model(made("softmax"), sound()).memory_s.values()
    assert memory_s.tolist() == pytest.approx([0.5], abs=0.01)


def test_sigmoids_are_the_features_of_the_attention():
    model = made("mini")
    layer = model.network.blocks[0].over_bands
    with torch.no_grad():
        layer.alpha.uniform_(1.0, 5.0), layer.beta.uniform_(-2.0, 2.0), layer.centre.uniform_(0.5, 1.5)
    over_bands = inspect_model(model, sound()).sigmoids["blocks.0.over_bands"]
    assert isinstance(layer, SAGUEA)
    assert over_bands.output.shape == (layer.channels, len(over_bands.input))
    size = over_bands.input * math.sqrt(layer.channels)  # of |Ωx|: features divides by √e
    projected = torch.cat([size[:, None].expand(-1, layer.channels), torch.zeros(len(size), layer.channels)], dim=-1)
    torch.testing.assert_close(over_bands.output.T, layer.features(projected), atol=1e-4, rtol=1e-3)
    over_time = inspect_model(model, sound()).sigmoids["blocks.1.over_time"]
    middle = over_time.output[:, len(over_time.input) // 2]
    torch.testing.assert_close(middle, torch.full_like(middle, 0.6), atol=0.03, rtol=0)  # β / 2 of a new network


def test_silence_has_no_mask_and_shapes_are_checked():
    inspection = inspect_model(made("mini"), torch.zeros(3000))
    assert inspection.mask.isnan().all()
    assert not inspection.noisy.any()
    for shape in ((2, 300), (0,)):
        with pytest.raises(ValueError, match=r"time ≥ 1"):
            inspect_model(made("mini"), torch.zeros(shape))


def size_of_png(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["sase inspect", *map(str, arguments)])
    return command.main()


@pytest.mark.recipe
def test_the_command_draws_any_rate_and_refuses_what_it_cannot(monkeypatch, tmp_path, capsys):
    save_model(made("mini"), tmp_path / "exp/best.pt")
    save_model(made("dccrn"), tmp_path / "plain/best.pt")
    time = np.arange(22050) / 44100
    audio.write(tmp_path / "noisy.wav", 0.3 * np.sin(2 * np.pi * 440 * time), 44100)
    run(monkeypatch, tmp_path / "noisy.wav", "--model", tmp_path / "exp", "-o", tmp_path / "full.png")
    assert "blocks.1.over_time: memory 4.00 s" in capsys.readouterr().out
    plain = ["--model", tmp_path / "plain", "-o", tmp_path / "plain.png", "--seconds", 0.2]
    run(monkeypatch, tmp_path / "noisy.wav", *plain)
    (width, height), (plain_width, plain_height) = (size_of_png(tmp_path / f"{n}.png") for n in ("full", "plain"))
    assert width == plain_width
    assert height > 3 * plain_height
    for more, message in (
        (["--start", "0.6"], "0.50 s long, --start 0.6 is beyond its end"),
        (["--seconds", "0"], "--seconds above 0"),
        (["-o", tmp_path / "figure.pdf"], "the figure is a PNG"),
    ):
        with pytest.raises(InputError, match=message):
            run(monkeypatch, tmp_path / "noisy.wav", "--model", tmp_path / "exp", "-o", tmp_path / "no.png", *more)
    assert not (tmp_path / "no.png").exists()

"""Properties of every preset; saving and loading models."""

import copy
import json
from functools import cache

import pytest
import torch

from helpers.parameters import quick
from sase.errors import InputError
from sase.model import PRESETS, build_model, load_model, model_config, save_model
from sase.nn.frozen import frozen

OFFLINE = {"preset": "mini", "causal": False}
TINY_PAPER = {"preset": "paper", "channels": [2, 2, 4, 4], "recurrent": 16, "heads": 2}
KINDS = {
    "mini": {"preset": "mini"},
    "mini, gated": {"preset": "mini", "gates": True},
    "mini, layer norm": {"preset": "mini", "norm": "layer"},
    "mini, polar": {"preset": "mini", "mask": "polar"},
    "paper, polar": {**TINY_PAPER, "mask": "polar"},
    "offline": OFFLINE,
    "paper, tiny": TINY_PAPER,
    "paper, tiny, offline": {**TINY_PAPER, "causal": False},
    "softmax": {"preset": "mini", "attention": "softmax", "attention_memory_s": 0.5},
    "softmax, offline": {**OFFLINE, "attention": "softmax"},
    "softmax, paper": {**TINY_PAPER, "attention": "softmax", "attention_memory_s": 0.1},
    "fixed sigmoids": {"preset": "mini", "learned_sigmoids": False},
    "identity": {"preset": "mini", "omega": "identity"},
    "dccrn, tiny": {"preset": "dccrn", "channels": [2, 2, 4, 4], "recurrent": 16, "mask": "parts"},
}


def network(config):
    """A network in eval mode whose norms have running statistics; a copy of the test's own."""
    return copy.deepcopy(once(json.dumps(config)))


@cache
def once(config):
    return made(json.loads(config))


def made(config):
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        model.train()(0.1 * torch.randn(2, 8000))
    return model.eval()


def noise(batch, num_samples, seed=1):
    return 0.1 * torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_output_is_as_long_as_input(kind):
    model = network(KINDS[kind])
    for num_samples in (1, 159, 160, 256, 257, 4001, 16000):
        out = model(noise(2, num_samples))
        assert out.shape == (2, num_samples)
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_every_preset_runs(preset):
    model = build_model(preset).eval()
    assert model(noise(1, 3001)).shape == (1, 3001)
    assert model.config.sample_rate == 16000
    assert model.latency_s <= 0.032


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_utterance_does_not_depend_on_its_batch(kind):
    model, wav = network(KINDS[kind]), noise(3, 9000)
    lengths = torch.tensor([9000, 5123, 700])
    batch = model(wav + 0.3 * (torch.arange(9000) >= lengths[:, None]), lengths)  # arbitrary padding
    for row, count in enumerate(lengths.tolist()):
        alone = model(wav[row : row + 1, :count])
        torch.testing.assert_close(batch[row : row + 1, :count], alone, atol=1e-5, rtol=1e-4)
        assert not batch[row, count:].any()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_silence_in_silence_out(kind):
    out = network(KINDS[kind])(torch.zeros(1, 5000))
    assert torch.isfinite(out).all()
    assert out.abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_finite_gradient(kind):
    model = network(KINDS[kind]).train()
    model(noise(2, 6000), torch.tensor([6000, 4000])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["mini", "paper, tiny"])
def test_a_zero_mask_and_silent_input_have_finite_gradients(kind):
    model = network(KINDS[kind]).train()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    wav = torch.cat([noise(1, 4000), torch.zeros(1, 4000)]).requires_grad_()
    model(wav).square().sum().backward()
    assert torch.isfinite(wav.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "offline" not in kind])
@torch.no_grad()
def test_output_does_not_depend_on_input_beyond_the_latency(kind):
    model, wav = network(KINDS[kind]), noise(1, 8000)
    reference = model(wav)
    latency = round(model.latency_s * 16000)
    for place in (2000, 4321):
        changed = wav.clone()
        changed[:, place:] = noise(1, 8000 - place, seed=9)
        out = model(changed)
        assert torch.equal(out[:, : place - latency], reference[:, : place - latency])
        assert not torch.equal(out[:, place:], reference[:, place:])


@pytest.mark.parametrize(
    "kind", ["mini", "mini, layer norm", pytest.param("paper, tiny", marks=pytest.mark.recipe), "softmax"]
)
@torch.no_grad()
def test_long_input_in_blocks_equals_one_pass(kind):
    model, wav = network(KINDS[kind]), noise(2, 9 * 16000 + 77)
    whole = model.forward_whole(wav, None)
    torch.testing.assert_close(model(wav), whole, atol=1e-5, rtol=1e-4)
    lengths = torch.tensor([wav.shape[1], 70001])
    short = model(wav, lengths)[1:, :70001]
    torch.testing.assert_close(short, model(wav[1:, :70001]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mini", "softmax", "fixed sigmoids", "identity"])
@torch.no_grad()
def test_a_stream_equals_one_pass_for_any_block_sizes(kind):
    model, wav = network(KINDS[kind]), noise(2, 30001)
    generator = torch.Generator().manual_seed(5)
    stream, parts, place = model.stream(2), [], 0
    while place < wav.shape[1]:
        size = int(torch.randint(1, 3000, (), generator=generator))
        parts.append(stream.feed(wav[:, place : place + size]))
        place += size
        assert sum(part.shape[1] for part in parts) >= min(place, wav.shape[1]) - 512 - 256
    out = torch.cat([*parts, stream.flush()], 1)
    torch.testing.assert_close(out, model.forward_whole(wav, None), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_streams_of_one_model_are_independent():
    model, wav = network(KINDS["mini"]), noise(2, 6000)
    first, second = model.stream(), model.stream()
    parts = [(first.feed(wav[:1, i : i + 500]), second.feed(wav[1:, i : i + 500])) for i in range(0, 6000, 500)]
    out = torch.cat([torch.cat([*column, s.flush()], 1) for column, s in zip(zip(*parts), (first, second))])
    torch.testing.assert_close(out, model(wav), atol=1e-5, rtol=1e-4)


@pytest.mark.recipe
@torch.no_grad()
def test_offline_blocks_stay_near_one_pass():
    model = network(OFFLINE)
    envelope = (torch.sin(torch.arange(30 * 16000) / 3000.0) > 0) + 0.1
    wav = noise(1, 30 * 16000) * envelope
    whole, blocks = model.forward_whole(wav, None), model(wav)
    target = (whole * blocks).sum() / whole.square().sum() * whole
    assert 10 * torch.log10(target.square().sum() / (blocks - target).square().sum()) > 17  # 0.1 dB beside other noise
    torch.testing.assert_close(model(wav, torch.tensor([30 * 16000])), blocks, atol=1e-5, rtol=1e-4)


def test_a_model_built_in_inference_mode_runs_in_it():
    with torch.inference_mode():
        assert made("mini").forward(noise(1, 3000)).shape == (1, 3000)


@pytest.mark.parametrize("kind", quick((kind for kind in KINDS if "offline" not in kind), 3))
@torch.no_grad()
def test_a_frozen_network_streams_hop_by_hop_as_in_one_pass(kind):
    model, wav = network(KINDS[kind]), noise(2, 9001)
    stream = frozen(model).stream(2)
    out = torch.cat([*(stream.feed(hop) for hop in wav.split(model.config.hop, dim=1)), stream.flush()], 1)
    torch.testing.assert_close(out, model.forward_whole(wav, None), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "offline" not in kind])
@torch.no_grad()
def test_the_state_has_a_name_for_every_tensor_from_the_start(kind):
    model = network(KINDS[kind])
    state, spec = model.initial_state(3), model.stft(noise(3, 4 * model.stft.hop + model.stft.context))
    shapes = {name: tensor.shape for name, tensor in state.items()}
    assert state
    assert not any(tensor.any() for tensor in state.values())
    empty = {}
    torch.testing.assert_close(model.enhance_spec(spec, state), model.enhance_spec(spec, empty))
    assert {name: tensor.shape for name, tensor in state.items()} == shapes
    assert state.keys() == empty.keys()
    layers = dict(model.network.named_modules())
    assert all(name.rpartition(".")[0] in layers for name in state)


def test_a_stream_keeps_no_graph_of_what_it_was_fed():
    model = network("mini").requires_grad_()
    stream = model.stream()
    out = stream.feed(noise(1, 4000).requires_grad_())
    assert out.numel() > 0
    assert not out.requires_grad
    assert not any(tensor.requires_grad for tensor in stream._state.values())


@torch.no_grad()
def test_bad_input_leaves_a_stream_as_it_was():
    model, wav = network("mini"), noise(1, 4000)
    stream = model.stream()
    parts = [stream.feed(wav[:, :1500])]
    bad = wav[:, :700].clone()
    bad[0, 5] = float("nan")
    for block, message in (
        (bad, "NaN or infinity"),
        (wav[0], r"feed needs floats \(1, n\), got torch.float32 \(4000,\)"),
        (wav.expand(2, -1), r"\(2, 4000\)"),
        ((wav * 32768).short(), "torch.int16"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.feed(block)
    parts += [stream.feed(wav[:, 1500:].double()), stream.flush()]
    torch.testing.assert_close(torch.cat(parts, 1), model(wav), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="flushed"):
        stream.feed(wav)


def test_what_is_frozen_stays_and_what_trains_does_not_stream():
    model, wav = network("mini"), noise(1, 3000)
    kept, before = frozen(model), model(wav).detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(kept(wav), before, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="frozen network cannot be trained"):
        kept.train()
    with pytest.raises(ValueError, match="training mode"):
        model.train().stream()


def test_an_offline_network_does_not_stream():
    with pytest.raises(InputError, match="offline"):
        network(OFFLINE).stream()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        network("mini")(torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(1, 0\)"):
        network("mini")(torch.zeros(1, 0))


def test_unknown_names_are_rejected():
    with pytest.raises(InputError, match=r"unknown preset 'huge', must be one of paper"):
        build_model("huge")
    with pytest.raises(InputError, match=r"unknown key model\.colour"):
        build_model({"preset": "mini", "colour": 3})
    with pytest.raises(InputError, match=r"model\.mask is 'soft'"):
        build_model({"preset": "mini", "mask": "soft"})
    with pytest.raises(InputError, match=r"model\.attention is 'linear'; choose from sigmoid, softmax"):
        build_model({"preset": "mini", "attention": "linear"})
    with pytest.raises(InputError, match=r"model\.omega is 'haar'; choose from random, identity"):
        build_model({"preset": "mini", "omega": "haar"})
    with pytest.raises(InputError, match="attention_memory_s must be above 0, not 0"):
        build_model({"preset": "mini", "attention_memory_s": 0})
    with pytest.raises(InputError, match=r"model\.bands must be int"):
        model_config({"preset": "mini", "bands": "many"})


@pytest.mark.parametrize("kind", ["mini", "paper, tiny", "softmax", "fixed sigmoids"])
@torch.no_grad()
def test_a_saved_model_is_restored_exactly(kind, tmp_path):
    model, wav = network(KINDS[kind]), noise(1, 5000)
    save_model(model, tmp_path / "best.pt")
    assert torch.equal(load_model(tmp_path / "best.pt")(wav), model(wav))
    assert torch.equal(load_model(tmp_path)(wav), model(wav))  # the folder
    assert list(tmp_path.iterdir()) == [tmp_path / "best.pt"]


def test_bad_checkpoints_are_rejected(tmp_path):
    path = tmp_path / "best.pt"
    with pytest.raises(InputError, match="model not found"):
        load_model(path)
    save_model(network("mini"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_model(path)
    path.write_text("not a checkpoint")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_model(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="not a checkpoint of SASE"):
        load_model(path)
    save_model(network("mini"), path)
    state = torch.load(path, weights_only=True)
    state["model_config"]["recurrent"] = 16
    torch.save(state, path)
    with pytest.raises(InputError, match="do not match the config"):
        load_model(path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("config", [TINY_PAPER, {"preset": "mini"}], ids=["paper", "mini"])
def test_a_new_network_passes_its_input_the_right_way_up(config, seed):
    torch.manual_seed(seed)
    model, wav = build_model(config), 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        out = model(wav)
    correlation = (out * wav).sum() / (out.norm() * wav.norm())
    assert correlation > 0.9  # SI-SNR, which training maximises, is the same for -1

"""Training and inference under bfloat16 autocast, as on a GPU: what must be float32 is, and results are close."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers.parameters import quick
from sase.config import from_mapping, read_yaml, to_mapping
from sase.data.remix import Batch
from sase.losses import LOSSES, build_loss
from sase.losses.pmsqe import pmsqe
from sase.losses.stoi import stoi
from sase.model import PRESETS, build_model, model_config
from sase.nn.attention import SAGOEA, SAGUEA, causal_linear_attention
from sase.nn.complex import ComplexBatchNorm, ComplexConv2d, ConvNorm, FrameNorm
from sase.nn.precision import float32, outside_autocast
from sase.nn.recurrent import TimeLSTM
from sase.nn.softmax_attention import SoftmaxFrequencyAttention, SoftmaxTimeAttention
from sase.nn.stft import STFT
from sase.nn.streaming import decayed_sum
from sase.studies.ablation import load_ablation, train_config
from sase.training.config import TrainConfig, load_train_config
from sase.training.loop import GradientGuard, TrainingStep

CPU_HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
CONF = Path(__file__).resolve().parent.parent / "egs"
RATE = 16000


def reduced(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def batch(seconds=0.7):
    """Two utterances of different length: noise that swells and fades like syllables, in steady noise."""
    generator, num_samples = torch.Generator().manual_seed(0), round(seconds * RATE)
    time_s = torch.arange(num_samples) / RATE
    clean = 0.1 * torch.randn(2, num_samples, generator=generator) * torch.sin(2 * torch.pi * 3.0 * time_s).square()
    noisy = clean + 0.03 * torch.randn(2, num_samples, generator=generator)
    return Batch(noisy, clean, torch.tensor([num_samples, num_samples * 3 // 4]), ["a", "b"])


def configurations():
    """Return {name: TrainConfig}: those of the recipes, rows of the studies, and presets that occur in none of them."""
    paths = sorted(path for kind in ("train", "release") for path in CONF.glob(f"*/conf/{kind}_*.yaml"))
    found = {f"{path.parts[-3]}-{path.stem}": load_train_config(path) for path in paths}
    study = load_ablation(CONF / "voicebank_demand/conf/ablation.yaml")
    found |= {f"ablation-{row}": train_config(study, row, seed=0) for row in study.rows}
    config = read_yaml(CONF / "commonvoice_noise92/conf/compare_strategies.yaml")["config"]
    model = to_mapping(model_config(config["model"]))
    found["compare_strategies"] = from_mapping(TrainConfig, {**config, "model": model})
    known = [config.model for config in found.values()]
    return found | {name: TrainConfig(model=preset) for name, preset in PRESETS.items() if preset not in known}


CONFIGURATIONS = configurations()
NARROW = {"channels": [4, 4, 8], "recurrent": 16}
VARIANTS = [  # what no configuration has
    {"preset": preset, **(NARROW if preset == "paper" else {}), **change}
    for preset in ("mini", "paper")
    for change in (
        {},
        {"norm": "layer"},
        {"causal": False},
        {"attention": "softmax", "gates": True},
        {"attention": "softmax", "causal": False, "mask": "complex"},
        {"learned_sigmoids": False, "omega": "identity", "mask": "parts"},
    )
]


@pytest.fixture(autouse=True)
def fast_convolutions(monkeypatch):
    """Where oneDNN cannot convolve in bfloat16, PyTorch takes minutes: round operands and results to it instead."""
    if not CPU_HAS_BFLOAT16:
        for name in ("conv1d", "conv2d", "conv_transpose2d"):
            monkeypatch.setattr(F, name, rounded_convolution(getattr(F, name)))


def rounded_convolution(convolution):
    def run(x, weight, bias=None, *arguments, **options):
        if not torch.is_autocast_enabled("cpu"):
            return convolution(x, weight, bias, *arguments, **options)
        operands = (value if value is None else value.bfloat16().float() for value in (x, weight, bias))
        with reduced(False):
            return convolution(*operands, *arguments, **options).bfloat16()

    return run


def first_step(config, autocast):
    """Return the losses of the first step, before its update, and the network after it."""
    torch.manual_seed(0)
    model = build_model(config.model)
    optimizer = torch.optim.AdamW(model.parameters(), config.train.learning_rate)
    guard = GradientGuard(config.train.clip_norm, max_bad_steps=1)
    step = TrainingStep(model, build_loss(config.loss), optimizer, guard, autocast=lambda: reduced(autocast))
    return step(batch()), model


def check_first_step(config):
    (exact, _), (losses, model) = first_step(config, False), first_step(config, True)
    assert losses.keys() == exact.keys()
    assert abs(losses["loss"] - exact["loss"]) <= 0.05 * max(1.0, abs(exact["loss"]))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for name, value in model.named_buffers():
        assert value.dtype == torch.float32, name
        assert value.isfinite().all(), name


def is_wide(config):
    return max(config.model.channels) > 100


def test_there_are_configurations_of_every_kind():
    kinds = ("voicebank_demand-train", "voicebank_demand-release", "commonvoice_noise92-train", "ablation-")
    assert all(sum(name.startswith(kind) for name in CONFIGURATIONS) >= 3 for kind in kinds)
    assert {config.model for config in CONFIGURATIONS.values()} >= set(PRESETS.values())


@pytest.mark.parametrize("name", quick((name for name, config in CONFIGURATIONS.items() if not is_wide(config)), 4))
def test_a_training_step_of_a_configuration(name):
    check_first_step(CONFIGURATIONS[name])


@pytest.mark.recipe
@pytest.mark.parametrize("name", [name for name, config in CONFIGURATIONS.items() if is_wide(config)])
def test_a_training_step_of_a_wide_configuration(name):
    check_first_step(CONFIGURATIONS[name])


@pytest.mark.recipe
@pytest.mark.parametrize("model", VARIANTS, ids=str)
def test_a_training_step_of_a_variant(model):
    check_first_step(TrainConfig(model=model_config(model), loss=dict.fromkeys(LOSSES, 1.0)))


@pytest.mark.recipe
@pytest.mark.parametrize("model", [{"preset": "mini"}, {"preset": "paper", **NARROW}], ids=["mini", "paper"])
def test_training_advances_as_in_float32(model):
    losses = {}
    for autocast in (False, True):
        torch.manual_seed(0)
        network, segments = build_model(model), batch(0.5)
        optimizer, guard = torch.optim.AdamW(network.parameters(), 3e-3), GradientGuard(3.0, max_bad_steps=1)
        criterion = build_loss({"sdr": 1.0})
        step = TrainingStep(network, criterion, optimizer, guard, autocast=lambda on=autocast: reduced(on))
        losses[autocast] = [step(segments)["loss"] for _ in range(24)]
    gain_db = losses[True][0] - losses[True][-1]
    assert gain_db > 1.0
    assert gain_db == pytest.approx(losses[False][0] - losses[False][-1], rel=0.2)


@pytest.mark.parametrize("model", quick(VARIANTS, 2), ids=str)
def test_enhancement_and_streams(model):
    torch.manual_seed(0)
    network, noisy = build_model(model).eval(), batch(1.3).noisy
    with torch.no_grad():
        with reduced():
            first = network(noisy)
            streamed = None
            if network.config.causal:
                stream = network.stream(2)
                streamed = torch.cat([*(stream.feed(part) for part in noisy.split(3000, 1)), stream.flush()], 1)
        exact = network(noisy)  # folded weights of the reduced pass must not serve this one
        fresh = build_model(model).eval()
        fresh.load_state_dict(network.state_dict())
        assert torch.equal(exact, fresh(noisy))
    assert first.dtype == torch.float32
    assert 0 < (first - exact).norm() < 0.03 * exact.norm()
    if streamed is not None:
        torch.testing.assert_close(streamed, first, atol=0.01 * float(exact.abs().max()), rtol=0.01)


def test_float32_layers_and_sums_are_the_same_to_the_bit():
    torch.manual_seed(0)
    z, x = 100.0 + torch.randn(2, 8, 6, 50), torch.randn(2, 5, 40, 8)  # the mean is a hundred deviations
    query, key = torch.rand(2, 2, 40, 8), torch.rand(2, 2, 40, 8)
    layers = {
        "batch norm": (ComplexBatchNorm(4), z),
        "frame norm": (FrameNorm(4), z),
        "LSTM": (TimeLSTM(8, 8), x[:, 0]),
        "spectrum": (STFT(64, 16, 64), x.flatten(1)),
        "gate's average": (lambda x: decayed_sum(x, 0.98), x),
        "attention's sums": (lambda x: causal_linear_attention(query, key, x, torch.tensor([0.9, 0.99]))[0], x[:, :2]),
        "stoi": (lambda x: stoi(x, x.roll(1, 1)), torch.randn(2, 16000)),
        "pmsqe": (lambda x: pmsqe(x, x.roll(1, 2)), torch.rand(2, 257, 20)),
    }
    wav = torch.randn(2, RATE)
    layers |= {name: (lambda x, loss=loss: loss(x, x.roll(1, 1)), wav) for name, loss in LOSSES.items()}
    for name, (layer, value) in layers.items():
        exact = copy.deepcopy(layer)(value)
        with reduced():
            assert torch.equal(layer(value), exact), name
    norm = layers["batch norm"][0]
    torch.testing.assert_close(norm.running_mean, torch.full((8,), 10.0), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: SAGOEA(8, 2, 100.0), (2, 40, 8)),
        (lambda: SAGOEA(8, 2, 100.0, causal=False), (2, 40, 8)),
        (lambda: SoftmaxTimeAttention(8, 2, 100.0), (2, 40, 8)),
        (lambda: SoftmaxTimeAttention(8, 2, 100.0, causal=False), (2, 40, 8)),
        (lambda: SAGUEA(4, 12), (2, 10, 12, 8)),
        (lambda: SAGUEA(16, 12), (2, 10, 12, 32)),
        (lambda: SoftmaxFrequencyAttention(4, 12), (2, 10, 12, 8)),
    ],
)
def test_attention_sums_many_equal_frames_without_loss(layer, shape):
    """Sums of bfloat16 lose a term of 1/256 of the sum: with equal values, the mean would depend on their number."""
    torch.manual_seed(0)
    attention, many = layer(), 20 * shape[-2]
    frame = torch.randn(*shape[:-2], 1, shape[-1])
    if isinstance(attention, (SAGUEA, SoftmaxFrequencyAttention)):
        attention.gain.data = attention.gain.data[:1]
    with torch.no_grad(), reduced():
        few, more = attention(frame.expand(shape)), attention(frame.expand(*shape[:-2], many, shape[-1]))
    torch.testing.assert_close(few[..., -1, :], more[..., -1, :], atol=1e-4, rtol=1e-4)


def test_folded_weights_do_not_depend_on_autocast():
    torch.manual_seed(0)
    layer, z = ConvNorm(ComplexConv2d(2, 3, (3, 1), padding=1), 3, "batch"), torch.randn(2, 4, 6, 10)
    layer(z)
    layer.eval()
    with torch.no_grad():
        exact = layer(z)
        layer._folded = None
        with reduced():
            layer(z)
        assert torch.equal(layer(z), exact)


def test_outside_autocast_converts_half_precision_only():
    calls = []

    @outside_autocast
    def product(a, b):
        calls.append(torch.is_autocast_enabled("cpu"))
        return a @ b

    a = torch.randn(3, 3)
    with reduced():
        assert product(a.bfloat16(), a.half()).dtype == torch.float32
        assert product(a.double(), a.double()).dtype == torch.float64
        assert torch.is_autocast_enabled("cpu")
    assert product(a.bfloat16(), a.bfloat16()).dtype == torch.bfloat16  # not under autocast: as it is called
    assert calls == [False] * 3
    assert float32(torch.arange(3)).dtype == torch.int64

"""What a network does with a recording: gates, attention and mask, collected by hooks during a forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sase.model import SASE
from sase.nn.attention import SAGOEA, SAGUEA, FrequencyAttention, TimeAttention
from sase.nn.config import ModelConfig
from sase.nn.gates import TFGA
from sase.nn.softmax_attention import SoftmaxTimeAttention

Hook = Callable[[nn.Module, tuple[Any, ...], object], None]
_SILENT_DB = -120.0  # relative to the loudest bin; the mask of weaker bins is meaningless
_POINTS = 200  # per curve
_RANGES = {SAGOEA: (-4.0, 4.0), SAGUEA: (0.0, 2.5)}  # of their inputs: projections, and magnitudes of projections


@dataclass(frozen=True)
class Gates:
    """The factors of one TF-GA: ``frequency`` (freq, frames), or (freq, 1) offline, and ``time`` (frames,)."""

    frequency: torch.Tensor
    time: torch.Tensor


@dataclass(frozen=True)
class Sigmoids:
    """The functions φ of one attention: ``output`` (features, points) over ``input`` (points,)."""

    input: torch.Tensor
    output: torch.Tensor


@dataclass(frozen=True)
class Inspection:
    """The result of :func:`inspect_model`; keys are the names of the layers in the network.

    Attributes:
        sample_rate, frames_per_s: of the network.
        noisy: magnitude of the input's spectrum, (freq, frames), including DC.
        mask: gain of each bin, (freq, frames); NaN where the input is practically silent.
        gates: name to :class:`Gates`.
        memory_s: name to the memory of each head of an attention over time, (heads,), in seconds: the time constant
            of λ, or the window of the softmax; infinite offline.
        sigmoids: name to :class:`Sigmoids`; softmax has none.
        weights: name to the attention weights (query, key) over frequency, (freq, freq), averaged over frames.
    """

    sample_rate: int
    frames_per_s: float
    noisy: torch.Tensor
    mask: torch.Tensor
    gates: dict[str, Gates] = field(default_factory=dict)
    memory_s: dict[str, torch.Tensor] = field(default_factory=dict)
    sigmoids: dict[str, Sigmoids] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


@torch.no_grad()
def inspect_model(model: SASE, wav: torch.Tensor) -> Inspection:
    """Return an :class:`Inspection` of one recording; the network is not changed.

    Args:
        model: a :class:`sase.model.SASE`.
        wav: float (time,), time ≥ 1, at the network's rate, processed in one pass.
    """
    if wav.dim() != 1 or not len(wav):
        raise ValueError(f"inspect_model needs (time ≥ 1,), got {tuple(wav.shape)}")
    stft, config = model.stft, model.config
    frames = stft.num_frames(len(wav))
    spec = stft(F.pad(wav[None], (stft.context, frames * stft.hop - len(wav))))
    gates: dict[str, Gates] = {}
    weights: dict[str, torch.Tensor] = {}
    with _evaluated(model), _hooks(model.network, gates, weights):
        enhanced = model.enhance_spec(spec)
    noisy, size = spec[0].abs(), enhanced[0].abs()
    audible = noisy > noisy.max() * 10 ** (_SILENT_DB / 20.0)
    layers = dict(model.network.named_modules())
    return Inspection(
        config.sample_rate,
        config.frames_per_s,
        noisy,
        torch.where(audible, size / noisy, torch.nan),
        gates,
        {name: _memory_s(layer, config) for name, layer in layers.items() if isinstance(layer, TimeAttention)},
        {name: _sigmoids(layer) for name, layer in layers.items() if isinstance(layer, (SAGOEA, SAGUEA))},
        weights,
    )


@contextmanager
def _evaluated(model: SASE) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _hooks(network: nn.Module, gates: dict[str, Gates], weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within the context, fill ``gates`` and ``weights`` from the inputs of the layers."""

    def gate_hook(name: str) -> Hook:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
            assert isinstance(layer, TFGA)
            # Without a stream's state, so that the inspection changes nothing.
            frequency, time = layer.gates(arguments[0], None, arguments[2])
            gates[name] = Gates(frequency[0, 0], time[0, 0, 0])

        return hook

    def weight_hook(name: str) -> Hook:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
            assert isinstance(layer, FrequencyAttention)
            weights[name] = layer.weights(arguments[0]).flatten(0, -3).mean(0)

        return hook

    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, TFGA):
            handles.append(layer.register_forward_hook(gate_hook(name.removesuffix(".gate"))))
        elif isinstance(layer, FrequencyAttention):
            handles.append(layer.register_forward_hook(weight_hook(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _memory_s(layer: TimeAttention, config: ModelConfig) -> torch.Tensor:
    if not layer.causal:
        return torch.full((layer.heads,), torch.inf)
    if isinstance(layer, SoftmaxTimeAttention):
        return torch.full((layer.heads,), (layer.past_frames + 1) / config.frames_per_s)
    assert isinstance(layer, SAGOEA)
    return layer.log_memory.exp() / config.frames_per_s  # = -1 / ln λ frames


def _sigmoids(layer: SAGOEA | SAGUEA) -> Sigmoids:
    x = torch.linspace(*_RANGES[type(layer)], _POINTS, device=layer.alpha.device)
    alpha, beta = (value.reshape(-1, 1) for value in (layer.alpha, layer.beta))
    if isinstance(layer, SAGUEA):
        return Sigmoids(x, beta.abs() * torch.sigmoid(alpha * (x - layer.centre.reshape(-1, 1))))
    return Sigmoids(x, beta * torch.sigmoid(alpha * x))

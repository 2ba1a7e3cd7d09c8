"""Weights for the C core in ``sase/native``: norms, random features and constants folded, matrices in its order."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sase.errors import InputError
from sase.model import SASE
from sase.native.weights import seal, write_weights
from sase.nn.attention import SAGOEA, SAGUEA
from sase.nn.band_recurrent import BandRecurrent
from sase.nn.config import ModelConfig
from sase.nn.frozen import frozen
from sase.nn.gates import TFGA
from sase.nn.unit import GatedUnit

_PANEL = 8  # columns of a matrix that are stored together
_SUPPORTED = {  # fields of the config that the core was written for, besides sizes
    "network": "band_recurrent",
    "causal": True,
    "heads": 1,
    "norm": "batch",
    "time_attention": True,
    "frequency_attention": True,
    "attention": "sigmoid",
    "mask": "residual",
}


class UnsupportedError(InputError):
    """The core was not written for a network."""


def export_native(model: SASE, path: str | Path) -> None:
    """Write the weights of a network for the C core; the write is atomic.

    Args:
        model: of a supported config: the presets ``tiny``, ``small`` and ``mini``, with or without gates.
        path: the output file; with the suffix ``.c`` it is C source that defines ``sase_weights`` and
            ``sase_weights_size``, for programs that have the weights compiled in.

    Raises:
        UnsupportedError: the core does not support the network.
        InputError: a weight is NaN or infinite.
    """
    write_weights(native_weights(model), path)


def native_weights(model: SASE) -> bytes:
    """Return the contents of the file that :func:`export_native` writes; docs/native.md describes the format."""
    config = model.config
    _check_supported(config)
    model = frozen(model).cpu().float()
    with torch.no_grad():
        values = np.concatenate([tensor.detach().reshape(-1).numpy() for tensor in _weights(model)]).astype("<f4")
    if not np.isfinite(values).all():
        raise InputError("a weight of the network is NaN or infinite")
    stft, units = (config.sample_rate, config.window, config.hop, config.fft), len(config.channels) - 1
    sizes = (*stft, config.channels[0], units, config.recurrent, config.bands, config.blocks, int(config.gates))
    return seal(struct.pack("<12I", values.size, *sizes, 0) + values.tobytes())


def _check_supported(config: ModelConfig) -> None:
    """Raise UnsupportedError for a config that the core was not written for."""
    for name, value in _SUPPORTED.items():
        if (own := getattr(config, name)) != value:
            raise UnsupportedError(f"the C core needs model.{name} = {value!r}, the network has {own!r}")
    limits = (
        ("fft", config.fft, "32, 128, 512 or 2048", config.fft in (32, 128, 512, 2048)),
        ("channels", config.channels[0], "multiples of 4 up to 64", config.channels[0] % 4 == 0),
        ("recurrent", config.recurrent, "a multiple of 8 up to 256", config.recurrent % _PANEL == 0),
        ("channels", config.channels[0], "multiples of 4 up to 64", config.channels[0] <= 64),
        ("recurrent", config.recurrent, "a multiple of 8 up to 256", config.recurrent <= 256),
        ("channels", len(config.channels), "at most 9 units", len(config.channels) <= 9),
        ("blocks", config.blocks, "at most 8", config.blocks <= 8),
        ("bands", config.bands, f"at most {config.fft // 2}", config.bands <= config.fft // 2),
    )
    for name, value, needed, holds in limits:
        if not holds:
            raise UnsupportedError(f"the C core needs model.{name} to be {needed}, the network has {value}")


def _weights(model: SASE) -> Iterator[torch.Tensor]:
    """Yield the tensors of a frozen model in the order of the file: ``place_weights`` in sase.c reads the same."""
    network = model.network
    assert isinstance(network, BandRecurrent)
    gate = network.first.gate
    yield torch.tensor([(model.config.compression - 1.0) / 2.0, gate.decay if gate else 0.0])
    yield from (model.stft.analysis, model.stft.synthesis)
    yield from _unit(network.first)
    for unit in network.encoder:
        yield from _unit(unit)
    yield network.to_bands.weight
    yield from _linear(network.to_features)
    for block in network.blocks:
        yield from _block(block)
    yield from _linear(network.from_features)
    yield network.from_bands.weight
    for unit in network.decoder:
        yield from _unit(unit)
    weight = network.last.derived()[0][..., 0]  # (2C, 2, taps)
    early, late = weight.unflatten(-1, (2, -1)).unbind(-2)  # taps that the position itself, and the one before it, use
    yield _panels(torch.cat([late, early]).permute(0, 2, 1).flatten(1))  # (previous 2C, own 2C; 4 positions × 2)


def _unit(unit: nn.Module) -> Iterator[torch.Tensor]:
    assert isinstance(unit, GatedUnit)
    weight, bias = unit.conv.derived()  # (out, in, taps, 1)
    yield from (_panels(weight[..., 0].permute(2, 1, 0).flatten(0, 1)), bias, unit.activation.slope)
    if unit.gate is not None:
        yield from _gate(unit.gate)


def _gate(gate: TFGA) -> Iterator[torch.Tensor]:
    for conv in (gate.frequency, gate.time):
        assert conv.bias is not None
        yield conv.weight.reshape(2, gate.kernel).T  # (1, 2, taps) -> (taps, 2)
        yield conv.bias


def _block(block: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of one of the network's ``blocks``."""
    lstm = block.lstm.lstm
    own, shift = _after_norm(block.norm, lstm.weight_ih_l0)
    weight, bias = torch.cat([own, lstm.weight_hh_l0], dim=1), lstm.bias_ih_l0 + lstm.bias_hh_l0 + shift
    factor = torch.tensor([1.0, 1.0, 2.0, 1.0]).repeat_interleave(lstm.hidden_size)  # tanh x = 2σ(2x) − 1
    yield from (_panels((factor[:, None] * weight).T), factor * bias)
    yield from _linear(block.project)
    if block.over_time is not None:
        yield from _attention_over_time(block.over_time)
    yield from _attention_over_bands(block.over_bands)


def _attention_over_time(attention: SAGOEA) -> Iterator[torch.Tensor]:
    weights, scale, decay = attention.derived()
    weight, shift = _after_norm(attention.norm, weights.flatten(0, 2))
    yield from (_panels(weight.T), shift, scale, decay)
    yield from _linear(attention.to_out)


def _attention_over_bands(attention: SAGUEA) -> Iterator[torch.Tensor]:
    projections, out, gain = attention.derived()
    slope, centre, scale = attention.alpha, attention.centre, attention.beta.abs()
    yield from (gain, _panels(projections.T), slope, slope * centre, scale, _panels(out.T))


def _after_norm(norm: nn.LayerNorm, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight (out, in) with the gain of the norm before it, and what the norm's bias adds to the output."""
    return weight * norm.weight, weight @ norm.bias


def _linear(layer: nn.Linear) -> Iterator[torch.Tensor]:
    yield from (_panels(layer.weight.T), layer.bias)


def _panels(matrix: torch.Tensor) -> torch.Tensor:
    """Return (depth, columns) in panels (columns / 8, depth, 8)."""
    return matrix.unflatten(1, (-1, _PANEL)).transpose(0, 1).contiguous()

"""The building blocks of both architectures: gated convolutional units, and the attention that the config selects."""

from __future__ import annotations

import torch
from torch import nn

from sase.nn.attention import SAGOEA, SAGUEA, FrequencyAttention, TimeAttention
from sase.nn.complex import ComplexConv2d, ComplexConvTranspose2d, ConvNorm, PReLU
from sase.nn.config import ModelConfig
from sase.nn.gates import TFGA
from sase.nn.softmax_attention import SoftmaxFrequencyAttention, SoftmaxTimeAttention
from sase.nn.streaming import StreamState


class GatedUnit(nn.Module):
    """A complex convolution, its norm, PReLU, and TF-GA if ``config.gates``.

    Args:
        config: of the network.
        conv: the convolution, transposed or not.
        channels: complex channels of its output.
    """

    def __init__(self, config: ModelConfig, conv: ComplexConv2d | ComplexConvTranspose2d, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(conv, channels, config.norm)
        self.activation = PReLU(2 * channels)
        self.gate = TFGA(config.frames_per_s, config.causal) if config.gates else None

    def forward(
        self, z: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map (batch, 2 · in, freq, time) to (batch, 2 · channels, freq', time); state, valid: as for TFGA."""
        z = self.activation(self.conv(z, state))
        return z if self.gate is None else self.gate(z, state, valid)


def build_time_attention(config: ModelConfig, features: int) -> TimeAttention | None:
    """Return the attention over time that the config selects, for inputs of this width; None if it is off."""
    if not config.time_attention:
        return None
    shape, memory_s = (features, config.heads, config.frames_per_s, config.causal), config.attention_memory_s
    if config.attention == "softmax":
        return SoftmaxTimeAttention(*shape, memory_s=memory_s)
    return SAGOEA(*shape, memory_s=memory_s, learned=config.learned_sigmoids, omega=config.omega)


def build_frequency_attention(config: ModelConfig, channels: int, num_freq: int) -> FrequencyAttention | None:
    """Return the attention over frequency that the config selects, for maps of this shape; None if it is off."""
    if not config.frequency_attention:
        return None
    if config.attention == "softmax":
        return SoftmaxFrequencyAttention(channels, num_freq)
    return SAGUEA(channels, num_freq, learned=config.learned_sigmoids, omega=config.omega)

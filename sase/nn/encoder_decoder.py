"""The paper's network: complex encoder and decoder with skips, LSTM between (DCCRN without gates and attention)."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from sase.nn.complex import ComplexConv2d, ComplexConvTranspose2d, concat
from sase.nn.config import ModelConfig
from sase.nn.recurrent import TimeLSTM
from sase.nn.streaming import StreamState
from sase.nn.unit import GatedUnit, build_frequency_attention, build_time_attention

_MIN_FREQ = 16  # attention over frequency is used in maps of at least this many frequency positions


class EncoderDecoder(nn.Module):
    """Estimate a mask from a spectrum, after the paper; each level halves the frequency axis.

    Args:
        config: of the network.
        num_freq: frequency positions of the input, divisible by 2 to the number of levels.
    """

    def __init__(self, config: ModelConfig, num_freq: int) -> None:
        super().__init__()
        widths = (1, *config.channels)
        levels = len(config.channels)
        if num_freq % 2**levels:
            raise ValueError(f"EncoderDecoder needs freq divisible by {2**levels}, got {num_freq}")
        self.encoder = nn.ModuleList(
            GatedUnit(config, ComplexConv2d(a, b, (5, 2), stride=2, padding=2), b)
            for a, b in itertools.pairwise(widths)
        )
        flat = 2 * widths[-1] * (num_freq >> levels)
        self.lstm = TimeLSTM(flat, config.recurrent, layers=2, causal=config.causal)
        self.attention = build_time_attention(config, config.recurrent)
        self.project = nn.Linear(config.recurrent, flat)
        self.decoder, self.over_frequency = nn.ModuleList(), nn.ModuleDict()
        reverse = widths[::-1]
        for level, (a, b) in enumerate(itertools.pairwise(reverse)):
            size = num_freq >> (levels - level)
            if not self.over_frequency and size >= _MIN_FREQ:
                attention = build_frequency_attention(config, a, size)
                if attention is not None:
                    self.over_frequency[str(level)] = attention
            conv = ComplexConvTranspose2d(2 * a, b, (5, 2), stride=2, padding=2, output_padding=1)
            self.decoder.append(GatedUnit(config, conv, b) if level < levels - 1 else conv)
        if config.mask == "polar_offset":
            conv.start_near_zero()

    def forward(
        self, z: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a complex mask of the shape of ``z``.

        Args:
            z: complex map (batch, 2, freq, time).
            state: streaming state, see :mod:`sase.nn`.
            valid: (batch, time), 0 for padding; required if not causal.
        """
        z, skips = z.contiguous(memory_format=torch.channels_last), []
        for level in self.encoder:
            z = level(z, state, valid)
            skips.append(z)
        h = z.permute(0, 3, 1, 2).flatten(2)  # (B, 2C, F, T) -> (B, T, 2C·F)
        h = self.lstm(h, state, valid)
        if self.attention is not None:
            h = self.attention(h, state, valid)
        h = self.project(h).unflatten(-1, z.shape[1:3])
        z = h.permute(0, 2, 3, 1)  # (B, T, 2C, F) -> (B, 2C, F, T)
        for index, level in enumerate(self.decoder):
            if str(index) in self.over_frequency:
                z = self.over_frequency[str(index)](z.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)  # as (B, T, F, 2C)
            z = concat(z, skips.pop())
            z = level(z, state, valid) if isinstance(level, GatedUnit) else level(z, state)
        return z

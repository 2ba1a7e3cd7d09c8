"""A small band-wise recurrent network with the paper's gates and attention over both axes."""

from __future__ import annotations

import torch
from torch import nn

from sase.nn.complex import ComplexConv2d, ComplexConvTranspose2d
from sase.nn.config import ModelConfig
from sase.nn.recurrent import TimeLSTM
from sase.nn.streaming import StreamState
from sase.nn.unit import GatedUnit, build_frequency_attention, build_time_attention

_STRIDE = 4  # of the first convolution over frequency


class BandRecurrent(nn.Module):
    """Estimate a mask from a spectrum at low cost: most of the work is done on ``config.bands`` frequency bands.

    A complex convolution downsamples the frequency axis by four; complex residual units follow; a learned linear map
    takes the axis to bands. There each block runs an LSTM over time, shared by all bands, and attention over the bands
    of each frame. The decoder mirrors the encoder, with skips. No convolution spans time.

    Args:
        config: of the network; ``channels`` holds one number per unit of the encoder, all equal.
        num_freq: frequency positions of the input, divisible by 4.
    """

    def __init__(self, config: ModelConfig, num_freq: int) -> None:
        super().__init__()
        if num_freq % _STRIDE or len(set(config.channels)) != 1:
            raise ValueError(
                f"BandRecurrent needs freq divisible by 4 and equal channels, got {num_freq} and {config.channels}"
            )
        channels, coarse, features = config.channels[0], num_freq // _STRIDE, config.recurrent
        self.first = GatedUnit(config, ComplexConv2d(1, channels, (8, 1), stride=_STRIDE, padding=2), channels)
        self.encoder = nn.ModuleList(_residual(config, channels) for _ in config.channels[1:])
        self.to_bands = _FrequencyMap(coarse, config.bands)
        self.to_features = nn.Linear(2 * channels, features)
        self.blocks = nn.ModuleList(_Block(config, last=i == config.blocks - 1) for i in range(config.blocks))
        self.from_features = nn.Linear(features, 2 * channels)
        self.from_bands = _FrequencyMap(config.bands, coarse)
        self.decoder = nn.ModuleList(_residual(config, channels) for _ in config.channels[1:])
        self.last = ComplexConvTranspose2d(channels, 1, (8, 1), stride=_STRIDE, padding=2)
        self.last.start_near_zero()  # with a residual mask

    def forward(
        self, z: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a complex mask of the shape of ``z``.

        Arguments as for :meth:`sase.nn.encoder_decoder.EncoderDecoder.forward`.
        """
        z = self.first(z.contiguous(memory_format=torch.channels_last), state, valid)
        skips = [z]
        for unit in self.encoder:
            z = z + unit(z, state, valid)
            skips.append(z)
        h = self.to_features(self.to_bands(z.permute(0, 2, 3, 1)))  # (B, 2C, F, T) -> (B, bands, T, features)
        for block in self.blocks:
            h = block(h, state, valid)
        z = self.from_bands(self.from_features(h)).permute(0, 3, 1, 2)  # (B, F, T, 2C) -> (B, 2C, F, T)
        z = z + skips.pop()
        for unit in self.decoder:
            z = z + unit(z, state, valid) + skips.pop()
        return self.last(z, state)


def _residual(config: ModelConfig, channels: int) -> GatedUnit:
    return GatedUnit(config, ComplexConv2d(channels, channels, (3, 1), padding=1), channels)


class _FrequencyMap(nn.Module):
    """Learned linear map of the frequency axis, shared by all channels and frames, initialised to local averages.

    Args:
        from_freq, to_freq: lengths of the axis.
    """

    def __init__(self, from_freq: int, to_freq: int) -> None:
        super().__init__()
        # Initially each output averages the inputs around its own position.
        source = (torch.arange(from_freq) + 0.5) / from_freq
        target = (torch.arange(to_freq) + 0.5) / to_freq
        width = 1.0 / min(from_freq, to_freq)
        weight = (1.0 - (target[:, None] - source).abs() / width).clamp(min=0)
        weight = weight / weight.sum(1, keepdim=True)
        self.weight = nn.Parameter(weight + 0.02 * torch.randn(to_freq, from_freq))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, from_freq, time, channels) to (batch, to_freq, time, channels)."""
        return (self.weight @ x.flatten(2)).unflatten(-1, x.shape[2:])


class _Block(nn.Module):
    """LSTM over time, shared by all bands; attention over time in the last block; attention over bands."""

    def __init__(self, config: ModelConfig, last: bool) -> None:
        super().__init__()
        features = config.recurrent
        self.norm = nn.LayerNorm(features)
        self.lstm = TimeLSTM(features, features, causal=config.causal)
        self.project = nn.Linear(features, features)
        self.over_time = build_time_attention(config, features) if last else None
        self.over_bands = build_frequency_attention(config, features // 2, config.bands)

    def forward(
        self, h: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map (batch, bands, time, features) to the same shape."""
        sequences = h.reshape(-1, *h.shape[2:])  # (B · bands, T, features)
        band_valid = None if valid is None else valid.repeat_interleave(h.shape[1], dim=0)
        sequences = sequences + self.project(self.lstm(self.norm(sequences), state, band_valid))
        if self.over_time is not None:
            sequences = self.over_time(sequences, state, band_valid)
        h = sequences.view(h.shape)
        if self.over_bands is not None:
            # The features serve as complex channels, the first half real. (B, bands, T, D) <-> (B, T, bands, D)
            h = self.over_bands(h.transpose(1, 2).contiguous()).transpose(1, 2)
        return h

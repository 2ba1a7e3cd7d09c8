"""A small network of today with the paper's three ideas: coarse bands, shared recurrence, attention over both axes."""

import torch
from torch import nn

from sase.nn.complex import ComplexConv2d, ComplexConvTranspose2d
from sase.nn.recurrent import TimeLSTM
from sase.nn.unit import GatedUnit, attention_over_frequency, attention_over_time

_STRIDE = 4  # of the first convolution over frequency
_FIRST_MASK = 0.1  # of a new network, against what its last layer would give


class BandRecurrent(nn.Module):
    """Mask from a spectrum, cheaply: most of the work is done on ``config.bands`` frequency bands.

    A complex convolution makes the frequency axis four times coarser; complex residual units follow; a learned linear
    map takes the axis to bands. There each block runs an LSTM over time, the same for every band, and attention over
    the bands of each frame. The way back mirrors the way in, with skips. No convolution looks along time.

    Args:
        config: a :class:`sase.model.ModelConfig`; ``channels`` holds one number for each unit of the encoder.
        num_freq: frequency positions of the input, divisible by 4.
    """

    def __init__(self, config, num_freq):
        super().__init__()
        if num_freq % _STRIDE or len(set(config.channels)) != 1:
            raise ValueError(f"BandRecurrent needs freq divisible by 4, equal channels: {num_freq}, {config.channels}")
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
        with torch.no_grad():  # nearly nothing at first: a residual mask then passes its input
            self.last.weight_real.mul_(_FIRST_MASK)
            self.last.weight_imag.mul_(_FIRST_MASK)

    def forward(self, z, state=None, valid=None):
        """Return a complex mask of the shape of ``z``; arguments as :meth:`EncoderDecoder.forward`."""
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


def _residual(config, channels):
    return GatedUnit(config, ComplexConv2d(channels, channels, (3, 1), padding=1), channels)


class _FrequencyMap(nn.Module):
    """Learned linear map of the frequency axis, the same for every channel and frame; it starts as local averages.

    Args:
        from_freq, to_freq: lengths of the axis.
    """

    def __init__(self, from_freq, to_freq):
        super().__init__()
        # Each output looks at the inputs around its own place; training is free to leave that.
        source = (torch.arange(from_freq) + 0.5) / from_freq
        target = (torch.arange(to_freq) + 0.5) / to_freq
        width = 1.0 / min(from_freq, to_freq)
        weight = (1.0 - (target[:, None] - source).abs() / width).clamp(min=0)
        weight = weight / weight.sum(1, keepdim=True)
        self.weight = nn.Parameter(weight + 0.02 * torch.randn(to_freq, from_freq))

    def forward(self, x):
        """Map (batch, from_freq, time, channels) to (batch, to_freq, time, channels)."""
        return (self.weight @ x.flatten(2)).unflatten(-1, x.shape[2:])


class _Block(nn.Module):
    """LSTM over time, shared by all bands; attention over time in the last block; attention over bands."""

    def __init__(self, config, last):
        super().__init__()
        features = config.recurrent
        self.norm = nn.LayerNorm(features)
        self.lstm = TimeLSTM(features, features, causal=config.causal)
        self.project = nn.Linear(features, features)
        self.over_time = attention_over_time(config, features) if last else None
        self.over_bands = attention_over_frequency(config, features // 2, config.bands)

    def forward(self, h, state=None, valid=None):
        """Map (batch, bands, time, features) to the same shape."""
        sequences = h.reshape(-1, *h.shape[2:])  # (B · bands, T, features): bands are a batch to what runs along time
        each = None if valid is None else valid.repeat_interleave(h.shape[1], dim=0)
        sequences = sequences + self.project(self.lstm(self.norm(sequences), state, each))
        if self.over_time is not None:
            sequences = self.over_time(sequences, state, each)
        h = sequences.view(h.shape)
        if self.over_bands is not None:
            # The features are taken as complex channels, the first half real. (B, bands, T, D) <-> (B, T, bands, D)
            h = self.over_bands(h.transpose(1, 2).contiguous()).transpose(1, 2)
        return h

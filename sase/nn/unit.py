"""What both networks are built of: convolution, norm, PReLU, gates."""

from torch import nn

from sase.nn.complex import ConvNorm, PReLU
from sase.nn.gates import TFGA


class GatedUnit(nn.Module):
    """A complex convolution, its norm, PReLU, and TF-GA where the config asks for gates.

    Args:
        config: a :class:`sase.model.ModelConfig`.
        conv: a :class:`~sase.nn.complex.ComplexConv2d` or the transposed one.
        channels: complex channels that it gives.
    """

    def __init__(self, config, conv, channels):
        super().__init__()
        self.conv = ConvNorm(conv, channels, config.norm)
        self.activation = PReLU(2 * channels)
        self.gate = TFGA(config.frames_per_s, config.causal) if config.gates else None

    def forward(self, z, state=None, valid=None):
        """Map (batch, 2 · in, freq, time) to (batch, 2 · channels, freq', time); state, valid: as for TFGA."""
        z = self.activation(self.conv(z, state))
        return z if self.gate is None else self.gate(z, state, valid)

"""What both networks are built of: convolution, norm, PReLU, gates; and the attention that the config asks for."""

from torch import nn

from sase.nn.attention import SAGOEA, SAGUEA
from sase.nn.complex import ConvNorm, PReLU
from sase.nn.gates import TFGA
from sase.nn.softmax_attention import SoftmaxOverFrequency, SoftmaxOverTime


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


def attention_over_time(config, features):
    """Return the attention over time that the config asks for, for maps of this width; None for none."""
    if not config.time_attention:
        return None
    shape, memory_s = (features, config.heads, config.frames_per_s, config.causal), config.attention_memory_s
    if config.attention == "softmax":
        return SoftmaxOverTime(*shape, memory_s=memory_s)
    return SAGOEA(*shape, memory_s=memory_s, learned=config.learned_sigmoids, omega=config.omega)


def attention_over_frequency(config, channels, num_freq):
    """Return the attention over frequency that the config asks for, for maps of this shape; None for none."""
    if not config.frequency_attention:
        return None
    if config.attention == "softmax":
        return SoftmaxOverFrequency(channels, num_freq)
    return SAGUEA(channels, num_freq, learned=config.learned_sigmoids, omega=config.omega)

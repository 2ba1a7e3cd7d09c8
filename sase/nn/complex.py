"""Complex convolutions as one real convolution each, and norms of complex maps.

Maps are real tensors (batch, 2 · channels, freq, time), the real half first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sase.nn.frozen import DerivingLayer
from sase.nn.precision import outside_autocast
from sase.nn.streaming import StreamingLayer, StreamState, prepend_past

_INITIAL_GAIN = 0.1  # of the weights of a last layer that starts near zero


def split(z: torch.Tensor, dim: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the real and the imaginary half of a complex map, which are adjacent along ``dim``."""
    real, imag = z.chunk(2, dim)
    return real, imag


@outside_autocast
def magnitude(z: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """Return |z| (batch, channels, ...) of a complex map, with a finite gradient at zero."""
    real, imag = split(z)
    return (real.square() + imag.square() + eps).sqrt()


def complex_multiply(z: torch.Tensor, mask: torch.Tensor, dim: int = 1, offset: float = 0.0) -> torch.Tensor:
    """Return ``z · (offset + mask)`` of two complex maps whose halves are adjacent along ``dim``."""
    z_real, z_imag = split(z, dim)
    mask_real, mask_imag = split(mask, dim)
    if offset:
        mask_real = mask_real + offset
    return torch.cat([z_real * mask_real - z_imag * mask_imag, z_real * mask_imag + z_imag * mask_real], dim)


def bound_magnitude(mask: torch.Tensor, dim: int = 1, offset: float = 0.0) -> torch.Tensor:
    """Return ``polar(M) = M · tanh|M| / |M|`` of ``M = offset + mask``, with a finite gradient at zero."""
    real, imag = split(mask, dim)
    if offset:
        real = real + offset
    size = (real.square() + imag.square() + 1e-12).sqrt()
    gain = torch.tanh(size) / size
    return torch.cat([real * gain, imag * gain], dim)


def concat(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Concatenate two complex maps over channels: ``[a_r, b_r, a_i, b_i]``."""
    a_real, a_imag = split(a)
    b_real, b_imag = split(b)
    return torch.cat([a_real, b_real, a_imag, b_imag], dim=1)


class ComplexConv2d(DerivingLayer, StreamingLayer):
    """Complex convolution over (freq, time), causal in time.

    ``W = Wr + jWi`` acts as one real convolution with the block weight ``[[Wr, −Wi], [Wi, Wr]]``. There is no bias: a
    norm, or a mask, follows.

    Args:
        in_channels, out_channels: complex channels.
        kernel: (freq, time)
        stride: over freq.
        padding: over freq, on both sides.
    """

    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.past_frames = stride, padding, kernel[1] - 1
        shape = (out_channels, in_channels, *kernel)
        self.weight_real, self.weight_imag = _complex_weights(shape, in_channels * kernel[0] * kernel[1])

    def block_weight(self) -> torch.Tensor:
        """Return the weight of the real convolution, (2 · out, 2 · in, freq, time)."""
        real, imag = self.weight_real, self.weight_imag
        return torch.cat([torch.cat([real, -imag], dim=1), torch.cat([imag, real], dim=1)], dim=0)

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return the weight of the real convolution."""
        return (self.block_weight(),)

    def forward(
        self,
        z: torch.Tensor,
        state: StreamState | None = None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Convolve.

        Args:
            z: (batch, 2 · in, freq, time)
            state: streaming state, see :mod:`sase.nn`.
            weight, bias: of the real convolution, if the caller has folded a norm into them.

        Returns:
            (batch, 2 · out, freq', time)
        """
        z = prepend_past(z, self.past_frames, state, self.key("past"))
        weight = self.derived()[0] if weight is None else weight
        return F.conv2d(z, weight, bias, stride=(self.stride, 1), padding=(self.padding, 0))


class ComplexConvTranspose2d(DerivingLayer, StreamingLayer):
    """Transposed complex convolution over (freq, time): output frame t depends on input frames up to t.

    ``conv_transpose2d`` stores its weight as (in, out), so the block is ``[[Wr, Wi], [−Wi, Wr]]``.

    Args:
        in_channels, out_channels, kernel, stride, padding: as for :class:`ComplexConv2d`.
        output_padding: over freq, at the upper end.
    """

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.past_frames = kernel[1] - 1
        shape = (in_channels, out_channels, *kernel)
        self.weight_real, self.weight_imag = _complex_weights(shape, in_channels * kernel[0] * kernel[1] / stride)

    @torch.no_grad()
    def start_near_zero(self) -> None:
        """Scale the initial weights down, so that a mask to which 1 is added starts by passing its input."""
        self.weight_real.mul_(_INITIAL_GAIN)
        self.weight_imag.mul_(_INITIAL_GAIN)

    def block_weight(self) -> torch.Tensor:
        """Return the weight of the real transposed convolution, (2 · in, 2 · out, freq, time)."""
        real, imag = self.weight_real, self.weight_imag
        return torch.cat([torch.cat([real, imag], dim=1), torch.cat([-imag, real], dim=1)], dim=0)

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return the weight of the real transposed convolution."""
        return (self.block_weight(),)

    def forward(
        self,
        z: torch.Tensor,
        state: StreamState | None = None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Convolve (batch, 2 · in, freq, time) to (batch, 2 · out, freq', time); arguments: :class:`ComplexConv2d`."""
        num_frames = z.shape[-1]
        z = prepend_past(z, self.past_frames, state, self.key("past"))
        weight = self.derived()[0] if weight is None else weight
        out = F.conv_transpose2d(
            z, weight, bias, stride=(self.stride, 1), padding=(self.padding, 0), output_padding=(self.output_padding, 0)
        )
        return out[..., self.past_frames : self.past_frames + num_frames]


class ComplexBatchNorm(nn.Module):
    """Batch norm that whitens (real, imag) of every channel by their 2×2 covariance (Trabelsi et al. 2018).

    In eval mode it is one affine map per channel, :meth:`affine`, from running statistics.

    Args:
        channels: complex channels.
        eps: added to both variances.
        momentum: weight of the current batch in the running statistics.
    """

    running_mean: torch.Tensor
    running_cov: torch.Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gain_rr = nn.Parameter(torch.full((channels,), 0.5**0.5))
        self.gain_ii = nn.Parameter(torch.full((channels,), 0.5**0.5))
        self.gain_ri = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(2 * channels))
        self.register_buffer("running_mean", torch.zeros(2 * channels))
        # Rows: E[rr], E[ii], E[ri] around the mean.
        self.register_buffer("running_cov", torch.tensor([[0.5], [0.5], [0.0]]).repeat(1, channels))

    @outside_autocast
    def affine(self, mean: torch.Tensor, cov: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``A`` (2, 2, channels) and ``b`` (2, channels) of the map ``A x + b`` that whitens, then scales.

        Args:
            mean: (2 · channels,)
            cov: (3, channels): variance of the real part, of the imaginary part, covariance.
        """
        v_rr, v_ii, v_ri = cov[0] + self.eps, cov[1] + self.eps, cov[2]
        # Inverse square root of a symmetric positive 2×2 matrix in closed form. The determinant is bounded from below
        # by its value for eps alone, so that rounding cannot make it vanish when the parts are fully correlated.
        root = (v_rr * v_ii - v_ri.square()).clamp(min=self.eps**2).sqrt()
        scale = 1.0 / (root * (v_rr + v_ii + 2.0 * root).sqrt())
        w_rr, w_ii, w_ri = (v_ii + root) * scale, (v_rr + root) * scale, -v_ri * scale
        matrix = torch.stack(
            [
                torch.stack([self.gain_rr * w_rr + self.gain_ri * w_ri, self.gain_rr * w_ri + self.gain_ri * w_ii]),
                torch.stack([self.gain_ri * w_rr + self.gain_ii * w_ri, self.gain_ri * w_ri + self.gain_ii * w_ii]),
            ]
        )
        shift = self.bias.view(2, -1) - torch.einsum("ijc,jc->ic", matrix, mean.view(2, -1))
        return matrix, shift

    def running_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return :meth:`affine` for the running statistics."""
        return self.affine(self.running_mean, self.running_cov)

    @outside_autocast
    def forward(self, z: torch.Tensor, state: StreamState | None = None) -> torch.Tensor:
        """Normalise (batch, 2 · channels, freq, time)."""
        if self.training:
            mean, cov = self._batch_statistics(z)
        else:
            mean, cov = self.running_mean, self.running_cov
        matrix, shift = self.affine(mean, cov)
        # One matrix product costs less than the elementwise operations with the four diagonals.
        rows = [torch.cat([matrix[i, 0].diag(), matrix[i, 1].diag()], dim=1) for i in range(2)]
        return F.conv2d(z, torch.cat(rows)[:, :, None, None], shift.flatten())

    def _batch_statistics(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])  # (B, 2C, F, T) -> (B · F · T, 2C)
        mean = flat.mean(0)
        # Moments around the running mean, which is close to the mean: no cancellation in the difference below.
        centred = flat - self.running_mean
        offset = mean - self.running_mean
        moments = centred.T @ centred / len(flat) - offset[:, None] * offset
        channels = len(mean) // 2
        variance, mixed = moments.diagonal(), moments.diagonal(channels)
        cov = torch.stack([variance[:channels], variance[channels:], mixed])
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_cov.lerp_(cov, self.momentum)
        return mean, cov


class FrameNorm(nn.Module):
    """Layer norm of each frame over channels and frequency, both parts together, never over time.

    Args:
        channels: complex channels.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(2 * channels))
        self.bias = nn.Parameter(torch.zeros(2 * channels))

    @outside_autocast
    def forward(self, z: torch.Tensor, state: StreamState | None = None) -> torch.Tensor:
        """Normalise (batch, 2 · channels, freq, time)."""
        variance, mean = torch.var_mean(z, dim=(1, 2), keepdim=True, correction=0)
        shape = (1, -1, 1, 1)
        return torch.addcmul(self.bias.view(shape), (z - mean) * (variance + self.eps).rsqrt(), self.gain.view(shape))


class PReLU(nn.Module):
    """Parametric ReLU, one slope per real channel: ``nn.PReLU`` in a form whose gradient is faster on a CPU.

    Args:
        channels: real channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, freq, time) to the same shape."""
        if not torch.is_grad_enabled():
            return F.prelu(x, self.slope)
        return F.relu(x) - self.slope.view(1, -1, 1, 1) * F.relu(-x)


NORMS: dict[str, type[ComplexBatchNorm] | type[FrameNorm]] = {"batch": ComplexBatchNorm, "layer": FrameNorm}


class ConvNorm(DerivingLayer):
    """A complex convolution and its norm; in eval mode without gradients a batch norm is folded into the convolution.

    Args:
        conv: the convolution, transposed or not.
        channels: complex channels of its output.
        norm: a key of ``NORMS``.
    """

    def __init__(self, conv: ComplexConv2d | ComplexConvTranspose2d, channels: int, norm: str) -> None:
        super().__init__()
        self.conv = conv
        self.norm = NORMS[norm](channels)

    def forward(self, z: torch.Tensor, state: StreamState | None = None) -> torch.Tensor:
        """Map (batch, 2 · in, freq, time) to (batch, 2 · channels, freq', time)."""
        if not self.is_frozen and (self.training or torch.is_grad_enabled()):
            return self.norm(self.conv(z, state))
        constants = self.derived()
        return self.conv(z, state, *constants) if constants else self.norm(self.conv(z, state))

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return weight and bias of the real convolution with the norm folded in; nothing for a norm that adapts."""
        if not isinstance(self.norm, ComplexBatchNorm):
            return ()
        matrix, shift = self.norm.running_affine()
        axis = 1 if self.conv.transposed else 0
        real, imag = self.conv.block_weight().chunk(2, dim=axis)
        shape = (1, -1, 1, 1) if axis else (-1, 1, 1, 1)
        rows = [matrix[i, 0].view(shape) * real + matrix[i, 1].view(shape) * imag for i in range(2)]
        weight = torch.cat(rows, dim=axis).contiguous(memory_format=torch.channels_last)  # as most maps are
        return weight, shift.flatten()


def _complex_weights(shape: tuple[int, ...], fan_in: float) -> list[nn.Parameter]:
    """Return real and imaginary weights whose variance preserves the power of a complex map (as Kaiming uniform)."""
    limit = (3.0 / (2.0 * fan_in)) ** 0.5
    return [nn.Parameter(torch.empty(shape).uniform_(-limit, limit)) for _ in range(2)]

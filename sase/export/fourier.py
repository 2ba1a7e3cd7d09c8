"""The Fourier transform of one frame as matrix products, which every runtime and exporter knows."""

from __future__ import annotations

import math

import torch
from torch import nn


class FourierTransform(nn.Module):
    """Transform of a real frame and its inverse, as two small matrix products each (Cooley and Tukey 1965).

    With N = A · B, ``n = B · n₁ + n₂`` and ``k = k₁ + A · k₂``, the sum over n₁ is a transform of length A for each n₂,
    a factor ``exp(−2πi n₂ k₁ / N)`` follows, and the sum over n₂ is a transform of length B for each k₁. One matrix of
    N × N would be 40 times as large.

    Args:
        size: N, even.
    """

    over_rows_cos: torch.Tensor
    over_rows_sin: torch.Tensor
    over_columns_cos: torch.Tensor
    over_columns_sin: torch.Tensor
    twiddle_cos: torch.Tensor
    twiddle_sin: torch.Tensor
    inverse_weight: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2:
            raise ValueError(f"FourierTransform needs an even size, got {size}")
        self.size = size
        self.rows = next(a for a in range(math.isqrt(size), 0, -1) if size % a == 0)
        self.columns = size // self.rows
        k1, n1 = torch.arange(self.rows), torch.arange(self.rows)
        k2, n2 = torch.arange(self.columns), torch.arange(self.columns)
        self._register("over_rows", torch.outer(k1, n1), self.rows)
        self._register("twiddle", torch.outer(k1, n2), size)
        self._register("over_columns", torch.outer(n2, k2), self.columns)
        # A real signal is the real part of twice its positive frequencies; Nyquist has no mirror image. DC is zero.
        weight = torch.full((size // 2,), 2.0 / size)
        weight[-1] = 1.0 / size
        self.register_buffer("inverse_weight", weight, persistent=False)

    def _register(self, name: str, turns: torch.Tensor, period: int) -> None:
        angle = -2.0 * math.pi * (turns % period).double() / period
        self.register_buffer(f"{name}_cos", angle.cos().float(), persistent=False)
        self.register_buffer(f"{name}_sin", angle.sin().float(), persistent=False)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Return real and imaginary part, (batch, 2, size // 2), of the bins above DC of a real frame (batch, size)."""
        x = frame.reshape(-1, self.rows, self.columns)
        real, imag = self.over_rows_cos @ x, self.over_rows_sin @ x
        return self._columns(real, imag)[:, :, 1 : self.size // 2 + 1]

    def inverse(self, bins: torch.Tensor) -> torch.Tensor:
        """Return the real frame (batch, size) of bins (batch, 2, size // 2) as :meth:`forward` returns them.

        The transform is its own inverse up to conjugation: ``x = conj(F(conj(X))) / N``.
        """
        bins = bins * self.inverse_weight
        zero = torch.zeros_like(bins[:, :, :1])
        padded = torch.cat([zero, bins, torch.zeros_like(bins[:, :, 1:])], dim=2)
        real, imag = padded.reshape(-1, 2, self.rows, self.columns).unbind(1)
        cos, sin = self.over_rows_cos, self.over_rows_sin
        return self._columns(cos @ real + sin @ imag, sin @ real - cos @ imag)[:, 0]

    def _columns(self, real: torch.Tensor, imag: torch.Tensor) -> torch.Tensor:
        """Multiply by the factors, transform the columns, and sort by frequency: (batch, 2, size)."""
        cos, sin = self.twiddle_cos, self.twiddle_sin
        real, imag = real * cos - imag * sin, real * sin + imag * cos
        cos, sin = self.over_columns_cos, self.over_columns_sin
        both = torch.stack([real @ cos - imag @ sin, real @ sin + imag @ cos], dim=1)
        return both.transpose(-1, -2).flatten(2)  # (B, 2, k₁, k₂) -> (B, 2, k₁ + A · k₂)

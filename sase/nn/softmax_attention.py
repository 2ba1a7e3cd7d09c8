"""Softmax attention over time and frequency: baselines that replace SA-GOEA and SA-GUEA."""

from __future__ import annotations

import math

import torch

from sase.nn.attention import CHUNK, FrequencyAttention, TimeAttention
from sase.nn.precision import outside_autocast
from sase.nn.streaming import StreamState, prepend_past


class SoftmaxTimeAttention(TimeAttention):
    """``y_t = Σ_s softmax_s(q_t·k_s / √e) v_s``, with the output of :class:`~sase.nn.attention.SAGOEA`.

    If causal, s runs over a sliding window of ``memory_s`` that ends with the current frame, so that a stream's cost
    and memory are bounded; otherwise over all frames.

    Args:
        features, heads, frames_per_s, causal: as for SAGOEA.
        memory_s: length of the window.
    """

    def __init__(
        self, features: int, heads: int, frames_per_s: float, causal: bool = True, memory_s: float = 4.0
    ) -> None:
        super().__init__(features, heads, causal)
        self.past_frames = max(1, round(memory_s * frames_per_s)) - 1

    def forward(
        self, h: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend; arguments and output as of :meth:`sase.nn.attention.SAGOEA.forward`."""
        query, key, value = self.project_qkv(h, *self.derived())
        query = query / math.sqrt(query.shape[-1])
        if self.causal:
            return self.gate(h, self._attend_to_window(query, key, value, state))
        return self.gate(h, self._attend_to_all(query, key, value, valid))

    @outside_autocast
    def _attend_to_all(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        scores = query @ key.transpose(-1, -2)
        if valid is not None:
            scores = scores.masked_fill(valid[:, None, None] == 0, -math.inf)
        return scores.softmax(-1) @ value

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return the projections, (3, heads, e, features)."""
        return (self.qkv_weights(),)

    @outside_autocast
    def _attend_to_window(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, state: StreamState | None
    ) -> torch.Tensor:
        """Return y chunk by chunk; keys outside the window or before the start of the signal are masked."""
        num_frames, size = query.shape[2], query.shape[-1]
        # A row of ones marks frames of the signal: before its start, the past is zero.
        past = torch.cat([key, value, torch.ones_like(key[..., :1])], dim=-1).transpose(-1, -2)  # (B, H, 2e + 1, T)
        past = prepend_past(past, self.past_frames, state, self.key("past")).transpose(-1, -2)
        key, value, present = past.split([size, size, 1], dim=-1)
        row = torch.arange(CHUNK, device=query.device)
        column = torch.arange(self.past_frames + CHUNK, device=query.device)
        lag = self.past_frames + row[:, None] - column
        window = (lag >= 0) & (lag <= self.past_frames)
        parts = []
        for start in range(0, num_frames, CHUNK):
            count = min(CHUNK, num_frames - start)
            seen = slice(start, start + self.past_frames + count)
            visible = window[:count, : self.past_frames + count] & (present[:, :, seen] > 0).transpose(-1, -2)
            scores = query[:, :, start : start + count] @ key[:, :, seen].transpose(-1, -2)
            parts.append(scores.masked_fill(~visible, -math.inf).softmax(-1) @ value[:, :, seen])
        return torch.cat(parts, dim=2)


class SoftmaxFrequencyAttention(FrequencyAttention):
    """``y_i = Σ_j softmax_j(Re q_i·k̄_j / √e) v_j`` per frame, complex; everything else as in SA-GUEA.

    Args:
        channels: complex channels e.
        num_freq: frequency positions of the map.
    """

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Attend over frequency; see :meth:`sase.nn.attention.FrequencyAttention.forward`."""
        query, key, value = self._project_qkv(z)
        return self.apply_mask(z, self._attend(query, key, value))

    def weights(self, z: torch.Tensor) -> torch.Tensor:
        """Return the attention weights, (..., freq of queries, freq of keys), rows of sum 1."""
        query, key, _ = self._project_qkv(z)
        return self._softmax(query, key)

    def _project_qkv(self, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.project(z).chunk(3, dim=-1)

    @outside_autocast
    def _softmax(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        # With the halves side by side, the real product is the real part of the complex one.
        return (query @ key.transpose(-1, -2) / math.sqrt(self.channels)).softmax(-1)

    @outside_autocast
    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return self._softmax(query, key) @ value

"""Plain softmax attention over time and frequency, in the places of SA-GOEA and SA-GUEA: what to compare them with."""

import math

import torch

from sase.nn.attention import CHUNK, OverFrequency, OverTime
from sase.nn.streaming import prepend_past


class SoftmaxOverTime(OverTime):
    """``y_t = Σ_s softmax_s(q_t·k_s / √e) v_s``, the output as of :class:`~sase.nn.attention.SAGOEA`.

    Causal, s runs over the frame and those before it, ``memory_s`` in all, so that a stream's cost and memory are
    bounded; else over all frames.

    Args:
        features, heads, frames_per_s, causal: as for SAGOEA.
        memory_s: seconds that are remembered.
    """

    def __init__(self, features, heads, frames_per_s, causal=True, memory_s=4.0):
        super().__init__(features, heads, causal)
        self.past = max(1, round(memory_s * frames_per_s)) - 1

    def forward(self, h, state=None, valid=None):
        """Attend; arguments and output as of :meth:`SAGOEA.forward`."""
        query, key, value = self.mapped(h, self.maps())
        query = query / math.sqrt(query.shape[-1])
        if self.causal:
            return self.gated(h, self._look_back(query, key, value, state))
        scores = query @ key.transpose(-1, -2)
        if valid is not None:
            scores = scores.masked_fill(valid[:, None, None] == 0, -math.inf)
        return self.gated(h, scores.softmax(-1) @ value)

    def _look_back(self, query, key, value, state):
        """Return y in chunks of queries, each with the keys that it may see and with those before the signal masked."""
        num_frames, done = query.shape[2], 0 if state is None else state.get((self, "count"), 0)
        both = torch.cat([key, value], dim=-1).transpose(-1, -2)  # (B, H, T, 2e) -> (B, H, 2e, T)
        both = prepend_past(both, self.past, state, (self, "past")).transpose(-1, -2)
        if state is not None:
            state[self, "count"] = done + num_frames
        row, column = torch.arange(CHUNK, device=query.device), torch.arange(self.past + CHUNK, device=query.device)
        lag = self.past + row[:, None] - column
        within = (lag >= 0) & (lag <= self.past)
        parts = []
        for start in range(0, num_frames, CHUNK):
            size = min(CHUNK, num_frames - start)
            key, value = both[:, :, start : start + self.past + size].chunk(2, dim=-1)
            seen = within[:size, : self.past + size] & (column[: self.past + size] >= self.past - done - start)
            scores = query[:, :, start : start + size] @ key.transpose(-1, -2)
            parts.append(scores.masked_fill(~seen, -math.inf).softmax(-1) @ value)
        return torch.cat(parts, dim=2)


class SoftmaxOverFrequency(OverFrequency):
    """``y_i = Σ_j softmax_j(Re q_i·k̄_j / √e) v_j`` per frame, complex; all else as in SA-GUEA.

    Args:
        channels: complex channels e.
        num_freq: frequency positions of the map.
    """

    def forward(self, z):
        """Attend over frequency; ``z`` and what comes out as of :meth:`SAGUEA.forward`."""
        weights, value = self._weights_and_value(z)
        return self.masked(z, weights @ value)

    def weights(self, z):
        """Return how much each frequency looks at each other one, (..., freq, freq), rows of sum 1."""
        return self._weights_and_value(z)[0]

    def _weights_and_value(self, z):
        query, key, value = self.mapped(z, self.maps().flatten(0, 1)).chunk(3, dim=-1)
        # With the halves side by side, the real product is the real part of the complex one.
        return (query @ key.transpose(-1, -2) / math.sqrt(self.channels)).softmax(-1), value

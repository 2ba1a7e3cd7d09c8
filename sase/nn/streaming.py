"""The streaming state of causal layers: what they cache from one block of frames to the next."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F

from sase.nn.precision import outside_autocast

StreamState = dict[Hashable, Any]  # a layer, or (layer, name), to what it caches


def prepend_past(x: torch.Tensor, frames: int, state: StreamState | None, key: Hashable) -> torch.Tensor:
    """Prepend the previous frames to ``x``, and cache its last frames for the next block.

    Args:
        x: (..., time)
        frames: number of past frames that the layer sees.
        state: the streaming state; None for a whole signal.
        key: of the cache, unique in ``state``.

    Returns:
        (..., frames + time); frames before the start of the signal are zero.
    """
    if frames == 0:
        return x
    past = None if state is None else state.get(key)
    padded = F.pad(x, (frames, 0)) if past is None else torch.cat([past, x], dim=-1)
    if state is not None:
        state[key] = padded[..., padded.shape[-1] - frames :]
    return padded


@outside_autocast
def decayed_sum(
    x: torch.Tensor, decay: float, state: StreamState | None = None, key: Hashable = None, chunk: int = 64
) -> torch.Tensor:
    """Return the exponentially decayed sum ``y_t = Σ_{s≤t} decay^(t−s) x_s``, without a loop over frames.

    Within chunks of frames the sum is one product with a triangular Toeplitz matrix; a second, small product carries
    the sums at the chunks' ends to the chunks that follow.

    Args:
        x: (batch, ..., time, features)
        decay: in (0, 1).
        state, key: as in :func:`prepend_past`; the last sum is cached.
        chunk: frames per chunk.

    Returns:
        Of the shape of ``x``.
    """
    num_frames = x.shape[-2]
    num_chunks = -(-num_frames // chunk)
    padded = F.pad(x, (0, 0, 0, num_chunks * chunk - num_frames))
    padded = padded.unflatten(-2, (num_chunks, chunk))  # (batch, ..., chunks, frames, features)
    powers = _powers(decay, chunk + 1, x)
    local = _toeplitz(powers[:chunk]) @ padded
    ends = local[..., -1, :]  # (batch, ..., chunks, features)
    carry = torch.zeros_like(ends)
    if num_chunks > 1:
        between = _toeplitz(_powers(decay**chunk, num_chunks - 1, x)) @ ends[..., :-1, :]
        carry = torch.cat([carry[..., :1, :], between], dim=-2)
    if state is not None and key in state:
        carry = carry + _powers(decay**chunk, num_chunks, x)[:, None] * state[key]
    total = local + powers[1:, None] * carry[..., None, :]
    total = total.flatten(-3, -2)[..., :num_frames, :]
    if state is not None:
        state[key] = total[..., -1:, :]
    return total


def _powers(base: float, count: int, like: torch.Tensor) -> torch.Tensor:
    """Return ``base^0 … base^(count−1)``, computed in float64, with the type and device of ``like``."""
    exponents = torch.arange(count, device=like.device, dtype=torch.float64)
    return (float(base) ** exponents).to(like.dtype)


def _toeplitz(powers: torch.Tensor) -> torch.Tensor:
    """Return the lower triangular matrix with ``powers[i − j]`` in row i and column j."""
    size = len(powers)
    index = torch.arange(size, device=powers.device)
    lag = index[:, None] - index
    return torch.where(lag >= 0, powers[lag.clamp(min=0)], 0.0)

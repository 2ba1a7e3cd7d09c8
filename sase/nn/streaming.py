"""The streaming state of causal layers: named tensors that they carry from one block of frames to the next."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sase.nn.precision import outside_autocast

StreamState = dict[str, torch.Tensor]  # a name that is missing stands for zeros: the start of a signal


class StreamingLayer(nn.Module):
    """A causal layer with an entry or several in the streaming state.

    Attributes:
        stream_name: the layer's name in its network, set by :func:`name_streaming_layers`; empty for a single layer.
    """

    stream_name: str = ""

    def key(self, name: str) -> str:
        """Return the key of an entry of this layer in a :data:`StreamState`, such as ``blocks.1.lstm.cell``."""
        return f"{self.stream_name}.{name}" if self.stream_name else name


def name_streaming_layers(network: nn.Module) -> None:
    """Give the streaming layers of a network their names, which make their keys in the state unique."""
    for name, module in network.named_modules():
        if isinstance(module, StreamingLayer):
            module.stream_name = name


def prepend_past(x: torch.Tensor, frames: int, state: StreamState | None, key: str) -> torch.Tensor:
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
    x: torch.Tensor, decay: float, state: StreamState | None = None, key: str = "sum", chunk: int = 64
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
    before = None if state is None else state.get(key)
    total = _decayed_sum(x, decay, before, chunk)
    if state is not None:
        state[key] = total[..., -1:, :]
    return total


def decayed_count(
    num_frames: int, decay: float, like: torch.Tensor, state: StreamState | None = None, key: str = "count"
) -> torch.Tensor:
    """Return ``Σ_{s≤t} decay^(t−s)``, (num_frames,): the weight of all frames in a :func:`decayed_sum`.

    Args:
        num_frames, decay: of the sum.
        like: a tensor of the wanted type and device.
        state, key: as in :func:`prepend_past`; the last value is cached.
    """
    if num_frames == 1:
        count = like.new_ones(1)
    else:
        exponents = torch.arange(1, num_frames + 1, device=like.device, dtype=torch.float64)
        count = ((1.0 - decay**exponents) / (1.0 - decay)).to(like.dtype)
    if state is not None:
        if key in state:
            count = count + _powers(decay, num_frames + 1, like)[1:] * state[key]
        state[key] = count[-1:]
    return count


def _decayed_sum(x: torch.Tensor, decay: float, before: torch.Tensor | None, chunk: int) -> torch.Tensor:
    """Return :func:`decayed_sum` chunk by chunk; ``before`` is the sum (batch, ..., 1, features) so far."""
    num_frames = x.shape[-2]
    if num_frames == 1:  # the frame of a stream: no sum over the chunk
        return x if before is None else x + decay * before
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
    if before is not None:
        carry = carry + _powers(decay**chunk, num_chunks, x)[:, None] * before
    total = local + powers[1:, None] * carry[..., None, :]
    return total.flatten(-3, -2)[..., :num_frames, :]


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

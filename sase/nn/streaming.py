"""What causal layers share: their past, carried from one block of frames to the next."""

import torch
import torch.nn.functional as F


def prepend_past(x, frames, state, key):
    """Return ``x`` with the frames before it in front, and keep its own last frames for the next block.

    Args:
        x: (..., time)
        frames: how many frames the layer looks back.
        state: the dict of the running stream; None for a whole signal.
        key: what the past is kept under, unique in ``state``.

    Returns:
        (..., frames + time); zeros stand before the beginning of the signal.
    """
    if frames == 0:
        return x
    if state is None or key not in state:
        padded = F.pad(x, (frames, 0))
    else:
        padded = torch.cat([state[key], x], dim=-1)
    if state is not None:
        state[key] = padded[..., padded.shape[-1] - frames :]
    return padded


def decayed_sum(x, decay, state=None, key=None, chunk=64):
    """Sum over the past with exponential forgetting, ``y_t = Σ_{s≤t} decay^(t−s) x_s``, without a loop over frames.

    Within chunks of frames the sum is one product with a triangular Toeplitz matrix; a second, small one carries the
    chunks' ends onwards.

    Args:
        x: (batch, ..., time, features)
        decay: a float in (0, 1).
        state, key: as in :func:`prepend_past`; the last sum is kept.

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


def _powers(base, count, like):
    exponents = torch.arange(count, device=like.device, dtype=torch.float64)
    return (float(base) ** exponents).to(like.dtype)


def _toeplitz(powers):
    """Lower triangular matrix with ``powers[i − j]`` in row i and column j."""
    size = len(powers)
    index = torch.arange(size, device=powers.device)
    lag = index[:, None] - index
    return torch.where(lag >= 0, powers[lag.clamp(min=0)], 0.0)

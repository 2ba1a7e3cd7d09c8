"""Short-time objective intelligibility as a differentiable function of a batch; needs torch alone."""

from functools import lru_cache

import numpy as np
import torch

SAMPLE_RATE = 16000
_INNER_RATE = 10000
_UP, _DOWN = 5, 8  # 16 kHz * 5 / 8 = 10 kHz
_WINDOW, _HOP, _FFT = 256, 128, 512
_BANDS, _LOWEST_HZ = 15, 150.0
_SEGMENT = 30  # frames, 384 ms
_DYNAMIC_RANGE_DB = 40.0
_CLIP = 1.0 + 10.0 ** (15.0 / 20.0)  # no band may exceed the clean one by a signal to distortion ratio of -15 dB
_TINY = 1e-10


def stoi(enhanced, clean, lengths=None):
    """Return the STOI of each utterance. Taal et al., IEEE TASLP 2011.

    Args:
        enhanced: (batch, time) at 16 kHz.
        clean: (batch, time)
        lengths: (batch,) valid samples per row, all of them when None; the padding must be zero.

    Returns:
        (batch,); 0 where fewer than 30 frames (0.4 s) of the reference are within 40 dB of its loudest one.
    """
    if lengths is None:
        lengths = torch.full((clean.shape[0],), clean.shape[-1], device=clean.device)
    level = (clean.square().sum(-1, keepdim=True) / lengths[:, None].clamp(min=1) + _TINY).sqrt()
    lengths = torch.ceil(lengths * _UP / _DOWN)
    num_frames = torch.ceil((lengths - _WINDOW) / _HOP).clamp(min=0)
    enhanced, clean, num_frames = _drop_silent(_frames(enhanced / level), _frames(clean / level), num_frames)
    return _correlation(_third_octaves(enhanced), _third_octaves(clean), num_frames)


def resample_to_10k(wav):
    """Return (batch, time) at 16 kHz as (batch, ceil(time * 5 / 8)) at 10 kHz, by a Kaiser-windowed sinc (60 dB)."""
    kernel, left = _resampling_kernel(wav.dtype, wav.device)
    blocks = -(-wav.shape[-1] // _DOWN)  # each block of 8 samples in gives 5 out
    padded = torch.nn.functional.pad(wav, (left, blocks * _DOWN + kernel.shape[-1] - left - wav.shape[-1]))
    phases = torch.nn.functional.conv1d(padded[:, None], kernel, stride=_DOWN)[..., :blocks]  # (batch, 5, blocks)
    num_samples = -(-wav.shape[-1] * _UP // _DOWN)
    return phases.transpose(1, 2).flatten(1)[:, :num_samples]  # (batch, blocks, 5) -> (batch, time)


@lru_cache
def _resampling_kernel(dtype, device):
    """Return the polyphase filter (5, 1, taps) and how many samples before a block it looks at."""
    cutoff = 0.5 / _DOWN  # cycles per sample at 80 kHz
    half = int(np.ceil((60.0 - 8.0) / (2 * 2.285 * 2 * np.pi * cutoff / 10)))  # Kaiser's rule, a transition of 10 %
    times = np.arange(-half, half + 1)
    taps = np.sinc(2 * cutoff * times) * np.kaiser(times.size, 0.1102 * (60.0 - 8.7))
    taps *= _UP / taps.sum()
    left = half // _UP
    offsets = np.arange(-left, (half + _DOWN * (_UP - 1)) // _UP + 1)
    index = _UP * offsets[None, :] - _DOWN * np.arange(_UP)[:, None]  # (phase, offset): the time between in and out
    kernel = np.where(abs(index) <= half, taps[np.clip(index + half, 0, times.size - 1)], 0.0)
    return torch.as_tensor(kernel[:, None], dtype=dtype, device=device), left


def _frames(wav):
    """Return windowed frames at 10 kHz of (batch, time) at 16 kHz: (batch, frames, 256)."""
    wav = resample_to_10k(wav)
    wav = torch.nn.functional.pad(wav, (0, max(0, 2 * _WINDOW - wav.shape[-1])))
    return wav.unfold(-1, _WINDOW, _HOP) * _window(wav.dtype, wav.device)


def _drop_silent(enhanced, clean, num_frames):
    """Drop the frames in which the clean one is silent, join the others and cut them into frames again.

    Args:
        enhanced, clean: windowed frames (batch, frames, 256).
        num_frames: (batch,) valid ones.

    Returns:
        The same, windowed twice as in the definition: frames (batch, frames - 1, 256), and their number (batch,).
    """
    invalid = torch.arange(clean.shape[1], device=clean.device) >= num_frames[:, None]
    level_db = 10.0 * torch.log10(clean.square().sum(-1) + _TINY**2).masked_fill(invalid, -torch.inf)
    kept = level_db > level_db.amax(-1, keepdim=True) - _DYNAMIC_RANGE_DB
    order = torch.argsort((~kept).to(torch.uint8), dim=-1, stable=True)[..., None]
    dropped = torch.arange(clean.shape[1], device=clean.device) >= kept.sum(-1, keepdim=True)
    window = _window(clean.dtype, clean.device)

    def join(frames):
        frames = frames.gather(1, order.expand_as(frames)).masked_fill(dropped[..., None], 0.0)
        first, second = frames.split(_HOP, dim=-1)
        joined = first + torch.nn.functional.pad(second, (0, 0, 1, 0))[:, :-1]  # overlap-add, in pieces of one hop
        # the second half of frame i is the joined piece i + 1
        return torch.cat([joined[:, :-1], joined[:, 1:]], dim=-1) * window

    return join(enhanced), join(clean), (kept.sum(-1) - 1).clamp(min=0)


def _third_octaves(frames):
    """Return the amplitudes of 15 third-octave bands of (batch, frames, 256): (batch, 15, frames)."""
    spec = torch.fft.rfft(frames, _FFT)
    power = spec.real.square() + spec.imag.square()
    return (power @ _band_matrix(power.dtype, power.device) + _TINY).sqrt().transpose(1, 2)


def _correlation(enhanced, clean, num_frames):
    """Return the mean correlation (batch,) of band envelopes (batch, 15, frames) over segments of 30 frames."""
    pad = max(0, _SEGMENT - clean.shape[-1])
    # (batch, 15, segments, 30)
    enhanced, clean = (torch.nn.functional.pad(x, (0, pad)).unfold(-1, _SEGMENT, 1) for x in (enhanced, clean))
    gain = _norm(clean) / _norm(enhanced)
    enhanced = torch.minimum(enhanced * gain, clean * _CLIP)
    enhanced = enhanced - enhanced.mean(-1, keepdim=True)
    clean = clean - clean.mean(-1, keepdim=True)
    correlation = ((enhanced * clean).sum(-1, keepdim=True) / (_norm(enhanced) * _norm(clean)))[..., 0].mean(1)
    num_segments = (num_frames - _SEGMENT + 1).clamp(min=0)
    invalid = torch.arange(correlation.shape[-1], device=correlation.device) >= num_segments[:, None]
    return correlation.masked_fill(invalid, 0.0).sum(-1) / num_segments.clamp(min=1)


def _norm(x):
    return (x.square().sum(-1, keepdim=True) + _TINY).sqrt()


@lru_cache
def _window(dtype, device):
    return torch.hann_window(_WINDOW + 2, periodic=False, dtype=dtype, device=device)[1:-1]


@lru_cache
def _band_matrix(dtype, device):
    """Return (freq, 15) with ones where a bin lies in a third-octave band, edges at the nearest bins."""
    bin_hz = _INNER_RATE / _FFT
    edges = np.round(_LOWEST_HZ * 2.0 ** ((np.arange(_BANDS + 1) - 0.5) / 3.0) / bin_hz)
    bins = np.arange(_FFT // 2 + 1)[:, None]
    return torch.as_tensor((bins >= edges[:-1]) & (bins < edges[1:]), dtype=dtype, device=device)

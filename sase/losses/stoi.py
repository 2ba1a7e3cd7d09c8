"""Short-time objective intelligibility as a differentiable function of a batch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from sase.nn.precision import outside_autocast

SAMPLE_RATE = 16000
_INNER_RATE = 10000
_UP, _DOWN = 5, 8  # 16 kHz * 5 / 8 = 10 kHz
_WINDOW, _HOP, _FFT = 256, 128, 512
_BANDS, _LOWEST_HZ = 15, 150.0
_SEGMENT = 30  # frames, 384 ms
_DYNAMIC_RANGE_DB = 40.0
_CLIP = 1.0 + 10.0 ** (15.0 / 20.0)  # a signal-to-distortion ratio of -15 dB: upper limit of a band re the clean one
_TINY = 1e-10


@outside_autocast
def stoi(enhanced: torch.Tensor, clean: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Return the STOI per utterance. Taal et al., IEEE TASLP 2011.

    Args:
        enhanced: (batch, time) at 16 kHz.
        clean: (batch, time)
        lengths: (batch,) valid samples per utterance, all if None; the padding must be zero.

    Returns:
        (batch,); 0 if fewer than 30 frames (0.4 s) of the reference are within 40 dB of its loudest one.
    """
    if lengths is None:
        lengths = torch.full((clean.shape[0],), clean.shape[-1], device=clean.device)
    level = (clean.square().sum(-1, keepdim=True) / lengths[:, None].clamp(min=1) + _TINY).sqrt()
    lengths = torch.ceil(lengths * _UP / _DOWN)
    num_frames = torch.ceil((lengths - _WINDOW) / _HOP).clamp(min=0)
    enhanced, clean, num_frames = _drop_silent(_frames(enhanced / level), _frames(clean / level), num_frames)
    return _correlation(_third_octaves(enhanced), _third_octaves(clean), num_frames)


def resample_to_10k(wav: torch.Tensor) -> torch.Tensor:
    """Resample (batch, time) from 16 to 10 kHz, (batch, ceil(time * 5 / 8)), by a Kaiser-windowed sinc (60 dB).

    The filter is that of pystoi, which torchaudio's resampler cannot reproduce: they differ by 1e-3.
    """
    kernel, left = _resampling_kernel(wav.dtype, wav.device)
    blocks = -(-wav.shape[-1] // _DOWN)  # of 8 input samples, 5 output samples each
    padded = torch.nn.functional.pad(wav, (left, blocks * _DOWN + kernel.shape[-1] - left - wav.shape[-1]))
    phases = torch.nn.functional.conv1d(padded[:, None], kernel, stride=_DOWN)[..., :blocks]  # (batch, 5, blocks)
    num_samples = -(-wav.shape[-1] * _UP // _DOWN)
    return phases.transpose(1, 2).flatten(1)[:, :num_samples]  # (batch, blocks, 5) -> (batch, time)


@lru_cache
def _resampling_kernel(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, int]:
    """Return the polyphase filter (5, 1, taps) and its number of taps before a block."""
    cutoff = 0.5 / _DOWN  # cycles per sample at 80 kHz
    half = int(
        np.ceil((60.0 - 8.0) / (2 * 2.285 * 2 * np.pi * cutoff / 10))
    )  # Kaiser's formula for a transition band of 10 %
    times = np.arange(-half, half + 1)
    taps = np.sinc(2 * cutoff * times) * np.kaiser(times.size, 0.1102 * (60.0 - 8.7))
    taps *= _UP / taps.sum()
    left = half // _UP
    offsets = np.arange(-left, (half + _DOWN * (_UP - 1)) // _UP + 1)
    index = (
        _UP * offsets[None, :] - _DOWN * np.arange(_UP)[:, None]
    )  # (phase, offset): time between input and output sample
    kernel = np.where(abs(index) <= half, taps[np.clip(index + half, 0, times.size - 1)], 0.0)
    return torch.as_tensor(kernel[:, None], dtype=dtype, device=device), left


def _frames(wav: torch.Tensor) -> torch.Tensor:
    """Return windowed frames at 10 kHz of (batch, time) at 16 kHz: (batch, frames, 256)."""
    wav = resample_to_10k(wav)
    wav = torch.nn.functional.pad(wav, (0, max(0, 2 * _WINDOW - wav.shape[-1])))
    return wav.unfold(-1, _WINDOW, _HOP) * _window(wav.dtype, wav.device)


def _drop_silent(
    enhanced: torch.Tensor, clean: torch.Tensor, num_frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Drop the frames in which clean is silent, overlap-add the others and split them into frames again.

    Args:
        enhanced, clean: windowed frames (batch, frames, 256).
        num_frames: (batch,) valid frames.

    Returns:
        Enhanced and clean frames (batch, frames - 1, 256), windowed twice as in the definition, and their number
        (batch,).
    """
    invalid = torch.arange(clean.shape[1], device=clean.device) >= num_frames[:, None]
    level_db = 10.0 * torch.log10(clean.square().sum(-1) + _TINY**2).masked_fill(invalid, -torch.inf)
    kept = level_db > level_db.amax(-1, keepdim=True) - _DYNAMIC_RANGE_DB
    order = torch.argsort((~kept).to(torch.uint8), dim=-1, stable=True)[..., None]
    dropped = torch.arange(clean.shape[1], device=clean.device) >= kept.sum(-1, keepdim=True)
    window = _window(clean.dtype, clean.device)

    def join(frames: torch.Tensor) -> torch.Tensor:
        frames = frames.gather(1, order.expand_as(frames)).masked_fill(dropped[..., None], 0.0)
        first, second = frames.split(_HOP, dim=-1)
        joined = first + torch.nn.functional.pad(second, (0, 0, 1, 0))[:, :-1]  # overlap-add, in pieces of one hop
        # the second half of frame i is the joined piece i + 1
        return torch.cat([joined[:, :-1], joined[:, 1:]], dim=-1) * window

    return join(enhanced), join(clean), (kept.sum(-1) - 1).clamp(min=0)


def _third_octaves(frames: torch.Tensor) -> torch.Tensor:
    """Return the amplitudes of 15 third-octave bands of (batch, frames, 256): (batch, 15, frames)."""
    spec = torch.fft.rfft(frames, _FFT)
    power = spec.real.square() + spec.imag.square()
    return (power @ _band_matrix(power.dtype, power.device) + _TINY).sqrt().transpose(1, 2)


def _correlation(enhanced: torch.Tensor, clean: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
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


def _norm(x: torch.Tensor) -> torch.Tensor:
    return (x.square().sum(-1, keepdim=True) + _TINY).sqrt()


@lru_cache
def _window(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.hann_window(_WINDOW + 2, periodic=False, dtype=dtype, device=device)[1:-1]


@lru_cache
def _band_matrix(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return (freq, 15), one where a bin belongs to a third-octave band, with edges at the nearest bins."""
    bin_hz = _INNER_RATE / _FFT
    edges = np.round(_LOWEST_HZ * 2.0 ** ((np.arange(_BANDS + 1) - 0.5) / 3.0) / bin_hz)
    bins = np.arange(_FFT // 2 + 1)[:, None]
    return torch.as_tensor((bins >= edges[:-1]) & (bins < edges[1:]), dtype=dtype, device=device)

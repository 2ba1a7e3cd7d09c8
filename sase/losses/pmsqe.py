"""PMSQE, a differentiable perceptual distance: PESQ's disturbances, frame by frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch

from sase.nn.precision import outside_autocast

_Frequency = TypeVar("_Frequency", float, np.ndarray)
BarkScale = dict[str, Any]  # name -> tensor over the bands; width: float

_NUM_BANDS = 49
_LOWEST_HZ = 50.0  # wide-band PESQ filters out what is below
_LISTENING_LEVEL_DB = 79.0  # SPL of the speech after level alignment (P.862)
_LEVEL_BAND_HZ = (350.0, 3250.0)  # for level alignment
_ACTIVE_POWER = 1e6  # frames with less audible power (60 dB SPL) are excluded from the mean spectra
_LIMIT = 45.0  # upper limit of the disturbance of a frame
_SYMMETRIC_WEIGHT, _ASYMMETRIC_WEIGHT = 0.1, 0.0309  # P.862's MOS per disturbance
_TINY = 1e-8


@outside_autocast
def pmsqe(
    enhanced: torch.Tensor, clean: torch.Tensor, num_frames: torch.Tensor | None = None, sample_rate: int = 16000
) -> torch.Tensor:
    """Return a distance per utterance that decreases as PESQ increases, from 0 (equal) to about 6.

    After Martín-Doñas et al., "A deep learning loss function based on the perceptual evaluation of the speech
    quality", IEEE SPL 2018, and ITU-T P.862: both power spectra are aligned in level and mapped to a Bark scale; the
    clean one is equalised to the enhanced one's mean spectrum, each enhanced frame scaled to the clean one's power;
    Zwicker's loudness densities are compared with a dead zone, once symmetrically and once for added components only.
    A mean over frames replaces P.862's norms, a smooth limit per frame its clipping.

    Args:
        enhanced, clean: power spectra (batch, freq, frames), freq from 0 to half the sample rate.
        num_frames: (batch,) valid frames; all if None.
        sample_rate: in Hz.

    Returns:
        (batch,)
    """
    num_freqs, frames = clean.shape[1:]
    if num_frames is None:
        num_frames = torch.full((clean.shape[0],), frames, device=clean.device)
    count = num_frames[:, None].to(clean.dtype)
    valid = torch.arange(frames, device=clean.device) < num_frames[:, None]
    scale = _scale(num_freqs, sample_rate, clean.dtype, clean.device)
    enhanced = _to_bark(enhanced.masked_fill(~valid[:, None], 0.0), count, scale)
    clean = _to_bark(clean.masked_fill(~valid[:, None], 0.0), count, scale)
    clean = _equalise(clean, enhanced, scale)
    enhanced = enhanced * _gain(enhanced, clean, scale)[..., None]
    symmetric, asymmetric = _disturbances(enhanced, clean, scale)
    per_frame = _SYMMETRIC_WEIGHT * _limit(symmetric) + _ASYMMETRIC_WEIGHT * _limit(asymmetric)
    return (per_frame * valid).sum(-1) / count[:, 0]


def _to_bark(power: torch.Tensor, count: torch.Tensor, scale: BarkScale) -> torch.Tensor:
    """Return power per Bark at the listening level, 1 = 0 dB SPL: (batch, frames, bands) of (batch, freq, frames)."""
    power = power.transpose(1, 2)
    level = (power @ scale["level"]).sum(-1, keepdim=True) / count  # (batch, 1)
    target = 10.0 ** (_LISTENING_LEVEL_DB / 10.0)
    return (power @ scale["bands"]) * (target / level.clamp(min=_TINY))[..., None]


def _audible_power(bark: torch.Tensor, scale: BarkScale, margin: float = 1.0) -> torch.Tensor:
    """Return the power (batch, frames) of the bands above the hearing threshold times a margin."""
    return bark.where(bark > margin * scale["threshold"], 0.0).sum(-1) * scale["width"]


def _equalise(clean: torch.Tensor, enhanced: torch.Tensor, scale: BarkScale) -> torch.Tensor:
    """Equalise clean to the mean spectrum of enhanced, within 20 dB: linear filtering disturbs little."""
    active = (_audible_power(clean, scale, margin=100.0) > _ACTIVE_POWER)[..., None]
    count = active.sum(1).clamp(min=1)
    mean_enhanced, mean_clean = (enhanced * active).sum(1) / count, (clean * active).sum(1) / count
    ratio = (mean_enhanced + 1000.0) / (mean_clean + 1000.0)
    return clean * ratio.clamp(0.01, 100.0)[:, None]


def _gain(enhanced: torch.Tensor, clean: torch.Tensor, scale: BarkScale) -> torch.Tensor:
    """Return the gain (batch, frames) that scales each enhanced frame to the audible power of the clean one."""
    ratio = (_audible_power(clean, scale) + 5e3) / (_audible_power(enhanced, scale) + 5e3)
    return ratio.clamp(3e-4, 5.0)


def _disturbances(enhanced: torch.Tensor, clean: torch.Tensor, scale: BarkScale) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the symmetric and the asymmetric disturbance of each frame, both (batch, frames)."""
    loudness, reference = _loudness(enhanced, scale), _loudness(clean, scale)
    difference = loudness - reference
    dead_zone = 0.25 * torch.minimum(loudness, reference)  # smaller differences are masked
    difference = (difference.abs() - dead_zone).clamp(min=0.0)
    total_width = _NUM_BANDS * scale["width"]
    symmetric = total_width * (difference.square().mean(-1) + _TINY).sqrt()
    added = ((enhanced + 50.0) / (clean + 50.0)).pow(1.2)
    added = added.where(added > 3.0, 0.0).clamp(max=12.0)
    return symmetric, total_width * (difference * added).mean(-1)


def _loudness(bark: torch.Tensor, scale: BarkScale) -> torch.Tensor:
    """Return Zwicker's loudness density in sone per Bark, zero below the hearing threshold."""
    threshold, exponent = scale["threshold"], scale["exponent"]
    loudness = scale["sone"] * ((0.5 + 0.5 * bark / threshold).pow(exponent) - 1.0)
    return loudness.where(bark > threshold, 0.0)


def _limit(disturbance: torch.Tensor) -> torch.Tensor:
    return disturbance / (1.0 + disturbance / _LIMIT)


@lru_cache
def _scale(num_freqs: int, sample_rate: int, dtype: torch.dtype, device: torch.device) -> BarkScale:
    """Return the constants of the Bark scale, as tensors over its bands.

    ``bands`` (freq, bands) sums power per Bark; ``level`` (freq,) selects the bins for level alignment; ``threshold``
    is the hearing threshold as power (Terhardt 1979); ``exponent`` is that of Zwicker's law, higher below 4 Bark as in
    P.862; ``sone`` its factor, such that 40 dB SPL per Bark at 1 kHz are 1 sone per Bark; ``width`` is that of a band
    in Bark.
    """
    bin_hz = 0.5 * sample_rate / (num_freqs - 1)
    freqs = bin_hz * np.arange(num_freqs)[:, None]
    barks = np.linspace(_bark(_LOWEST_HZ), _bark(0.5 * sample_rate), _NUM_BANDS + 1)
    width = barks[1] - barks[0]
    low, high = _hertz(barks[:-1]), _hertz(barks[1:])
    overlap = np.minimum(freqs + bin_hz / 2, high) - np.maximum(freqs - bin_hz / 2, low)
    centres = (barks[:-1] + barks[1:]) / 2
    threshold = _hearing_threshold(_hertz(centres))
    exponent = 0.23 * np.where(centres < 4.0, np.minimum(6.0 / (centres + 2.0), 2.0), 1.0) ** 0.15
    at_1_khz = _hearing_threshold(1000.0)
    sone = 1.0 / ((2.0 * at_1_khz) ** 0.23 * ((0.5 + 0.5 * 1e4 / at_1_khz) ** 0.23 - 1.0))
    arrays: dict[str, Any] = {
        "bands": overlap.clip(0.0) / bin_hz / width,
        "level": (freqs[:, 0] >= _LEVEL_BAND_HZ[0]) & (freqs[:, 0] <= _LEVEL_BAND_HZ[1]),
        "threshold": threshold,
        "exponent": exponent,
        "sone": sone * (2.0 * threshold) ** exponent,
    }
    tensors = {name: torch.as_tensor(array, dtype=dtype, device=device) for name, array in arrays.items()}
    return {**tensors, "width": float(width)}


def _bark(freq_hz: _Frequency) -> _Frequency:
    """Convert Hz to Bark (Traunmüller, JASA 1990)."""
    return 26.81 * freq_hz / (1960.0 + freq_hz) - 0.53


def _hertz(bark: _Frequency) -> _Frequency:
    """Convert Bark to Hz."""
    return 1960.0 * (bark + 0.53) / (26.28 - bark)


def _hearing_threshold(freq_hz: _Frequency) -> _Frequency:
    """Return the hearing threshold in quiet, as power with 1 = 0 dB SPL (Terhardt, Hearing Research 1979)."""
    khz = freq_hz / 1000.0
    level_db = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
    return 10.0 ** (level_db / 10.0)

"""Filters, rooms, levels and clipping of segments of sound, (batch, time) on any device."""

from __future__ import annotations

import torch

OCTAVES = 8  # of the equaliser: 62.5 Hz to 8 kHz
SILENCE = 1e-8  # mean power below which a segment counts as silent


def tilt(wav: torch.Tensor, db_per_octave: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Return ``wav`` (batch, time) with its spectrum tilted around 1 kHz; flat below 50 Hz.

    Args:
        db_per_octave: (batch, 1)
    """
    gain = tilt_gain(db_per_octave, frequencies(wav, sample_rate))
    return torch.fft.irfft(torch.fft.rfft(wav) * gain, n=wav.shape[1])


def frequencies(wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Return the frequencies of the Fourier transform in Hz, (bins,), at least 50: filters are flat below."""
    return torch.linspace(0.0, sample_rate / 2, wav.shape[1] // 2 + 1, device=wav.device).clamp(min=50.0)


def tilt_gain(db_per_octave: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Return the gain (batch, bins) that tilts by ``db_per_octave`` (batch, 1) around 1 kHz."""
    return 10 ** (db_per_octave * torch.log2(frequency / 1000.0) / 20.0)


def equaliser_gain(gain_db: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Return the gain (batch, bins) interpolating ``gain_db`` (batch, octaves) at 62.5 Hz · 2^i linearly in octaves."""
    place = torch.log2(frequency / 62.5).clamp(0.0, OCTAVES - 1.001)
    low = place.long()
    gain_db = torch.lerp(gain_db[:, low], gain_db[:, low + 1], place - low)
    return 10 ** (gain_db / 20.0)


def room_response(
    noise: torch.Tensor, decay_s: torch.Tensor, direct_db: torch.Tensor, sample_rate: int
) -> torch.Tensor:
    """Return impulse responses (batch, time): direct sound, then noise decaying by 60 dB in ``decay_s`` (batch, 1).

    Args:
        noise: Gaussian (batch, time).
        direct_db: ratio of the energies of the direct sound and the rest, (batch, 1).
    """
    time_s = torch.arange(noise.shape[1], device=noise.device) / sample_rate
    response = noise * 10 ** (-3.0 * time_s / decay_s)
    response[:, 0] = response[:, 1:].square().sum(1).sqrt() * 10 ** (direct_db[:, 0] / 20.0)
    return response


def set_level(wav: torch.Tensor, level_db: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return ``wav`` (batch, time) at an RMS of ``level_db`` (batch, 1) over valid samples; silence stays silence."""
    return wav * level_gain(wav, level_db, lengths)


def level_gain(wav: torch.Tensor, level_db: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the factors (batch, 1) that bring ``wav`` to an RMS of ``level_db``, as for :func:`set_level`."""
    return 10 ** ((level_db - level_of(wav, lengths)) / 20.0)


def loudest(wav: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return the magnitude (batch, 1) that a share (batch, 1) of the samples of ``wav`` (batch, time) exceeds."""
    ranked = wav.abs().sort(dim=1, descending=True).values
    return ranked.gather(1, (share * wav.shape[1]).long().clamp(max=wav.shape[1] - 1))


def level_of(wav: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the RMS in dB re full scale over valid samples, (batch, 1)."""
    power = wav.square().sum(1, keepdim=True) / lengths[:, None].clamp(min=1)
    return 10.0 * torch.log10(power.clamp(min=SILENCE))


def unit_power(wav: torch.Tensor) -> torch.Tensor:
    """Return ``wav`` (..., time) with a mean power of 1; silence stays silence."""
    return wav * torch.rsqrt(wav.square().mean(-1, keepdim=True).clamp(min=SILENCE))

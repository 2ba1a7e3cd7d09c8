"""A batch of enhanced and clean utterances, and the spectra of them that several objectives share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch

SILENCE_RMS = 1e-5  # -100 dB re full scale, below the resolution of 16 bits
WINDOW, HOP = 512, 256  # 32 ms and 16 ms at 16 kHz, for all spectral objectives
POWER_FLOOR = 1e-8  # below the noise of 16-bit samples in one bin; bounds the gradient of compression at silence
_EXPONENT = 0.3  # of compressed spectra

Lengths = torch.Tensor | Sequence[int] | None


class Pair:
    """Enhanced and clean utterances with zeroed padding, and what several objectives share, computed once.

    Args:
        enhanced: (batch, time); half precision is converted to float32.
        clean: (batch, time)
        lengths: (batch,) valid samples per utterance; None if there is no padding.
    """

    def __init__(self, enhanced: torch.Tensor, clean: torch.Tensor, lengths: Lengths = None) -> None:
        if enhanced.ndim != 2 or enhanced.shape != clean.shape:
            shapes = f"{tuple(enhanced.shape)} and {tuple(clean.shape)}"
            raise ValueError(f"enhanced and clean must both be (batch, time), got {shapes}")
        dtype = torch.promote_types(enhanced.dtype, torch.float32)
        batch, time = enhanced.shape
        self.enhanced, self.clean = enhanced.to(dtype), clean.to(enhanced.device, dtype)
        if lengths is None:
            self.lengths = torch.full((batch,), time, device=enhanced.device)
            self.padding: torch.Tensor | None = None
            return
        self.lengths = torch.as_tensor(lengths, device=enhanced.device)
        if self.lengths.shape != (batch,):
            raise ValueError(f"lengths must be ({batch},), got {tuple(self.lengths.shape)}")
        self.padding = torch.arange(time, device=enhanced.device) >= self.lengths[:, None]
        self.enhanced = self.enhanced.masked_fill(self.padding, 0.0)
        self.clean = self.clean.masked_fill(self.padding, 0.0)

    @cached_property
    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Enhanced and clean without their means, each (batch, time)."""
        return self._centre(self.enhanced), self._centre(self.clean)

    @cached_property
    def audible(self) -> torch.Tensor:
        """(batch,) true where the reference is not silent; a constant offset counts as silence."""
        energy = self.centred[1].square().sum(-1)
        return energy > SILENCE_RMS**2 * self.lengths

    @cached_property
    def spectra(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Enhanced and clean spectra, complex (batch, freq, frames); frames of padding follow the valid ones."""
        return spectrum(self.enhanced), spectrum(self.clean)

    @cached_property
    def powers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Enhanced and clean power spectra, each (batch, freq, frames)."""
        enhanced, clean = (spec.real.square() + spec.imag.square() for spec in self.spectra)
        return enhanced, clean

    @cached_property
    def compressed(self) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """(gain, magnitude) of the compressed enhanced and clean spectra, each (batch, freq, frames)."""
        enhanced, clean = (_compress(power) for power in self.powers)
        return enhanced, clean

    @cached_property
    def num_frames(self) -> torch.Tensor:
        """(batch,) valid frames of :attr:`spectra`: the number that the utterance has without padding."""
        return self.lengths // HOP + 1

    @cached_property
    def valid_frames(self) -> torch.Tensor:
        """(batch, frames) true in the valid frames of :attr:`spectra`."""
        frames = torch.arange(self.spectra[0].shape[-1], device=self.lengths.device)
        return frames < self.num_frames[:, None]

    def mean_over_frames(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over the valid frames of (batch, frames): (batch,)."""
        return values.masked_fill(~self.valid_frames, 0.0).sum(-1) / self.num_frames

    def _centre(self, wav: torch.Tensor) -> torch.Tensor:
        centred = wav - wav.sum(-1, keepdim=True) / self.lengths[:, None].clamp(min=1)
        return centred if self.padding is None else centred.masked_fill(self.padding, 0.0)


def spectrum(wav: torch.Tensor) -> torch.Tensor:
    """Return the centred, zero-padded STFT of (batch, time): complex (batch, freq, frames)."""
    window = _hann(wav.dtype, wav.device)
    return torch.stft(wav, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)


def _compress(power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gain that compresses bins of this power, and the compressed magnitude."""
    power = power + POWER_FLOOR
    gain = power.pow(0.5 * _EXPONENT - 0.5)
    return gain, gain * power.sqrt()


@lru_cache
def _hann(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.hann_window(WINDOW, dtype=dtype, device=device)

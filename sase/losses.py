"""Training objectives by name: all to be minimised, blind to padding, finite on silence."""

import math
from functools import cached_property, lru_cache

import torch

from sase.errors import InputError

MAX_RATIO_DB = 30.0  # a ratio above this is good enough: its gradient goes to the other utterances
SILENCE_RMS = 1e-5  # -100 dB re full scale, below what 16 bits can hold
WINDOW, HOP = 512, 256  # 32 ms and 16 ms at 16 kHz: the spectrum that the spectral objectives share
_POWER_FLOOR = 1e-8  # below the noise of 16-bit samples in one bin; bounds the gradient of a compressed silent bin


class Pair:
    """Enhanced and clean utterances with the padding zeroed, and what several objectives need, computed once.

    Args:
        enhanced: (batch, time); half precision is taken to float32.
        clean: (batch, time)
        lengths: (batch,) valid samples per row, all of them when None.
    """

    def __init__(self, enhanced, clean, lengths=None):
        if enhanced.ndim != 2 or enhanced.shape != clean.shape:
            shapes = f"{tuple(enhanced.shape)} and {tuple(clean.shape)}"
            raise ValueError(f"enhanced and clean must both be (batch, time), got {shapes}")
        dtype = torch.promote_types(enhanced.dtype, torch.float32)
        batch, time = enhanced.shape
        self.enhanced, self.clean = enhanced.to(dtype), clean.to(enhanced.device, dtype)
        if lengths is None:
            self.lengths = torch.full((batch,), time, device=enhanced.device)
            self.padding = None
            return
        self.lengths = torch.as_tensor(lengths, device=enhanced.device)
        if self.lengths.shape != (batch,):
            raise ValueError(f"lengths must be ({batch},), got {tuple(self.lengths.shape)}")
        self.padding = torch.arange(time, device=enhanced.device) >= self.lengths[:, None]
        self.enhanced = self.enhanced.masked_fill(self.padding, 0.0)
        self.clean = self.clean.masked_fill(self.padding, 0.0)

    @cached_property
    def centred(self):
        """Enhanced and clean without their means, each (batch, time)."""
        return self._centre(self.enhanced), self._centre(self.clean)

    @cached_property
    def audible(self):
        """(batch,) true where the reference is not silent; a constant offset alone is silence."""
        energy = self.centred[1].square().sum(-1)
        return energy > SILENCE_RMS**2 * self.lengths

    @cached_property
    def spectra(self):
        """Enhanced and clean spectra, complex (batch, freq, frames); frames of padding alone follow the valid ones."""
        return spectrum(self.enhanced), spectrum(self.clean)

    @cached_property
    def num_frames(self):
        """(batch,) valid frames of :attr:`spectra`: as many as the utterance alone would have."""
        return self.lengths // HOP + 1

    def mean_over_frames(self, values):
        """Return the mean over frequency and valid frames of (batch, freq, frames): (batch,)."""
        if self.padding is None:
            return values.mean((1, 2))
        invalid = torch.arange(values.shape[-1], device=values.device) >= self.num_frames[:, None]
        return values.mean(1).masked_fill(invalid, 0.0).sum(-1) / self.num_frames

    def _centre(self, wav):
        centred = wav - wav.sum(-1, keepdim=True) / self.lengths[:, None].clamp(min=1)
        return centred if self.padding is None else centred.masked_fill(self.padding, 0.0)


def spectrum(wav):
    """Return the STFT of (batch, time), zeros assumed around it: complex (batch, freq, frames)."""
    window = _hann(wav.dtype, wav.device)
    return torch.stft(wav, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)


def si_snr(enhanced, clean, lengths=None):
    """Return the scale-invariant SNR in dB of each utterance, means removed: (batch,)."""
    return _si_snr_db(Pair(enhanced, clean, lengths))


def si_sdr(enhanced, clean, lengths=None):
    """Return the scale-invariant SDR in dB of each utterance, means kept: (batch,). Le Roux et al., ICASSP 2019."""
    return _si_sdr_db(Pair(enhanced, clean, lengths))


def sdr(enhanced, clean, lengths=None):
    """Return 10 log |clean|^2 / |clean - enhanced|^2 of each utterance: (batch,)."""
    return _sdr_db(Pair(enhanced, clean, lengths))


def _si_snr_db(pair):
    return _projected_db(*pair.centred)


def _si_sdr_db(pair):
    return _projected_db(pair.enhanced, pair.clean)


def _sdr_db(pair):
    return _ratio_db(pair.clean, pair.clean - pair.enhanced)


def _projected_db(enhanced, clean):
    tiny = torch.finfo(clean.dtype).tiny
    scale = (enhanced * clean).sum(-1, keepdim=True) / (clean.square().sum(-1, keepdim=True) + tiny)
    target = scale * clean
    return _ratio_db(target, enhanced - target)


def _ratio_db(target, error):
    """Energy ratio in dB, within +-80 dB, 0 dB where both are silent; the level does not matter."""
    target, error = target.square().sum(-1), error.square().sum(-1)
    floor = 1e-8 * (target + error).detach() + 1e-30
    return 10.0 * torch.log10((target + floor) / (error + floor))


def _negative_capped(ratio_db):
    return lambda pair: -ratio_db(pair).clamp(max=MAX_RATIO_DB)


def _compressed_spectral(pair, exponent=0.3, magnitude_weight=0.7):
    """Mean squared difference of |X|^0.3 (weight 0.7) and of |X|^0.3 with the phase of X (weight 0.3)."""
    enhanced, enhanced_gain = _compress(pair.spectra[0], exponent)
    clean, clean_gain = _compress(pair.spectra[1], exponent)
    real = pair.spectra[0].real * enhanced_gain - pair.spectra[1].real * clean_gain
    imag = pair.spectra[0].imag * enhanced_gain - pair.spectra[1].imag * clean_gain
    difference = magnitude_weight * (enhanced - clean).square()
    return pair.mean_over_frames(difference + (1.0 - magnitude_weight) * (real.square() + imag.square()))


def _compress(spec, exponent):
    """Return |spec|^exponent and the gain that makes spec have this magnitude."""
    power = spec.real.square() + spec.imag.square() + _POWER_FLOOR
    gain = power.pow(0.5 * exponent - 0.5)
    return gain * power.sqrt(), gain


@lru_cache
def _hann(dtype, device):
    return torch.hann_window(WINDOW, dtype=dtype, device=device)


# name -> function of a Pair: (batch,) to be minimised
_OBJECTIVES = {
    "si_snr": _negative_capped(_si_snr_db),
    "si_sdr": _negative_capped(_si_sdr_db),
    "sdr": _negative_capped(_sdr_db),
    "compressed_spectral": _compressed_spectral,
}
# those that compare with the level of the reference: without meaning where the reference is silent
_NEED_REFERENCE = {"si_snr", "si_sdr", "sdr"}


def _evaluate(name, pair):
    values = _OBJECTIVES[name](pair)
    if name not in _NEED_REFERENCE:
        return values.mean()
    return values.masked_fill(~pair.audible, 0.0).sum() / pair.audible.sum().clamp(min=1)


def _as_function(name):
    def loss(enhanced, clean, lengths=None):
        return _evaluate(name, Pair(enhanced, clean, lengths))

    loss.__name__ = name
    loss.__doc__ = f"Return the objective {name}, a scalar to be minimised; see :func:`build_loss`."
    return loss


LOSSES = {name: _as_function(name) for name in _OBJECTIVES}


class Loss:
    """The weighted sum of named objectives; made by :func:`build_loss`.

    Attributes:
        weights: dict name -> weight.
        silent_references: scalar tensor, utterances of the last call whose reference was silent (they are left out of
            the objectives that relate to the level of the reference, and count in the others).
    """

    def __init__(self, weights):
        self.weights = weights
        self.silent_references = torch.tensor(0)

    def __call__(self, enhanced, clean, lengths=None):
        """Compare enhanced with clean speech.

        Args:
            enhanced: (batch, time) at 16 kHz.
            clean: (batch, time)
            lengths: (batch,) valid samples per row; the padding behind them is ignored, whatever it holds.

        Returns:
            The total to be minimised, a scalar tensor, and a dict name -> detached scalar tensor, not yet weighted.
        """
        with torch.autocast(enhanced.device.type, enabled=False):
            pair = Pair(enhanced, clean, lengths)
            terms = {name: _evaluate(name, pair) for name in self.weights}
            self.silent_references = (~pair.audible).sum()
            total = sum(weight * terms[name] for name, weight in self.weights.items())
        return total, {name: term.detach() for name, term in terms.items()}

    def __repr__(self):
        return f"Loss({self.weights})"


def build_loss(weights):
    """Return the weighted sum of objectives, a :class:`Loss`.

    Args:
        weights: mapping name -> positive weight, as in ``{"si_snr": 1.0, "compressed_spectral": 0.5}``.

    Raises:
        InputError: no objective, an unknown one, or a weight that is not a positive number.
    """
    known = ", ".join(sorted(LOSSES))
    if not weights:
        raise InputError(f"loss: names no objective; known: {known}")
    for name, weight in weights.items():
        if name not in LOSSES:
            raise InputError(f"loss: unknown objective {name!r}; known: {known}")
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 < weight < math.inf:
            raise InputError(f"loss: the weight of {name} must be a positive number, got {weight!r}")
    return Loss({name: float(weight) for name, weight in weights.items()})

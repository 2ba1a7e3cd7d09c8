"""Training objectives by name: all to be minimised, blind to padding, finite on silence."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from sase.errors import InputError
from sase.losses.pmsqe import pmsqe
from sase.losses.stoi import stoi

MAX_RATIO_DB = 30.0  # a ratio above this is good enough: its gradient goes to the other utterances
SILENCE_RMS = 1e-5  # -100 dB re full scale, below what 16 bits can hold
SAMPLE_RATE = 16000
WINDOW, HOP = 512, 256  # 32 ms and 16 ms: the spectrum that the spectral objectives share
_POWER_FLOOR = 1e-8  # below the noise of 16-bit samples in one bin; bounds the gradient of a compressed silent bin
_MEL_FLOOR = 1e-6  # some 60 dB below a band of speech at an ordinary level: quieter differences do not count
_MEL_BANDS = (16, 32, 64)
_TEMPERATURE = 0.2


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
    def powers(self):
        """Enhanced and clean power spectra, each (batch, freq, frames)."""
        return tuple(spec.real.square() + spec.imag.square() for spec in self.spectra)

    @cached_property
    def num_frames(self):
        """(batch,) valid frames of :attr:`spectra`: as many as the utterance alone would have."""
        return self.lengths // HOP + 1

    @cached_property
    def valid_frames(self):
        """(batch, frames) true in the valid frames of :attr:`spectra`."""
        frames = torch.arange(self.spectra[0].shape[-1], device=self.lengths.device)
        return frames < self.num_frames[:, None]

    def mean_over_frames(self, values):
        """Return the mean over the valid frames of (batch, frames): (batch,)."""
        return values.masked_fill(~self.valid_frames, 0.0).sum(-1) / self.num_frames

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


def _mse(pair):
    """Mean squared difference of the samples."""
    return (pair.enhanced - pair.clean).square().sum(-1) / pair.lengths.clamp(min=1)


def _compressed_spectral(pair, exponent=0.3, magnitude_weight=0.7):
    """Mean squared difference of |X|^0.3 (weight 0.7) and of |X|^0.3 with the phase of X (weight 0.3)."""
    (enhanced, clean), (enhanced_power, clean_power) = pair.spectra, pair.powers
    enhanced_gain, enhanced_magnitude = _compress(enhanced_power, exponent)
    clean_gain, clean_magnitude = _compress(clean_power, exponent)
    real = enhanced.real * enhanced_gain - clean.real * clean_gain
    imag = enhanced.imag * enhanced_gain - clean.imag * clean_gain
    distance = magnitude_weight * (enhanced_magnitude - clean_magnitude).square()
    distance = distance + (1.0 - magnitude_weight) * (real.square() + imag.square())
    return pair.mean_over_frames(distance.mean(1))


def _compress(power, exponent):
    """Return the gain that compresses a bin of this power, and the compressed magnitude."""
    power = power + _POWER_FLOOR
    gain = power.pow(0.5 * exponent - 0.5)
    return gain, gain * power.sqrt()


def _log_mel(pair):
    """Mean absolute difference of log power (natural) in 16, 32 and 64 mel bands."""
    distance = 0.0
    for num_bands in _MEL_BANDS:
        bands = _mel_bands(num_bands, pair.clean.dtype, pair.clean.device)
        enhanced, clean = (torch.log(power.transpose(1, 2) @ bands + _MEL_FLOOR) for power in pair.powers)
        distance = distance + (enhanced - clean).abs().mean(-1)  # (batch, frames)
    return pair.mean_over_frames(distance / len(_MEL_BANDS))


def mel_bands(num_bands, num_freqs=WINDOW // 2 + 1, sample_rate=SAMPLE_RATE):
    """Return triangular bands, equally spaced on Slaney's mel scale, each with sum 1: float64 (freq, bands)."""
    # linear up to 1 kHz (15 mel), logarithmic above: 27 mel to a factor of 6.4
    log_step = np.log(6.4) / 27.0
    top_hz = 0.5 * sample_rate
    top = 15.0 + np.log(top_hz / 1000.0) / log_step if top_hz > 1000.0 else top_hz * 15.0 / 1000.0
    mels = np.linspace(0.0, top, num_bands + 2)
    edges = np.where(mels < 15.0, mels * 1000.0 / 15.0, 1000.0 * np.exp(log_step * (mels - 15.0)))
    freqs = np.linspace(0.0, top_hz, num_freqs)[:, None]
    rising = (freqs - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - freqs) / (edges[2:] - edges[1:-1])
    bands = np.minimum(rising, falling).clip(0.0)
    if not bands.any(0).all():
        raise ValueError(f"{num_bands} mel bands are too many for {num_freqs} frequencies: some would be empty")
    return bands / bands.sum(0)


def _stoi(pair):
    return -stoi(pair.enhanced, pair.clean, pair.lengths)


def _pmsqe(pair):
    return pmsqe(*pair.powers, pair.num_frames, SAMPLE_RATE)


def _contrastive(pair):
    """Half the negative SI-SDR, half the contrast of phases between the utterances of the batch."""
    return 0.5 * _negative_capped(_si_sdr_db)(pair) + 0.5 * _phase_contrast(pair)


def _phase_contrast(pair):
    """NT-Xent (Chen et al., ICML 2020) between enhanced and clean phases: (batch,), 0 for a batch of one.

    An utterance is the vector of its unit phasors; its enhanced and its clean form shall be more alike than either is
    to any other utterance of the batch. Two of different lengths are compared in the frames that both have.
    """
    batch = pair.clean.shape[0]
    valid = pair.valid_frames & pair.audible[:, None]
    valid = torch.cat([valid, valid]).to(pair.clean.dtype)  # (2 batch, frames), enhanced first
    phasors = torch.cat([_phasors(spec, power) for spec, power in zip(pair.spectra, pair.powers)])
    phasors = phasors * valid[:, None]
    # (2 batch, freq, frames, 2) -> (2 batch, everything)
    flat = torch.view_as_real(phasors).flatten(1)
    energy = (phasors.real.square() + phasors.imag.square()).sum(1) @ valid.T  # [i, j]: of i in the frames of j
    similarity = flat @ flat.T / (energy * energy.T + 1e-12).sqrt() / _TEMPERATURE
    itself = torch.eye(2 * batch, dtype=torch.bool, device=flat.device)
    silent = ~torch.cat([pair.audible, pair.audible])
    others = similarity.masked_fill(itself | silent, torch.finfo(flat.dtype).min)
    positive = similarity.diagonal(batch)
    contrast = others.logsumexp(-1) - torch.cat([positive, positive])
    return contrast.view(2, batch).mean(0)


def _phasors(spec, power):
    return spec / ((power + 1e-12).sqrt() + _POWER_FLOOR**0.5)


@lru_cache
def _hann(dtype, device):
    return torch.hann_window(WINDOW, dtype=dtype, device=device)


@lru_cache
def _mel_bands(num_bands, dtype, device):
    return torch.as_tensor(mel_bands(num_bands), dtype=dtype, device=device)


# name -> function of a Pair: (batch,) to be minimised
_OBJECTIVES = {
    "si_snr": _negative_capped(_si_snr_db),
    "si_sdr": _negative_capped(_si_sdr_db),
    "sdr": _negative_capped(_sdr_db),
    "mse": _mse,
    "log_mel": _log_mel,
    "stoi": _stoi,
    "pmsqe": _pmsqe,
    "compressed_spectral": _compressed_spectral,
    "contrastive": _contrastive,
}
# those that compare with the level of the reference: without meaning where the reference is silent
_NEED_REFERENCE = {"si_snr", "si_sdr", "sdr", "stoi", "pmsqe", "contrastive"}


def _evaluate(name, pair, whole=None):
    with torch.autocast(pair.clean.device.type, enabled=False):
        values = _OBJECTIVES[name](pair)
    if name not in _NEED_REFERENCE:
        return values.mean() if whole is None else values.sum() / whole.rows
    count = pair.audible.sum() if whole is None else whole.audible
    return values.masked_fill(~pair.audible, 0.0).sum() / count.clamp(min=1)


def _as_function(name):
    def loss(enhanced, clean, lengths=None):
        return _evaluate(name, Pair(enhanced, clean, lengths))

    loss.__name__ = name
    loss.__doc__ = f"Return the objective {name}, a scalar to be minimised; see :func:`build_loss`."
    return loss


LOSSES = {name: _as_function(name) for name in _OBJECTIVES}


@dataclass(frozen=True)
class BatchTotals:
    """What a part of a batch must know of the whole: how many utterances, and how many whose reference is heard."""

    rows: int
    audible: torch.Tensor

    @classmethod
    def of(cls, clean, lengths=None):
        """Return it of a whole batch: clean (batch, time), lengths (batch,)."""
        return cls(len(clean), Pair(clean, clean, lengths).audible.sum())


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

    def __call__(self, enhanced, clean, lengths=None, whole=None):
        """Compare enhanced with clean speech.

        Args:
            enhanced: (batch, time) at 16 kHz.
            clean: (batch, time)
            lengths: (batch,) valid samples per row; the padding behind them is ignored, whatever it holds.
            whole: a :class:`BatchTotals`, where these rows are a part of a batch: what comes out is then the part's share,
                and the shares of all parts add up to what the whole batch gives (``contrastive`` aside, which compares
                the utterances of a part with each other alone).

        Returns:
            The total to be minimised, a scalar tensor, and a dict name -> detached scalar tensor, not yet weighted.
        """
        pair = Pair(enhanced, clean, lengths)
        terms = {name: _evaluate(name, pair, whole) for name in self.weights}
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

"""Training objectives by name: all to be minimised; padding is ignored, value and gradient are finite on silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from sase.losses.pair import POWER_FLOOR, WINDOW, Lengths, Pair
from sase.losses.pmsqe import pmsqe
from sase.losses.stoi import stoi

MAX_RATIO_DB = 30.0  # ratios are clamped here, so that the gradient comes from the other utterances
SAMPLE_RATE = 16000
_RESIDUAL_FLOOR = 1e-7  # −70 dB re full scale
_MEL_FLOOR = 1e-6  # about 60 dB below a mel band of speech at a normal level
_MEL_BANDS = (16, 32, 64)
_TEMPERATURE = 0.2

_Function = Callable[[Pair], torch.Tensor]  # (batch,)


def si_snr(enhanced: torch.Tensor, clean: torch.Tensor, lengths: Lengths = None) -> torch.Tensor:
    """Return the scale-invariant SNR in dB per utterance, means removed: (batch,)."""
    return _si_snr_db(Pair(enhanced, clean, lengths))


def si_sdr(enhanced: torch.Tensor, clean: torch.Tensor, lengths: Lengths = None) -> torch.Tensor:
    """Return the scale-invariant SDR in dB per utterance: (batch,). Le Roux et al., ICASSP 2019.

    Means are kept, so a constant offset counts as distortion. The measure SI_SDR
    (:func:`sase.metrics.measures.zero_mean_si_sdr`) removes them; its counterpart here is :func:`si_snr`.
    """
    return _si_sdr_db(Pair(enhanced, clean, lengths))


def sdr(enhanced: torch.Tensor, clean: torch.Tensor, lengths: Lengths = None) -> torch.Tensor:
    """Return 10 log |clean|^2 / |clean - enhanced|^2 per utterance: (batch,)."""
    return _sdr_db(Pair(enhanced, clean, lengths))


def _si_snr_db(pair: Pair) -> torch.Tensor:
    return _projected_db(*pair.centred)


def _si_sdr_db(pair: Pair) -> torch.Tensor:
    return _projected_db(pair.enhanced, pair.clean)


def _sdr_db(pair: Pair) -> torch.Tensor:
    return _ratio_db(pair.clean, pair.clean - pair.enhanced)


def _projected_db(enhanced: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    tiny = torch.finfo(clean.dtype).tiny
    scale = (enhanced * clean).sum(-1, keepdim=True) / (clean.square().sum(-1, keepdim=True) + tiny)
    target = scale * clean
    return _ratio_db(target, enhanced - target)


def _ratio_db(target: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return the energy ratio in dB, within ±80 dB, 0 dB if both are silent; independent of the level."""
    target, error = target.square().sum(-1), error.square().sum(-1)
    floor = 1e-8 * (target + error).detach() + 1e-30
    return 10.0 * torch.log10((target + floor) / (error + floor))


def _negative_capped(ratio_db: _Function) -> _Function:
    return lambda pair: -ratio_db(pair).clamp(max=MAX_RATIO_DB)


def _mse(pair: Pair) -> torch.Tensor:
    """Mean squared difference of the samples."""
    return (pair.enhanced - pair.clean).square().sum(-1) / pair.lengths.clamp(min=1)


def _compressed_spectral(pair: Pair, magnitude_weight: float = 0.7) -> torch.Tensor:
    """Mean squared difference of |X|^0.3 (weight 0.7) and of |X|^0.3 with the phase of X (weight 0.3)."""
    (_, enhanced_magnitude), (_, clean_magnitude) = pair.compressed
    distance = magnitude_weight * (enhanced_magnitude - clean_magnitude).square()
    distance = distance + (1.0 - magnitude_weight) * _complex_distance(pair)
    return pair.mean_over_frames(distance.mean(1))


def _compressed_complex(pair: Pair) -> torch.Tensor:
    """Mean squared difference of |X|^0.3 with the phase of X."""
    return pair.mean_over_frames(_complex_distance(pair).mean(1))


def _complex_distance(pair: Pair) -> torch.Tensor:
    (enhanced, clean), ((enhanced_gain, _), (clean_gain, _)) = pair.spectra, pair.compressed
    real = enhanced.real * enhanced_gain - clean.real * clean_gain
    imag = enhanced.imag * enhanced_gain - clean.imag * clean_gain
    return real.square() + imag.square()


def _over_suppression(pair: Pair) -> torch.Tensor:
    """Mean square of |X|^0.3 of the clean speech minus that of the enhanced one, where it is positive.

    The asymmetric term of Eskimez et al. (Interspeech 2021): speech that is lost counts, noise that remains does not.
    """
    (_, enhanced_magnitude), (_, clean_magnitude) = pair.compressed
    return pair.mean_over_frames((clean_magnitude - enhanced_magnitude).clamp(min=0.0).square().mean(1))


def _residual_noise(pair: Pair) -> torch.Tensor:
    """Level in dB re full scale, at least −70 dB: what remains of noise where the reference is silent.

    In decibels, as the loss for inactive sources of Wisdom et al. (ICASSP 2021): the energy of a hum is in a few bins,
    which hardly count in a mean over all of them.
    """
    power = pair.enhanced.square().sum(-1) / pair.lengths.clamp(min=1)
    return 10.0 * torch.log10(power + _RESIDUAL_FLOOR)


def _log_mel(pair: Pair) -> torch.Tensor:
    """Mean absolute difference of log power (natural) in 16, 32 and 64 mel bands."""
    distance = torch.zeros((), dtype=pair.clean.dtype, device=pair.clean.device)
    for num_bands in _MEL_BANDS:
        bands = _mel_bands(num_bands, pair.clean.dtype, pair.clean.device)
        enhanced, clean = (torch.log(power.transpose(1, 2) @ bands + _MEL_FLOOR) for power in pair.powers)
        distance = distance + (enhanced - clean).abs().mean(-1)  # (batch, frames)
    return pair.mean_over_frames(distance / len(_MEL_BANDS))


def _stoi(pair: Pair) -> torch.Tensor:
    return -stoi(pair.enhanced, pair.clean, pair.lengths)


def _pmsqe(pair: Pair) -> torch.Tensor:
    return pmsqe(*pair.powers, pair.num_frames, SAMPLE_RATE)


def _contrastive(pair: Pair) -> torch.Tensor:
    """Half the negative SI-SDR, half the phase contrast between the utterances of the batch."""
    return 0.5 * _negative_capped(_si_sdr_db)(pair) + 0.5 * _phase_contrast(pair)


def _phase_contrast(pair: Pair) -> torch.Tensor:
    """Return NT-Xent (Chen et al., ICML 2020) between enhanced and clean phases: (batch,), 0 for a batch of one.

    An utterance is represented by its unit phasors; its enhanced and clean versions are the positive pair, the other
    utterances of the batch the negatives. Utterances of different lengths are compared in their common frames.
    """
    batch = pair.clean.shape[0]
    valid = pair.valid_frames & pair.audible[:, None]
    valid = torch.cat([valid, valid]).to(pair.clean.dtype)  # (2 batch, frames), enhanced first
    phasors = torch.cat([_phasors(spec, power) for spec, power in zip(pair.spectra, pair.powers)])
    phasors = phasors * valid[:, None]
    # (2 batch, freq, frames, 2) -> (2 batch, freq · frames · 2)
    flat = torch.view_as_real(phasors).flatten(1)
    energy = (phasors.real.square() + phasors.imag.square()).sum(1) @ valid.T  # [i, j]: of i in the frames of j
    similarity = flat @ flat.T / (energy * energy.T + 1e-12).sqrt() / _TEMPERATURE
    itself = torch.eye(2 * batch, dtype=torch.bool, device=flat.device)
    silent = ~torch.cat([pair.audible, pair.audible])
    others = similarity.masked_fill(itself | silent, torch.finfo(flat.dtype).min)
    positive = similarity.diagonal(batch)
    contrast = others.logsumexp(-1) - torch.cat([positive, positive])
    return contrast.view(2, batch).mean(0)


def _phasors(spec: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    return spec / ((power + 1e-12).sqrt() + POWER_FLOOR**0.5)


@lru_cache
def _mel_bands(num_bands: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return triangular bands on Slaney's mel scale, each with sum 1: (freq, bands)."""
    from torchaudio.functional import melscale_fbanks

    bands = melscale_fbanks(WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, num_bands, SAMPLE_RATE, mel_scale="slaney").double()
    return (bands / bands.sum(0)).to(device, dtype)


@dataclass(frozen=True)
class Objective:
    """A training objective.

    Attributes:
        function: :class:`Pair` -> values to be minimised, one per utterance, (batch,).
        needs_reference: undefined if the reference is silent; such utterances are excluded from its mean.
        needs_silence: defined if the reference is silent; all other utterances are excluded from its mean.
        needs_rate: defined in Hz, at :data:`SAMPLE_RATE` only.
    """

    function: _Function
    needs_reference: bool = False
    needs_silence: bool = False
    needs_rate: bool = False


OBJECTIVES: dict[str, Objective] = {
    "si_snr": Objective(_negative_capped(_si_snr_db), needs_reference=True),
    "si_sdr": Objective(_negative_capped(_si_sdr_db), needs_reference=True),
    "sdr": Objective(_negative_capped(_sdr_db), needs_reference=True),
    "mse": Objective(_mse),
    "log_mel": Objective(_log_mel, needs_rate=True),
    "stoi": Objective(_stoi, needs_reference=True, needs_rate=True),
    "pmsqe": Objective(_pmsqe, needs_reference=True, needs_rate=True),
    "compressed_spectral": Objective(_compressed_spectral),
    "compressed_complex": Objective(_compressed_complex),
    "over_suppression": Objective(_over_suppression),
    "residual_noise": Objective(_residual_noise, needs_silence=True),
    "contrastive": Objective(_contrastive, needs_reference=True),
}

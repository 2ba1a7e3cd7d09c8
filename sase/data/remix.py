"""Training batches: each segment of speech with its own random noise, level and filters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch

from sase.audio import codecs
from sase.config import Ascending, OneOf, Range, Share
from sase.data.dataset import PairSet
from sase.data.filters import (
    OCTAVES,
    equaliser_gain,
    frequencies,
    level_gain,
    level_of,
    loudest,
    room_response,
    set_level,
    tilt,
    tilt_gain,
    unit_power,
)
from sase.data.noises import NOISES
from sase.data.rooms import response
from sase.data.tonal import TONAL, draw
from sase.errors import InputError

_TALKERS = 6  # in babble
_ROOM_TONE_DB = (25.0, 55.0)  # below the level of the speech
_EARLY_S = 0.05  # reflections that the reference of reverberant speech keeps: they help understanding it
_CLIPPED = (0.001, 0.05)  # share of the samples that clipping hits
_Decibels = Annotated[float, Range(-200, 200)]
_Weight = Annotated[float, Range(1e-9, 1000, above=0)]


@dataclass(frozen=True)
class DataConfig:
    """How training batches are drawn.

    Attributes:
        batch_size: segments per batch, over all ranks of distributed training.
        segment_s: their length in seconds.
        remix: add the noise (noisy − clean) of one pair to the speech of another, at a new SNR; otherwise use the
            pairs unchanged.
        snr_db: range of the SNR when remixing, over the segment.
        level_db: range of the level of the clean speech (RMS, dB below full scale) when remixing.
        babble: share of segments whose noise is several simultaneous training speakers.
        coloured: share of segments with Gaussian noise of a random spectral tilt.
        computed: share of segments with a noise of :data:`sase.data.noises.NOISES` or, twice as often, one of
            :data:`sase.data.tonal.TONAL`, each computed for its segment.
        computed_weights: how much more often than the others kinds of these noises are drawn, by their names.
        second_noise: share of segments with the noises of two pairs.
        tilt_db: speech and noise are each tilted at random by up to this many dB per octave around 1 kHz.
        equaliser_db: speech and noise each pass a random equaliser, with gains of up to this many dB in octave bands.
        band_limited: share of segments whose noisy and clean signals are low-pass filtered above 2 kHz.
        reverberant: share of segments whose noise is reverberant, with a random decay time of 0.1 to 0.8 s.
        speech_room: share of segments whose speech is reverberant, with a random decay time of 0.1 to 0.8 s; the
            reference keeps the direct sound and the reflections of the first 50 ms.
        room_tone: share of segments whose clean speech includes faint stationary noise, 25 to 55 dB below it, that
            is part of the reference: few real recordings are silent in pauses.
        clean: share of segments without noise.
        speechless: share of segments without speech.
        clipped: share of segments whose noisy signal is clipped, its loudest 0.1 to 5 % of the samples.
        recorded_rooms: share of the rooms of ``reverberant`` and ``speech_room`` that are recorded ones of the training
            set, see :mod:`sase.data.rooms`.
        coded: share of segments whose noisy signal passes a codec of :data:`sase.audio.codecs.CODECS`. Of the
            reference, the frequencies remain that the codec carries, such as those below 4 kHz of a telephone.
    """

    batch_size: Annotated[int, Range(1, most=10**6)] = 12
    segment_s: Annotated[float, Range(0.01, 600)] = 2.0
    remix: bool = True
    snr_db: Annotated[tuple[_Decibels, _Decibels], Ascending()] = (-2.0, 17.0)
    level_db: Annotated[tuple[_Decibels, _Decibels], Ascending()] = (-38.0, -16.0)
    babble: Share = 0.0
    coloured: Share = 0.0
    computed: Share = 0.0
    computed_weights: Annotated[dict[str, _Weight], OneOf((*NOISES, *TONAL))] = field(default_factory=dict)
    second_noise: Share = 0.0
    tilt_db: Annotated[float, Range(0, 200)] = 0.0
    equaliser_db: Annotated[float, Range(0, 200)] = 0.0
    band_limited: Share = 0.0
    reverberant: Share = 0.0
    speech_room: Share = 0.0
    room_tone: Share = 0.0
    clean: Share = 0.0
    speechless: Share = 0.0
    clipped: Share = 0.0
    recorded_rooms: Share = 0.0
    coded: Share = 0.0


@dataclass(frozen=True)
class Batch:
    """Noisy and clean segments, float32 (batch, time), their numbers of valid samples (batch,), and the utterances."""

    noisy: torch.Tensor
    clean: torch.Tensor
    lengths: torch.Tensor
    utts: list[str]

    def rows(self, first: int, last: int) -> Batch:
        """Return rows ``first`` to ``last - 1``."""
        return Batch(self.noisy[first:last], self.clean[first:last], self.lengths[first:last], self.utts[first:last])


class Mixtures:
    """Training batches according to a :class:`DataConfig`; batch ``n`` of a seed is always the same, as resuming needs.

    Args:
        pairs: speech and noise to draw from.
        config: how to draw.
        seed: of this run.

    Raises:
        InputError: recorded rooms are to be used, and the set has none.
    """

    def __init__(self, pairs: PairSet, config: DataConfig, seed: int) -> None:
        self.pairs, self.config, self.seed = pairs, config, seed
        self.num_samples = round(config.segment_s * pairs.sample_rate)
        self._recorded = torch.zeros(0, self.num_samples)
        if config.recorded_rooms:
            if not pairs.rooms:
                raise InputError(
                    f"{pairs.path}: has no rooms, which data.recorded_rooms needs; list them in stage 1 ('sase prepare "
                    "folders --rooms') and dump them in stage 2"
                )
            rooms = [torch.from_numpy(response(room))[: self.num_samples] for room in pairs.rooms]
            padded = [torch.nn.functional.pad(room, (0, self.num_samples - len(room))) for room in rooms]
            self._recorded = torch.stack(padded).to(pairs.device)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches with the duration of the set."""
        return max(1, math.ceil(self.pairs.duration_s / (self.config.batch_size * self.config.segment_s)))

    def batch(self, number: int) -> Batch:
        """Return :class:`Batch` ``number``."""
        # SeedSequence decorrelates consecutive numbers; drawn on the CPU, so that all devices draw the same.
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(seed)
        config, count = self.config, self.config.batch_size
        utt, first = self.pairs.draw(count, self.num_samples, generator)
        noisy, clean, lengths = self.pairs.segments(utt, first, self.num_samples)
        if config.remix:
            noisy, clean = self._remix(clean, lengths, generator)
        return Batch(noisy, clean, lengths, [self.pairs.utts[i] for i in utt.tolist()])

    def _remix(
        self, clean: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        config, count = self.config, len(clean)
        valid = torch.arange(self.num_samples, device=clean.device) < lengths[:, None]

        def uniform(low: float, high: float) -> torch.Tensor:
            value = low + (high - low) * torch.rand(count, 1, generator=generator)
            return value.to(clean.device)

        clean, noise = self._filtered(clean, self._noise(count, generator), generator, uniform)
        tail = torch.zeros_like(clean)
        if config.speech_room:
            clean, tail = self._in_a_room(clean, generator, uniform)
        clean, tail, noise = clean * valid, tail * valid, noise * valid
        gain = level_gain(clean, uniform(*config.level_db), lengths)
        clean, tail = clean * gain, tail * gain
        if config.room_tone:
            tone = self._coloured(uniform(-9.0, 0.0), generator) * valid
            tone = set_level(tone, level_of(clean, lengths) - uniform(*_ROOM_TONE_DB), lengths)
            clean = clean + tone * (uniform(0.0, 1.0) < config.room_tone)
        noise = set_level(noise, level_of(clean, lengths) - uniform(*config.snr_db), lengths)
        if config.clean:
            noise = noise * (uniform(0.0, 1.0) >= config.clean)
        if config.speechless:
            spoken = uniform(0.0, 1.0) >= config.speechless
            clean, tail = clean * spoken, tail * spoken
        noisy = clean + (tail + noise)
        if config.clipped:
            limit = loudest(noisy, uniform(*_CLIPPED) * lengths[:, None] / self.num_samples)
            noisy = torch.where(uniform(0.0, 1.0) < config.clipped, noisy.clamp(-limit, limit), noisy)
        peak = torch.maximum(noisy.abs(), clean.abs()).amax(1, keepdim=True).clamp(min=1.0)  # no clipping
        noisy, clean = noisy / peak, clean / peak
        if config.coded:
            self._code(noisy, clean, torch.nonzero(uniform(0.0, 1.0)[:, 0] < config.coded)[:, 0].tolist(), generator)
            noisy, clean = noisy * valid, clean * valid  # codecs add noise to padding, and filters ring into it
        return noisy, clean

    def _code(self, noisy: torch.Tensor, clean: torch.Tensor, rows: list[int], generator: torch.Generator) -> None:
        """Pass some rows of the noisy signals (batch, time) through a codec each, in place."""
        rng, rate = _numpy_generator(generator), self.pairs.sample_rate
        for row in rows:
            codec, size = codecs.draw(rate, rng)
            noisy[row] = torch.from_numpy(codec.transmit(noisy[row].cpu().numpy(), rate, size))
            clean[row] = torch.from_numpy(codec.band(clean[row].cpu().numpy(), rate))

    def _filtered(
        self,
        clean: torch.Tensor,
        noise: torch.Tensor,
        generator: torch.Generator,
        uniform: Callable[[float, float], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Filter speech and noise, (batch, time) each, by random filters per segment, according to the config."""
        config, rate = self.config, self.pairs.sample_rate
        if not any((config.tilt_db, config.equaliser_db, config.band_limited, config.reverberant)):
            return clean, noise
        spectra, frequency = [torch.fft.rfft(clean), torch.fft.rfft(noise)], frequencies(clean, rate)
        for index in range(2):
            if config.tilt_db:
                spectra[index] = spectra[index] * tilt_gain(uniform(-config.tilt_db, config.tilt_db), frequency)
            if config.equaliser_db:
                gains = torch.rand(len(clean), OCTAVES, generator=generator).to(clean.device)
                spectra[index] = spectra[index] * equaliser_gain(config.equaliser_db * (2.0 * gains - 1.0), frequency)
        if config.reverberant:
            wanted = uniform(0.0, 1.0) < config.reverberant
            room = self._rooms(len(clean), generator, uniform)
            spectra[1] = spectra[1] * torch.where(wanted, torch.fft.rfft(room), 1.0)
        if config.band_limited:
            wanted = uniform(0.0, 1.0) < config.band_limited
            low_pass = (frequency < uniform(2000.0, rate / 2)) | ~wanted
            spectra = [spectrum * low_pass for spectrum in spectra]
        clean, noise = (torch.fft.irfft(spectrum, n=clean.shape[1]) for spectrum in spectra)
        return clean, noise

    def _in_a_room(
        self, clean: torch.Tensor, generator: torch.Generator, uniform: Callable[[float, float], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put a share of speech (batch, time) in a room: return it with early reflections, and its late ones alone."""
        wanted, rate = uniform(0.0, 1.0) < self.config.speech_room, self.pairs.sample_rate
        room = self._rooms(len(clean), generator, uniform)
        early = torch.arange(clean.shape[1], device=clean.device) < _EARLY_S * rate
        direct = torch.zeros_like(room)
        direct[:, 0] = 1.0
        size = clean.shape[1]
        spectrum = torch.fft.rfft(clean, n=2 * size)  # padded, so that the end is not heard at the beginning

        def heard(response: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft(spectrum * torch.fft.rfft(response, n=2 * size))[:, :size]

        return heard(torch.where(wanted, room * early, direct)), heard(room * ~early * wanted)

    def _rooms(
        self, count: int, generator: torch.Generator, uniform: Callable[[float, float], torch.Tensor]
    ) -> torch.Tensor:
        """Return impulse responses (count, time): computed ones, and the configured share of recorded ones."""
        noise = torch.randn((count, self.num_samples), generator=generator).to(self.pairs.device)
        rooms = room_response(noise, uniform(0.1, 0.8), uniform(-6.0, 6.0), self.pairs.sample_rate)
        if self.config.recorded_rooms:
            which = torch.randint(len(self._recorded), (count,), generator=generator).to(self.pairs.device)
            rooms = torch.where(uniform(0.0, 1.0) < self.config.recorded_rooms, self._recorded[which], rooms)
        return rooms

    def _noise(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return noise for ``count`` segments: from pairs, babble or coloured noise, in the configured shares."""
        config, pairs, num_samples = self.config, self.pairs, self.num_samples

        def cut(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return pairs.segments(*pairs.draw(number, num_samples, generator), num_samples, wrap=True)

        def chosen(share: float) -> torch.Tensor:
            return torch.nonzero(torch.rand(count, generator=generator) < share)[:, 0].to(pairs.device)

        noisy, clean, _ = cut(count)
        noise = noisy - clean
        if len(rows := chosen(config.second_noise)):
            noisy, clean, _ = cut(len(rows))
            gain = 10 ** (torch.rand(len(rows), 1, generator=generator) - 0.5).to(pairs.device)  # ±10 dB
            noise[rows] = unit_power(noise[rows]) + gain * unit_power(noisy - clean)
        if len(rows := chosen(config.coloured)):
            slope = (-9.0 * torch.rand(len(rows), 1, generator=generator)).to(pairs.device)
            noise[rows] = self._coloured(slope, generator)
        if len(rows := chosen(config.babble)):
            _, speech, _ = cut(_TALKERS * len(rows))
            noise[rows] = unit_power(speech).view(_TALKERS, len(rows), num_samples).sum(0)
        if len(rows := chosen(config.computed)):
            noise[rows] = self._computed(len(rows), generator)
        return noise

    def _computed(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return computed noise, another one per segment, (count, time)."""
        rng = _numpy_generator(generator)
        wavs = [draw(self.num_samples, self.pairs.sample_rate, rng, self.config.computed_weights) for _ in range(count)]
        return torch.from_numpy(np.stack(wavs)).to(self.pairs.device)

    def _coloured(self, db_per_octave: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return Gaussian noise, one segment per spectral slope (count, 1)."""
        white = torch.randn(len(db_per_octave), self.num_samples, generator=generator).to(self.pairs.device)
        return tilt(white, db_per_octave, self.pairs.sample_rate)


def _numpy_generator(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))

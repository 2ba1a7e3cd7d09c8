"""Pairs of noisy and clean speech, and training batches of mixtures drawn from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from sase.config import Ascending, Range, Share
from sase.data.datadir import read_data_dir
from sase.data.dump import FULL_SCALE, Entry, read_entry
from sase.data.tonal import draw
from sase.errors import InputError

MAX_CACHED_BYTES = 4 << 30  # largest set kept in memory, about 19 hours; larger ones are read from disk
_TALKERS = 6  # in babble
_ROOM_TONE_DB = (25.0, 55.0)  # below the level of the speech
_OCTAVES = 8  # of the equaliser: 62.5 Hz to 8 kHz
_SILENCE = 1e-8  # mean power below which a segment counts as silent
_Decibels = Annotated[float, Range(-200, 200)]


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
        second_noise: share of segments with the noises of two pairs.
        tilt_db: speech and noise are each tilted at random by up to this many dB per octave around 1 kHz.
        equaliser_db: speech and noise each pass a random equaliser, with gains of up to this many dB in octave bands.
        band_limited: share of segments whose noisy and clean signals are low-pass filtered above 2 kHz.
        reverberant: share of segments whose noise is reverberant, with a random decay time of 0.1 to 0.8 s.
        room_tone: share of segments whose clean speech includes faint stationary noise, 25 to 55 dB below it, that
            is part of the reference: few real recordings are silent in pauses.
        clean: share of segments without noise.
        speechless: share of segments without speech.
    """

    batch_size: Annotated[int, Range(1)] = 12
    segment_s: Annotated[float, Range(0.01, 600)] = 2.0
    remix: bool = True
    snr_db: Annotated[tuple[_Decibels, _Decibels], Ascending()] = (-2.0, 17.0)
    level_db: Annotated[tuple[_Decibels, _Decibels], Ascending()] = (-38.0, -16.0)
    babble: Share = 0.0
    coloured: Share = 0.0
    computed: Share = 0.0
    second_noise: Share = 0.0
    tilt_db: Annotated[float, Range(0, 200)] = 0.0
    equaliser_db: Annotated[float, Range(0, 200)] = 0.0
    band_limited: Share = 0.0
    reverberant: Share = 0.0
    room_tone: Share = 0.0
    clean: Share = 0.0
    speechless: Share = 0.0


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


class PairSet:
    """All utterances of a dumped set, as two int16 tensors on a device or, for a large set, on disk.

    Both give the same segments. A set on disk is read segment by segment, so that memory does not grow with the corpus,
    except for a few numbers per utterance.

    Args:
        dump_dir: output of stage 2.
        sample_rate: of the model, in Hz.
        device: of the segments.
        max_bytes: the largest set, noisy and clean together, that is kept on the device.

    Attributes:
        path: of the dump.
        utts: utterances, sorted.
        noisy, clean: the :class:`sase.data.dump.Entry` of each.
        lengths, starts: numbers of samples, and their cumulative sums from 0, (utterances,).
        fits_memory: whether the set is kept on the device.

    Raises:
        InputError: no utterances, noisy and clean audio of different length, or another sample rate.
    """

    def __init__(
        self,
        dump_dir: str | Path,
        sample_rate: int = 16000,
        device: str | torch.device = "cpu",
        max_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self.path, data = Path(dump_dir), read_data_dir(dump_dir)
        if not len(data):
            raise InputError(f"{dump_dir}: contains no utterances")
        self.utts, self.sample_rate, self.device = list(data.utts), sample_rate, torch.device(device)
        self.noisy, self.clean = ([read_entry(table[utt]) for utt in self.utts] for table in (data.noisy, data.clean))
        for utt, noisy, clean in zip(self.utts, self.noisy, self.clean):
            if not noisy.sample_rate == clean.sample_rate == sample_rate:
                rates = f"{noisy.sample_rate} Hz noisy and {clean.sample_rate} Hz clean"
                raise InputError(
                    f"{dump_dir}: {utt} has {rates}, the network {sample_rate} Hz; run stage 2 at its rate"
                )
            if noisy.num_samples != clean.num_samples:
                samples = f"{noisy.num_samples} noisy and {clean.num_samples} clean samples"
                raise InputError(f"{dump_dir}: {utt} has {samples}; run stage 2 again")
        lengths = torch.tensor([entry.num_samples for entry in self.clean])
        self.lengths, self.starts = lengths.to(self.device), (lengths.cumsum(0) - lengths).to(self.device)
        self._num_samples = int(lengths.sum())
        self._cached: list[torch.Tensor] = []
        self.fits_memory = 4 * self._num_samples <= max_bytes
        if self.fits_memory:
            self._cached = [self._cache(entries) for entries in (self.noisy, self.clean)]

    def __len__(self) -> int:
        return len(self.utts)

    @property
    def duration_s(self) -> float:
        """Total duration in seconds."""
        return self._num_samples / self.sample_rate

    def draw(self, count: int, num_samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw segments, each sample of the set equally likely: indices of utterances and first samples, (count,)."""
        position = torch.rand(count, generator=generator, dtype=torch.float64) * self._num_samples
        utt = torch.searchsorted(self.starts.cpu(), position.long(), right=True) - 1
        room = (self.lengths.cpu()[utt] - num_samples).clamp(min=0)
        first = (torch.rand(count, generator=generator, dtype=torch.float64) * (room + 1)).long()
        return utt.to(self.device), first.to(self.device)

    def segments(
        self, utt: torch.Tensor, first: torch.Tensor, num_samples: int, wrap: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return segments.

        Args:
            utt, first: (count,), as returned by :meth:`draw`.
            num_samples: length of each segment.
            wrap: repeat an utterance cyclically; otherwise pad with zeros.

        Returns:
            noisy and clean, float32 (count, num_samples), and the number of valid samples of each (count,).

        Raises:
            InputError: the dump was truncated in the meantime.
        """
        offset = first[:, None] + torch.arange(num_samples, device=self.device)
        length = self.lengths[utt][:, None]
        inside = offset < length
        if self._cached:
            offset = offset % length if wrap else offset.minimum(length - 1)
            index = self.starts[utt][:, None] + offset
            noisy, clean = (wav[index] for wav in self._cached)
        else:
            places = list(zip(utt.tolist(), first.tolist()))
            noisy, clean = (self._read(entries, places, num_samples, wrap) for entries in (self.noisy, self.clean))
        noisy, clean = (wav.float() / FULL_SCALE for wav in (noisy, clean))
        if wrap:
            return noisy, clean, torch.full_like(first, num_samples)
        return noisy * inside, clean * inside, inside.sum(1)

    def _cache(self, entries: Sequence[Entry]) -> torch.Tensor:
        wav = torch.empty(self._num_samples, dtype=torch.int16)
        for entry, start in zip(entries, self.starts.tolist()):
            wav[start : start + entry.num_samples] = torch.from_numpy(entry.read(0, entry.num_samples))
        return wav.to(self.device)

    def _read(
        self, entries: Sequence[Entry], places: Sequence[tuple[int, int]], num_samples: int, wrap: bool
    ) -> torch.Tensor:
        """Read segments from the dump, int16 (count, num_samples); without ``wrap``, zeros follow an end."""
        wavs = np.zeros((len(places), num_samples), dtype=np.int16)
        for wav, (utt, first) in zip(wavs, places):
            entry, done = entries[utt], 0
            while done < num_samples:
                count = min(num_samples - done, entry.num_samples - first)
                wav[done : done + count] = entry.read(first, count)
                done, first = done + count, 0
                if not wrap:
                    break
        return torch.from_numpy(wavs).to(self.device)


class Mixtures:
    """Training batches according to a :class:`DataConfig`; batch ``n`` of a seed is always the same, as resuming needs.

    Args:
        pairs: speech and noise to draw from.
        config: how to draw.
        seed: of this run.
    """

    def __init__(self, pairs: PairSet, config: DataConfig, seed: int) -> None:
        self.pairs, self.config, self.seed = pairs, config, seed
        self.num_samples = round(config.segment_s * pairs.sample_rate)

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
        clean, noise = clean * valid, noise * valid
        clean = set_level(clean, uniform(*config.level_db), lengths)
        if config.room_tone:
            tone = self._coloured(uniform(-9.0, 0.0), generator) * valid
            tone = set_level(tone, _level_db(clean, lengths) - uniform(*_ROOM_TONE_DB), lengths)
            clean = clean + tone * (uniform(0.0, 1.0) < config.room_tone)
        noise = set_level(noise, _level_db(clean, lengths) - uniform(*config.snr_db), lengths)
        if config.clean:
            noise = noise * (uniform(0.0, 1.0) >= config.clean)
        if config.speechless:
            clean = clean * (uniform(0.0, 1.0) >= config.speechless)
        noisy = clean + noise
        peak = torch.maximum(noisy.abs(), clean.abs()).amax(1, keepdim=True).clamp(min=1.0)  # no clipping
        return noisy / peak, clean / peak

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
        spectra, frequency = [torch.fft.rfft(clean), torch.fft.rfft(noise)], _frequencies(clean, rate)
        for index in range(2):
            if config.tilt_db:
                spectra[index] = spectra[index] * _tilt(uniform(-config.tilt_db, config.tilt_db), frequency)
            if config.equaliser_db:
                gains = torch.rand(len(clean), _OCTAVES, generator=generator).to(clean.device)
                spectra[index] = spectra[index] * _equaliser(config.equaliser_db * (2.0 * gains - 1.0), frequency)
        if config.reverberant:
            wanted = uniform(0.0, 1.0) < config.reverberant
            noise_of_room = torch.randn(clean.shape, generator=generator).to(clean.device)
            room = _room(noise_of_room, uniform(0.1, 0.8), uniform(-6.0, 6.0), rate)
            spectra[1] = spectra[1] * torch.where(wanted, torch.fft.rfft(room), 1.0)
        if config.band_limited:
            wanted = uniform(0.0, 1.0) < config.band_limited
            low_pass = (frequency < uniform(2000.0, rate / 2)) | ~wanted
            spectra = [spectrum * low_pass for spectrum in spectra]
        clean, noise = (torch.fft.irfft(spectrum, n=clean.shape[1]) for spectrum in spectra)
        return clean, noise

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
            noise[rows] = _unit_power(noise[rows]) + gain * _unit_power(noisy - clean)
        if len(rows := chosen(config.coloured)):
            slope = (-9.0 * torch.rand(len(rows), 1, generator=generator)).to(pairs.device)
            noise[rows] = self._coloured(slope, generator)
        if len(rows := chosen(config.babble)):
            _, speech, _ = cut(_TALKERS * len(rows))
            noise[rows] = _unit_power(speech).view(_TALKERS, len(rows), num_samples).sum(0)
        if len(rows := chosen(config.computed)):
            noise[rows] = self._computed(len(rows), generator)
        return noise

    def _computed(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return computed noise, another one per segment, (count, time)."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        rng = np.random.default_rng(seed)
        wavs = [draw(self.num_samples, self.pairs.sample_rate, rng) for _ in range(count)]
        return torch.from_numpy(np.stack(wavs)).to(self.pairs.device)

    def _coloured(self, db_per_octave: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return Gaussian noise, one segment per spectral slope (count, 1)."""
        white = torch.randn(len(db_per_octave), self.num_samples, generator=generator).to(self.pairs.device)
        return tilt(white, db_per_octave, self.pairs.sample_rate)


def tilt(wav: torch.Tensor, db_per_octave: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Return ``wav`` (batch, time) with its spectrum tilted around 1 kHz; flat below 50 Hz.

    Args:
        db_per_octave: (batch, 1)
    """
    return torch.fft.irfft(torch.fft.rfft(wav) * _tilt(db_per_octave, _frequencies(wav, sample_rate)), n=wav.shape[1])


def _frequencies(wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Return the frequencies of the Fourier transform in Hz, (bins,), at least 50: filters are flat below."""
    return torch.linspace(0.0, sample_rate / 2, wav.shape[1] // 2 + 1, device=wav.device).clamp(min=50.0)


def _tilt(db_per_octave: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    return 10 ** (db_per_octave * torch.log2(frequency / 1000.0) / 20.0)


def _equaliser(gain_db: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Return the gain (batch, bins) interpolating ``gain_db`` (batch, octaves) at 62.5 Hz · 2^i linearly in octaves."""
    place = torch.log2(frequency / 62.5).clamp(0.0, _OCTAVES - 1.001)
    low = place.long()
    gain_db = torch.lerp(gain_db[:, low], gain_db[:, low + 1], place - low)
    return 10 ** (gain_db / 20.0)


def _room(noise: torch.Tensor, decay_s: torch.Tensor, direct_db: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Return impulse responses (batch, time): direct sound, then noise decaying by 60 dB in ``decay_s`` (batch, 1).

    Args:
        noise: Gaussian (batch, time).
        direct_db: ratio of the energies of the direct sound and the rest, (batch, 1).
    """
    time_s = torch.arange(noise.shape[1], device=noise.device) / sample_rate
    room = noise * 10 ** (-3.0 * time_s / decay_s)
    room[:, 0] = room[:, 1:].square().sum(1).sqrt() * 10 ** (direct_db[:, 0] / 20.0)
    return room


def set_level(wav: torch.Tensor, level_db: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return ``wav`` (batch, time) at an RMS of ``level_db`` (batch, 1) over valid samples; silence stays silence."""
    return wav * 10 ** ((level_db - _level_db(wav, lengths)) / 20.0)


def _level_db(wav: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    power = wav.square().sum(1, keepdim=True) / lengths[:, None].clamp(min=1)
    return 10.0 * torch.log10(power.clamp(min=_SILENCE))


def _unit_power(wav: torch.Tensor) -> torch.Tensor:
    return wav * torch.rsqrt(wav.square().mean(-1, keepdim=True).clamp(min=_SILENCE))

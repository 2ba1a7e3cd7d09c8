"""Pairs held on the training device, and batches of mixtures drawn from them without a loop over samples."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from sase.data.datadir import read_data_dir
from sase.data.dump import FULL_SCALE, read_entry
from sase.errors import InputError

MOST_HELD_BYTES = 4 << 30  # of a set that is held in memory, about 19 hours; a larger one stays on the disk
_TALKERS = 6  # in babble
_ROOM_TONE_DB = (25.0, 55.0)  # below the speech
_OCTAVES = 8  # of the equaliser: 62.5 Hz to 8 kHz
_SILENCE = 1e-8  # mean power below which a segment has no level to speak of


@dataclass(frozen=True)
class DataConfig:
    """How training batches are drawn.

    Attributes:
        batch_size: segments of a batch: of all processes together, where several train one network.
        segment_s: their length in seconds.
        remix: put the noise (noisy − clean) of any pair under the speech of any other, at a new SNR; else take the
            pairs as they are.
        snr_db: range of the SNR when remixing, over the segment.
        level_db: range of the level of the clean speech (RMS, dB below full scale) when remixing.
        babble: share of segments whose noise is several other training speakers at once.
        coloured: share of segments whose noise is Gaussian with a random spectral tilt.
        second_noise: share of segments with the noise of two pairs.
        tilt_db: speech and noise each pass a random linear tilt of up to this many dB an octave, about 1 kHz.
        equaliser_db: speech and noise each pass a random equaliser, gains of up to this many dB at octaves of 62.5 Hz.
        band_limited: share of segments whose noisy and clean sound both end at a random frequency above 2 kHz.
        reverberant: share of segments whose noise passes a room, a random decay of 0.1 to 0.8 s.
        room_tone: share of segments whose speech has a faint steady noise of its own, 25 to 55 dB below it, that
            belongs to the recording and is to stay: few real recordings fall silent in pauses.
        clean: share of segments without noise.
        speechless: share of segments without speech.
    """

    batch_size: int = 12
    segment_s: float = 2.0
    remix: bool = True
    snr_db: tuple[float, float] = (-2.0, 17.0)
    level_db: tuple[float, float] = (-38.0, -16.0)
    babble: float = 0.0
    coloured: float = 0.0
    second_noise: float = 0.0
    tilt_db: float = 0.0
    equaliser_db: float = 0.0
    band_limited: float = 0.0
    reverberant: float = 0.0
    room_tone: float = 0.0
    clean: float = 0.0
    speechless: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Noisy and clean segments, float32 (batch, time), their valid samples (batch,), and the clean utterances' keys."""

    noisy: torch.Tensor
    clean: torch.Tensor
    lengths: torch.Tensor
    utts: list

    def rows(self, first, last):
        """Return the part of rows ``first`` to ``last - 1``."""
        return Batch(self.noisy[first:last], self.clean[first:last], self.lengths[first:last], self.utts[first:last])


class PairSet:
    """All utterances of a dumped set: as two int16 tensors on a device or, of a large set, where the dump has them.

    What is drawn is the same either way. A set on the disk is read segment by segment, so that memory does not grow
    with the corpus, save for a few numbers of each utterance.

    Args:
        dump_dir: made by stage 2.
        sample_rate: what the model wants, in Hz.
        device: where segments are wanted.
        most_bytes: the largest set, noisy and clean together, that is held on the device.

    Raises:
        InputError: a set without utterances, or noisy and clean of different length.
    """

    def __init__(self, dump_dir, sample_rate=16000, device="cpu", most_bytes=MOST_HELD_BYTES):
        data = read_data_dir(dump_dir)
        if not len(data):
            raise InputError(f"{dump_dir}: holds no utterances")
        self.utts, self.sample_rate, self.device = list(data.utts), sample_rate, torch.device(device)
        self._noisy, self._clean = ([read_entry(table[utt]) for utt in self.utts] for table in (data.noisy, data.clean))
        for utt, noisy, clean in zip(self.utts, self._noisy, self._clean):
            if noisy.num_samples != clean.num_samples:
                samples = f"{noisy.num_samples} noisy and {clean.num_samples} clean samples"
                raise InputError(f"{dump_dir}: {utt} has {samples}; make stage 2 again")
        lengths = torch.tensor([entry.num_samples for entry in self._clean])
        self.lengths, self.starts = lengths.to(self.device), (lengths.cumsum(0) - lengths).to(self.device)
        self._num_samples = int(lengths.sum())
        self._held = None
        if 4 * self._num_samples <= most_bytes:
            self._held = [self._hold(entries) for entries in (self._noisy, self._clean)]

    def __len__(self):
        return len(self.utts)

    @property
    def duration_s(self):
        """Seconds of speech in all."""
        return self._num_samples / self.sample_rate

    def draw(self, count, num_samples, generator):
        """Draw places, every sample of the set equally likely: utterances (count,), first samples in them (count,)."""
        position = torch.rand(count, generator=generator, dtype=torch.float64) * self._num_samples
        utt = torch.searchsorted(self.starts.cpu(), position.long(), right=True) - 1
        room = (self.lengths.cpu()[utt] - num_samples).clamp(min=0)
        first = (torch.rand(count, generator=generator, dtype=torch.float64) * (room + 1)).long()
        return utt.to(self.device), first.to(self.device)

    def segments(self, utt, first, num_samples, wrap=False):
        """Cut segments.

        Args:
            utt, first: (count,), as :meth:`draw` gives.
            num_samples: length of each.
            wrap: begin an utterance anew at its end; else zeros follow.

        Returns:
            noisy and clean, float32 (count, num_samples), and the valid samples of each (count,).

        Raises:
            InputError: a dump that has become shorter since.
        """
        offset = first[:, None] + torch.arange(num_samples, device=self.device)
        length = self.lengths[utt][:, None]
        inside = offset < length
        if self._held:
            offset = offset % length if wrap else offset.minimum(length - 1)
            index = self.starts[utt][:, None] + offset
            noisy, clean = (wav[index] for wav in self._held)
        else:
            places = list(zip(utt.tolist(), first.tolist()))
            noisy, clean = (self._read(entries, places, num_samples, wrap) for entries in (self._noisy, self._clean))
        noisy, clean = (wav.float() / FULL_SCALE for wav in (noisy, clean))
        if wrap:
            return noisy, clean, torch.full_like(first, num_samples)
        return noisy * inside, clean * inside, inside.sum(1)

    def _hold(self, entries):
        wav = torch.empty(self._num_samples, dtype=torch.int16)
        for entry, start in zip(entries, self.starts.tolist()):
            wav[start : start + entry.num_samples] = torch.from_numpy(entry.read(0, entry.num_samples))
        return wav.to(self.device)

    def _read(self, entries, places, num_samples, wrap):
        """Read segments from the dump, int16 (count, num_samples); without ``wrap``, what follows an end has no use."""
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
    """Training batches as :class:`DataConfig` says; batch ``n`` of a seed is always the same, so training can resume.

    Args:
        pairs: a :class:`PairSet`.
        config: a :class:`DataConfig`.
        seed: of this run.
    """

    def __init__(self, pairs, config, seed):
        self.pairs, self.config, self.seed = pairs, config, seed
        self.num_samples = round(config.segment_s * pairs.sample_rate)

    @property
    def batches_per_epoch(self):
        """How many batches hold as many seconds as the set does."""
        return max(1, math.ceil(self.pairs.duration_s / (self.config.batch_size * self.config.segment_s)))

    def batch(self, number):
        """Return :class:`Batch` ``number``."""
        # SeedSequence spreads neighbouring numbers over the whole range; on the CPU, so that every device draws alike.
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(seed)
        config, count = self.config, self.config.batch_size
        utt, first = self.pairs.draw(count, self.num_samples, generator)
        noisy, clean, lengths = self.pairs.segments(utt, first, self.num_samples)
        if config.remix:
            noisy, clean = self._remix(clean, lengths, generator)
        return Batch(noisy, clean, lengths, [self.pairs.utts[i] for i in utt.tolist()])

    def _remix(self, clean, lengths, generator):
        config, count = self.config, len(clean)
        valid = torch.arange(self.num_samples, device=clean.device) < lengths[:, None]

        def uniform(low, high):
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

    def _filtered(self, clean, noise, generator, uniform):
        """Pass speech and noise, (batch, time) each, through filters drawn for every segment, as the config says."""
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
        return [torch.fft.irfft(spectrum, n=clean.shape[1]) for spectrum in spectra]

    def _noise(self, count, generator):
        """Noise for ``count`` segments: of the set's own pairs, babble or coloured noise, in the shares wanted."""
        config, pairs, num_samples = self.config, self.pairs, self.num_samples

        def cut(number):
            return pairs.segments(*pairs.draw(number, num_samples, generator), num_samples, wrap=True)

        def chosen(share):
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
        return noise

    def _coloured(self, db_per_octave, generator):
        """Gaussian noise, a segment for each slope of its spectrum (count, 1)."""
        white = torch.randn(len(db_per_octave), self.num_samples, generator=generator).to(self.pairs.device)
        return tilt(white, db_per_octave, self.pairs.sample_rate)


def tilt(wav, db_per_octave, sample_rate):
    """Return ``wav`` (batch, time) with a spectrum tilted about 1 kHz; flat below 50 Hz.

    Args:
        db_per_octave: (batch, 1)
    """
    return torch.fft.irfft(torch.fft.rfft(wav) * _tilt(db_per_octave, _frequencies(wav, sample_rate)), n=wav.shape[1])


def _frequencies(wav, sample_rate):
    """In Hz, (bins,) of the whole segment's transform; none below 50, where filters stay flat."""
    return torch.linspace(0.0, sample_rate / 2, wav.shape[1] // 2 + 1, device=wav.device).clamp(min=50.0)


def _tilt(db_per_octave, frequency):
    return 10 ** (db_per_octave * torch.log2(frequency / 1000.0) / 20.0)


def _equaliser(gain_db, frequency):
    """Gain (batch, bins) that goes through ``gain_db`` (batch, octaves) at 62.5 Hz · 2^i, linear between in octaves."""
    place = torch.log2(frequency / 62.5).clamp(0.0, _OCTAVES - 1.001)
    low = place.long()
    gain_db = torch.lerp(gain_db[:, low], gain_db[:, low + 1], place - low)
    return 10 ** (gain_db / 20.0)


def _room(noise, decay_s, direct_db, sample_rate):
    """Impulse response (batch, time): the direct sound, then noise that falls by 60 dB in ``decay_s`` (batch, 1).

    Args:
        noise: Gaussian (batch, time).
        direct_db: energy of the direct sound over that of all that follows, (batch, 1).
    """
    time_s = torch.arange(noise.shape[1], device=noise.device) / sample_rate
    room = noise * 10 ** (-3.0 * time_s / decay_s)
    room[:, 0] = room[:, 1:].square().sum(1).sqrt() * 10 ** (direct_db[:, 0] / 20.0)
    return room


def set_level(wav, level_db, lengths):
    """Return ``wav`` (batch, time) at an RMS of ``level_db`` (batch, 1) over its valid samples; silence stays so."""
    return wav * 10 ** ((level_db - _level_db(wav, lengths)) / 20.0)


def _level_db(wav, lengths):
    power = wav.square().sum(1, keepdim=True) / lengths[:, None].clamp(min=1)
    return 10.0 * torch.log10(power.clamp(min=_SILENCE))


def _unit_power(wav):
    return wav * torch.rsqrt(wav.square().mean(-1, keepdim=True).clamp(min=_SILENCE))

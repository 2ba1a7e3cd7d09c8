"""Pairs of noisy and clean speech: a dumped set in memory or on disk, and segments of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sase.data.arks import FULL_SCALE, Entry, read_entry
from sase.data.datadir import read_data_dir
from sase.data.rooms import read_rooms
from sase.errors import InputError

MAX_CACHED_BYTES = 4 << 30  # largest set kept in memory, about 19 hours; larger ones are read from disk


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
        noisy, clean: the :class:`sase.data.arks.Entry` of each.
        lengths, starts: numbers of samples, and their cumulative sums from 0, (utterances,).
        fits_memory: whether the set is kept on the device.
        rooms: the impulse responses of rooms that were dumped with it, see :mod:`sase.data.rooms`.

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
                    f"{dump_dir}: {utt} has {rates}, the network {sample_rate} Hz; run stage 2 with its --sample-rate"
                )
            if noisy.num_samples != clean.num_samples:
                samples = f"{noisy.num_samples} noisy and {clean.num_samples} clean samples"
                raise InputError(f"{dump_dir}: {utt} has {samples}; run stage 2 again")
        self.rooms = read_rooms(dump_dir, sample_rate)
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

"""Pairs of a data directory: sound files, or speech and noise that are mixed when they are read."""

from pathlib import Path
from typing import Protocol

import numpy as np

from sase import audio
from sase.data.datadir import DataDir, Tables, read_data_dir
from sase.data.mixtures import FILE, Mixer, Mixture, read_mixtures
from sase.errors import InputError


class Source(Protocol):
    """Where pairs are read from.

    Attributes:
        utts: utterances, sorted.
        tables: speakers, noises, SNRs and silos.
    """

    utts: list[str]
    tables: Tables

    def inputs(self, utt: str) -> list[tuple[object, str]]:
        """Return (description, file) of everything that an utterance depends on."""

    def noisy_name(self, utt: str) -> str:
        """Return the file that messages about the noisy signal name."""

    def clean_name(self, utt: str) -> str:
        """Return the file that messages about the clean signal name."""

    def read(self, utt: str, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
        """Return noisy and clean, float32 (time,) of equal length at ``sample_rate``, or raise InputError."""


def read_source(data_dir: str | Path) -> Source:
    """Return the pairs of a data directory."""
    path = Path(data_dir) / FILE
    return MixtureSource(read_mixtures(path)) if path.is_file() else FileSource(read_data_dir(data_dir))


class FileSource:
    """Pairs of sound files, from ``wav.scp`` and ``spk1.scp``: a :class:`Source`."""

    def __init__(self, data: DataDir) -> None:
        self.utts = data.utts
        self.tables: Tables = data

    def inputs(self, utt: str) -> list[tuple[object, str]]:
        """See :meth:`Source.inputs`."""
        return [(path, path) for path in (self.tables.noisy[utt], self.tables.clean[utt])]

    def noisy_name(self, utt: str) -> str:
        """See :meth:`Source.noisy_name`."""
        return self.tables.noisy[utt]

    def clean_name(self, utt: str) -> str:
        """See :meth:`Source.clean_name`."""
        return self.tables.clean[utt]

    def read(self, utt: str, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Source.read`."""
        noisy_path, clean_path = self.tables.noisy[utt], self.tables.clean[utt]
        (noisy, noisy_rate), (clean, clean_rate) = audio.read_mono(noisy_path), audio.read_mono(clean_path)
        if noisy_rate != clean_rate:
            rates = f"{noisy_path} {noisy_rate} Hz, {clean_path} {clean_rate} Hz"
            raise InputError(f"noisy and clean differ in rate: {rates}")
        if len(noisy) != len(clean):
            lengths = f"{noisy_path} {len(noisy)}, {clean_path} {len(clean)} samples"
            raise InputError(f"noisy and clean differ in length: {lengths}")
        return audio.resample(noisy, noisy_rate, sample_rate), audio.resample(clean, clean_rate, sample_rate)


class MixtureSource:
    """Pairs that are mixed when read, from ``mixtures.tsv``: a :class:`Source`."""

    def __init__(self, mixtures: dict[str, Mixture]) -> None:
        self.utts, self._mixtures = list(mixtures), mixtures
        self._mixer: Mixer | None = None
        self.tables = Tables(
            noisy={},
            clean={},
            utt2spk={utt: mixture.speaker for utt, mixture in mixtures.items()},
            utt2noise={utt: mixture.noise for utt, mixture in mixtures.items()},
            utt2snr={utt: mixture.snr_db for utt, mixture in mixtures.items()},
            utt2silo={utt: mixture.silo for utt, mixture in mixtures.items() if mixture.silo >= 0},
        )

    def inputs(self, utt: str) -> list[tuple[object, str]]:
        """See :meth:`Source.inputs`."""
        mixture = self._mixtures[utt]
        return [(mixture, mixture.speech), ("noise", mixture.noise_file)]

    def noisy_name(self, utt: str) -> str:
        """See :meth:`Source.noisy_name`."""
        return self._mixtures[utt].noise_file

    def clean_name(self, utt: str) -> str:
        """See :meth:`Source.clean_name`."""
        return self._mixtures[utt].speech

    def read(self, utt: str, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Source.read`."""
        if self._mixer is None or self._mixer.sample_rate != sample_rate:
            self._mixer = Mixer(sample_rate)
        clean, noisy = self._mixer.mix(self._mixtures[utt])
        return noisy, clean

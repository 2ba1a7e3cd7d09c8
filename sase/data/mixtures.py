"""Lists of mixtures: which noise is added to which speech, from which offset and at which SNR; and the mixing itself.

A data directory whose noisy speech has not been mixed yet has ``mixtures.tsv`` instead of tables: a header and one line
per utterance, with tab-separated columns. It can be read and edited with any tool; stage 2 mixes accordingly.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sase import audio
from sase.atomic import write_text
from sase.data.keys import check_key
from sase.data.mixing import mix_at_snr
from sase.errors import InputError

FILE = "mixtures.tsv"
_MAX_NOISES = 64  # kept in memory: four minutes at 16 kHz are 15 MB


@dataclass(frozen=True)
class Mixture:
    """An utterance and the noise to add.

    Attributes:
        speaker: the utterance's name starts with it.
        speech: sound file of the clean speech.
        noise: name of the noise.
        noise_file: sound file of the noise; of several channels the first is used.
        begin_s, end_s: the segment of the noise that this set may use; it is repeated cyclically.
        offset_s: start of the noise of this utterance in the file, between the two.
        snr_db: ratio of the mean powers of speech and noise over the utterance.
        silo: of federated training; -1: none.
    """

    speaker: str
    speech: str
    noise: str
    noise_file: str
    begin_s: float
    end_s: float
    offset_s: float
    snr_db: float
    silo: int = -1


_FIELDS = {field.name: field.type for field in dataclasses.fields(Mixture)}
_HEADER = ("utterance", *_FIELDS)


def write_mixtures(path: str | Path, mixtures: Mapping[str, Mixture]) -> None:
    """Write a list of mixtures, sorted by utterance, atomically.

    Args:
        path: of the file.
        mixtures: utterance to mixture.

    Raises:
        InputError: a name is empty or contains a tab or a line end.
    """
    lines = ["\t".join(_HEADER)]
    for utt in sorted(mixtures):
        values = [getattr(mixtures[utt], name) for name in _FIELDS]
        cells = [utt, *(f"{value:.10g}" if isinstance(value, float) else str(value) for value in values)]
        if any(not cell or cell != cell.strip() or set(cell) & set("\t\r\n") for cell in cells):
            raise InputError(f"{path}: values must not be empty or contain a tab or a line end, as in {cells!r}")
        check_key(path, utt)
        lines.append("\t".join(cells))
    write_text(path, "\n".join(lines) + "\n")


def read_mixtures(path: str | Path) -> dict[str, Mixture]:
    """Return utterance to mixture, sorted; lines may be in any order.

    Raises:
        InputError: an invalid line, with file and line number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not lines or tuple(lines[0].split("\t")) != _HEADER:
        raise InputError(f"{path}:1: must be the header '{' '.join(_HEADER)}', separated by tabs")
    mixtures = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            utt, mixture = _parse(f"{path}:{number}", line)
            if utt in mixtures:
                raise InputError(f"{path}:{number}: duplicate utterance {utt}")
            mixtures[utt] = mixture
    if not mixtures:
        raise InputError(f"{path}: contains no mixtures")
    return dict(sorted(mixtures.items()))


def validate_mixtures(path: str | Path, with_audio: bool = False) -> dict[str, Mixture]:
    """Return the list of mixtures; ``with_audio``, raise InputError if a sound file is missing or unreadable."""
    mixtures = read_mixtures(path)
    if with_audio:
        for sound in sorted({file for mixture in mixtures.values() for file in (mixture.speech, mixture.noise_file)}):
            audio.info(sound)
    return mixtures


class Mixer:
    """Mixes at one sample rate; caches the noises that it has read.

    Args:
        sample_rate: of the output, in Hz; speech and noise are resampled to it before mixing.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._noises: dict[str, np.ndarray] = {}

    def mix(self, mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
        """Return clean and noisy speech of a mixture, float32 (time,) each.

        Raises:
            InputError: a file is unreadable or silent, or shorter than the segment of the noise.
        """
        clean, _ = audio.read_mono(mixture.speech, self.sample_rate)
        noise = self.excerpt(mixture, len(clean))
        for path, wav in ((mixture.speech, clean), (mixture.noise_file, noise)):
            if not wav.any():
                raise InputError(f"{path}: is silent{f' from {mixture.offset_s:g} s on' if wav is noise else ''}")
        return mix_at_snr(clean, noise, mixture.snr_db)

    def excerpt(self, mixture: Mixture, num_samples: int) -> np.ndarray:
        """Return the noise of a mixture, float32 (num_samples,), before scaling."""
        noise = self._noise(mixture.noise_file)
        begin, end, offset = (round(s * self.sample_rate) for s in (mixture.begin_s, mixture.end_s, mixture.offset_s))
        if end > len(noise) + 1:  # one sample of rounding error
            lasts = len(noise) / self.sample_rate
            raise InputError(f"{mixture.noise_file}: lasts {lasts:g} s, but the list uses it up to {mixture.end_s:g} s")
        part = noise[begin:end]
        return part[(offset - begin + np.arange(num_samples)) % len(part)]

    def _noise(self, path: str) -> np.ndarray:
        if path not in self._noises:
            wav, rate = audio.read(path)
            if len(self._noises) >= _MAX_NOISES:
                self._noises.clear()
            self._noises[path] = audio.resample(wav[0], rate, self.sample_rate)
        return self._noises[path]


def _parse(where: str, line: str) -> tuple[str, Mixture]:
    utt, *cells = line.split("\t")
    if len(cells) != len(_FIELDS):
        raise InputError(f"{where}: has {1 + len(cells)} columns, expected {len(_HEADER)}, separated by tabs")
    values: dict[str, Any] = {}
    for (name, kind), cell in zip(_FIELDS.items(), cells):
        try:
            values[name] = kind(cell)  # type: ignore[operator]  # str, float or int
        except ValueError:
            raise InputError(f"{where}: {name} must be a number, got '{cell}'") from None
    mixture = Mixture(**values)
    numbers = (mixture.begin_s, mixture.end_s, mixture.offset_s, mixture.snr_db)
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{where}: times and SNR must be finite")
    if not 0 <= mixture.begin_s <= mixture.offset_s < mixture.end_s:
        raise InputError(f"{where}: offset_s must be between begin_s and end_s, and none negative")
    if not utt or any(map(str.isspace, utt + mixture.noise + mixture.speaker)):
        raise InputError(f"{where}: names of utterance, speaker and noise must not contain spaces")
    check_key(where, utt)
    if not mixture.speaker or not utt.startswith(mixture.speaker):
        raise InputError(f"{where}: {utt} does not start with the name of its speaker {mixture.speaker}")
    return utt, mixture

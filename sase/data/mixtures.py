"""Lists of mixtures: which noise lies under which speech, from where on and at which SNR; and the mixing itself.

A data directory whose noisy speech is not made yet holds ``mixtures.tsv`` instead of tables: one line an utterance, a
heading, columns separated by tabs. It can be read, edited and cut with any tool; stage 2 mixes what it says.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import write_text
from sase.data.mixing import mix_at_snr
from sase.errors import InputError

FILE = "mixtures.tsv"
_MAX_NOISES = 64  # held at a time: four minutes at 16 kHz are 15 MB


@dataclass(frozen=True)
class Mixture:
    """One utterance in noise.

    Attributes:
        speaker: who speaks; the utterance's name begins with it.
        speech: sound file of the clean speech.
        noise: name of the noise.
        noise_file: sound file of the noise; of several channels the first is taken.
        begin_s, end_s: the part of the noise that this set may use; at its end it goes on at its beginning.
        offset_s: where in the file the noise under this utterance begins, between the two.
        snr_db: ratio of the mean powers of speech and noise over the utterance.
        silo: of federated training, to which the utterance belongs; -1 for none.
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
_HEADING = ("utterance", *_FIELDS)


def write_mixtures(path, mixtures):
    """Write a list of mixtures, sorted by utterance, whole or not at all.

    Args:
        path: of the file.
        mixtures: {utterance: :class:`Mixture`}.
    """
    lines = ["\t".join(_HEADING)]
    for utt in sorted(mixtures):
        values = [getattr(mixtures[utt], name) for name in _FIELDS]
        cells = [utt, *(f"{value:.10g}" if isinstance(value, float) else str(value) for value in values)]
        if any(not cell or cell != cell.strip() or set(cell) & set("\t\r\n") for cell in cells):
            raise InputError(f"{path}: cannot hold an empty word, a tab or a line end, as in {cells!r}")
        lines.append("\t".join(cells))
    write_text(path, "\n".join(lines) + "\n")


def read_mixtures(path):
    """Return {utterance: :class:`Mixture`}, sorted; lines may stand in any order.

    Raises:
        InputError: with the file and line, for a line that does not fit.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not lines or tuple(lines[0].split("\t")) != _HEADING:
        raise InputError(f"{path}:1: must be the heading '{' '.join(_HEADING)}', separated by tabs")
    mixtures = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            utt, mixture = _parse(f"{path}:{number}", line)
            if utt in mixtures:
                raise InputError(f"{path}:{number}: {utt} is there twice")
            mixtures[utt] = mixture
    if not mixtures:
        raise InputError(f"{path}: holds no mixture")
    return dict(sorted(mixtures.items()))


def validate_mixtures(path, with_audio=False):
    """Return what :func:`read_mixtures` does; raise InputError where a sound file is missing or no sound, if asked."""
    mixtures = read_mixtures(path)
    if with_audio:
        for sound in sorted({file for mixture in mixtures.values() for file in (mixture.speech, mixture.noise_file)}):
            audio.info(sound)
    return mixtures


class Mixer:
    """Makes mixtures at one sample rate; keeps the noises that it has read.

    Args:
        sample_rate: of what comes out, in Hz; speech and noise are resampled to it before they are mixed.
    """

    def __init__(self, sample_rate):
        self.sample_rate = sample_rate
        self._noises = {}

    def mix(self, mixture):
        """Return (clean, noisy) of a :class:`Mixture`, float32 (time,) each.

        Raises:
            InputError: a file cannot be read, ends before the part of the noise does, or either is silent.
        """
        clean, _ = audio.read_mono(mixture.speech, self.sample_rate)
        noise = self.excerpt(mixture, len(clean))
        for path, wav in ((mixture.speech, clean), (mixture.noise_file, noise)):
            if not wav.any():
                raise InputError(f"{path}: is silent{f' from {mixture.offset_s:g} s on' if wav is noise else ''}")
        return mix_at_snr(clean, noise, mixture.snr_db)

    def excerpt(self, mixture, num_samples):
        """Return the noise under a mixture, float32 (num_samples,), before it is scaled."""
        noise = self._noise(mixture.noise_file)
        begin, end, offset = (round(s * self.sample_rate) for s in (mixture.begin_s, mixture.end_s, mixture.offset_s))
        if end > len(noise) + 1:  # one sample: what rounding may take away
            lasts = len(noise) / self.sample_rate
            raise InputError(f"{mixture.noise_file}: lasts {lasts:g} s, the list wants it up to {mixture.end_s:g} s")
        part = noise[begin:end]
        return part[(offset - begin + np.arange(num_samples)) % len(part)]

    def _noise(self, path):
        if path not in self._noises:
            wav, rate = audio.read(path)
            if len(self._noises) >= _MAX_NOISES:
                self._noises.clear()
            self._noises[path] = audio.resample(wav[0], rate, self.sample_rate)
        return self._noises[path]


def _parse(where, line):
    utt, *cells = line.split("\t")
    if len(cells) != len(_FIELDS):
        raise InputError(f"{where}: has {1 + len(cells)} columns, needs {len(_HEADING)}, separated by tabs")
    values = {}
    for (name, kind), cell in zip(_FIELDS.items(), cells):
        try:
            values[name] = kind(cell)
        except ValueError:
            raise InputError(f"{where}: {name} must be a number, is '{cell}'") from None
    mixture = Mixture(**values)
    numbers = (mixture.begin_s, mixture.end_s, mixture.offset_s, mixture.snr_db)
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{where}: times and SNR must be finite")
    if not 0 <= mixture.begin_s <= mixture.offset_s < mixture.end_s:
        raise InputError(f"{where}: offset_s must lie between begin_s and end_s, and none below 0")
    if not utt or any(map(str.isspace, utt + mixture.noise + mixture.speaker)):
        raise InputError(f"{where}: names of utterance, speaker and noise hold no spaces")
    if not mixture.speaker or not utt.startswith(mixture.speaker):
        raise InputError(f"{where}: {utt} does not begin with the name of its speaker {mixture.speaker}")
    return utt, mixture

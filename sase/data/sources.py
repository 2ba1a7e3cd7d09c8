"""Where the pairs of a data directory come from: sound files, or speech and noise that are mixed when they are read."""

from pathlib import Path

from sase import audio
from sase.data.datadir import read_data_dir
from sase.data.mixtures import FILE, Mixer, read_mixtures
from sase.errors import InputError


def read_source(data_dir):
    """Return the :class:`Files` or the :class:`Mixed` pairs of a data directory."""
    path = Path(data_dir) / FILE
    return Mixed(read_mixtures(path)) if path.is_file() else Files(read_data_dir(data_dir))


class Files:
    """Pairs that are files: what ``wav.scp`` and ``spk1.scp`` name.

    Attributes:
        utts: the utterances, sorted.
        tables: utt2spk, utt2noise, utt2snr and utt2silo as dicts; all but the first may know fewer utterances.
    """

    def __init__(self, data):
        self.utts, self._noisy, self._clean = data.utts, data.noisy, data.clean
        self.tables = (data.utt2spk, data.utt2noise, data.utt2snr, {})

    def inputs(self, utt):
        """Return (what it is, file) of everything that an utterance is made of."""
        return [(path, path) for path in (self._noisy[utt], self._clean[utt])]

    def noisy_name(self, utt):
        """Return what to call the noisy signal in a message."""
        return self._noisy[utt]

    def clean_name(self, utt):
        """Return what to call the clean signal in a message."""
        return self._clean[utt]

    def read(self, utt, sample_rate):
        """Return noisy and clean, float32 (time,) of one length at ``sample_rate``, or raise InputError."""
        noisy_path, clean_path = self._noisy[utt], self._clean[utt]
        (noisy, noisy_rate), (clean, clean_rate) = audio.read_mono(noisy_path), audio.read_mono(clean_path)
        if noisy_rate != clean_rate:
            rates = f"{noisy_path} {noisy_rate} Hz, {clean_path} {clean_rate} Hz"
            raise InputError(f"noisy and clean differ in rate: {rates}")
        if len(noisy) != len(clean):
            lengths = f"{noisy_path} {len(noisy)}, {clean_path} {len(clean)} samples"
            raise InputError(f"noisy and clean differ in length: {lengths}")
        return tuple(audio.resample(wav, noisy_rate, sample_rate) for wav in (noisy, clean))


class Mixed:
    """Pairs that are mixed now: what ``mixtures.tsv`` says. Attributes and methods as of :class:`Files`."""

    def __init__(self, mixtures):
        self.utts, self._mixtures, self._mixer = list(mixtures), mixtures, None
        columns = ({utt: getattr(m, name) for utt, m in mixtures.items()} for name in ("speaker", "noise", "snr_db"))
        self.tables = (*columns, {utt: m.silo for utt, m in mixtures.items() if m.silo >= 0})

    def inputs(self, utt):
        """See :meth:`Files.inputs`."""
        mixture = self._mixtures[utt]
        return [(mixture, mixture.speech), ("noise", mixture.noise_file)]

    def noisy_name(self, utt):
        """See :meth:`Files.noisy_name`."""
        return self._mixtures[utt].noise_file

    def clean_name(self, utt):
        """See :meth:`Files.clean_name`."""
        return self._mixtures[utt].speech

    def read(self, utt, sample_rate):
        """See :meth:`Files.read`."""
        if self._mixer is None or self._mixer.sample_rate != sample_rate:
            self._mixer = Mixer(sample_rate)
        clean, noisy = self._mixer.mix(self._mixtures[utt])
        return noisy, clean

"""Codecs through which recordings reach those who enhance them: telephones, calls over the internet, voice messages."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from sase.audio.resampling import resample

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True)
class Codec:
    """A lossy codec of libsndfile, which removes the codec's delay.

    Attributes:
        container, coding: libsndfile's names.
        sizes: range of its compression level, from 0 (largest files) to 1 (smallest); None if it has a single one.
        rate: the only sample rate of the codec as it is used, in Hz; None for that of the signal.
    """

    container: str
    coding: str
    sizes: tuple[float, float] | None = None
    rate: int | None = None

    def takes(self, sample_rate: int) -> bool:
        """Whether signals of this rate can pass the codec, with the libsndfile that is installed."""
        import soundfile

        if not soundfile.check_format(self.container, self.coding):
            return False
        return self.coding != "OPUS" or sample_rate in _OPUS_RATES

    def transmit(self, wav: np.ndarray, sample_rate: int, size: float) -> np.ndarray:
        """Return what is heard behind the codec.

        Args:
            wav: float (time,) within ±1.
            sample_rate: in Hz.
            size: where in :attr:`sizes` the compression level is, from 0 to 1.

        Returns:
            float32 (time,), without delay.
        """
        import soundfile

        rate = self.rate or sample_rate
        level = None if self.sizes is None else self.sizes[0] + size * (self.sizes[1] - self.sizes[0])
        file = io.BytesIO()
        narrow = resample(wav, sample_rate, rate)
        soundfile.write(file, narrow, rate, format=self.container, subtype=self.coding, compression_level=level)
        file.seek(0)
        return _fitted(resample(soundfile.read(file, dtype="float32")[0], rate, sample_rate), len(wav))

    def band(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return a signal, float (time,), without the frequencies that the codec's rate does not carry; float32."""
        if self.rate is None:
            return np.asarray(wav, dtype=np.float32)
        return _fitted(resample(resample(wav, sample_rate, self.rate), self.rate, sample_rate), len(wav))


CODECS = {
    "mu_law": Codec("WAV", "ULAW", rate=8000),  # G.711: telephones
    "gsm": Codec("WAV", "GSM610", rate=8000),  # 13 kbit/s: mobile telephones
    "adpcm": Codec("WAV", "IMA_ADPCM"),  # dictating machines
    "opus": Codec("OGG", "OPUS", (0.85, 1.0)),  # calls and voice messages; at 16 kHz 35 to 10 kbit/s
    "vorbis": Codec("OGG", "VORBIS", (0.6, 1.0)),  # at 16 kHz 60 to 40 kbit/s
    "mp3": Codec("MP3", "MPEG_LAYER_III", (0.6, 0.99)),  # with variable bit rate; at 16 kHz 40 to 20 kbit/s
}


def draw(sample_rate: int, rng: np.random.Generator) -> tuple[Codec, float]:
    """Return a codec that takes signals of this rate, and the size for :meth:`Codec.transmit`."""
    codecs = [codec for codec in CODECS.values() if codec.takes(sample_rate)]
    return codecs[rng.integers(len(codecs))], float(rng.uniform())


def _fitted(wav: np.ndarray, count: int) -> np.ndarray:
    """Return the first ``count`` samples, float32; zeros follow a shorter signal."""
    fitted = np.zeros(count, dtype=np.float32)
    fitted[: len(wav)] = wav[:count]
    return fitted

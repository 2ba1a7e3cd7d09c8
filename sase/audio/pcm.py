"""Samples as they pass through pipes: raw PCM, and WAV whose length nobody knows yet."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sase.audio.sound import check_limits
from sase.errors import InputError

ENCODINGS = ("s16le", "f32le")
_OPEN_LENGTH = 0x7FFFF000  # from here on, and 0: what programs declare that write to pipes
_WAV_CODES = {(1, 16): "s16le", (3, 32): "f32le"}  # (format tag, bits)
_EXTENSIBLE = 0xFFFE
_MAX_CHUNK_BYTES = 1 << 20  # before the samples


@dataclass(frozen=True)
class PcmFormat:
    """How samples are encoded.

    Attributes:
        encoding: one of ``ENCODINGS``.
        sample_rate: in Hz.
        num_channels: interleaved.
    """

    encoding: str
    sample_rate: int
    num_channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.num_channels * (2 if self.encoding == "s16le" else 4)

    def decode(self, data: bytes) -> np.ndarray:
        """Return the samples of whole frames, float32 (channels, n) in [-1, 1]."""
        if self.encoding == "s16le":
            samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768.0
        else:
            samples = np.frombuffer(data, "<f4").astype(np.float32)
        return np.ascontiguousarray(samples.reshape(-1, self.num_channels).T)

    def encode(self, wav: np.ndarray) -> bytes:
        """Return the bytes of samples (channels, n); 16-bit integers are rounded and clipped."""
        if self.encoding == "s16le":
            return np.clip(np.rint(wav.T * 32768.0), -32768, 32767).astype("<i2").tobytes()
        return wav.T.astype("<f4").tobytes()

    def wav_header(self) -> bytes:
        """Return the header of a WAV file of open length, as programs write to pipes."""
        code, bits = next(key for key, encoding in _WAV_CODES.items() if encoding == self.encoding)
        frame, rate = self.frame_bytes, self.sample_rate
        body = struct.pack("<4sI2H2I2H", b"fmt ", 16, code, self.num_channels, rate, rate * frame, frame, bits)
        return b"RIFF\xff\xff\xff\xffWAVE" + body + b"data\xff\xff\xff\xff"


def read_wav_header(take: Callable[[int], bytes], name: str) -> tuple[PcmFormat, int | None]:
    """Return the format of a WAV file and the bytes of its samples; None if they go to the end of the input.

    Args:
        take: returns exactly so many of the next bytes, or raises InputError.
        name: of the input, for messages.

    Raises:
        InputError: no WAV file, or one with another kind of samples.
    """
    tag, _, kind = struct.unpack("<4sI4s", take(12))
    if (tag, kind) != (b"RIFF", b"WAVE"):
        raise InputError(f"{name}: not a WAV file")
    pcm = None
    while True:
        chunk, size = struct.unpack("<4sI", take(8))
        if chunk == b"data":
            if pcm is None:
                raise InputError(f"{name}: a WAV file without a description of its samples")
            return pcm, size if 0 < size < _OPEN_LENGTH else None
        if size > _MAX_CHUNK_BYTES:
            raise InputError(f"{name}: a WAV file with a chunk of {size} bytes before its samples")
        body = take(size + size % 2)
        if chunk == b"fmt ":
            pcm = _described(body, name)


def _described(body: bytes, name: str) -> PcmFormat:
    """Return the format that a ``fmt`` chunk describes."""
    if len(body) < 16:
        raise InputError(f"{name}: a WAV file whose format chunk has {len(body)} bytes")
    code, num_channels, sample_rate, _, _, bits = struct.unpack_from("<2H2I2H", body)
    if code == _EXTENSIBLE and len(body) >= 26:
        (code,) = struct.unpack_from("<H", body, 24)
    if (code, bits) not in _WAV_CODES:
        raise InputError(f"{name}: WAV samples of kind {code} with {bits} bits; needs 16-bit integers or 32-bit floats")
    check_limits(name, sample_rate, num_channels)
    return PcmFormat(_WAV_CODES[code, bits], sample_rate, num_channels)

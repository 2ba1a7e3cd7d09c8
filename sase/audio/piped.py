"""WAV to a pipe: the header cannot be corrected at the end, and so declares an unknown length, as ffmpeg's does."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from sase.audio.kinds import Kind

_UNKNOWN = b"\xff\xff\xff\xff"


def wav_writer(stream: BinaryIO, sample_rate: int, num_channels: int, kind: Kind) -> Callable[[npt.ArrayLike], None]:
    """Write the header of a WAV file to a stream; return ``put(wav)``, which appends float (channels, time) samples.

    Args:
        stream: open for writing, need not be seekable.
        sample_rate: in Hz.
        num_channels: of the samples.
        kind: of :meth:`Kind.written_as` for a WAV file.
    """
    stream.write(_header(sample_rate, num_channels, kind))

    def put(wav: npt.ArrayLike) -> None:
        samples = np.asarray(wav, dtype=np.float32)
        if kind.subtype not in ("FLOAT", "DOUBLE"):
            samples = np.clip(samples, -1.0, 1.0)
        encoded = io.BytesIO()
        with soundfile.SoundFile(encoded, "w", sample_rate, num_channels, kind.subtype, _endian(kind), "RAW") as file:
            file.write(samples.T)
        stream.write(encoded.getvalue())
        stream.flush()

    return put


def _header(sample_rate: int, num_channels: int, kind: Kind) -> bytes:
    """Return what libsndfile writes before the samples, with all lengths unknown."""
    written = io.BytesIO()
    with soundfile.SoundFile(
        written, "w", sample_rate, num_channels, kind.subtype, kind.endian, kind.container
    ) as file:
        kind.apply(file)
    header = bytearray(written.getvalue())
    data = header.rindex(b"data")
    for field in (4, data + 4, *([header.index(b"fact") + 8] if b"fact" in header else [])):
        header[field : field + 4] = _UNKNOWN
    return bytes(header[: data + 8])


def _endian(kind: Kind) -> str:
    return "BIG" if kind.endian == "BIG" else "LITTLE"

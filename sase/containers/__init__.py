"""Measure how much sound a file holds, from its container alone: declared lengths are compared with what is there.

One module per family: :mod:`chunks` (WAV, RF64, W64, AIFF, AU, CAF, NIST), :mod:`flac`, :mod:`ogg`, :mod:`mpeg`. Sound
that is whole is read to its end, even if its header does not know the length; a torn container raises TornError.
"""

from pathlib import Path
from typing import BinaryIO

from sase.containers import chunks, flac, mpeg, ogg
from sase.containers.extent import Extent, PatchedFile, SeveralStreamsError, TornError

__all__ = ["Extent", "PatchedFile", "SeveralStreamsError", "TornError", "measure"]


def measure(path: Path) -> Extent | None:
    """Return the :class:`Extent` of a sound file, or None if it is of no known container.

    Raises:
        TornError: the file ends before its sound does, or has a hole.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        begin = _skip_id3(file)
        file.seek(begin)
        head = file.read(16)
        if head[:4] == b"fLaC":
            return flac.measure(file, size, begin)
        if head[:4] == b"OggS":
            return ogg.measure(file, size, begin)
        if begin == 0 and (layout := chunks.layout_of(head)):
            return chunks.measure(file, size, layout)
        return mpeg.measure(file, size, begin)


def _skip_id3(file: BinaryIO) -> int:
    """Return the position behind the ID3v2 tags at the beginning of a file."""
    position = 0
    while True:
        file.seek(position)
        length = mpeg.id3_length(file.read(10))
        if not length:
            return position
        position += length

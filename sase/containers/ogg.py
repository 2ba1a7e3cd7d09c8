"""Ogg (RFC 3533): logical streams whose pages are all there, up to those that are marked as the last."""

import zlib
from typing import BinaryIO

from sase.containers.extent import Extent, SeveralStreamsError, TornError, is_slack

_BEGIN, _END = 2, 4  # flags of a page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def measure(file: BinaryIO, size: int, begin: int) -> Extent:
    """Return the Extent of an Ogg file whose first page starts at ``begin``; libsndfile then knows the exact length.

    Raises:
        TornError: a page is missing, damaged or incomplete.
        SeveralStreamsError: there are several streams, all of them whole; libsndfile reads one.
    """
    position, count = begin, 0
    expected: dict[bytes, int] = {}  # serial number of a stream that has not ended to the number of its next page
    while position < size:
        page = _read_page(file, position)
        if page is None:
            if count and not expected and is_slack(size - position, position):
                break
            raise TornError(f"truncated or damaged: the Ogg page at byte {position} is incomplete")
        serial = page[14:18]
        if serial not in expected and page[5] & _BEGIN:
            expected[serial] = 0
            count += 1
        if int.from_bytes(page[18:22], "little") != expected.get(serial):
            raise TornError(f"damaged: Ogg pages are missing before byte {position}")
        expected[serial] = (expected[serial] + 1) % (1 << 32)
        if page[5] & _END:
            del expected[serial]
        position += len(page)
    if expected or not count:
        raise TornError("truncated: its last Ogg page is missing")
    if count > 1:
        raise SeveralStreamsError("contains several Ogg streams; decode it to WAV first")
    return Extent(("OGG",))


def _read_page(file: BinaryIO, position: int) -> bytes | None:
    """Return a whole page with a correct checksum, else None."""
    file.seek(position)
    head = file.read(27)
    if len(head) < 27 or head[:4] != b"OggS":
        return None
    segments = file.read(head[26])
    body = file.read(sum(segments))
    if len(segments) < head[26] or len(body) < sum(segments):
        return None
    page = head + segments + body
    checksum = int.from_bytes(head[22:26], "little")
    return page if _crc(page[:22] + bytes(4) + page[26:]) == checksum else None


def _crc(data: bytes) -> int:
    """Return the CRC-32 of Ogg: that of zlib without the inversions, bits of bytes and of the result reversed."""
    crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)

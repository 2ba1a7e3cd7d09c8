"""FLAC (RFC 9639): the number of samples in the header against the last frame of the file."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from sase.containers.extent import Extent, TornError

_WINDOWS = (1 << 16, 1 << 20, 1 << 22)  # bytes at the end of a file in which the last frame is searched
_MIN_FRAME_BYTES = 8
_MAX_TRIED = 4  # bytes of sound may look like the header of a frame
_TAGS = (b"TAG", b"APETAGEX", b"ID3")  # that other programs append
_MAX_TOTAL = (1 << 36) - 1
_BEGINNINGS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # with the header of the stream information


def measure(file: BinaryIO, size: int, begin: int) -> Extent:
    """Return the Extent of a FLAC stream that starts at ``begin``; a header that declares fewer samples is patched.

    Raises:
        TornError: the last frame ends before the declared number of samples, or there is no frame.
    """
    file.seek(begin)
    head = file.read(42)
    if len(head) < 42 or head[4] & 0x7F != 0:
        raise TornError("truncated or damaged: it has no FLAC stream information")
    fields = int.from_bytes(head[18:26], "big")  # rate: 20 bits, channels: 3, bits per sample: 5, samples: 36
    declared = fields & _MAX_TOTAL
    for window in _WINDOWS:
        first = max(begin + 42, size - window)
        file.seek(first)
        tail = file.read(size - first)
        ends = list(_frame_ends(tail, head))
        if ends or first == begin + 42:
            break
    if _begins_again(file, begin + 4):
        raise TornError("several FLAC files follow each other; decode them to one WAV file first")
    agreeing = [position for end, position in ends if end == declared > 0]
    if any(_is_whole(tail[position:]) for position in agreeing[:_MAX_TRIED]):
        return Extent(("FLAC",), num_samples=declared)
    whole = [end for end, position in ends[:_MAX_TRIED] if _is_whole(tail[position:])]
    if not whole or whole[0] < declared:
        seen = max(whole or [0])
        raise TornError(f"truncated: its last whole frame ends at sample {seen}, its header declares {declared}")
    if whole[0] > _MAX_TOTAL:
        raise TornError("damaged: it declares more samples than FLAC can hold")
    return Extent(("FLAC",), num_samples=whole[0], patches={begin + 18: _with_total(fields, whole[0])})


def _begins_again(file: BinaryIO, position: int) -> bool:
    """Return whether another FLAC file begins somewhere behind a position."""
    overlap = max(map(len, _BEGINNINGS)) - 1
    file.seek(position)
    kept = b""
    while data := file.read(1 << 20):
        data = kept + data
        if any(mark in data for mark in _BEGINNINGS):
            return True
        kept = data[-overlap:]
    return False


def _with_total(fields: int, total: int) -> bytes:
    return ((fields & ~_MAX_TOTAL) | total).to_bytes(8, "big")


def _frame_ends(tail: bytes, head: bytes) -> Iterator[tuple[int, int]]:
    """Yield (number of the sample behind it, position in ``tail``) of every frame header, the last one first."""
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail))):
        end = _frame_end(tail[match.start() : match.start() + 16], head)
        if end is not None:
            yield end, match.start()


def _frame_end(data: bytes, head: bytes) -> int | None:
    """Return the number of the sample behind a frame, from its header; None if this is no header of the stream."""
    if len(data) < 6:
        return None
    size_code, rate_code, channels, depth = data[2] >> 4, data[2] & 15, data[3] >> 4, data[3] >> 1 & 7
    declared_channels = (head[20] >> 1 & 7) + 1
    if data[3] & 1 or size_code == 0 or rate_code == 15 or depth == 3 or channels > 10:
        return None
    if declared_channels != (channels + 1 if channels < 8 else 2):
        return None
    coded = 1 if data[4] < 0x80 else 8 - (data[4] ^ 0xFF).bit_length()  # bytes of the number, coded like UTF-8
    if not (data[4] < 0x80 or 2 <= coded <= 7):
        return None
    number = data[4] if coded == 1 else data[4] & (0x7F >> coded)
    for byte in data[5 : 4 + coded]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    position = 4 + coded
    extra = {6: 1, 7: 2}.get(size_code, 0)
    block = int.from_bytes(data[position : position + extra], "big") + 1 if extra else _block_size(size_code)
    position += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if position >= len(data) or _crc8(data[:position]) != data[position]:
        return None
    return number + block if data[1] & 1 else number * int.from_bytes(head[10:12], "big") + block


def _block_size(code: int) -> int:
    return 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)


def _is_whole(data: bytes) -> bool:
    """Return whether the last frame is complete: its checksum agrees, and nothing but a tag or padding follows."""
    crc = 0
    for number, byte in enumerate(data, 1):
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
        if crc == 0 and number >= _MIN_FRAME_BYTES:
            rest = data[number : number + 8]
            if not rest or rest.startswith(_TAGS) or (not any(rest) and not any(data[number:])):
                return True
    return False


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _table(bits: int, polynomial: int) -> list[int]:
    """Return the table of a CRC of ``bits`` bits, most significant bit first."""
    table = []
    for byte in range(256):
        crc = byte << (bits - 8)
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> (bits - 1) & 1 else 0)
        table.append(crc & ((1 << bits) - 1))
    return table


_CRC8, _CRC16 = _table(8, 0x07), _table(16, 0x8005)

"""MPEG audio (MP3): a chain of frames, which is walked; it has no header, but its first frame may count the others."""

from dataclasses import dataclass
from typing import BinaryIO

from sase.containers.extent import Extent, TornError, is_slack

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version
_BITRATES = {  # kbit/s, by (version 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SIDE_BYTES = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}  # by (version 1, mono)
_SEARCH_BYTES = 1 << 16  # in which a frame is searched behind bytes that are none


@dataclass(frozen=True)
class _Frame:
    kind: tuple[int, int, int]  # version, layer and sample rate: the same in all frames of a stream
    num_bytes: int
    num_samples: int
    side_bytes: int  # between its header and the data, in which an encoder may have left the number of frames


def measure(file: BinaryIO, size: int, begin: int) -> Extent | None:
    """Return the Extent of an MPEG stream behind ``begin``, or None if there is none.

    If its first frame declares the number of frames, libsndfile's length is exact and ``num_samples`` is None.

    Raises:
        TornError: the last frame is incomplete, bytes between frames are none, or there are fewer or more frames than
            declared.
    """
    position = _next_frame(file, begin, None)
    if position is None:
        return None
    file.seek(position)
    first = _parse(file.read(4))
    assert first is not None
    declared, declared_bytes = _declared(file, position, first)
    count = 0 if declared is None else -1  # the frame that declares the number is not counted
    num_bytes = 0
    while position < size:
        file.seek(position)
        head = file.read(10)
        frame = _parse(head)
        if frame is not None and frame.kind == first.kind:
            if position + frame.num_bytes > size:
                raise TornError(f"truncated: the MPEG frame at byte {position} is incomplete")
            position, num_bytes, count = position + frame.num_bytes, num_bytes + frame.num_bytes, count + 1
        elif length := _tag_length(file, position, head):
            position += length
        elif _next_frame(file, position, first.kind) is not None:
            raise TornError(f"damaged: there is no MPEG frame at byte {position}")
        elif is_slack(size - position, position):
            break
        else:
            raise TornError(f"truncated or damaged: {size - position} bytes from byte {position} on are no MPEG frames")
    if declared is None:
        return Extent(("MP3",), num_samples=count * first.num_samples, open_ended=True)
    # Some encoders count the frame with the number; if their number of bytes is right, no other frame is missing.
    complete = declared_bytes is None or declared_bytes in (num_bytes, num_bytes - first.num_bytes)
    if count < declared - 1 or (count == declared - 1 and not complete):
        raise TornError(f"truncated: {count} of {declared} MPEG frames are there")
    if count > declared + 1:
        raise TornError(f"declares {declared} MPEG frames and holds {count}; if it was joined, decode it to WAV first")
    return Extent(("MP3",))


def id3_length(head: bytes) -> int:
    """Return the length of an ID3v2 tag from its first ten bytes, 0 if there is none."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
        return 0
    length = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    return length + 10 if head[5] & 0x10 else length  # with a footer


def _parse(head: bytes) -> _Frame | None:
    """Return the frame of a header of four bytes; None if it is none, or of free format, whose length is not known."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    bits_per_s, rate_hz = 1000 * _BITRATES[version == 3, layer][bitrate - 1], _RATES[version][rate]
    padding, num_samples = head[2] >> 1 & 1, 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    if layer == 1:
        num_bytes = 4 * (12 * bits_per_s // rate_hz + padding)
    else:
        num_bytes = num_samples // 8 * bits_per_s // rate_hz + padding
    side_bytes = _SIDE_BYTES[version == 3, head[3] >> 6 == 3]
    return _Frame((version, layer, rate_hz), num_bytes, num_samples, side_bytes)


def _declared(file: BinaryIO, position: int, frame: _Frame) -> tuple[int | None, int | None]:
    """Return the numbers of frames and of bytes that the first frame declares (tags Xing, Info, VBRI), or None."""
    file.seek(position)
    data = file.read(frame.num_bytes)
    tag = data[4 + frame.side_bytes :]
    if tag[:4] in (b"Xing", b"Info") and len(tag) >= 12 and tag[7] & 1:
        has_bytes = tag[7] & 2 and len(tag) >= 16
        return int.from_bytes(tag[8:12], "big"), int.from_bytes(tag[12:16], "big") if has_bytes else None
    if data[36:40] == b"VBRI" and len(data) >= 54:
        return int.from_bytes(data[50:54], "big"), None
    return None, None


def _next_frame(file: BinaryIO, begin: int, kind: tuple[int, int, int] | None) -> int | None:
    """Return where the next frame (of this kind) begins that another one follows; None if there is none nearby."""
    file.seek(begin)
    data = file.read(_SEARCH_BYTES)
    position = -1
    while (position := data.find(b"\xff", position + 1)) >= 0:
        frame = _parse(data[position : position + 4])
        if frame is None or kind not in (None, frame.kind):
            continue
        following = data[position + frame.num_bytes :][:4]
        if not following:  # the end of the file or of the search
            file.seek(begin + position + frame.num_bytes)
            following = file.read(4)
        after = _parse(following)
        if (after is not None and after.kind == frame.kind) or not following or following[:3] == b"TAG":
            return begin + position
    return None


def _tag_length(file: BinaryIO, position: int, head: bytes) -> int:
    """Return the length of a tag between or behind the frames, 0 if there is none."""
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX":
        file.seek(position)
        tag = file.read(32)
        if len(tag) < 32:
            return 0
        has_header = tag[23] & 0x80 and tag[23] & 0x20  # the size leaves out the header
        return int.from_bytes(tag[12:16], "little") + 32 if has_header else 32
    return id3_length(head)

"""Containers of uncompressed sound: the length of the chunk with the sound against the length of the file.

WAV (RIFF, RIFX), RF64, Sony Wave64, AIFF, 8SVX, CAF and AU. Programs that write to a pipe do not know the length and
write 0 or a number near 2^31 or 2^32 (2^63, 2^64): then the sound ends where the file does. NIST SPHERE counts samples.
"""

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from sase.containers.extent import Extent, TornError, is_slack

_RIFF_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_DATA_W64 = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_MAX_CHUNKS = 10000
# Lengths that stand for "not known": sox writes 0x7F000000 (AIFF) and 0x7FFFF000, aplay 0x7FFFFF00, ffmpeg 0xFFFFFFFF.
_UNKNOWN = (
    (0x7EFFFF00, 0x7F000100),
    (0x7FFF0000, 0x80000000),
    (0xFFFFF000, 0xFFFFFFFF),
    ((1 << 63) - (1 << 12), 1 << 63),
    ((1 << 64) - (1 << 12), 1 << 64),
)


@dataclass(frozen=True)
class Layout:
    """How a family of containers writes its chunks.

    Attributes:
        formats: libsndfile's names of it.
        first: byte at which the first chunk starts.
        size: struct format of a chunk's size.
        data: name of the chunk with the sound.
        prefix: number of bytes between the header of that chunk and the sound.
        alignment: of chunks.
        whole: whether a chunk's size includes its header.
        outer: where the size of the whole file stands, in the same format, and how many bytes it excludes; None if it
            is not declared.
    """

    formats: tuple[str, ...]
    first: int
    size: str
    data: bytes
    prefix: int = 0
    alignment: int = 2
    whole: bool = False
    outer: tuple[int, int] | None = (4, 8)

    @property
    def header_bytes(self) -> int:
        """Number of bytes of a chunk's name and size."""
        return len(self.data) + struct.calcsize(self.size)


_RIFF = Layout(("WAV", "WAVEX", "RF64"), 12, "<I", b"data")
_RIFX = Layout(("WAV", "WAVEX"), 12, ">I", b"data")
_W64 = Layout(("W64",), 40, "<Q", _DATA_W64, alignment=8, whole=True, outer=(16, 0))
_AIFF = Layout(("AIFF",), 12, ">I", b"SSND", prefix=8)
_SVX = Layout(("SVX",), 12, ">I", b"BODY")
_CAF = Layout(("CAF",), 8, ">Q", b"data", prefix=4, alignment=1, outer=None)
_AU, _AU_LITTLE, _NIST = (
    Layout(("AU",), 0, ">I", b"", outer=None),
    Layout(("AU",), 0, "<I", b"", outer=None),
    Layout(("NIST",), 0, "", b"", outer=None),
)
_FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff", b".snd", b"dns.", b"NIST")  # how whole files begin
# How tags begin that programs append to any file: ID3v1 and its extension, ID3v2, APE, Lyrics3.
_TAGS = (b"TAG", b"ID3", b"3DI", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class _Data:
    """Where the sound begins, its declared number of bytes, and the field that declares it, less ``extra`` bytes."""

    begin: int
    num_bytes: int
    field: int
    field_format: str
    extra: int = 0


def layout_of(head: bytes) -> Layout | None:
    """Return the Layout of a file from its first 16 bytes, or None."""
    kind = head[8:12]
    if head[:4] in (b"RIFF", b"RF64") and kind == b"WAVE":
        return _RIFF
    if head[:4] == b"RIFX" and kind == b"WAVE":
        return _RIFX
    if head[:4] == b"FORM":
        return _AIFF if kind in (b"AIFF", b"AIFC") else _SVX if kind in (b"8SVX", b"16SV") else None
    if head[:16] == _RIFF_W64:
        return _W64
    return {b"caff": _CAF, b".snd": _AU, b"dns.": _AU_LITTLE, b"NIST": _NIST}.get(head[:4])


def measure(file: BinaryIO, size: int, layout: Layout) -> Extent:
    """Return the Extent of a file of ``size`` bytes.

    Raises:
        TornError: the sound ends before or after its declared length, or there is none.
    """
    if layout is _NIST:
        return _measure_nist(file, size)
    data = _find_au(file, layout) if layout.formats == ("AU",) else _find_data(file, size, layout)
    available = size - data.begin
    if available < 0:
        raise TornError("truncated: it ends before its audio begins")
    unknown = any(low <= data.num_bytes <= high for low, high in _UNKNOWN)
    if data.num_bytes > available and not unknown:
        raise TornError(f"truncated: {data.num_bytes - available} of {data.num_bytes} bytes of audio are missing")
    if data.num_bytes > available or not _only_chunks_follow(file, size, data, layout):
        if not unknown and data.num_bytes > 0:
            rest = available - data.num_bytes
            raise TornError(f"its header declares {data.num_bytes} bytes of audio, but {rest} more follow; repair it")
        return Extent(layout.formats, num_bytes=available, open_ended=True, patches=_patches(data, available))
    return Extent(layout.formats, num_bytes=data.num_bytes)


def _patches(data: _Data, num_bytes: int) -> dict[int, bytes]:
    """Return the field with the measured length; none if it does not fit, which libsndfile's length then shows."""
    value = num_bytes + data.extra
    width = struct.calcsize(data.field_format)
    return {data.field: struct.pack(data.field_format, value)} if value < 1 << (8 * width) else {}


def _find_data(file: BinaryIO, size: int, layout: Layout) -> _Data:
    position, width, declared64 = layout.first, layout.header_bytes, None
    for _ in range(_MAX_CHUNKS):
        name, length = _chunk(file, position, layout)
        if name == layout.data:
            field, kind, extra = position + len(name), layout.size, width if layout.whole else 0
            if declared64 is not None and length == 0xFFFFFFFF:
                (field, length), kind = declared64, "<Q"
            skip = layout.prefix
            if layout is _AIFF:  # the sound may begin behind an offset
                file.seek(position + width)
                skip += int.from_bytes(file.read(4), "big")
            # A length of 0 stays 0: it stands for "not known", with or without the bytes before the sound.
            return _Data(position + width + skip, max(0, length - skip), field, kind, extra + skip)
        if name == b"ds64" and length >= 16:
            file.seek(position + width + 8)
            declared64 = position + width + 8, int.from_bytes(file.read(8), "little")
        position = _next(file, size, position, length, layout)
        if position + width > size:
            break
    raise TornError("truncated or damaged: it has no chunk with audio")


def _chunk(file: BinaryIO, position: int, layout: Layout) -> tuple[bytes, int]:
    """Return the name of the chunk at a position, and its length without the header; empty and 0 beyond the end."""
    file.seek(min(position, 1 << 62))  # declared lengths may lead beyond what a file can have
    header = file.read(layout.header_bytes)
    if len(header) < layout.header_bytes:
        return b"", 0
    name, length = header[: len(layout.data)], struct.unpack(layout.size, header[len(layout.data) :])[0]
    return name, max(0, length - layout.header_bytes) if layout.whole else length


def _next(file: BinaryIO, size: int, position: int, length: int, layout: Layout) -> int:
    """Return the position of the next chunk; some programs do not pad a chunk of odd length."""
    end = position + layout.header_bytes + length
    aligned = -(-end // layout.alignment) * layout.alignment
    for start in (aligned, end):
        if _fits(file, size, start, layout):
            return start
    return aligned if _is_name(_chunk(file, aligned, layout)[0]) else end


def _fits(file: BinaryIO, size: int, position: int, layout: Layout) -> bool:
    """Return whether a chunk begins at a position and ends within the file."""
    name, length = _chunk(file, position, layout)
    return _is_name(name) and position + layout.header_bytes + length <= size


def _is_name(name: bytes) -> bool:
    return len(name) >= 4 and all(32 <= byte < 127 for byte in name[:4])


def _only_chunks_follow(file: BinaryIO, size: int, data: _Data, layout: Layout) -> bool:
    """Return whether everything behind the declared sound is further chunks, or too little to be sound."""
    sound_end = end = data.begin + data.num_bytes
    if layout.data:
        position = _next(file, size, data.begin - layout.header_bytes, data.num_bytes, layout)
        for _ in range(_MAX_CHUNKS):
            name, length = _chunk(file, position, layout)
            if name == layout.data or name[:4] in _FILES or not _fits(file, size, position, layout):
                break
            end = position = _next(file, size, position, length, layout)
    rest = size - end
    if rest <= 0:
        return True
    if data.num_bytes == 0 or not is_slack(rest, data.num_bytes):
        return False
    return end > sound_end or not layout.data or _is_foreign(file, sound_end, size, layout)


def _is_foreign(file: BinaryIO, begin: int, size: int, layout: Layout) -> bool:
    """Return whether bytes behind the sound that are no chunk are no sound either, which its size may have cut off."""
    begin += -begin % layout.alignment
    file.seek(begin)
    rest = file.read(size - begin)
    if not rest.strip(b"\0") or rest.startswith(_TAGS):
        return True
    if layout.outer is None or rest.startswith(_FILES):
        return False
    position, excluded = layout.outer
    file.seek(position)
    declared = struct.unpack(layout.size, file.read(struct.calcsize(layout.size)))[0]
    unknown = declared == 0 or any(low <= declared <= high for low, high in _UNKNOWN)
    return unknown or declared + excluded <= begin


def _find_au(file: BinaryIO, layout: Layout) -> _Data:
    file.seek(4)
    header = file.read(8)
    if len(header) < 8:
        raise TornError("truncated: its header is incomplete")
    begin, length = struct.unpack(layout.size[0] + "2I", header)
    return _Data(begin, length, 8, layout.size)


def _measure_nist(file: BinaryIO, size: int) -> Extent:
    file.seek(0)
    head = file.read(1024).decode("latin-1")
    begin = re.match(r"NIST_1A\s+(\d{1,6})\s", head)
    fields = {key: int(value) for key, value in re.findall(r"^(\w+) -i (\d{1,18})\s*$", head, re.MULTILINE)}
    try:
        num_samples = fields["sample_count"]
        num_bytes = num_samples * fields.get("channel_count", 1) * fields["sample_n_bytes"]
    except KeyError as error:
        raise TornError(f"truncated or damaged: its header has no {error}") from None
    available = size - int(begin[1]) if begin else 0
    if num_bytes > available:
        raise TornError(f"truncated: {num_bytes - available} of {num_bytes} bytes of audio are missing")
    if not is_slack(available - num_bytes, num_bytes):
        rest = available - num_bytes
        raise TornError(f"its header declares {num_bytes} bytes of audio, but {rest} more follow; repair it")
    return Extent(("NIST",), num_samples=num_samples)

"""How much sound a container holds, as measured; and a file as a decoder must see it to read to the end."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class TornError(Exception):
    """The container ends too early, has a hole, or holds another amount of sound than it declares."""


class SeveralStreamsError(TornError):
    """The container holds several streams, of which libsndfile reads one."""


@dataclass(frozen=True)
class Extent:
    """What a container holds, measured without decoding.

    Attributes:
        formats: names that libsndfile may give this container.
        num_samples: per channel; None: not measured here, libsndfile's number is exact or ``num_bytes`` determines it.
        num_bytes: of the sound, where each sample has a fixed width; else None.
        open_ended: the header leaves the length open, so that the sound ends where the file does.
        patches: byte offset to the bytes of a header that must be replaced for libsndfile to read to the end.
    """

    formats: tuple[str, ...]
    num_samples: int | None = None
    num_bytes: int | None = None
    open_ended: bool = False
    patches: Mapping[int, bytes] = field(default_factory=dict)


class PatchedFile(io.RawIOBase):
    """A file, read only, some bytes of which read as others, and which may claim to be longer than it is.

    Args:
        path: of the file.
        patches: byte offset to the bytes that are read there.
        claimed_bytes: length that the file claims to have; reading still ends where the file does.
    """

    def __init__(self, path: Path, patches: Mapping[int, bytes], claimed_bytes: int | None = None) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  # closed by close()
        self._patches = patches
        self._size = self._file.seek(0, io.SEEK_END)
        self._claimed = claimed_bytes or self._size
        self._file.seek(0)

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def seekable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.RawIOBase."""
        if whence == io.SEEK_END:
            return self._file.seek(max(0, self._claimed + offset))
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See io.RawIOBase."""
        return self._file.tell()

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # cffi's buffers are no Buffer to mypy
        """See io.RawIOBase; beyond the file's own end, where decoders search for tags, there are zeros."""
        begin = self._file.tell()
        if begin > self._size:
            count = min(len(buffer), max(0, self._claimed - begin))
            buffer[:count] = bytes(count)
            self._file.seek(begin + count)
            return count
        data = bytearray(self._file.read(len(buffer)))
        for offset, patch in self._patches.items():
            first, last = max(begin, offset), min(begin + len(data), offset + len(patch))
            if first < last:
                data[first - begin : last - begin] = patch[first - offset : last - offset]
        buffer[: len(data)] = bytes(data)
        return len(data)

    def close(self) -> None:
        """See io.RawIOBase."""
        self._file.close()
        super().close()


def is_slack(num_bytes: int, before: int) -> bool:
    """Return whether bytes behind the sound are few enough to be padding or a foreign tag, of ``before`` bytes."""
    return num_bytes <= max(512, min(4096, before // 16))

"""Text files that people edit: tables, lists, logs. Written on any system, read the same."""

from __future__ import annotations

from pathlib import Path

from sase.errors import InputError

BYTE_ORDER_MARK = "\ufeff"


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark and with ``\\n`` as the only line end.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    return read_exactly(path).removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def read_exactly(path: str | Path) -> str:
    """Return the text of a UTF-8 file as it is.

    Raises: as :func:`read_text`.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None

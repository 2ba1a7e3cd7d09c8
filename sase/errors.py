"""The exception for errors that a user can fix: bad input, bad options, missing files."""

from __future__ import annotations

_MAX_LENGTH = 1000


class InputError(ValueError):
    """Bad input, described in one line: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with status 1; any other exception is a bug of this package. Messages
    quote names and values of foreign files; :func:`printable` keeps those from acting on a terminal.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def printable(text: object, max_length: int = _MAX_LENGTH) -> str:
    """Return a text as one line: white space as spaces, other control characters escaped, a long middle left out."""
    letters = (" " if letter.isspace() else letter for letter in str(text))
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in letters)
    if len(line) <= max_length:
        return line
    half = (max_length - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"

"""The exception for errors that a user can fix: bad input, bad options, missing files."""

from __future__ import annotations

_MAX_LENGTH = 1000


class InputError(ValueError):
    """Bad input, described in one line: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with status 1; any other exception is a bug of this package. Messages
    quote names and values of foreign files, so every message goes through :func:`one_line`.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message, _MAX_LENGTH))


def one_line(text: object, limit: int = 300) -> str:
    """Return the text of anything, also of an exception, as one printable line of at most ``limit`` characters.

    White space becomes single spaces. Control characters, which could steer a terminal, are removed. The middle of a
    long text is left out, since the beginning names what is wrong and the end what to do.
    """
    text = str(text)
    if len(text) > 8 * limit:
        text = f"{text[: 4 * limit]} ... {text[-4 * limit :]}"
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    if len(line) <= limit:
        return line
    half = (limit - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


class DiskFullError(OSError):
    """A file could not be written to its end by a library that does not say why: most likely the disk is full."""

"""The exception for errors that a user can fix: bad input, bad options, missing files."""


class InputError(ValueError):
    """Bad input, described in one line: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with status 1; any other exception is a bug of this package.
    """


def one_line(text: object, limit: int = 300) -> str:
    """Return the text of anything, also of an exception, as one printable line of at most ``limit`` characters.

    Line breaks become spaces. Control characters, which could steer a terminal, are removed.
    """
    words = str(text)[: 4 * limit].split()
    line = "".join(character for character in " ".join(words) if character.isprintable())
    return line if len(line) <= limit else line[: limit - 3] + "..."

"""The exception for errors that a user can fix: bad input, bad options, missing files."""


class InputError(ValueError):
    """Bad input, described in one line: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with status 1; any other exception is a bug of this package.
    """


class DiskFullError(OSError):
    """A file could not be written to its end by a library that does not say why: most likely the disk is full."""

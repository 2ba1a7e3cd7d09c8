"""The one exception for what a user can mend: bad input, bad options, a file that is not there."""


class InputError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with status 1; everything else that is raised is a fault of ours.
    """

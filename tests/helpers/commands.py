"""``sase`` commands in this process: a new one would import torch first, which takes longer than most commands."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from sase.bin.main import main


def sase(*words):
    """Run ``sase WORDS``; return a ``CompletedProcess`` with its exit status, output and errors, as text."""
    out, errors, arguments = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["sase", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):  # what Python prints on its way out
            print(status, file=errors)
            status = 1
    finally:
        sys.argv = arguments
    return subprocess.CompletedProcess(words, status, out.getvalue(), errors.getvalue())

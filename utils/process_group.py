#!/usr/bin/env python3
"""Run a command as the leader of its own process group: process_group.py COMMAND [ARGUMENTS...].

utils/signals.sh starts the commands of the recipes with it, so that a signal reaches the command and everything that it
started, and nothing else. The kernel kills the command when the process that started it is killed (Linux). A shell
ignores SIGINT in its background processes; the command does not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGKILL)  # it was killed before
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Run one task of a call on a cluster node: run_task.py FOLDER NUMBER, called by the scheduler through job.sh.

Writes the log and the exit status like run_local.py. A signal from the scheduler (time limit reached, cancelled)
terminates the command and is recorded in both.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import jobs

GRACE_S = 5  # less than a scheduler's delay between SIGTERM and SIGKILL, so that the log gets its footer
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    arguments = json.loads((folder / "call.json").read_text())
    os.chdir(arguments.pop("cwd"))
    call = jobs.Call(argparse.Namespace(**arguments))
    received: list[int] = []  # signals
    started: list[jobs.Task] = []  # the task

    def end(signal_number: int, frame: FrameType | None) -> None:
        """Terminate the command, and kill it later. Raising here would lose the exit status that is waited for."""
        received.append(signal_number)
        if len(received) == 1:
            signal.alarm(GRACE_S)
        for task in started:
            task.process.terminate()

    def kill(signal_number: int, frame: FrameType | None) -> None:
        for task in started:
            task.process.kill()

    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, end)
    signal.signal(signal.SIGALRM, kill)
    started.append(jobs.start(call, number, own_session=False))  # schedulers may identify a job by its process group
    if received:
        started[0].process.terminate()
    code = jobs.finish(call, started[0], stopped_by=lambda: received[0] if received else None)
    if received and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # leftover children of the command, and this process
    sys.exit(code)


if __name__ == "__main__":
    main()

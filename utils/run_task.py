#!/usr/bin/env python3
"""Run one task of a call on the machine that a scheduler chose: run_task.py FOLDER NUMBER, called by its job.sh.

Writes the log and the exit status as run_local.py does. A signal of the scheduler (its time is over, it is cancelled)
ends the command, and is in both.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import jobs

GRACE_S = 5  # less than a scheduler waits between SIGTERM and SIGKILL, so that the log still gets its last lines
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)


def main():
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    arguments = json.loads((folder / "call.json").read_text())
    os.chdir(arguments.pop("cwd"))
    call = jobs.Call(argparse.Namespace(**arguments))
    told, started = [], []  # signals, and the task

    def end(signal_number, frame):
        """End the command, gently first. Nothing is raised: that would lose the exit status while it is waited for."""
        told.append(signal_number)
        if len(told) == 1:
            signal.alarm(GRACE_S)
        for task in started:
            task.process.terminate()

    def kill(signal_number, frame):
        for task in started:
            task.process.kill()

    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, end)
    signal.signal(signal.SIGALRM, kill)
    started.append(jobs.start(call, number, own_session=False))  # schedulers may know a job by its process group
    if told:
        started[0].process.terminate()
    code = jobs.finish(call, started[0], stopped_by=lambda: told[0] if told else None)
    if told and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # what the command started and left behind, and this process
    sys.exit(code)


if __name__ == "__main__":
    main()

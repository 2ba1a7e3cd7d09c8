#!/usr/bin/env python3
"""Run tasks on this machine, with the interface and log format of Kaldi's run.pl.

All tasks are run, even when one fails; the exit status is 0 if all succeeded, otherwise 1. The number of concurrent
tasks is limited by the cores, and by memory where --mem is given. A task that exceeds --time is terminated. Ctrl-C and
SIGTERM terminate the tasks and their children.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

import jobs
from resources import count_cores, format_time, memory_of_machine

GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    call = jobs.Call(jobs.parse_arguments("run_local.py", __doc__))
    try:
        slots = count_slots(call)
        _lock = jobs.lock(call)
        todo = jobs.clear(call)
    except OSError as error:
        sys.exit(f"run_local.py: {error}")
    jobs.interrupt_on(*STOP_SIGNALS)
    running: dict[int, jobs.Task] = {}
    try:
        for number in todo:
            while len(running) >= slots:
                reap(call, running)
            with jobs.held_back(*STOP_SIGNALS):  # or a task would run that stop() does not know
                task = jobs.start(call, number, own_session=True)
                running[task.process.pid] = task
        while running:
            reap(call, running)
    except jobs.Interrupted as signalled:
        stop(call, running, "interrupted")
        print(f"run_local.py: interrupted, {len(running)} running tasks terminated", file=sys.stderr)
        sys.exit(128 + signalled.args[0])
    except OSError as error:
        stop(call, running, "runner failed")
        sys.exit(f"run_local.py: {error}")
    sys.exit(jobs.conclude(call, todo))


def count_slots(call: jobs.Call) -> int:
    """Return the maximum number of concurrent tasks."""
    slots = call.max_jobs_run or max(1, count_cores() // call.num_threads)
    if call.memory:
        total, free = memory_of_machine()
        if call.memory > total:
            needed, available = call.memory / 2**30, total / 2**30
            raise OSError(f"--mem: each task needs {needed:.1f} GiB, this machine has {available:.1f}")
        slots = min(slots, max(1, free // call.memory))
    return slots


def reap(call: jobs.Call, running: dict[int, jobs.Task]) -> None:
    """Wait until a task ends or exceeds its time limit; finish it and remove it from ``running``."""
    wait_for_one(call, running)
    for pid, task in list(running.items()):
        if has_ended(pid):
            jobs.finish(call, running.pop(pid))
        elif call.time_s is not None and time.time() - task.started >= call.time_s:
            end({pid: task})
            jobs.finish(call, running.pop(pid), f"timeout after {format_time(call.time_s)}")


def wait_for_one(call: jobs.Call, running: dict[int, jobs.Task]) -> None:
    """Return when a task has ended or exceeded its time limit."""
    if call.time_s is None:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        return
    deadline = min(task.started for task in running.values()) + call.time_s
    while time.time() < deadline and not any(map(has_ended, running)):
        time.sleep(0.2)


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def stop(call: jobs.Call, running: dict[int, jobs.Task], reason: str) -> None:
    """Terminate all tasks and finish their logs."""
    jobs.ignore(*STOP_SIGNALS)
    end(running)
    for task in running.values():
        jobs.finish(call, task, reason)
    jobs.remember(call)


def end(tasks: Iterable[int]) -> None:
    """Terminate process groups: SIGTERM, then SIGKILL after :data:`GRACE_S`."""
    tasks = list(tasks)
    for group in tasks:
        signal_group(group, signal.SIGTERM)
    deadline = time.time() + GRACE_S
    while time.time() < deadline and not all(map(has_ended, tasks)):
        time.sleep(0.05)
    for group in tasks:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # it has ended


if __name__ == "__main__":
    main()

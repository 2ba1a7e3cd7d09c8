#!/usr/bin/env python3
"""Run tasks on this machine, with the interface and the log format of Kaldi's run.pl.

All tasks are run, a few at a time, even when one fails; the status is 0 when all went well, 1 otherwise. As many run at
one time as there are cores for, and memory where --mem tells how much each needs. A task over its --time is ended.
Ctrl-C or SIGTERM ends the tasks and all that they started.
"""

import os
import signal
import sys
import time

import jobs
from resources import count_cores, format_time, memory_of_machine

GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main():
    call = jobs.Call(jobs.parse_arguments("run_local.py", __doc__))
    try:
        slots = count_slots(call)
        _lock = jobs.lock(call)
        todo = jobs.clear(call)
    except OSError as error:
        sys.exit(f"run_local.py: {error}")
    jobs.interrupt_on(*STOP_SIGNALS)
    running = {}
    try:
        for number in todo:
            while len(running) >= slots:
                reap(call, running)
            task = jobs.start(call, number, own_session=True)
            running[task.process.pid] = task
        while running:
            reap(call, running)
    except jobs.Interrupted as signalled:
        stop(call, running, "interrupted")
        print(f"run_local.py: interrupted, {len(running)} running tasks were ended", file=sys.stderr)
        sys.exit(128 + signalled.args[0])
    except OSError as error:
        stop(call, running, "the runner failed")
        sys.exit(f"run_local.py: {error}")
    sys.exit(jobs.conclude(call, todo))


def count_slots(call):
    """Return how many tasks may run at one time."""
    slots = call.max_jobs_run or max(1, count_cores() // call.num_threads)
    if call.memory:
        total, free = memory_of_machine()
        if call.memory > total:
            needed, there = call.memory / 2**30, total / 2**30
            raise OSError(f"--mem: each task needs {needed:.1f} GiB, this machine has {there:.1f}")
        slots = min(slots, max(1, free // call.memory))
    return slots


def reap(call, running):
    """Wait until a task ends, or is over its time and is ended; finish it and take it out of ``running``."""
    wait_for_one(call, running)
    for pid, task in list(running.items()):
        if has_ended(pid):
            jobs.finish(call, running.pop(pid))
        elif call.time_s is not None and time.time() - task.began >= call.time_s:
            end({pid: task})
            jobs.finish(call, running.pop(pid), f"over its time of {format_time(call.time_s)}")


def wait_for_one(call, running):
    """Return when a task has ended or is over its time."""
    if call.time_s is None:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        return
    deadline = min(task.began for task in running.values()) + call.time_s
    while time.time() < deadline and not any(map(has_ended, running)):
        time.sleep(0.2)


def has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def stop(call, running, reason):
    """End all tasks and finish their logs."""
    jobs.ignore(*STOP_SIGNALS)
    end(running)
    for task in running.values():
        jobs.finish(call, task, reason)
    jobs.remember(call)


def end(tasks):
    """End the process groups of tasks, gently first."""
    for group in tasks:
        signal_group(group, signal.SIGTERM)
    deadline = time.time() + GRACE_S
    while time.time() < deadline and not all(map(has_ended, tasks)):
        time.sleep(0.05)
    for group in tasks:
        signal_group(group, signal.SIGKILL)


def signal_group(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all of it has ended by itself


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Run jobs on this machine, with the interface and the log format of Kaldi's run.pl.

    run_local.py [options] [JOB=1:N] LOG command arguments...

JOB stands for the number of the job in the log's name and in the command. All jobs are run, a few at a time, even when
one fails; the status is 0 when all went well, 1 otherwise. An argument that is a shell operator of its own ('|', '>',
'&&', ...) is one in the job too. Ctrl-C or SIGTERM ends the jobs and all that they started.
"""

import argparse
import collections
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

OPERATORS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "(", ")"}
GRACE_S = 5.0

Job = collections.namedtuple("Job", "process log began")


class Interrupted(Exception):
    """A signal asks to stop; its number is the first argument."""


def main():
    args = parse_arguments()
    jobs = list(expand(args))
    max_jobs = args.max_jobs_run or max(1, count_cores() // args.num_threads)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup has it ignored
            signal.signal(number, interrupt)
    failed, running = [], {}
    try:
        for log, command in jobs:
            while len(running) >= max_jobs:
                failed += reap(running, args.num_threads)
            job = start(log, command, args.num_threads)
            running[job.process.pid] = job
        while running:
            failed += reap(running, args.num_threads)
    except Interrupted as signalled:
        stop(running, args.num_threads)
        sys.exit(128 + signalled.args[0])
    except OSError as error:
        stop(running, args.num_threads)
        sys.exit(f"run_local.py: {error}")
    if failed:
        where = failed[0] if len(failed) == 1 else args.log.replace(args.job_name, "*")
        print(f"{len(failed)} of {len(jobs)} failed, see {where}", file=sys.stderr)
        for log in failed[:5]:
            print(f"  {log} ends with: {last_words(log)}", file=sys.stderr)
        sys.exit(1)


def parse_arguments():
    """Return the options, with ``job_name`` (or None), ``jobs`` (a range), ``log`` and ``command`` among them."""
    parser = argparse.ArgumentParser(
        prog="run_local.py",
        usage=__doc__.split("\n\n")[1].strip(),
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("--num-threads", type=int, default=1, help="threads of each job (%(default)s)")
    parser.add_argument("--max-jobs-run", type=int, help="jobs at one time (as many as there are cores)")
    for name in ("--mem", "--gpu", "--time"):
        parser.add_argument(name, help="for other runners; no meaning on one machine")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.num_threads < 1 or args.max_jobs_run is not None and args.max_jobs_run < 1:
        parser.error("--num-threads and --max-jobs-run must be 1 or more")
    rest, args.job_name, args.jobs = args.rest, None, range(1, 2)
    if rest and (match := re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", rest[0])):
        args.job_name, first, last = match.groups()
        args.jobs = range(int(first), int(last or first) + 1)
        if not args.jobs:
            parser.error(f"{rest[0]} holds no job")
        rest = rest[1:]
    if len(rest) < 2:
        parser.error("a log file and a command are needed")
    args.log, args.command = rest[0], rest[1:]
    if args.job_name and args.job_name not in args.log:
        parser.error(f"the jobs would overwrite each other's log: {args.log} must have {args.job_name} in its name")
    return args


def expand(args):
    """Yield (log, command line) of every job."""
    for number in args.jobs:
        words = [args.log, *args.command]
        if args.job_name:
            words = [word.replace(args.job_name, str(number)) for word in words]
        yield words[0], " ".join(word if word in OPERATORS else shlex.quote(word) for word in words[1:])


def start(log, command, num_threads):
    """Start one job with its output in ``log``."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    threads = {f"{name}_NUM_THREADS": str(num_threads) for name in ("OMP", "MKL", "OPENBLAS")}
    with open(log, "w") as file:
        file.write(f"# {command}\n# Started at {now()}\n#\n")
        file.flush()
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    return Job(process, log, time.time())


def die_with_parent():
    """In the child: when the runner itself is killed, end too, so that no job goes on unseen (Linux)."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def reap(running, num_threads):
    """Wait until a job ends, finish its log and take it out of ``running``; return [its log] if it failed, else []."""
    pid = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid
    code = finish(running[pid], num_threads)
    log = running.pop(pid).log
    return [log] if code else []


def finish(job, num_threads):
    """Write the last lines of an ended job's log; return its status."""
    code = job.process.wait()
    elapsed = round(time.time() - job.began)
    told = f"code {code}" if code >= 0 else f"code {128 - code}; signal {-code}"
    with open(job.log, "a") as file:
        file.write(f"# Accounting: time={elapsed} threads={num_threads}\n")
        file.write(f"# Ended ({told}) at {now()}, elapsed time {elapsed} seconds\n")
    return code


def stop(running, num_threads):
    """End the process group of every job, gently first, and finish the logs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for group in running:
        kill_group(group, signal.SIGTERM)
    deadline = time.time() + GRACE_S
    while time.time() < deadline and any(job.process.poll() is None for job in running.values()):
        time.sleep(0.05)
    for group, job in running.items():
        kill_group(group, signal.SIGKILL)
        finish(job, num_threads)


def kill_group(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all of it has ended by itself


def interrupt(number, frame):
    raise Interrupted(number)


def last_words(log):
    """Return the last line that the job itself wrote."""
    with open(log, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    return lines[-1] if lines else "it said nothing"


def count_cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def now():
    return time.strftime("%a %b %d %H:%M:%S %Z %Y")


if __name__ == "__main__":
    main()

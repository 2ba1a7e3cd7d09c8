"""What all runners share: the call and its tasks, Kaldi's log lines, a file for every exit status, and the last word.

A call is ``[options] [JOB=1:N] LOG command arguments...`` and has a task for every value of JOB. Beside the logs of
``log/x.JOB.log`` the folder ``log/q/x.JOB.log`` holds, for every task, ``JOB.status``: the exit status, and behind it
why, where the runner knows. Only a task that has ended, or has vanished, has one.
"""

import argparse
import collections
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from resources import parse_memory, parse_time

OPERATORS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "(", ")"}
USAGE = "[options] [JOB=1:N] LOG command arguments..."

Task = collections.namedtuple("Task", "number process log began")
Outcome = collections.namedtuple("Outcome", "code reason", defaults=("",))  # code: None when the task has vanished


class Interrupted(Exception):
    """A signal asks to stop; its number is the first argument."""


class Call:
    """One call of a runner.

    Attributes:
        log, command: with the name of the job in them; a string and a list of words.
        job_name: such as JOB, or None.
        numbers: of the tasks.
        num_threads, gpu, max_jobs_run: whole numbers; the last is None without a limit.
        memory: bytes, and time_s: seconds, of each task; None without a limit.
        folder: where the statuses are.
    """

    def __init__(self, args):
        """Take the arguments of :func:`parse_arguments`."""
        self.log, self.command, self.job_name, self.numbers = args.log, args.command, args.job_name, list(args.numbers)
        self.num_threads, self.gpu, self.max_jobs_run = args.num_threads, args.gpu, args.max_jobs_run
        self.memory, self.time_s, self.pick = args.mem, args.time, args.pick
        log = Path(self.log)
        self.folder = log.parent / "q" / log.name

    def log_of(self, number):
        return self._fill(self.log, number)

    def line_of(self, number):
        """Return the command line of a task, for a shell; words that are operators of the shell stay what they are."""
        words = (self._fill(word, number) for word in self.command)
        return " ".join(word if word in OPERATORS else shlex.quote(word) for word in words)

    def paths_of(self, number):
        """Return the words of a task's command that name files or folders which are there."""
        words = (self._fill(word, number).rpartition("=")[2] for word in self.command)
        return [Path(word) for word in words if word and "\0" not in word and os.path.exists(word)]

    def status_path(self, number):
        return self.folder / f"{number}.status"

    def status_of(self, number):
        """Return the :class:`Outcome` that a task left, or None when it has not ended."""
        try:
            code, _, reason = self.status_path(number).read_text().strip().partition(" ")
        except FileNotFoundError:
            return None
        return Outcome(None if code == "vanished" else int(code), reason)

    def _fill(self, word, number):
        return word.replace(self.job_name, str(number)) if self.job_name else word


def parse_arguments(prog, description, add_options=lambda parser: None):
    """Return the arguments of the command line.

    Args:
        prog: the runner's name.
        description: what it does.
        add_options: called with the parser, for options that one runner alone has.
    """
    parser = argparse.ArgumentParser(prog, f"{prog} {USAGE}", description, allow_abbrev=False)
    parser.add_argument("--mem", type=_by(parse_memory), help="memory of each task, as in 4G")
    parser.add_argument("--num-threads", type=_by(_positive), default=1, help="processors of each task (%(default)s)")
    parser.add_argument("--gpu", type=int, default=0, help="graphics cards of each task (%(default)s)")
    parser.add_argument("--time", type=_by(parse_time), help="of each task: minutes, or [days-]hours:minutes:seconds")
    parser.add_argument("--max-jobs-run", type=_by(_positive), help="tasks at one time")
    parser.add_argument(
        "--pick",
        choices=("all", "failed"),
        default="all",
        help="failed: when tasks of the same call failed, leave out those that ended well, unless a file that their "
        "commands name has changed since (%(default)s)",
    )
    add_options(parser)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rest, args.job_name, args.numbers = args.rest, None, range(1, 2)
    if rest and (match := re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", rest[0])):
        args.job_name, first, last = match.groups()
        args.numbers = range(int(first), int(last or first) + 1)
        if not args.numbers:
            parser.error(f"{rest[0]} holds no job")
        rest = rest[1:]
    if len(rest) < 2:
        parser.error("a log file and a command are needed")
    args.log, args.command = rest[0], rest[1:]
    if args.job_name and args.job_name not in Path(args.log).name:
        parser.error(f"the jobs would overwrite each other's log: {args.log} must have {args.job_name} in its name")
    return args


def lock(call):
    """Make the folder of a call and return its lock, to be kept open; another call with the same log is an OSError."""
    call.folder.mkdir(parents=True, exist_ok=True)
    file = open(call.folder / "lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"another call is writing {call.log} now") from None
    except OSError:
        return file  # a file system without locks
    return file


def clear(call):
    """Return the numbers of the tasks to run.

    What an earlier call left of them, logs too, is gone: nothing of it can be taken for an outcome of now.
    """
    well = _ended_well(call) if call.pick == "failed" else set()
    todo = [number for number in call.numbers if number not in well]
    (call.folder / "ended_well.json").unlink(missing_ok=True)
    Path(call.log).parent.mkdir(parents=True, exist_ok=True)
    for number in todo:
        Path(call.log_of(number)).unlink(missing_ok=True)
        call.status_path(number).unlink(missing_ok=True)
    return todo


def conclude(call, todo):
    """Tell what failed, and return the exit status of the runner."""
    outcomes = {number: call.status_of(number) for number in call.numbers}
    failed = {number: outcome for number, outcome in outcomes.items() if outcome is None or outcome.code != 0}
    if not failed:
        return 0  # nothing is remembered: called again, all tasks run again, and see themselves what is left to do
    remember(call)
    logs = [call.log_of(number) for number in failed]
    where = logs[0] if len(logs) == 1 else call.log.replace(call.job_name, "*")
    kept = f" ({len(outcomes) - len(todo)} ended well before)" if len(todo) < len(outcomes) else ""
    print(f"{len(failed)} of {len(outcomes)} failed{kept}, see {where}", file=sys.stderr)
    for (number, outcome), log in list(zip(failed.items(), logs))[:5]:
        print(f"  {log} ends with: {last_words(log)} ({_why(outcome)})", file=sys.stderr)
    return 1


def remember(call):
    """Write down which tasks ended well, and what their files are like now, for ``--pick failed``."""
    well = [number for number in call.numbers if call.status_of(number) == Outcome(0)]
    _write(call.folder / "ended_well.json", json.dumps({number: _fingerprint(call, number) for number in well}))


def start(call, number, own_session):
    """Start a task with its output in its log, which begins as Kaldi's does; return the :class:`Task`.

    Args:
        call: the :class:`Call`.
        number: of the task.
        own_session: whether it gets a process group of its own; a scheduler may know its processes by their group.
    """
    line, log = call.line_of(number), call.log_of(number)
    call.status_path(number).unlink(missing_ok=True)
    threads = {f"{name}_NUM_THREADS": str(call.num_threads) for name in ("OMP", "MKL", "OPENBLAS")}
    with open(log, "w") as file:
        file.write(f"# {line}\n# Started at {_now()}\n#\n")
        file.flush()
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=own_session,
            preexec_fn=die_with_parent,
        )
    return Task(number, process, log, time.time())


def finish(call, task, reason="", stopped_by=lambda: None):
    """Wait for a task, write the last lines of its log and its status; return the exit status.

    Args:
        call, task: what :func:`start` got and returned.
        reason: why it ended, where that is known.
        stopped_by: called when it has ended; returns the signal that it was stopped with, or None. Such a task has
            not done its work, even if it ends with 0.
    """
    code = task.process.wait()
    number = -code if code < 0 else stopped_by() if code == 0 else None
    elapsed = round(time.time() - task.began)
    code, told = (128 + number, f"code {128 + number}; signal {number}") if number else (code, f"code {code}")
    with open(task.log, "a") as file:
        file.write(f"# Accounting: time={elapsed} threads={call.num_threads}\n")
        file.write(f"# Ended ({told}) at {_now()}, elapsed time {elapsed} seconds\n")
    write_status(call, task.number, Outcome(code, reason))
    return code


def finish_vanished(call, number, reason):
    """End the log of a task that left no exit status, and write down that it vanished."""
    with open(call.log_of(number), "a") as file:
        file.write(f"# Ended (vanished; {reason}) at {_now()}\n")
    write_status(call, number, Outcome(None, reason))


def write_status(call, number, outcome):
    code = "vanished" if outcome.code is None else outcome.code
    _write(call.status_path(number), f"{code} {outcome.reason}".strip() + "\n")


def last_words(log):
    """Return the last line that the task itself wrote."""
    last = "it did not start"
    if os.path.exists(log):
        with open(log, errors="replace") as file:
            for line in map(str.strip, file):
                if line.startswith("# Started"):
                    last = "it said nothing"
                elif line and not line.startswith("#"):
                    last = line
    return last


def interrupt_on(*numbers):
    """Let these signals raise :class:`Interrupted`; SIGHUP not when it is ignored, as nohup has it."""
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def ignore(*numbers):
    """Let these signals do nothing from here on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent():
    """In a child: when the runner itself is killed, end too, so that no job goes on unseen (Linux)."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _interrupt(number, frame):
    raise Interrupted(number)


def _why(outcome):
    """Return in words how a task ended."""
    if outcome is None:
        return "it did not end"
    if outcome.reason:
        return outcome.reason if outcome.code is not None else f"vanished: {outcome.reason}"
    signals = {128 + number: f"killed by {number.name}" for number in signal.Signals}
    return signals.get(outcome.code, f"exit status {outcome.code}")


def _ended_well(call):
    """Return the numbers of the tasks that ended well in an earlier call, of which others failed, and still stand."""
    try:
        prints = json.loads((call.folder / "ended_well.json").read_text())
    except (FileNotFoundError, ValueError):
        return set()
    return {
        number
        for number in call.numbers
        if prints.get(str(number)) == _fingerprint(call, number) and call.status_of(number) == Outcome(0)
    }


def _fingerprint(call, number):
    """Return a word that changes when the command of a task does, or a file it names, or one in a folder it names."""
    key = hashlib.sha256(f"{os.getcwd()}\n{call.log_of(number)}\n{call.line_of(number)}\n".encode())
    for path in call.paths_of(number):
        names = sorted(os.listdir(path)) if path.is_dir() else [""]
        for file in (path / name for name in names):
            stat = os.stat(file) if file.exists() else None
            key.update(f"{file} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return key.hexdigest()


def _write(path, text):
    """Write a small file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _positive(text):
    if int(text) < 1:
        raise ValueError("must be 1 or more")
    return int(text)


def _by(parse):
    """Return ``parse`` as a type for argparse that tells what it did not like."""

    def convert(text):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from None

    return convert


def _now():
    return time.strftime("%a %b %d %H:%M:%S %Z %Y")

"""Common part of all runners: the call and its tasks, Kaldi's log format, exit status files and the summary.

A call is ``[options] [JOB=1:N] LOG command arguments...`` and has one task for each value of JOB. Next to the logs
``log/x.JOB.log``, the folder ``log/q/x.JOB.log`` has a file ``JOB.status`` for each task that has ended or vanished:
its exit status, followed by the reason where the runner knows it.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TextIO, TypeVar

from resources import parse_memory, parse_time

OPERATORS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "(", ")"}
USAGE = "[options] [JOB=1:N] LOG command arguments..."

T = TypeVar("T")


class Task(NamedTuple):
    """A running task; ``started`` is in seconds since the epoch."""

    number: int
    process: subprocess.Popen[bytes]
    log: str
    started: float


class Outcome(NamedTuple):
    """How a task ended: its exit status, None if it vanished, and the reason where it is known."""

    code: int | None
    reason: str = ""


class Interrupted(Exception):  # noqa: N818, not an error
    """A signal requested to stop; its number is the first argument."""


class Call:
    """One call of a runner.

    Attributes:
        log: name of the log file, with the job name as a placeholder.
        command: list of words, with the same placeholder.
        job_name: the placeholder, such as JOB, or None.
        numbers: values of the placeholder, one per task.
        num_threads, gpu: per task.
        max_jobs_run: maximum number of concurrent tasks; None without a limit.
        memory: bytes per task; None without a limit.
        time_s: time limit of a task in seconds; None without a limit.
        folder: of the status files.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Initialise from the arguments of :func:`parse_arguments`."""
        self.log: str = args.log
        self.command: list[str] = args.command
        self.job_name: str | None = args.job_name
        self.numbers: list[int] = list(args.numbers)
        self.num_threads: int = args.num_threads
        self.gpu: int = args.gpu
        self.max_jobs_run: int | None = args.max_jobs_run
        self.memory: int | None = args.mem
        self.time_s: int | None = args.time
        self.pick: str = args.pick
        log = Path(self.log)
        self.folder = log.parent / "q" / log.name

    def log_of(self, number: int) -> str:
        return self._fill(self.log, number)

    def line_of(self, number: int) -> str:
        """Return the shell command line of a task, quoted except for shell operators."""
        words = (self._fill(word, number) for word in self.command)
        return " ".join(word if word in OPERATORS else shlex.quote(word) for word in words)

    def paths_of(self, number: int) -> list[Path]:
        """Return the existing files and folders that a task's command names."""
        words = (self._fill(word, number).rpartition("=")[2] for word in self.command)
        return [Path(word) for word in words if word and "\0" not in word and os.path.exists(word)]

    def status_path(self, number: int) -> Path:
        return self.folder / f"{number}.status"

    def status_of(self, number: int) -> Outcome | None:
        """Return the :class:`Outcome` in a task's status file, or None when it has not ended."""
        try:
            code, _, reason = self.status_path(number).read_text().strip().partition(" ")
        except FileNotFoundError:
            return None
        return Outcome(None if code == "vanished" else int(code), reason)

    def _fill(self, word: str, number: int) -> str:
        return word.replace(self.job_name, str(number)) if self.job_name else word


def parse_arguments(
    prog: str,
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """Return the arguments of the command line.

    Args:
        prog: name of the runner.
        description: for ``--help``.
        add_options: called with the parser to add options of one runner.
    """
    parser = argparse.ArgumentParser(prog, f"{prog} {USAGE}", description, allow_abbrev=False)
    parser.add_argument("--mem", type=_argument(parse_memory), help="memory per task, such as 4G")
    parser.add_argument("--num-threads", type=_argument(_positive), default=1, help="CPU cores per task (%(default)s)")
    parser.add_argument("--gpu", type=int, default=0, help="GPUs per task (%(default)s)")
    parser.add_argument(
        "--time", type=_argument(parse_time), help="time limit per task: minutes, or [days-]hours:minutes:seconds"
    )
    parser.add_argument("--max-jobs-run", type=_argument(_positive), help="maximum number of concurrent tasks")
    parser.add_argument(
        "--pick",
        choices=("all", "failed"),
        default="all",
        help="failed: after a call in which tasks failed, skip those that succeeded, unless a file named in their "
        "commands has changed since (%(default)s)",
    )
    add_options(parser)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rest, args.job_name, args.numbers = args.rest, None, range(1, 2)
    if rest and (match := re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", rest[0])):
        args.job_name, first, last = match.groups()
        args.numbers = range(int(first), int(last or first) + 1)
        if not args.numbers:
            parser.error(f"{rest[0]} is an empty range of jobs")
        rest = rest[1:]
    if len(rest) < 2:
        parser.error("a log file and a command are needed")
    args.log, args.command = rest[0], rest[1:]
    if args.job_name and args.job_name not in Path(args.log).name:
        parser.error(f"the jobs would overwrite each other's log: {args.log} must have {args.job_name} in its name")
    return args


def lock(call: Call) -> TextIO:
    """Create and lock the folder of a call; return the open lock file.

    Raises:
        OSError: another call with the same log is running.
    """
    call.folder.mkdir(parents=True, exist_ok=True)
    file = open(call.folder / "lock", "w")  # noqa: SIM115, open while the lock is needed
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"{call.log}: locked by another call that is running") from None
    except OSError:
        return file  # the file system does not support locks
    return file


def clear(call: Call) -> list[int]:
    """Return the numbers of the tasks to run, and delete the logs and status files that earlier calls left of them."""
    succeeded = _succeeded(call) if call.pick == "failed" else set()
    todo = [number for number in call.numbers if number not in succeeded]
    (call.folder / "ended_well.json").unlink(missing_ok=True)
    Path(call.log).parent.mkdir(parents=True, exist_ok=True)
    for number in todo:
        Path(call.log_of(number)).unlink(missing_ok=True)
        call.status_path(number).unlink(missing_ok=True)
    return todo


def conclude(call: Call, todo: list[int]) -> int:
    """Print which tasks failed; return the exit status of the runner."""
    outcomes = {number: call.status_of(number) for number in call.numbers}
    failed = {number: outcome for number, outcome in outcomes.items() if outcome is None or outcome.code != 0}
    if not failed:
        return 0  # nothing is recorded: the next call runs all tasks again, which skip work that is done
    remember(call)
    logs = [call.log_of(number) for number in failed]
    where = logs[0] if len(logs) == 1 else call.log.replace(call.job_name or "", "*")
    kept = f" ({len(outcomes) - len(todo)} succeeded before)" if len(todo) < len(outcomes) else ""
    print(f"{len(failed)} of {len(outcomes)} failed{kept}, see {where}", file=sys.stderr)
    for outcome, log in list(zip(failed.values(), logs))[:5]:
        print(f"  {log} ends with: {last_output(log)} ({_reason(outcome)})", file=sys.stderr)
    return 1


def remember(call: Call) -> None:
    """Record which tasks succeeded, and the fingerprints of their input, for ``--pick failed``."""
    succeeded = [number for number in call.numbers if call.status_of(number) == Outcome(0)]
    _write(call.folder / "ended_well.json", json.dumps({number: _fingerprint(call, number) for number in succeeded}))


def start(call: Call, number: int, own_session: bool) -> Task:
    """Start a task with its output in its log, after Kaldi's header lines.

    Args:
        call: the :class:`Call`.
        number: of the task.
        own_session: whether the task gets its own process group; schedulers may identify processes by their group.
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
            preexec_fn=_enter_task,
        )
    return Task(number, process, log, time.time())


def finish(call: Call, task: Task, reason: str = "", stopped_by: Callable[[], int | None] = lambda: None) -> int:
    """Wait for a task, write Kaldi's footer lines and the status file; return the exit status.

    Args:
        call: the :class:`Call`.
        task: returned by :func:`start`.
        reason: why it ended, where that is known.
        stopped_by: called when it has ended; returns the signal that stopped it, or None. A task that was stopped has
            failed even if it exits with 0.
    """
    code = task.process.wait()
    number = -code if code < 0 else stopped_by() if code == 0 else None
    elapsed = round(time.time() - task.started)
    ending = f"code {code}"
    if number:
        code, ending = 128 + number, f"code {128 + number}; signal {number}"
    with open(task.log, "a") as file:
        file.write(f"# Accounting: time={elapsed} threads={call.num_threads}\n")
        file.write(f"# Ended ({ending}) at {_now()}, elapsed time {elapsed} seconds\n")
    write_status(call, task.number, Outcome(code, reason))
    return code


def finish_vanished(call: Call, number: int, reason: str) -> None:
    """Write the footer and status file of a task that disappeared without an exit status."""
    with open(call.log_of(number), "a") as file:
        file.write(f"# Ended (vanished; {reason}) at {_now()}\n")
    write_status(call, number, Outcome(None, reason))


def write_status(call: Call, number: int, outcome: Outcome) -> None:
    code = "vanished" if outcome.code is None else outcome.code
    _write(call.status_path(number), f"{code} {outcome.reason}".strip() + "\n")


def last_output(log: str) -> str:
    """Return the last line of a task's own output."""
    last = "not started"
    if os.path.exists(log):
        with open(log, errors="replace") as file:
            for line in map(str.strip, file):
                if line.startswith("# Started"):
                    last = "no output"
                elif line and not line.startswith("#"):
                    last = line
    return last


def interrupt_on(*numbers: signal.Signals) -> None:
    """Make these signals raise :class:`Interrupted`, except for SIGHUP when it is ignored (under nohup)."""
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextmanager
def held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Deliver these signals at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _enter_task() -> None:
    """In a child: see :func:`die_with_parent`; and let it have the signals that its runner holds back."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ignore(*numbers: signal.Signals) -> None:
    """Ignore these signals from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """In a child: have the kernel kill this process when the runner is killed, so that no job is orphaned (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _reason(outcome: Outcome | None) -> str:
    """Describe how a task ended."""
    if outcome is None:
        return "not finished"
    if outcome.reason:
        return outcome.reason if outcome.code is not None else f"vanished: {outcome.reason}"
    signals: dict[int | None, str] = {128 + number: f"killed by {number.name}" for number in signal.Signals}
    return signals.get(outcome.code, f"exit status {outcome.code}")


def _succeeded(call: Call) -> set[int]:
    """Return the tasks that succeeded in an earlier call in which others failed, and whose input has not changed."""
    try:
        fingerprints = json.loads((call.folder / "ended_well.json").read_text())
    except (FileNotFoundError, ValueError):
        return set()
    return {
        number
        for number in call.numbers
        if fingerprints.get(str(number)) == _fingerprint(call, number) and call.status_of(number) == Outcome(0)
    }


def _fingerprint(call: Call, number: int) -> str:
    """Return a fingerprint of a task's command and of the size and time of the files and folders that it names."""
    key = hashlib.sha256(f"{os.getcwd()}\n{call.log_of(number)}\n{call.line_of(number)}\n".encode())
    for path in call.paths_of(number):
        names = sorted(os.listdir(path)) if path.is_dir() else [""]
        for file in (path / name for name in names):
            stat = os.stat(file) if file.exists() else None
            key.update(f"{file} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return key.hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a small file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError("must be 1 or more")
    return int(text)


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return ``parse`` as an argparse type whose error message includes that of the ValueError."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from None

    return convert


def _now() -> str:
    return time.strftime("%a %b %d %H:%M:%S %Z %Y")

"""Run a call as a job array of a batch scheduler: submit it, wait for it, collect outcomes, cancel it on Ctrl-C.

The folder of the call (see jobs.py) gets ``call.json`` and ``job.sh``, which the scheduler runs, ``submit.out`` and
``submit.err``, the output of the submitting program, and ``JOB.out``, the scheduler's output for each task. While an
array is on the cluster, ``submitted`` holds its name; a call that finds one left by a killed runner cancels that array.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import jobs
from resources import format_time

POLL_S = 1.0
CANCEL_S = 90.0  # timeout for a cancelled task to end; Slurm sends SIGKILL after 30 seconds
LOST = {"CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}
ENDED = LOST | {"COMPLETED", "FAILED"}
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Site:
    """The description of a site in a file such as conf/slurm.conf.

    ``command WORDS`` is the submitting program; ``option NAME=VALUE WORDS`` gives its arguments for a value of an
    option, and ``option NAME=* WORDS`` for all other values, which replace $0; ``default NAME=VALUE`` is used for an
    option that is not given; ``container WORDS`` precede the task's command on the node; ``visible SECONDS`` is the
    delay until a file written by a node is visible here. NAME is mem, num-threads, gpu or time.
    """

    NAMES = ("mem", "num-threads", "gpu", "time")

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.command: list[str] = []
        self.container: list[str] = []
        self.options: dict[tuple[str, str], list[str]] = {}
        self.defaults: dict[str, str] = {}
        self.visible_s = 10.0
        for number, line in enumerate(Path(path).read_text().splitlines(), 1):
            kind, *words = shlex.split(line, comments=True) or [""]
            if kind in ("command", "container"):
                setattr(self, kind, words)
            elif kind in ("option", "default"):
                match = re.fullmatch(r"([\w-]+)=(\S+)", words[0] if words else "")
                if not match or match[1] not in self.NAMES:
                    names = ", ".join(self.NAMES)
                    raise OSError(f"{path}:{number}: must be '{kind} NAME=VALUE ...', NAME one of {names}")
                if kind == "option":
                    self.options[match[1], match[2]] = words[1:]
                else:
                    self.defaults[match[1]] = match[2]
            elif kind == "visible":
                if len(words) != 1 or not words[0].isdigit():
                    raise OSError(f"{path}:{number}: must be 'visible SECONDS'")
                self.visible_s = float(words[0])
            elif kind:
                raise OSError(f"{path}:{number}: must begin with command, option, default, container or visible")
        if not self.command:
            raise OSError(f"{path}: the line 'command', the submitting program, is missing")

    def words_for(self, call: jobs.Call) -> list[str]:
        """Return the arguments of the submitting program for the resources of each task."""
        values = {
            "mem": f"{-(-call.memory // 2**20)}M" if call.memory else None,
            "time": format_time(call.time_s) if call.time_s else None,
            "num-threads": str(call.num_threads),
            "gpu": str(call.gpu),
        }
        words: list[str] = []
        for name in self.NAMES:
            value = values[name] or self.defaults.get(name)
            if value is None:
                continue
            fitting = self.options.get((name, value), self.options.get((name, "*")))
            if fitting is not None:
                words += [word.replace("$0", value) for word in fitting]
            elif (name, value) not in (("num-threads", "1"), ("gpu", "0")):
                raise OSError(f"{self.path}: --{name} {value} needs a line 'option {name}=* ...'")
        return words


class Scheduler(Protocol):
    """A batch scheduler: the file for :class:`Site`, and the bash expression for the number of the running task."""

    site: str
    number: str

    def submit(self, name: str, folder: Path, todo: list[int], max_jobs_run: int | None) -> list[str]:
        """Return the arguments that submit an array and wait for it."""

    def cancel(self, name: str) -> None: ...

    def states(self, name: str) -> dict[int | None, str]:
        """Return the states of the tasks by number, under None that of all other tasks."""


def main(prog: str, description: str | None, scheduler: Scheduler) -> None:
    """Run the call on the command line, and exit with the status of the runner."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--config", default=scheduler.site, help="description of the site (%(default)s)")

    args = jobs.parse_arguments(prog, description, add_options)
    call = jobs.Call(args)
    name = None
    try:
        site = Site(args.config)
        needs = site.words_for(call)
        _lock = jobs.lock(call)
        cancel_leftover(call, scheduler)
        todo = jobs.clear(call)
        jobs.interrupt_on(*STOP_SIGNALS)
        if todo:
            name = f"{re.sub(r'[^A-Za-z]', '_', Path(call.log).name.split('.')[0])}-{secrets.token_hex(3)}"
            write_job(call, args, site, scheduler, todo)
            submit = [*site.command, *needs, *scheduler.submit(name, call.folder, todo, call.max_jobs_run)]
            (call.folder / "submitted").write_text(name + "\n")
            ended = wait(call, todo, submit)
            gather(call, todo, scheduler, name, site.visible_s if ended else 0.0)
            (call.folder / "submitted").unlink(missing_ok=True)
    except jobs.Interrupted as signalled:
        jobs.ignore(*STOP_SIGNALS)
        if name:
            cancel(call, scheduler, name)
            print(f"{prog}: interrupted, {name} cancelled", file=sys.stderr)
            jobs.remember(call)
        sys.exit(128 + signalled.args[0])
    except OSError as error:
        sys.exit(f"{prog}: {error}")
    sys.exit(jobs.conclude(call, todo))


def write_job(call: jobs.Call, args: argparse.Namespace, site: Site, scheduler: Scheduler, todo: list[int]) -> None:
    """Write the script for the scheduler, and the call for run_task.py."""
    arguments = {**vars(args), "numbers": list(args.numbers), "cwd": os.getcwd()}
    (call.folder / "call.json").write_text(json.dumps(arguments))
    for path in call.folder.glob("*.out"):
        path.unlink()
    words = [*site.container, sys.executable, str(Path(__file__).with_name("run_task.py")), str(call.folder.resolve())]
    (call.folder / "job.sh").write_text(
        "#!/usr/bin/env bash\n"
        f"numbers=({' '.join(map(str, todo))}) # shellcheck disable=SC2034\n"
        f"exec {' '.join(map(shlex.quote, words))} {scheduler.number}\n"
    )


def wait(call: jobs.Call, todo: list[int], command: list[str]) -> bool:
    """Submit an array and wait for it; return whether it ended, or False when the submitting program was killed.

    Raises:
        OSError: the scheduler rejected it.
    """
    output = {word: call.folder / f"submit.{word}" for word in ("out", "err")}
    with open(output["out"], "w") as out, open(output["err"], "w") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # Ctrl-C is handled by this process
            preexec_fn=jobs.die_with_parent,
        )
    try:
        while True:
            try:
                code = process.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                if all(call.status_of(number) == jobs.Outcome(0) for number in todo):
                    return True  # earlier than the submitting program, which polls every ten seconds
    finally:
        process.terminate()
        process.wait()
    if code and not output["out"].read_text().strip():
        why = output["err"].read_text().strip().splitlines() or [f"exited with status {code}"]
        (call.folder / "submitted").unlink()
        raise OSError(why[-1] if why[-1].startswith(command[0]) else f"{command[0]}: {why[-1]}")
    if code < 0:
        print(f"{command[0]} was killed by signal {-code}; its array is cancelled", file=sys.stderr)
    return code >= 0


def gather(call: jobs.Call, todo: list[int], scheduler: Scheduler, name: str, visible_s: float) -> None:
    """Write the status of tasks that left none, and add the scheduler's state to that of failed tasks."""
    deadline = time.monotonic() + visible_s
    while not all(call.status_of(number) == jobs.Outcome(0) for number in todo):
        missing = [number for number in todo if call.status_of(number) is None]
        states = scheduler.states(name)
        settled = all(state in ENDED for state in states.values())
        if settled and all(states.get(number, states.get(None)) in LOST for number in missing):
            break
        if time.monotonic() >= deadline:
            if not settled:
                cancel(call, scheduler, name)
                states = scheduler.states(name)
            break
        os.listdir(call.folder)  # refreshes the cache of a shared disk
        time.sleep(POLL_S)
    else:
        return
    for number in todo:
        outcome, state = call.status_of(number), states.get(number, states.get(None, "unknown to the scheduler"))
        if outcome is None:
            jobs.finish_vanished(call, number, state)
        elif outcome.code and state in LOST:
            jobs.write_status(call, number, outcome._replace(reason=state))


def cancel(call: jobs.Call, scheduler: Scheduler, name: str) -> None:
    """Cancel an array and wait until all of its tasks have ended."""
    scheduler.cancel(name)
    deadline = time.monotonic() + CANCEL_S
    while any(state not in ENDED for state in scheduler.states(name).values()):
        if time.monotonic() > deadline:
            raise OSError(f"{name}: still running {CANCEL_S:.0f} seconds after it was cancelled")
        time.sleep(POLL_S)
    (call.folder / "submitted").unlink(missing_ok=True)


def cancel_leftover(call: jobs.Call, scheduler: Scheduler) -> None:
    """Cancel the array of an earlier call whose runner was killed, since its tasks write the same files."""
    path = call.folder / "submitted"
    if path.exists():
        cancel(call, scheduler, path.read_text().strip())


def user() -> str:
    return getpass.getuser()


def ask(*command: str) -> str:
    """Return the output of a program of the scheduler.

    Raises:
        OSError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exited with status {done.returncode}'}")
    return done.stdout

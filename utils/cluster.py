"""A call as one array of a batch scheduler: submitted, waited for, its outcomes gathered; cancelled on Ctrl-C.

The folder of the call (see jobs.py) gets ``call.json`` and ``job.sh``, which is what the scheduler runs, ``submit.out``
and ``submit.err``, which the submitting program said, and ``JOB.out``, which the scheduler said of each task. While an
array is on the cluster, ``submitted`` holds its name: a call that finds one, of a killed runner, cancels that array.
"""

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

import jobs
from resources import format_time

POLL_S = 1.0
CANCEL_S = 90.0  # how long a cancelled task may take to be gone; Slurm gives it 30 seconds before SIGKILL
LOST = {"CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}
ENDED = LOST | {"COMPLETED", "FAILED"}
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Site:
    """What a file such as conf/slurm.conf says of a site.

    ``command WORDS`` submits; ``option NAME=VALUE WORDS`` are the words for a value of an option, and ``option NAME=*
    WORDS`` for all others, with the value at $0; ``default NAME=VALUE`` stands for an option that is not given;
    ``container WORDS`` go before the task's command on the node; ``visible SECONDS`` is how long a file that a node has
    written may take to be seen here. NAME is mem, num-threads, gpu or time.
    """

    NAMES = ("mem", "num-threads", "gpu", "time")

    def __init__(self, path):
        self.path, self.command, self.container, self.options, self.defaults = path, [], [], {}, {}
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
            raise OSError(f"{path}: has no line 'command', which says how to submit")

    def words_for(self, call):
        """Return the words of the submitting command that say what each task of a call needs."""
        values = {
            "mem": f"{-(-call.memory // 2**20)}M" if call.memory else None,
            "time": format_time(call.time_s) if call.time_s else None,
            "num-threads": str(call.num_threads),
            "gpu": str(call.gpu),
        }
        words = []
        for name in self.NAMES:
            value = values[name] or self.defaults.get(name)
            if value is None:
                continue
            fitting = self.options.get((name, value), self.options.get((name, "*")))
            if fitting is not None:
                words += [word.replace("$0", value) for word in fitting]
            elif (name, value) not in (("num-threads", "1"), ("gpu", "0")):
                raise OSError(f"{self.path}: has no line 'option {name}=* ...', and --{name} {value} was asked for")
        return words


def main(prog, description, scheduler):
    """Run the call on the command line; the exit status of the process is the runner's.

    Args:
        prog, description: of the runner.
        scheduler: has ``site`` (the file for :class:`Site`), ``submit(name, folder, todo, max_jobs_run)`` (words that
            submit an array and wait for it), ``number`` (an expression of bash for the number of the task that runs),
            ``cancel(name)`` and ``states(name)`` ({number: what has become of it}, with None for all that it lacks).
    """

    def add_options(parser):
        parser.add_argument("--config", default=scheduler.site, help="how this site is used (%(default)s)")

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
            print(f"{prog}: interrupted, {name} was cancelled", file=sys.stderr)
            jobs.remember(call)
        sys.exit(128 + signalled.args[0])
    except OSError as error:
        sys.exit(f"{prog}: {error}")
    sys.exit(jobs.conclude(call, todo))


def write_job(call, args, site, scheduler, todo):
    """Write what the scheduler runs, and what run_task.py reads there."""
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


def wait(call, todo, command):
    """Submit an array and return when it has ended: True, or False when the submitting program was killed before.

    Raises:
        OSError: the scheduler did not take it.
    """
    said = {word: call.folder / f"submit.{word}" for word in ("out", "err")}
    with open(said["out"], "w") as out, open(said["err"], "w") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # Ctrl-C is for this process to handle
            preexec_fn=jobs.die_with_parent,
        )
    try:
        while True:
            try:
                code = process.wait(POLL_S)
                break
            except subprocess.TimeoutExpired:
                if all(call.status_of(number) == jobs.Outcome(0) for number in todo):
                    return True  # what waits for the scheduler looks every ten seconds only
    finally:
        process.terminate()
        process.wait()
    if code and not said["out"].read_text().strip():
        why = said["err"].read_text().strip().splitlines() or [f"ended with status {code}"]
        (call.folder / "submitted").unlink()
        raise OSError(why[-1] if why[-1].startswith(command[0]) else f"{command[0]}: {why[-1]}")
    if code < 0:
        print(f"{command[0]} was ended by signal {-code}; what is left of its array is cancelled", file=sys.stderr)
    return code >= 0


def gather(call, todo, scheduler, name, visible_s):
    """Give every task that left no status one that says so, and add what the scheduler knows to those that failed."""
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
        os.listdir(call.folder)  # lets a shared disk look again
        time.sleep(POLL_S)
    else:
        return
    for number in todo:
        outcome, state = call.status_of(number), states.get(number, states.get(None, "nothing is known of it"))
        if outcome is None:
            jobs.finish_vanished(call, number, state)
        elif outcome.code and state in LOST:
            jobs.write_status(call, number, outcome._replace(reason=state))


def cancel(call, scheduler, name):
    """Cancel an array and return when nothing of it is left."""
    scheduler.cancel(name)
    deadline = time.monotonic() + CANCEL_S
    while any(state not in ENDED for state in scheduler.states(name).values()):
        if time.monotonic() > deadline:
            raise OSError(f"{name} was cancelled, and is still there after {CANCEL_S:.0f} seconds")
        time.sleep(POLL_S)
    (call.folder / "submitted").unlink(missing_ok=True)


def cancel_leftover(call, scheduler):
    """Cancel the array of an earlier call whose runner was killed: its tasks would write the same files."""
    path = call.folder / "submitted"
    if path.exists():
        cancel(call, scheduler, path.read_text().strip())


def user():
    return getpass.getuser()


def ask(*words):
    """Return what a program of the scheduler prints; an OSError when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(f"{words[0]}: {' '.join(done.stderr.split()) or f'ended with status {done.returncode}'}")
    return done.stdout

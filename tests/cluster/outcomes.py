#!/usr/bin/env python3
"""Outcomes of failing tasks on every runner: the page utils/OUTCOMES.md and the cases of the tests.

tests/cluster/outcomes.py > /tmp/page.md      prints the page; starts a private Slurm on this machine
tests/cluster/outcomes.py --backends local    without Slurm
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CONF = ROOT / "egs/voicebank_demand/conf"
PATIENCE_S = 240
_NOT_INSTALLED = 3


@dataclass
class Outcome:
    """Result of one call of a runner.

    Attributes:
        status: its exit status.
        message: its output.
        logs: {task: last line of its log}; tasks without a log are missing.
        statuses: {task: content of its exit status file}.
        tries: {task: number of starts}.
        seconds: duration of the call.
    """

    status: int
    message: str
    seconds: float
    logs: dict = field(default_factory=dict)
    statuses: dict = field(default_factory=dict)
    tries: dict = field(default_factory=dict)


class UnavailableError(Exception):
    """Slurm is not installed and cannot be."""


@contextlib.contextmanager
def slurm(folder, cpus=2):
    """Context manager: run a single-node Slurm and point SLURM_CONF to it.

    Args:
        folder: for all of its files.
        cpus: of the node; may be more than the machine has.

    Raises:
        UnavailableError: Slurm is not installed and cannot be.
    """
    scripts = ROOT / "tests/cluster"
    started = subprocess.run([scripts / "start_slurm.sh", folder, str(cpus)], capture_output=True, text=True)
    if started.returncode == _NOT_INSTALLED:
        raise UnavailableError(started.stderr.strip())
    if started.returncode:
        raise RuntimeError(started.stderr.strip())
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(Path(folder).resolve() / "slurm.conf")
    try:
        yield
    finally:
        subprocess.run([scripts / "stop_slurm.sh", folder], check=True, stdout=subprocess.DEVNULL)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


class Runner:
    """Calls of one runner in a separate folder.

    Args:
        backend: local or slurm.
        folder: for its logs.
    """

    def __init__(self, backend, folder):
        self.backend, self.folder = backend, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "conf").mkdir(exist_ok=True)
        shutil.copy(CONF / "slurm.conf", self.folder / "conf")

    def start(self, script, *options, tasks=4):
        """Start the runner with ``tasks`` tasks of a bash script; each start adds a line to started.N."""
        command = [sys.executable, ROOT / f"utils/run_{self.backend}.py", "--mem", "100M", *options]
        line = [f"JOB=1:{tasks}", "log/x.JOB.log", "bash", "-c", f"echo $$ >> started.JOB; echo task JOB; {script}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        process = subprocess.Popen([*command, *line], cwd=self.folder, start_new_session=True, **pipes)
        process.began = time.monotonic()
        return process

    def wait(self, process):
        """Return the :class:`Outcome` of a started call."""
        message = process.communicate(timeout=PATIENCE_S)[0].strip()
        outcome = Outcome(process.returncode, message, time.monotonic() - process.began)
        for log in self.folder.glob("log/x.*.log"):
            outcome.logs[int(log.name.split(".")[1])] = log.read_text().splitlines()[-1]
        for status in self.folder.glob("log/q/x.JOB.log/*.status"):
            outcome.statuses[int(status.name.split(".")[0])] = status.read_text().strip()
        for started in self.folder.glob("started.*"):
            outcome.tries[int(started.name.split(".")[1])] = len(started.read_text().splitlines())
        return outcome

    def call(self, *args, **options):
        return self.wait(self.start(*args, **options))

    def wait_until_started(self, process, *tasks):
        """Wait until these tasks of a call have started."""
        deadline = time.monotonic() + 60
        while not all((self.folder / f"started.{task}").exists() for task in tasks):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{self.folder}: tasks {tasks} did not start: {process.poll()}")
            time.sleep(0.1)

    def alive(self):
        """Return the tasks whose shell is running."""
        pids = {path.name: path.read_text().split()[-1] for path in self.folder.glob("started.*")}
        return sorted(name for name, pid in pids.items() if _is_running(pid))


def all_succeed(runner):
    return runner.call("sleep 0.2")


def one_exits_with_3(runner):
    return runner.call("[ JOB != 2 ] || exit 3")


def program_is_missing(runner):
    return runner.call("[ JOB != 2 ] || no-such-program")


def one_is_killed(runner):
    return runner.call("[ JOB != 2 ] || kill -9 $$")


def one_is_killed_with_its_parent(runner):
    """SIGKILL also hits the writer of the log: Slurm kills the process group, here the shell and its child."""
    return runner.call("[ JOB != 2 ] || kill -9 $PPID $$" if runner.backend == "slurm" else "[ JOB != 2 ] || kill -9 0")


def one_times_out(runner):
    limit = "1" if runner.backend == "slurm" else "0:2"  # Slurm has a resolution of minutes
    return runner.call("[ JOB != 2 ] || sleep 300", "--time", limit)


def only_failed_tasks_run_again(runner):
    runner.call("[ JOB != 2 ] || [ -e fixed ] || exit 3", "--pick", "failed")
    (runner.folder / "fixed").touch()
    return runner.call("[ JOB != 2 ] || [ -e fixed ] || exit 3", "--pick", "failed")


def ctrl_c(runner):
    process = runner.start("sleep 300", "--max-jobs-run", "2")
    runner.wait_until_started(process, 1, 2)
    process.send_signal(signal.SIGINT)
    return runner.wait(process)


def cancelled_manually(runner):
    process = runner.start("sleep 300", "--max-jobs-run", "2")
    runner.wait_until_started(process, 1, 2)
    name = (runner.folder / "log/q/x.JOB.log/submitted").read_text().strip()
    subprocess.run(["scancel", f"--name={name}"], check=True)
    return runner.wait(process)


def sbatch_is_killed(runner):
    process = runner.start("sleep 300", "--max-jobs-run", "2")
    runner.wait_until_started(process, 1, 2)
    [waiting] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(waiting), signal.SIGKILL)
    return runner.wait(process)


def runner_is_killed_and_called_again(runner):
    """The tasks of the killed call must exit before those of the next call start."""
    process = runner.start("[ -e again ] || sleep 300")
    runner.wait_until_started(process, 1, 2)
    process.kill()
    process.communicate()
    (runner.folder / "again").touch()
    return runner.call("[ -e again ] || sleep 300")


def machine_is_busy(runner):
    """Two CPUs and tasks that need both: two of this call, while one of another call is running."""
    other = Runner(runner.backend, runner.folder / "other")
    process = other.start("sleep 3", "--num-threads", "2", tasks=1)
    other.wait_until_started(process, 1)
    outcome = runner.call("sleep 1", "--num-threads", "2", tasks=2)
    beside = other.wait(process)
    return outcome if beside.status == 0 else beside


def more_memory_than_available(runner):
    return runner.call("true", "--mem", "900T")


CASES = {
    "all four succeed": all_succeed,
    "one exits with 3": one_exits_with_3,
    "one runs a missing program": program_is_missing,
    "one is killed with SIGKILL": one_is_killed,
    "one is killed with SIGKILL together with its parent": one_is_killed_with_its_parent,
    "one exceeds its `--time`": one_times_out,
    "called again after one failed, `--pick failed`": only_failed_tasks_run_again,
    "Ctrl-C while two run and two wait": ctrl_c,
    "the array is cancelled manually": cancelled_manually,
    "`sbatch`, which waits for the array, is killed": sbatch_is_killed,
    "the runner is killed with SIGKILL and called again": runner_is_killed_and_called_again,
    "the machine is busy at first": machine_is_busy,
    "more memory is requested than the machine has": more_memory_than_available,
}
SLURM_ONLY = {"the array is cancelled manually", "`sbatch`, which waits for the array, is killed"}


def run_case(name, backend, folder):
    """Return the :class:`Outcome` of a case, and the tasks still running after it."""
    runner = Runner(backend, folder)
    outcome = CASES[name](runner)
    return outcome, runner.alive()


def heading(backends):
    """Yield the lines above the table."""
    yield "# How tasks end"
    yield ""
    yield "Generated by `tests/cluster/outcomes.py`, which provokes each case. `local` is `run_local.py`;"
    if "slurm" in backends:
        version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        yield f"`slurm` is `run_slurm.py` on a {version} of one node with two CPUs, started for this page."
    yield "`run_sge.py` was tested with a stand-in for `qsub` only and is not listed. No task was left running in any"
    yield "case. An exit status above 128 is 128 plus the number of the signal that ended the task."
    yield ""


def table(backends, folder):
    """Yield the lines of the table."""
    yield "| case (four tasks) | runner | exit | message | exit statuses, and number of starts | s |"
    yield "|---|---|---:|---|---|---:|"
    for name in CASES:
        for backend in backends:
            if backend != "slurm" and name in SLURM_ONLY:
                continue
            outcome, alive = run_case(name, backend, Path(folder) / backend / re.sub(r"\W+", "_", name))
            message = "<br>".join(line.strip() for line in outcome.message.splitlines()) or "nothing"
            message = re.sub(r"-[0-9a-f]{6}\b", "-…", message).replace("|", "\\|")
            times = {task: f" ({count} times)" for task, count in outcome.tries.items() if count != 1}
            each = (f"{task}: {status}{times.get(task, '')}" for task, status in sorted(outcome.statuses.items()))
            statuses = ", ".join(each) or "none"
            if alive:
                statuses += f"; **still running: {alive}**"
            yield f"| {name} | `{backend}` | {outcome.status} | {message} | {statuses} | {outcome.seconds:.0f} |"


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", choices=("local", "slurm"), default=["local", "slurm"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if "slurm" in args.backends:
            try:
                stack.enter_context(slurm(f"{folder}/cluster"))
            except UnavailableError as error:
                sys.exit(str(error))
        for line in (*heading(args.backends), *table(args.backends, folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()

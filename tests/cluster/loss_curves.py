#!/usr/bin/env python3
"""One training with various numbers of processes and micro-batches, killed and resumed: utils/PROCESSES.md and tests.

    PYTHONPATH=. tests/cluster/loss_curves.py > /tmp/page.md      two to three minutes on two idle cores

Every run is `sase train` on the CPU (Gloo) with a small network and a synthetic corpus: 50 steps of plain SGD, each an
epoch, so that history.jsonl has the loss of every step.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sase.bench.stages import machine, make_corpus
from sase.data import dump
from sase.processes import child_environment, sase_command

STEPS, RATE, SHOWN = 50, 16000, (1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50)
PATIENCE_S = 900
TOLERANCE = 1e-4
CONFIG = f"""
model: {{preset: mini, recurrent: 4, bands: 8, norm: layer}}
data: {{batch_size: 6, segment_s: 0.3}}
loss: {{si_snr: 1.0, compressed_spectral: 1.0}}
train: {{epochs: {STEPS}, steps_per_epoch: 1, optimizer: sgd, learning_rate: 0.02, warmup_steps: 5, ema_decay: 0.5}}
"""


def make_set(folder):
    """Make a corpus of a few seconds and dump it; return the dump directory."""
    data = make_corpus(folder, 4, 0.8, RATE)
    dump.dump_set(data, folder / "dump", log=lambda line: None)
    dump.join_shards(data, folder / "dump", log=lambda line: None)
    return folder / "dump"


class Experiment:
    """Runs of ``sase train`` in one experiment folder.

    Args:
        folder: parent of the experiment folder; also has the log, and the corpus and config shared by its experiments.
        name: of the experiment.
    """

    def __init__(self, folder, name):
        self.exp, self.log = folder / name.replace(" ", "_"), folder / f"{name.replace(' ', '_')}.log"
        config = folder / "train.yaml"
        config.write_text(CONFIG)
        data = folder / "dump" if (folder / "dump").exists() else make_set(folder)
        self.arguments = ["train", "--config", config, "--train-set", data, "--dev-set", data, "--exp", self.exp]

    def start(self, *options):
        """Start it with additional options; return the process."""
        with open(self.log, "ab") as log:
            command, env = sase_command(*self.arguments, *options), child_environment(1)
            return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run(self, *options):
        """Run it with additional options; several lists of options run concurrently. All must succeed."""
        runs = options if options and isinstance(options[0], list) else [options]
        for process in [self.start(*each) for each in runs]:
            if process.wait(PATIENCE_S):
                raise RuntimeError(f"ended with {process.returncode}:\n{self.log.read_text()}")
        return self

    def steps(self):
        """Return the number of steps in the checkpoint: those that survive a kill."""
        path = self.exp / "history.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def losses(self):
        """Return the loss of every step."""
        return [json.loads(line)["loss"] for line in (self.exp / "history.jsonl").read_text().splitlines()]

    def resumed(self):
        """Return the steps from which training resumed."""
        lines = (self.exp / "train.log").read_text().splitlines()
        return [int(line.split(": step ")[1].split(",")[0]) for line in lines if "resumed from" in line]

    def kill_at(self, step, process, victim=lambda process: process.pid):
        """Kill a process of a started run with SIGKILL after ``step`` steps; return the steps in the checkpoint."""
        deadline = time.monotonic() + PATIENCE_S
        while self.steps() < step:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"did not reach step {step}:\n{self.log.read_text()}")
            time.sleep(0.02)
        steps = self.steps()
        os.kill(victim(process), signal.SIGKILL)
        return steps


def rank_1(process):
    """Return the process id of rank 1 of a launcher."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = sorted(int(pid) for path in tasks for pid in path.read_text().split())
    ranks = {}
    for pid in children:
        variables = dict(v.partition(b"=")[::2] for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
        ranks[variables.get(b"RANK")] = pid
    return ranks[b"1"]


def one(folder):
    """The whole batch in one process."""
    return Experiment(folder, "one").run()


def two(folder):
    """Each of two processes has half of every batch."""
    return Experiment(folder, "two").run("--processes", 2)


def in_parts(folder):
    """Three micro-batches of two segments per step."""
    return Experiment(folder, "in parts").run("--set", "train.micro_batch_size=2")


def uneven(folder):
    """Four processes, of which two have one segment of six and two have two, in micro-batches of one."""
    return Experiment(folder, "four").run("--processes", 4, "--set", "train.micro_batch_size=1")


def two_machines(folder):
    """Two launchers with rendezvous through a file, as in jobs of a scheduler; both on this machine."""
    options = ["--num-nodes", 2, "--rendezvous", folder / "rendezvous"]
    return Experiment(folder, "machines").run([*options, "--node-rank", 0], [*options, "--node-rank", 1])


def killed(folder):
    """One of two processes is killed; the launcher restarts both."""
    experiment = Experiment(folder, "killed")
    process = experiment.start("--processes", 2)
    experiment.saved_steps = experiment.kill_at(STEPS // 3, process, rank_1)
    if process.wait(PATIENCE_S):
        raise RuntimeError(experiment.log.read_text())
    return experiment


def machine_lost(folder):
    """One of two is killed with its launcher and restarted; the other waits for it, and both resume."""
    experiment = Experiment(folder, "lost")
    options = ["--num-nodes", 2, "--rendezvous", folder / "rendezvous_of_lost", "--node-rank"]
    first, second = experiment.start(*options, 0), experiment.start(*options, 1)
    experiment.kill_at(STEPS // 3, first, lambda process: second.pid)
    second.wait()
    if any(process.wait(PATIENCE_S) for process in (experiment.start(*options, 1), first)):
        raise RuntimeError(experiment.log.read_text())
    return experiment


def moved(folder):
    """One process, killed with its launcher after a third; two, killed after two thirds; one to the end."""
    experiment = Experiment(folder, "moved")
    for options, step in ((), STEPS // 3), (("--processes", 2), 2 * STEPS // 3):
        process = experiment.start(*options)
        experiment.kill_at(step, process)
        process.wait()
    return experiment.run()


RUNS = {
    "one process": one,
    "two processes": two,
    "one, in three parts": in_parts,
    "four, in parts of one": uneven,
    "two machines of one": two_machines,
    "two, one killed": killed,
    "one, then two, then one": moved,
}


def difference(losses, reference):
    """Return the largest relative difference of two curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True))


def page(experiments):
    """Yield the lines of the page: {name: :class:`Experiment`}."""
    curves = {name: experiment.losses() for name, experiment in experiments.items()}
    reference = curves["one process"]
    yield "# Data-parallel training gives the same losses"
    yield ""
    yield "Generated by `tests/cluster/loss_curves.py`: the same training of 50 steps of plain SGD on the CPU, with"
    yield "batches of six segments and a network with `norm: layer`. The losses do not depend on the number of"
    yield f"processes or micro-batches; the tests allow a relative difference of {TOLERANCE:g}."
    yield ""
    yield f"Largest relative difference of the {len(reference)} losses from those of one process:"
    yield ""
    yield "| run | description | largest relative difference |"
    yield "|---|---|---:|"
    for name, losses in curves.items():
        what = RUNS[name].__doc__.strip().rstrip(".")
        yield f"| {name} | {what} | {difference(losses, reference):.1e} |"
    yield ""
    broken = experiments["two, one killed"]
    same = "the same" if curves["two, one killed"] == curves["two processes"] else "**not the same**"
    yield f"The process was killed with SIGKILL when the checkpoint had {broken.saved_steps} steps. Training resumed"
    yield f"from step {broken.resumed()[-1]}, and every loss is {same}, to the last digit, as without the interruption."
    yield ""
    yield f"| step | {' | '.join(curves)} |"
    yield f"|---:|{'---:|' * len(curves)}"
    for step in SHOWN:
        yield f"| {step} | {' | '.join(f'{losses[step - 1]:.6f}' for losses in curves.values())} |"
    yield ""
    yield f"Machine: {machine()}."


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        experiments = {}
        for name, run in RUNS.items():
            experiments[name] = run(Path(folder))
            print(f"{name}: done", file=sys.stderr, flush=True)
        print("\n".join(page(experiments)))


if __name__ == "__main__":
    main()

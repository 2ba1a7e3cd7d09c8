"""Federations of real processes for the tests of the Flower engines: started by the commands, killed by process id."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from sase.config import from_mapping, to_mapping, to_yaml
from sase.federated.config import FederatedConfig, checked
from sase.federated.flower.processes import find_pids
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.server import Server
from sase.model import load_model, model_config
from sase.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 900.0  # for every wait; test machines are slow and busy


def train_config(norm="layer", **train):
    mapping = {
        "model": to_mapping(model_config({"preset": "mini", "recurrent": 4, "bands": 8, "norm": norm})),
        "data": {"batch_size": 2, "segment_s": 0.2},
        "loss": {"si_snr": 1.0},
        "train": {"epochs": 3, "warmup_steps": 2, "ema_decay": 0.0, **train},
    }
    return from_mapping(TrainConfig, mapping)


def fed_config(**values):
    quick = {"num_silos": 3, "num_rounds": 3, "local_steps": 1, "repeat_wait_s": 0}
    return checked(from_mapping(FederatedConfig, {**quick, **values}))


def first_round(silos_dir, dev_set, folder):
    """Return a server of batch-normalised networks with SCAFFOLD, and the honest replies of its first round."""
    server = Server(train_config("batch"), fed_config(scaffold=True, fednova=True, local_steps=2), dev_set, folder)
    replies, failures = local_exchange(local_silos(silos_dir, 3, folder))(server.instruction())
    assert not failures
    return server, replies


def configs(folder, **federated):
    """Write the two configs of a small experiment; return the options that name them."""
    (folder / "train.yaml").write_text(to_yaml(train_config()))
    lines = {"max_repeats": 1, "repeat_wait_s": 1, "round_timeout_s": 900, **federated}
    (folder / "fl.yaml").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    return ["--config", folder / "train.yaml", "--fl-config", folder / "fl.yaml"]


def sase(name, *arguments, log, umask=-1):
    """Start a sase command with its output appended to ``log``; return its ``Popen``. Umask -1: this process's."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"sase.bin.{name}", *map(str, arguments)]
    with open(log, "ab") as file:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, umask=umask
        )


def wait_until(true, process=None, what="", patience_s=PATIENCE_S):
    """Wait until ``true()`` returns true; fail when ``process`` exits first or after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert process is None or process.poll() is None, f"{what}: exited with status {process.returncode}"
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.05)


def kill(process, home):
    """Kill a process as the kernel does when out of memory; its child processes must exit by themselves."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not find_pids(home), what=f"processes of {home}", patience_s=180.0)


def kill_all(home):
    """Kill every process of a federation at once."""
    for pid in find_pids(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def rounds(exp):
    """Return the ledger of an experiment: one mapping per round."""
    path = exp / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def largest_difference(first, second):
    """Return the largest absolute difference between the weights of two models."""
    a, b = load_model(first).state_dict(), load_model(second).state_dict()
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)

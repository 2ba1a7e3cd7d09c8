"""What a round costs, by engine and number of silos: CPU time, memory and bytes of federations on synthetic data."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sase.bench import process_tree
from sase.bench.federated import training_seconds
from sase.bench.stages import make_dump
from sase.config import from_mapping, to_mapping, to_yaml
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.jsonfile import read_jsonl
from sase.model import model_config
from sase.processes import last_line
from sase.training.config import TrainConfig

_POLL_S, _MEASURE_S = 0.1, 1.0  # between two looks at the rounds, and at all processes, which takes time itself
_SERVER_COMMANDS = ("flower.superlink", "flwr-serverapp", "flwr-simulation")
_MB = 1e6


def bench_federations(
    engine: str,
    silos: Sequence[int],
    preset: str = "paper",
    clients_per_round: int = 0,
    payload: str = "float32",
    rounds: int = 4,
) -> list[dict[str, Any]]:
    """Run federations in which every silo takes one training step a round; the first round is not counted.

    Args:
        engine: a key of :data:`sase.federated.ENGINES`, or ``server``: the server alone, with replies that nobody
            trained.
        silos: numbers of silos.
        preset: the network.
        clients_per_round: how many silos take part in a round; 0 for all.
        payload: of the uploads.
        rounds: at least 2.

    Returns:
        One row for each number of silos, and with the engine ``deployment`` a second one for silos that start a process
        for every task: per round, wall-clock and CPU time, wall-clock time in which no silo trains, bytes; and the peak
        of the memory, without pages of files, of the server's processes and of the silos', which are the same with
        ``inproc``.

    Raises:
        InputError: a federation failed.
    """
    if rounds < 2:
        raise InputError(f"--rounds {rounds}: must be 2 or more; the first is not counted")
    process_tree.adopt_orphans()
    variants = [("warm", []), ("cold", ["--engine-option", "warm=false"])] if engine == "deployment" else [("", [])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dump_dir = make_dump(folder, 2, 1.0, 16000)
        for count in silos:
            taking_part = min(clients_per_round or count, count)
            settings = {"clients_per_round": clients_per_round, "payload": payload, "num_rounds": rounds}
            for name, options in variants:
                home = Path(folder) / f"{count}{name}"
                _make_silos(home / "silos", dump_dir, count)
                _write_configs(home, preset, {**settings, "num_silos": count})
                about = {"engine": f"{engine} {name}".strip(), "silos": count, "a round": taking_part}
                port = ["--engine-option", f"port={free_port()}"] if engine == "deployment" else []
                rows.append(about | _run(home, dump_dir, engine, [*options, *port]))
    return rows


def _make_silos(folder: Path, dump_dir: Path, count: int) -> None:
    for index in range(count):
        (folder / f"silo{index}").mkdir(parents=True)
        (folder / f"silo{index}" / "tr").symlink_to(dump_dir)


def _write_configs(home: Path, preset: str, federated: dict[str, Any]) -> None:
    train = {
        "model": to_mapping(model_config({"preset": preset})),
        "data": {"batch_size": 1, "segment_s": 0.5},
        "loss": {"si_snr": 1.0},
    }
    (home / "train.yaml").write_text(to_yaml(from_mapping(TrainConfig, train)))
    once = {"local_steps": 1, "dev_s": 1.0, "max_drop_db": 0.0, "max_repeats": 0, **federated}
    (home / "fl.yaml").write_text(to_yaml(from_mapping(FederatedConfig, once)))


def _run(home: Path, dev_set: Path, engine: str, options: Sequence[str]) -> dict[str, float]:
    exp, log_path = home / "exp", home / "log"
    train, federated = home / "train.yaml", home / "fl.yaml"
    command: list[str | Path] = [sys.executable, "-m"]
    if engine == "server":
        command += ["sase.bench.server_alone", train, federated, dev_set, exp]
    else:
        command += ["sase.bin.federate", "--config", train, "--fl-config", federated, "--silos", home / "silos"]
        command += ["--dev-set", dev_set, "--exp", exp, "--engine", engine]
    with open(log_path, "wb") as log:
        child = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    cpu, server, others = list[float](), 0, 0  # CPU time at the end of each round
    measured = 0.0
    while child.poll() is None:
        for _ in range(_lines(exp / "round_timing.jsonl") - len(cpu)):
            cpu.append(process_tree.cpu_seconds())
        if time.monotonic() - measured > _MEASURE_S:
            process_tree.reap_orphans(child.pid)
            server = max(server, process_tree.memory_bytes(lambda line: _is_server(line, engine)))
            others = max(others, process_tree.memory_bytes(lambda line: not _is_server(line, engine)))
            measured = time.monotonic()
        time.sleep(_POLL_S)
    if child.returncode:
        raise InputError(f"--engine {engine}: {last_line(log_path)}")
    timing, records = read_jsonl(exp / "round_timing.jsonl")[1:], read_jsonl(exp / "rounds.jsonl")[1:]
    if len(cpu) < 2:
        raise InputError(f"--engine {engine}: rounds are too short; use a larger --preset")
    return {
        "s": float(np.mean([entry["seconds"] for entry in timing])),
        "outside training s": float(np.mean([entry["seconds"] - training_seconds(entry) for entry in timing])),
        "CPU s": (cpu[-1] - cpu[0]) / (len(cpu) - 1),
        "server MB": server / _MB,
        "silos MB": others / _MB,
        "up MB": float(np.mean([record["bytes_up"] for record in records])) / _MB,
        "down MB": float(np.mean([record["bytes_down"] for record in records])) / _MB,
    }


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _is_server(command_line: str, engine: str) -> bool:
    return engine in ("inproc", "server") or any(name in command_line for name in _SERVER_COMMANDS)

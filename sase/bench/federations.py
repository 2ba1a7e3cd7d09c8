"""What a round costs, by engine and number of silos: CPU time, memory and bytes of federations on synthetic data."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sase.bench import process_tree
from sase.bench.federated import training_seconds
from sase.bench.stages import make_dump
from sase.config import from_mapping, to_mapping, to_yaml
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated.certificates import make_certificates
from sase.federated.config import FederatedConfig
from sase.federated.flower.processes import OBJECT_SIZE
from sase.jsonfile import read_jsonl
from sase.model import model_config
from sase.processes import last_line, start
from sase.progress import write_line
from sase.training.config import TrainConfig

_POLL_S, _MEASURE_S = 0.1, 1.0  # between two looks at the rounds, and at all processes, which takes time itself
_SUPERLINK, _SERVER_APP, _SIMULATION = "flower.superlink", "flwr-serverapp", "flwr-simulation"  # in command lines
_MB = 1e6


def bench_federations(
    engine: str,
    silos: Sequence[int],
    preset: str = "paper",
    clients_per_round: int = 0,
    payload: str = "float32",
    rounds: int = 4,
    cold: bool = False,
) -> list[dict[str, Any]]:
    """Run federations in which every silo takes one training step a round; the first round is not counted.

    Args:
        engine: a key of :data:`sase.federated.ENGINES`; or, with replies that nobody trained, ``server``, the server
            alone, and ``deployed-server``, that of a deployment, with the silos in one process.
        silos: numbers of silos.
        preset: the network.
        clients_per_round: how many silos take part in a round; 0 for all.
        payload: of the uploads.
        rounds: at least 2.
        cold: with the engine ``deployment``, also measure silos that start a process for every task: ten times the CPU
            time.

    Returns:
        One row for each number of silos, and a second one with ``cold``: per round, wall-clock and CPU time, wall-clock
        time in which no silo trains, bytes; and the peak of the memory, without pages of files, of the server's
        processes and of the silos', which are the same with ``inproc``. With ``deployed-server``, CPU time and memory
        are those of the ServerApp and the SuperLink.

    Raises:
        InputError: a federation failed.
    """
    if cold and engine != "deployment":
        raise InputError(f"--cold: silos have processes of their own with --engine deployment only, not {engine}")
    if rounds < 2:
        raise InputError(f"--rounds {rounds}: must be 2 or more; the first is not counted")
    process_tree.adopt_orphans()
    variants = [("warm", []), ("cold", ["--engine-option", "warm=false"])] if cold else [("", [])]
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
                title = f"{about['engine']}, {count} silos"
                report = partial(_report, title, rounds)
                rows.append(about | _run(home, dump_dir, engine, count, options, report))
    return rows


def _report(title: str, rounds: int, number: int) -> None:
    write_line(f"{title}: round {number} of {rounds}")


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


def _run(
    home: Path, dev_set: Path, engine: str, count: int, options: Sequence[str], report: Callable[[int], None]
) -> dict[str, float]:
    exp = home / "exp"
    federation, *silos = _commands(home, dev_set, engine, count)
    logs = [home / "log", *(home / "silos.log" for _ in silos)]
    env = {**os.environ, **OBJECT_SIZE}  # as silos have it
    children = [start(command, env, log) for command, log in zip([[*federation, *options], *silos], logs)]
    computing = "server" if engine == "deployed-server" else ""
    try:
        cpu, peaks = _watch(children, exp, _processes(engine), computing, report)
    finally:
        for child in children:  # all have ended, unless one of them failed
            child.terminate()
            child.wait()
    for child, log in zip(reversed(children), reversed(logs)):
        if child.returncode:
            raise InputError(f"--engine {engine}: {last_line(log)}")
    timing, records = read_jsonl(exp / "round_timing.jsonl")[1:], read_jsonl(exp / "rounds.jsonl")[1:]
    if len(cpu) < 2:
        raise InputError(f"--engine {engine}: rounds are too short; use a larger --preset")
    return {
        "s": float(np.mean([entry["seconds"] for entry in timing])),
        "outside training s": float(np.mean([entry["seconds"] - training_seconds(entry) for entry in timing])),
        "CPU s": (cpu[-1] - cpu[0]) / (len(cpu) - 1),
        **{f"{name} MB": peak / _MB for name, peak in peaks.items()},
        "up MB": float(np.mean([record["bytes_up"] for record in records])) / _MB,
        "down MB": float(np.mean([record["bytes_down"] for record in records])) / _MB,
    }


def _commands(home: Path, dev_set: Path, engine: str, count: int) -> list[list[object]]:
    """Return the command line of the federation and, if they are not its children, that of the silos."""
    exp, configs = home / "exp", [home / "train.yaml", home / "fl.yaml"]
    python = [sys.executable, "-m"]
    if engine == "server":
        return [[*python, "sase.bench.server_alone", *configs, dev_set, exp]]
    federate: list[object] = [*python, "sase.bin.federate", "--config", configs[0], "--fl-config", configs[1]]
    federate += ["--dev-set", dev_set, "--exp", exp]
    if engine != "deployed-server":
        port = ["--engine-option", f"port={free_port()}"] if engine == "deployment" else []
        return [[*federate, "--silos", home / "silos", "--engine", engine, *port]]
    certificates, announced = home / "certificates", home / "announced"
    make_certificates(certificates, [], count)
    for option in ("host=127.0.0.1", f"certificates={certificates}", f"announce={announced}"):
        federate += ["--engine-option", option]
    silos = [*python, "sase.bench.untrained_silos", announced, certificates, count]
    return [[*federate, "--engine", "deployment"], silos]


def _processes(engine: str) -> dict[str, Callable[[str], bool]]:
    """Return which processes, by their command lines, are measured together, and under which name."""

    def has(*parts: str) -> Callable[[str], bool]:
        return lambda line: any(part in line for part in parts)

    if engine == "deployed-server":
        return {"server": has(_SUPERLINK, _SERVER_APP), "SuperLink": has(_SUPERLINK), "ServerApp": has(_SERVER_APP)}
    server = has("") if engine in ("inproc", "server") else has(_SUPERLINK, _SERVER_APP, _SIMULATION)
    return {"server": server, "silos": lambda line: not server(line)}


def _watch(
    children: Sequence[subprocess.Popen[bytes]],
    exp: Path,
    processes: Mapping[str, Callable[[str], bool]],
    computing: str,
    report: Callable[[int], None],
) -> tuple[list[float], dict[str, int]]:
    """Wait for a federation; return the CPU time until the end of each round and the peaks of the memory, in bytes.

    Args:
        children: its process and, if they are not its children, that of the silos; the end of one of them ends it.
        exp: its experiment folder.
        processes: of which the memory is measured, see :func:`_processes`.
        computing: the name of those whose CPU time is measured; empty for all.
        report: called with the number of each completed round.
    """
    cpu, peaks, measured = list[float](), dict.fromkeys(processes, 0), 0.0
    while children[0].poll() is None and not any(child.poll() for child in children):
        for _ in range(_lines(exp / "round_timing.jsonl") - len(cpu)):
            cpu.append(process_tree.cpu_seconds(processes.get(computing)))
            report(len(cpu))
        if time.monotonic() - measured > _MEASURE_S:
            process_tree.reap_orphans({child.pid for child in children})
            for name, counts in processes.items():
                peaks[name] = max(peaks[name], process_tree.memory_bytes(counts))
            measured = time.monotonic()
        time.sleep(_POLL_S)
    return cpu, peaks


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0

"""Provenance of an experiment's scores: versions, machine, and the training as recorded in its folder."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sase
from sase import audio
from sase.config import read_yaml
from sase.jsonfile import read_jsonl
from sase.machine import cpu_name
from sase.textfile import read_text

if TYPE_CHECKING:
    from sase.evaluation.scores import Scores

CONFIGS = ("config.yaml", "fl.yaml")
_PACKAGES = ("torch", "numpy", "scipy", "pesq", "pystoi", "soundfile", "soxr")


def facts_of(exp: str | Path, enhanced: Scores, workers: int) -> dict[str, str]:
    """Return {name: text}: date, versions, machine, and the training as recorded in the experiment's folder.

    Args:
        exp: the experiment's folder, which may hold config.yaml, history.jsonl and timing.jsonl, or of a federated
            training config.yaml, fl.yaml, rounds.jsonl and round_timing.jsonl.
        enhanced: :class:`~sase.evaluation.scores.Scores`.
        workers: number of processes that scored.
    """
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "sase": sase.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "resampler": audio.RESAMPLER,
        "scored on": f"{cpu_name()}, {os.cpu_count()} cores",
        "wall time of scoring": f"{enhanced.seconds:.1f} s on {workers} core{'s' if workers > 1 else ''}",
    }
    config = Path(exp) / "config.yaml"
    if config.is_file():
        facts["seed"] = str(read_yaml(config).get("seed", "not set"))
        facts.update(_training(Path(exp)) or _federated_training(Path(exp)))
        for name in CONFIGS:
            if (Path(exp) / name).is_file():
                facts[name] = read_text(Path(exp) / name)
    return facts


def _training(exp: Path) -> dict[str, str]:
    """Return the facts of central training: its length, and the epoch that was selected."""
    epochs, times = (_read_lines(exp / name) for name in ("history.jsonl", "timing.jsonl"))
    if not epochs:
        return {}
    last = max(epochs)
    facts = {"training": f"{last} epochs, {epochs[last].get('steps', 'unknown')} steps"}
    if times.keys() >= epochs.keys():
        seconds = sum(times[epoch]["seconds"] for epoch in epochs)
        facts["wall time of training"] = f"{seconds / 60:.1f} min (all epochs)"
    return facts | _chosen(epochs, "epoch")


def _federated_training(exp: Path) -> dict[str, str]:
    """Return the facts of federated training: rounds, silos, traffic, and the round that was selected."""
    rounds, times = (_read_lines(exp / name, "round") for name in ("rounds.jsonl", "round_timing.jsonl"))
    if not rounds:
        return {}
    silos: dict[str, list[dict[str, Any]]] = {}
    for entry in rounds.values():
        for name, reply in entry["silos"].items():
            silos.setdefault(name, []).append(reply)
    steps = {name: sum(reply["steps"] for reply in silos[name]) for name in sorted(silos, key=int)}
    absent = sum(len(silos) - len(entry["silos"]) for entry in rounds.values())
    extent = f"{len(rounds)} rounds, {len(silos)} silos, {sum(steps.values()):.0f} steps in total"
    facts = {
        "federated training": extent + (f"; {absent} missing silo replies" if absent else ""),
        "steps per silo": ", ".join(f"{name}: {count:.0f}" for name, count in steps.items()),
        "mean weight per silo": ", ".join(
            f"{name}: {sum(reply['alpha'] for reply in silos[name]) / len(silos[name]):.3f}" for name in steps
        ),
        "traffic": f"{sum(e['bytes_up'] for e in rounds.values()) / 1e6:.1f} MB to the server, "
        f"{sum(e['bytes_down'] for e in rounds.values()) / 1e6:.1f} MB to the silos",
    }
    if times.keys() >= rounds.keys():
        seconds = sum(times[number]["seconds"] for number in rounds)
        facts["wall time of training"] = f"{seconds / 60:.1f} min (all rounds)"
    return facts | _chosen(rounds, "round")


def _chosen(entries: dict[int, dict[str, Any]], what: str) -> dict[str, str]:
    """Return which epoch or round was the best on the development set."""
    best = [entry for entry in entries.values() if entry.get("best")]
    if not best:
        return {}
    scores = ", ".join(f"{name} {value}" for name, value in best[-1].items() if name.startswith("dev_"))
    return {"selected on the development set": f"{what} {best[-1][what]}: {scores}"}


def _read_lines(path: Path, number: str = "epoch") -> dict[int, dict[str, Any]]:
    """Return {number: entry} of a JSON Lines file; of an epoch or round that was repeated, the last entry."""
    return {entry[number]: entry for entry in read_jsonl(path)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of this code, its date, and whether there are uncommitted changes."""
    root = Path(sase.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown: not run from a git checkout"
    try:
        shown = _git(root, "log", "-1", "--format=%h of %cs")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: git failed ({error})"
    return f"{shown}, with uncommitted changes" if changed else shown


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()

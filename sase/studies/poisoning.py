"""Federations in which some silos send harmful replies, under every way of combining updates; resumable run by run.

A run is one federation and one way of combining, under all attacks: rounds in which the honest silos receive the same
model are trained once.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml

from sase.atomic import write_text
from sase.config import Range, from_mapping, naming, to_mapping
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.federated.config import FederatedConfig, load_federated_config
from sase.federated.exchange import Exchange, Instruction, Reply
from sase.federated.inproc import count_silos, local_exchange, local_silos
from sase.federated.layout import Layout
from sase.federated.records import completed, resume_key
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.processes import folder_lock, sase_command
from sase.studies.grid import Grid, Jobs, Result, Results, Seeds, load_plan
from sase.training.config import build_train_config, load_train_config

HONEST = "none"
_SCALE = 9.0  # within the bound of update norms


@dataclass(frozen=True)
class Row:
    """One way of combining updates: keys that override those of the federated config."""

    federated: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Federation:
    """One federation.

    Attributes:
        silos: name of the folder of the partition.
        poisoned: number of silos that attack, the last ones; 0 to see what the rows cost honest silos.
        federated: keys that override those of the federated config.
    """

    silos: str
    poisoned: Annotated[int, Range(0, 100_000)]
    federated: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Poisoning:
    """The content of the study's YAML file.

    Attributes:
        path: of the YAML file.
        rows: name to :class:`Row`, in the order of the tables.
        federations: name to :class:`Federation`.
        seeds: under attack only the first.
        more_seeds: the rows that the further seeds train, without attack.
        jobs: runs at a time, each on one thread.
        config: the training config as a mapping, as in conf/train_*.yaml.
        federated: the federated config as a mapping, as in conf/fl.yaml.
    """

    path: str
    rows: dict[str, Row]
    federations: dict[str, Federation]
    seeds: Seeds = (0, 1, 2)
    more_seeds: tuple[str, ...] = ()
    jobs: Jobs = 1
    config: dict[str, object] = field(default_factory=dict)
    federated: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Folders:
    """The folder of the partitions, the server's development set, and the study's folder."""

    silos: Path
    dev_set: Path
    out: Path


# What a silo makes of its honest reply: (reply, global model, layout, generator) -> reply.
Attack = Callable[[Reply, Instruction, Layout, np.random.Generator], Reply]


def _honest(reply: Reply, instruction: Instruction, layout: Layout, generator: np.random.Generator) -> Reply:
    return reply


def _scaled(scale: float) -> Attack:
    """Multiply the update of all trained weights."""

    def attack(reply: Reply, instruction: Instruction, layout: Layout, generator: np.random.Generator) -> Reply:
        changed = {}
        for name in layout.weights:
            old = instruction.arrays[name].astype(np.float64)
            changed[name] = (old + scale * (reply.arrays[name] - old)).astype(np.float32)
        return replace(reply, arrays={**reply.arrays, **changed})

    return attack


def _noise(reply: Reply, instruction: Instruction, layout: Layout, generator: np.random.Generator) -> Reply:
    """Send Gaussian noise instead of the update, in every array with ``_SCALE`` times the update's norm."""
    changed = {}
    for name in layout.weights:
        old = instruction.arrays[name]
        noise = generator.standard_normal(old.shape)
        length = float(np.linalg.norm(reply.arrays[name].astype(np.float64) - old))
        norm = _SCALE * length / max(float(np.linalg.norm(noise)), 1e-12)
        changed[name] = (old + norm * noise).astype(np.float32)
    return replace(reply, arrays={**reply.arrays, **changed})


def _variances(reply: Reply, instruction: Instruction, layout: Layout, generator: np.random.Generator) -> Reply:
    changed = {second: reply.arrays[second] * np.float32(1e4) for _, second in layout.moments}
    return replace(reply, arrays={**reply.arrays, **changed})


def _means(reply: Reply, instruction: Instruction, layout: Layout, generator: np.random.Generator) -> Reply:
    changed = {}
    for mean, second in layout.moments:
        variances = reply.arrays[second]
        variances = variances[:2].ravel() if variances.ndim == 2 else variances
        changed[mean] = reply.arrays[mean] + np.float32(100.0) * np.sqrt(variances)
    return replace(reply, arrays={**reply.arrays, **changed})


def _claiming(name: str, value: float) -> Attack:
    def attack(reply: Reply, instruction: Instruction, layout: Layout, generator: np.random.Generator) -> Reply:
        return replace(reply, metrics={**reply.metrics, name: value})

    return attack


ATTACKS: dict[str, Attack] = {
    HONEST: _honest,
    "update × −9": _scaled(-_SCALE),
    "update × 9": _scaled(_SCALE),
    "noise of 9 times the norm": _noise,
    "update × 1e6": _scaled(1e6),
    "variances × 1e4": _variances,
    "means + 100 deviations": _means,
    "`examples` 1e9": _claiming("examples", 1e9),
    "`steps` 1e-3": _claiming("steps", 1e-3),
}


def attacks(federation: Federation) -> tuple[str, ...]:
    """Return the names of the attacks in a federation; without poisoned silos there is none."""
    return tuple(ATTACKS) if federation.poisoned else (HONEST,)


def load_poisoning(path: str | Path) -> Poisoning:
    """Return the :class:`Poisoning` of a YAML file.

    Raises:
        InputError: as :func:`sase.studies.grid.load_plan`, an unknown row in ``more_seeds``, or an invalid config.
    """
    plan = load_plan(Poisoning, path)
    if unknown := sorted(set(plan.more_seeds) - set(plan.rows)):
        raise InputError(f"{path}: more_seeds: {unknown[0]} is not a row")
    for key in _keys(plan):
        with naming(f"{path}: {_title(*key)}"):
            _settings(plan, *key)
    with naming(path):
        Grid(Path(), tuple(_title(*key) for key in _keys(plan)), plan.seeds)
    return plan


def run_all(plan: Poisoning, folders: Folders, only: Collection[str] | None = None) -> None:
    """Run every row and seed without a result, ``jobs`` at a time.

    Args:
        plan, folders: of the study.
        only: names of grid rows (see :func:`grid`); all if None.

    Raises:
        InputError: runs that failed, with the reason; data that has changed since the first run finished.
    """
    places = ["--silos", folders.silos, "--dev-set", folders.dev_set, "--out", folders.out]

    def command(row: str, seed: int) -> list[str]:
        return sase_command("poisoning", "--config", plan.path, "--row", row, "--seed", seed, *places)

    rows = grid(plan, folders).selected(only)
    more = {_title(federation, row) for federation, row in _keys(plan) if row in plan.more_seeds}
    tasks = [(row, seed) for seed in plan.seeds for row in rows if seed == plan.seeds[0] or row in more]
    with folder_lock(folders.out):
        require_same_data(plan, folders)
        results(plan, folders)
        grid(plan, folders).run(tasks, command, plan.jobs)


def run_one(plan: Poisoning, folders: Folders, name: str, seed: int) -> Result:
    """Train one row of the grid under every attack, with a further seed under none; write and return its result."""
    with folder_lock(grid(plan, folders).folder(name, seed)):
        return _run_one(plan, folders, name, seed)


def _run_one(plan: Poisoning, folders: Folders, name: str, seed: int) -> Result:
    runs = grid(plan, folders)
    federation, row = next(key for key in _keys(plan) if _title(*key) == name)
    folder, of = runs.folder(name, seed), plan.federations[federation]
    require_same_data(plan, folders)
    mapping = _federated_mapping(plan, federation, row)
    for path, content in (("train.yaml", plan.config), ("federated.yaml", mapping)):
        write_text(folder / path, yaml.safe_dump(content, sort_keys=False))
    train = load_train_config(folder / "train.yaml", seed=seed)
    silos_dir = folders.silos / of.silos
    fed = load_federated_config(folder / "federated.yaml", [f"num_silos={count_silos(silos_dir)}"])
    honest = _remembering(local_exchange(local_silos(silos_dir, fed.num_silos, folder)))
    if of.poisoned >= fed.num_silos:
        raise InputError(
            f"{plan.path}: {federation}: {of.poisoned} of {fed.num_silos} silos poisoned; one must be honest"
        )
    poisoned = range(fed.num_silos - of.poisoned, fed.num_silos)
    found = {}
    for attack in attacks(of) if seed == plan.seeds[0] else (HONEST,):
        exp = folder / f"attack{list(ATTACKS).index(attack)}"
        shutil.rmtree(exp, ignore_errors=True)
        server = Server(train, fed, folders.dev_set, exp)
        found[attack] = _outcome(server, _attacked(honest, ATTACKS[attack], poisoned, server.layout, seed))
    result: Result = {"row": name, "seed": seed, "settings": _settings(plan, federation, row), "attacks": found}
    runs.write(name, seed, result)
    return result


def require_same_data(plan: Poisoning, folders: Folders) -> None:
    """Raise InputError if one of the sets has changed since the first run finished."""
    sets, rate = {"development set": folders.dev_set}, build_train_config(plan.config).model.sample_rate
    for silos in sorted({federation.silos for federation in plan.federations.values()}):
        for index in range(count_silos(folders.silos / silos)):
            sets[f"training set of silo {index} of {silos}"] = folders.silos / silos / f"silo{index}" / "tr"
    grid(plan, folders).require_same_data({name: PairSet(path, rate) for name, path in sets.items()})


def grid(plan: Poisoning, folders: Folders) -> Grid:
    """Return the study's grid: a row for each federation and each way of combining."""
    return Grid(folders.out, tuple(_title(*key) for key in _keys(plan)), plan.seeds)


def results(plan: Poisoning, folders: Folders) -> Results:
    """Return the results of all finished runs; raise InputError for one of another config than the file's."""
    return grid(plan, folders).results({_title(*key): _settings(plan, *key) for key in _keys(plan)}, completed)


def results_of(plan: Poisoning, folders: Folders, federation: str) -> Results:
    """Return row to seed to result of one federation, for what is finished; raise as :func:`results`."""
    found = results(plan, folders)
    return {row: found[_title(federation, row)] for row in plan.rows}


def _federated_mapping(plan: Poisoning, federation: str, row: str) -> dict[str, object]:
    return {**plan.federated, **plan.federations[federation].federated, **plan.rows[row].federated}


def _settings(plan: Poisoning, federation: str, row: str) -> dict[str, Any]:
    """Return what decides about the results of a row, but for the seed; raise InputError if a config is invalid."""
    train = build_train_config(plan.config)
    federated = from_mapping(FederatedConfig, _federated_mapping(plan, federation, row))
    configs = resume_key({"train": to_mapping(train), "federated": to_mapping(federated)})
    return {**configs, "poisoned": plan.federations[federation].poisoned, "silos": plan.federations[federation].silos}


def _keys(plan: Poisoning) -> list[tuple[str, str]]:
    return [(federation, row) for federation in plan.federations for row in plan.rows]


def _title(federation: str, row: str) -> str:
    return f"{federation}, {row}"


def _outcome(server: Server, exchange: Exchange) -> dict[str, Any]:
    """Run all rounds; return the development SI-SNR (dB) of each, and what the server refused."""
    failure = ""
    try:
        run_rounds(server, exchange)
    except InputError as error:
        failure = str(error)
    return {
        "dev_SI_SNR": [record["dev_SI_SNR"] for record in server.history],
        "refused": [record["refused"] for record in server.history],
        "rolled_back": sum("rolled_back_from" in record for record in server.history),
        "failure": failure,
    }


def _attacked(exchange: Exchange, attack: Attack, poisoned: Collection[int], layout: Layout, seed: int) -> Exchange:
    def attacked(instruction: Instruction) -> tuple[Sequence[Reply], Sequence[str]]:
        replies, failures = exchange(instruction)
        changed = []
        for reply in replies:
            generator = np.random.default_rng([seed, instruction.round, reply.silo])
            changed.append(attack(reply, instruction, layout, generator) if reply.silo in poisoned else reply)
        return changed, failures

    return attacked


def _remembering(exchange: Exchange) -> Exchange:
    """Return the same exchange, which trains only once for the same model in the same round."""
    known: dict[str, tuple[Sequence[Reply], Sequence[str]]] = {}

    def remembering(instruction: Instruction) -> tuple[Sequence[Reply], Sequence[str]]:
        digest = hashlib.sha256(str(instruction.round).encode())
        for name, value in instruction.arrays.items():
            digest.update(name.encode() + value.tobytes())
        key = digest.hexdigest()
        if key not in known:
            known[key] = exchange(instruction)
        return known[key]

    return remembering

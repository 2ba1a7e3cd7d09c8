"""The experiment that compares ways of training in silos: one row of the table, one seed, one process; all resumable.

Every row is trained by the engine ``inproc``. A silo alone and central training are federations of one silo, whose
rounds are then epochs of ordinary training to the bit: so the local optimiser, the number of rounds and the choice of
the best round are the same in every row.
"""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from sase import pretrained
from sase.atomic import write_text
from sase.data.datadir import read_data_dir, write_data_dir
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.federated.config import load_federated_config
from sase.federated.flower.processes import federation_environment, supervised_federation
from sase.federated.inproc import count_silos, local_exchange, local_silos
from sase.federated.server import Server, run_rounds
from sase.federated.silo import Silo
from sase.jsonfile import read_jsonl
from sase.model import load_model, model_config
from sase.processes import sase_command
from sase.studies.grid import Grid, Unprocessed, load_plan, score_set
from sase.training.config import load_train_config
from sase.training.validation import PairSubset

KINDS = ("federated", "alone", "central")
MEASURES = ("SI_SDR", "PESQ_WB", "STOI")


@dataclass(frozen=True)
class Row:
    """One row: what kind of training, and what it changes in the configs; ``{"norm": "batch"}`` of the model, say."""

    kind: str = "federated"
    federated: dict[str, object] = field(default_factory=dict)
    model: dict[str, object] = field(default_factory=dict)
    train: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What one YAML file says, and the folders that the experiment lives in.

    Attributes:
        path: of the YAML file.
        rows: name to :class:`Row`, in the order of the table.
        seeds: of every row.
        jobs: rows trained at the same time, each on one thread.
        test_utterances: of the test set, spread evenly over it; 0 for all.
        min_gap_db: central training must be this much better than the mean silo alone, else silos are too much alike.
        config: the training config as a mapping, as conf/train_*.yaml has it.
        federated: the federated config as a mapping, as conf/fl.yaml has it.
    """

    path: str
    rows: dict[str, Row]
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 2
    test_utterances: int = 0
    min_gap_db: float = 0.5
    config: dict[str, object] = field(default_factory=dict)
    federated: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Folders:
    """Where silos, the server's development set, the common test set and everything that comes out are."""

    silos: Path
    dev_set: Path
    test_set: Path
    out: Path

    def of(self, row, seed):
        """Return the folder of one row and seed."""
        return Grid(self.out, (row,), (seed,)).folder(row, seed)


def load_comparison(path):
    """Return the :class:`Comparison` of a YAML file.

    Raises:
        InputError: what :func:`sase.studies.grid.load_plan` raises, or an unknown kind.
    """
    comparison = load_plan(Comparison, path)
    for name, row in comparison.rows.items():
        if row.kind not in KINDS:
            raise InputError(f"{path}: row {name} is of kind {row.kind!r}; there are {', '.join(KINDS)}")
    return comparison


def run_all(comparison, folders, only=None):
    """Run every row and seed that has no result yet, ``jobs`` of them side by side.

    The rows ``alone`` and ``central`` come first; if they are too near to each other, the others are not begun.

    Args:
        comparison: a :class:`Comparison`.
        folders: a :class:`Folders`.
        only: names of rows; all when None.

    Raises:
        InputError: rows that failed, by name and with the reason; silos that are too much alike.
    """
    rows = _grid(comparison, folders).chosen(only)
    bounds = [name for name in rows if comparison.rows[name].kind != "federated"]
    with supervised_federation(folders.out.resolve()):
        pool_silos(folders)
        _run_side_by_side(comparison, folders, [(row, seed) for seed in comparison.seeds for row in bounds])
        gap_db = gap(comparison, folders)
        if gap_db is not None and gap_db < comparison.min_gap_db:
            raise InputError(
                f"central training is {gap_db:.2f} dB above the mean silo alone, less than {comparison.min_gap_db:g}: "
                "there is nothing to win by federating these silos; make them more different"
            )
        rest = [(row, seed) for seed in comparison.seeds for row in rows if row not in bounds]
        _run_side_by_side(comparison, folders, rest)


def run_one(comparison, folders, name, seed):
    """Train and score one row with one seed; write ``result.json`` into its folder.

    Args:
        comparison, folders: as for :func:`run_all`.
        name: of the row.
        seed: of the training.
    """
    began, folder, row = time.monotonic(), folders.of(name, seed), comparison.rows[name]
    train, fed = _write_configs(comparison, row, folder, seed, count_silos(folders.silos))
    result = {"row": name, "seed": seed, "kind": row.kind}
    if row.kind == "federated":
        silos = local_silos(folders.silos, fed.num_silos, folder)
        server = _train(train, fed, folders, folder, silos)
        result |= _scores(comparison, folders, train, server, silos)
        result |= {"trained": [_told(folder, folder)]}
    else:
        places = [folders.out / "pooled"] if row.kind == "central" else _silo_folders(folders)
        fed = replace(fed, num_silos=1, min_silos=0)
        parts, told = [], []
        for index, place in enumerate(places):
            exp = folder / f"part{index}"
            server = _train(train, fed, folders, exp, [Silo(0, place, exp / "silos" / "silo0")])
            parts.append(_scores(comparison, folders, train, server))
            told.append(_told(folder, exp))
        result |= _of_parts(parts, row.kind) | {"trained": told}
    result["seconds_here"] = round(time.monotonic() - began, 1)
    _grid(comparison, folders).write(name, seed, result)
    return result


def read_results(comparison, folders):
    """Return row to seed to what :func:`run_one` wrote, of those that are done."""
    return _grid(comparison, folders).results()


def gap(comparison, folders):
    """Return how many dB of SI_SDR central training is above the mean silo alone, over seeds; None if not known yet."""
    means = {}
    for row, seeds in read_results(comparison, folders).items():
        kind = comparison.rows[row].kind
        if kind != "federated" and len(seeds) == len(comparison.seeds):
            means[kind] = np.mean([result["common"]["SI_SDR"] for result in seeds.values()])
    return float(means["central"] - means["alone"]) if len(means) == 2 else None


def before_training(comparison, folders):
    """Return title to mean scores of the noisy test utterances, and of the weights of ``init`` if all begin with some.

    They are kept in ``before_training.json``.
    """
    model, init = model_config(comparison.config["model"]), comparison.config.get("init")
    path = folders.out / "before_training.json"
    wanted = {"test_set": str(folders.test_set), "utterances": comparison.test_utterances, "init": init}
    if path.exists() and (kept := json.loads(path.read_text()))["of"] == wanted:
        return kept["means"]
    pairs = PairSet(folders.test_set, model.sample_rate)
    chosen = PairSubset(pairs, utts=_test_utts(comparison, pairs))
    networks = {"unprocessed": Unprocessed()}
    if init:
        networks[f"`{init}`, with which all begin"] = pretrained.load(init)
    means = {title: _mean(score_set(network, chosen, MEASURES).values()) for title, network in networks.items()}
    write_text(path, json.dumps({"of": wanted, "means": means}, indent=1) + "\n")
    return means


def pool_silos(folders):
    """Write ``pooled/tr``, a data directory of all silos' training utterances: what central training has."""
    tables = [read_data_dir(place / "tr") for place in _silo_folders(folders)]
    pooled = [{}, {}, {}, {}, {}]
    for data in tables:
        for table, more in zip(pooled, (data.noisy, data.clean, data.utt2spk, data.utt2noise, data.utt2snr)):
            if common := set(table) & set(more):
                raise InputError(f"{data.path}: {min(common)} is in another silo as well")
            table.update(more)
    write_data_dir(folders.out / "pooled" / "tr", *pooled)


def _grid(comparison, folders):
    return Grid(folders.out, tuple(comparison.rows), comparison.seeds)


def _run_side_by_side(comparison, folders, tasks):
    places = ["--silos", folders.silos, "--dev-set", folders.dev_set, "--test-set", folders.test_set]

    def command(row, seed):
        which = ["--config", comparison.path, "--row", row, "--seed", seed]
        return sase_command("compare", *which, *places, "--out", folders.out)

    _grid(comparison, folders).run(tasks, command, comparison.jobs, federation_environment(folders.out.resolve(), 1))


def _write_configs(comparison, row, folder, seed, num_silos):
    """Write what this row is trained with, as files that ``sase federate`` takes as well, and return what they say."""
    config = {name: dict(value) if isinstance(value, dict) else value for name, value in comparison.config.items()}
    config["model"] = {**config.get("model", {}), **row.model}
    config["train"] = {**config.get("train", {}), **row.train}
    paths = folder / "train.yaml", folder / "federated.yaml"
    for path, mapping in zip(paths, (config, {**comparison.federated, **row.federated})):
        write_text(path, yaml.safe_dump(mapping, sort_keys=False))
    return load_train_config(paths[0], seed=seed), load_federated_config(paths[1], [f"num_silos={num_silos}"])


def _train(train, fed, folders, exp, silos):
    server = Server(train, fed, folders.dev_set, exp)
    run_rounds(server, local_exchange(silos))
    return server


def _scores(comparison, folders, train, server, silos=()):
    """Score the best model on the test set and on each silo's part of it, there also with the silo's own norms."""
    pairs, model = PairSet(folders.test_set, train.model.sample_rate), load_model(server.exp_dir / "best.pt")
    utts = _test_utts(comparison, pairs)
    chosen = PairSubset(pairs, utts=utts)
    rows = score_set(model, chosen, MEASURES)
    parts = _test_parts(folders)
    result = {
        "common": _mean(rows.values()),
        "parts": {index: _mean([rows[utt] for utt in utts if utt in part]) for index, part in parts.items()},
        "best_round": server.best_round,
    }
    if server.config.norm == "local":
        result["own"] = {}
        for silo in silos:
            if wanted := [utt for utt in utts if utt in parts.get(silo.index, ())]:
                result["own"][silo.index] = silo.evaluate(server.best_instruction(), True, MEASURES, utts=wanted)
    return result


def _of_parts(parts, kind):
    if kind == "central":
        return parts[0]
    mean = {name: float(np.mean([part["common"][name] for part in parts])) for name in MEASURES}
    # A silo alone has its own model on its own part.
    own = {index: part["parts"][index] for index, part in enumerate(parts) if index in part["parts"]}
    return {"common": mean, "parts": own, "silos_common": [part["common"] for part in parts]}


def _told(folder, exp):
    rounds, timing = read_jsonl(exp / "rounds.jsonl"), read_jsonl(exp / "round_timing.jsonl")
    last = {entry["round"]: entry for entry in timing}  # a round that was done again counts once
    return {
        "rounds": len(rounds),
        "steps": sum(int(silo["steps"]) for entry in rounds for silo in entry["silos"].values()),
        "bytes_up": sum(entry["bytes_up"] for entry in rounds),
        "bytes_down": sum(entry["bytes_down"] for entry in rounds),
        "seconds": round(sum(entry["seconds"] for entry in last.values()), 1),
        "train_seconds": round(sum(sum(entry["train"].values()) for entry in last.values()), 1),
        "exp": str(exp.relative_to(folder)),
    }


def _silo_folders(folders):
    return [folders.silos / f"silo{index}" for index in range(count_silos(folders.silos))]


def _test_parts(folders):
    places = {index: place / "tt" for index, place in enumerate(_silo_folders(folders)) if (place / "tt").is_dir()}
    return {index: set(read_data_dir(place).utts) for index, place in places.items()}


def _test_utts(comparison, pairs):
    count = min(len(pairs), comparison.test_utterances or len(pairs))
    return [pairs.utts[i] for i in np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))]


def _mean(rows):
    rows = list(rows)
    return {name: float(np.nanmean([row[name] for row in rows])) for name in MEASURES} if rows else {}

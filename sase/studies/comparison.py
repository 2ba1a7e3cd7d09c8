"""Federated strategies compared with each other, with silos alone and with central training; resumable run by run.

Every row is trained by the in-process engine. A silo alone and central training are federations of one silo, whose
rounds equal epochs of ordinary training to the bit, so local optimiser, number of rounds and selection of the best
round are the same in every row.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from torch import nn

from sase import jsonfile, pretrained
from sase.atomic import write_text
from sase.config import OneOf, Range, from_mapping, naming, to_mapping
from sase.data.datadir import Tables, read_data_dir, write_data_dir
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.federated.config import FederatedConfig, load_federated_config
from sase.federated.inproc import count_silos, local_exchange, local_silos
from sase.federated.records import completed, resume_key
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.federated.silo import Silo
from sase.jsonfile import read_jsonl
from sase.model import load_model
from sase.nn.config import ModelConfig
from sase.processes import folder_lock, sase_command
from sase.studies.grid import Grid, Jobs, Result, Results, Seeds, load_plan, merged
from sase.studies.scores import Identity, Scores, means, score_set
from sase.training.config import TrainConfig, build_train_config, load_train_config
from sase.training.validation import PairSubset

KINDS = ("federated", "alone", "central")
MEASURES = ("SI_SDR", "PESQ_WB", "STOI")


@dataclass(frozen=True)
class Row:
    """One row: its kind of training, and keys that override those of the configs' sections."""

    kind: Annotated[str, OneOf(KINDS)] = "federated"
    federated: dict[str, object] = field(default_factory=dict)
    model: dict[str, object] = field(default_factory=dict)
    train: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The content of a comparison's YAML file.

    Attributes:
        path: of the YAML file.
        rows: name to :class:`Row`, in the order of the table.
        seeds: of every row.
        jobs: runs at a time, each on one thread.
        test_utterances: number scored, evenly spaced over the test set; 0 for all.
        min_gap_db: required advantage of central training over the mean silo alone; below it the silos are too similar.
        config: the training config as a mapping, as in conf/train_*.yaml.
        federated: the federated config as a mapping, as in conf/fl.yaml.
    """

    path: str
    rows: dict[str, Row]
    seeds: Seeds = (0, 1, 2)
    jobs: Jobs = 2
    test_utterances: Annotated[int, Range(0, 10**9)] = 0
    min_gap_db: Annotated[float, Range(-1000, 1000)] = 0.5
    config: dict[str, object] = field(default_factory=dict)
    federated: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Folders:
    """Folders of the silos, the server's development set, the common test set, and the study."""

    silos: Path
    dev_set: Path
    test_set: Path
    out: Path

    def of(self, row: str, seed: int) -> Path:
        """Return the folder of one row and seed."""
        return Grid(self.out, (row,), (seed,)).folder(row, seed)


def load_comparison(path: str | Path) -> Comparison:
    """Return the :class:`Comparison` of a YAML file.

    Raises:
        InputError: as :func:`sase.studies.grid.load_plan`, or a row with an invalid config.
    """
    comparison = load_plan(Comparison, path)
    for name in comparison.rows:
        with naming(f"{path}: row {name}"):
            _settings(comparison, name)
    with naming(path):
        Grid(Path(), tuple(comparison.rows), comparison.seeds)
    return comparison


def run_all(comparison: Comparison, folders: Folders, only: Collection[str] | None = None) -> None:
    """Run every row and seed without a result, ``jobs`` at a time.

    The rows of kind ``alone`` and ``central`` run first; if they are too close to each other, the rest does not start.

    Args:
        comparison: a :class:`Comparison`.
        folders: a :class:`Folders`.
        only: names of rows; all if None.

    Raises:
        InputError: runs that failed, with the reason; data that has changed since the first run finished; silos that
            are too similar.
    """
    rows = _grid(comparison, folders).selected(only)
    bounds = [name for name in rows if comparison.rows[name].kind != "federated"]
    with folder_lock(folders.out):
        require_same_data(comparison, folders)
        read_results(comparison, folders)
        pool_silos(folders)
        _run(comparison, folders, [(row, seed) for seed in comparison.seeds for row in bounds])
        gap_db = gap(comparison, folders)
        if gap_db is not None and gap_db < comparison.min_gap_db:
            raise InputError(
                f"central training is {gap_db:.2f} dB above the mean silo alone, less than {comparison.min_gap_db:g}: "
                "federating these silos cannot help; choose a more heterogeneous partition"
            )
        rest = [(row, seed) for seed in comparison.seeds for row in rows if row not in bounds]
        _run(comparison, folders, rest)


def run_one(comparison: Comparison, folders: Folders, name: str, seed: int) -> Result:
    """Train and score one row with one seed; write its result and return it.

    Args:
        comparison, folders: as for :func:`run_all`.
        name: of the row.
        seed: of the training.
    """
    started, folder, row = time.monotonic(), folders.of(name, seed), comparison.rows[name]
    with folder_lock(folder):
        require_same_data(comparison, folders)
        if row.kind == "central" and not (folders.out / "pooled").is_dir():
            pool_silos(folders)  # which run_all has done for all rows
        train, fed = _write_configs(comparison, row, folder, seed, count_silos(folders.silos))
        result: Result = {"row": name, "seed": seed, "kind": row.kind, "settings": _settings(comparison, name)}
        if row.kind == "federated":
            silos = local_silos(folders.silos, fed.num_silos, folder)
            server = _train(train, fed, folders, folder, silos)
            result |= _scores(comparison, folders, train, server, silos)
            result |= {"trained": [_training_summary(folder, folder)]}
        else:
            places = [folders.out / "pooled"] if row.kind == "central" else _silo_folders(folders)
            fed = replace(fed, num_silos=1, min_silos=0)
            models, trained = [], []
            for index, place in enumerate(places):
                exp = folder / f"part{index}"
                server = _train(train, fed, folders, exp, [Silo(0, place, exp / "silos" / "silo0")])
                models.append(_scores(comparison, folders, train, server))
                trained.append(_training_summary(folder, exp))
            result |= models[0] if row.kind == "central" else _alone(models)
            result["trained"] = trained
        result["seconds_here"] = round(time.monotonic() - started, 1)
        _grid(comparison, folders).write(name, seed, result)
        return result


def require_same_data(comparison: Comparison, folders: Folders) -> None:
    """Raise InputError if one of the sets has changed since the first run finished."""
    places = {"development set": folders.dev_set, "test set": folders.test_set}
    for index, place in enumerate(_silo_folders(folders)):
        named = {"training": place / "tr", "test": place / "tt"}
        places |= {f"{what} set of silo {index}": path for what, path in named.items() if path.is_dir()}
    rate = _model(comparison).sample_rate
    sets = {name: PairSet(path, rate) for name, path in places.items()}
    _grid(comparison, folders).require_same_data(sets, _before_training_path(folders))


def read_results(comparison: Comparison, folders: Folders) -> Results:
    """Return the results of all finished runs, NaN where a measure is undefined.

    Raises:
        InputError: a result of another config than the file's.
    """
    settings = {name: _settings(comparison, name) for name in comparison.rows}
    return jsonfile.null_to_nan(_grid(comparison, folders).results(settings, completed))


def gap(comparison: Comparison, folders: Folders) -> float | None:
    """Return the SI_SDR gap (dB) of central training over the mean silo alone, over seeds; None if not known yet."""
    found = {}
    for row, seeds in read_results(comparison, folders).items():
        kind = comparison.rows[row].kind
        if kind != "federated" and len(seeds) == len(comparison.seeds):
            found[kind] = np.mean([result["common"]["SI_SDR"] for result in seeds.values()])
    return float(found["central"] - found["alone"]) if len(found) == 2 else None


def before_training(comparison: Comparison, folders: Folders) -> dict[str, dict[str, float]]:
    """Return title to mean scores of the noisy test utterances, and of the initial weights if ``init`` names some.

    They are stored in ``before_training.json``.
    """
    init: Any = comparison.config.get("init")
    path = _before_training_path(folders)
    wanted = {"test_set": str(folders.test_set), "utterances": comparison.test_utterances, "init": init}
    if path.exists() and (stored := jsonfile.read(path))["of"] == wanted:
        return jsonfile.null_to_nan(stored["means"])
    pairs = PairSet(folders.test_set, _model(comparison).sample_rate)
    chosen = PairSubset(pairs, utts=_test_utts(comparison, pairs))
    networks: dict[str, nn.Module] = {"unprocessed": Identity()}
    if init:
        networks[f"`{init}`, the initial weights"] = pretrained.load(init)
    found = {
        title: means(score_set(network, chosen, MEASURES).values(), MEASURES) for title, network in networks.items()
    }
    jsonfile.write(path, {"of": wanted, "means": found}, indent=1)
    return found


def pool_silos(folders: Folders) -> None:
    """Write ``pooled/tr``, the data directory of all silos' training utterances, for central training."""
    pooled = Tables({}, {}, {})
    for data in [read_data_dir(place / "tr") for place in _silo_folders(folders)]:
        if common := set(pooled.noisy) & set(data.noisy):
            raise InputError(f"{data.path}: {min(common)} is also in another silo")
        for name, table in pooled.files().items():
            table.update(data.files()[name])
    write_data_dir(folders.out / "pooled" / "tr", pooled)


def labels(comparison: Comparison, folders: Folders) -> dict[str, dict[str, Any]]:
    """Return {"noise": {utt: name}, "snr": {utt: dB}} of the scored utterances of the test set."""
    data = read_data_dir(folders.test_set)
    utts = set(_evenly_spaced(data.utts, comparison.test_utterances))
    tables: dict[str, dict[str, Any]] = {"noise": data.utt2noise, "snr": data.utt2snr}
    return {kind: {utt: value for utt, value in table.items() if utt in utts} for kind, table in tables.items()}


def count_test_utterances(comparison: Comparison, folders: Folders) -> int:
    """Return the number of scored utterances of the test set."""
    return len(_evenly_spaced(read_data_dir(folders.test_set).utts, comparison.test_utterances))


def _model(comparison: Comparison) -> ModelConfig:
    """Return the config of the first row's network."""
    return build_train_config(_train_mapping(comparison, next(iter(comparison.rows.values())))).model


def _before_training_path(folders: Folders) -> Path:
    return folders.out / "before_training.json"


def _grid(comparison: Comparison, folders: Folders) -> Grid:
    return Grid(folders.out, tuple(comparison.rows), comparison.seeds)


def _run(comparison: Comparison, folders: Folders, tasks: Iterable[tuple[str, int]]) -> None:
    places = ["--silos", folders.silos, "--dev-set", folders.dev_set, "--test-set", folders.test_set]

    def command(row: str, seed: int) -> list[str]:
        which = ["--config", comparison.path, "--row", row, "--seed", seed]
        return sase_command("compare", *which, *places, "--out", folders.out)

    _grid(comparison, folders).run(tasks, command, comparison.jobs)


def _write_configs(
    comparison: Comparison, row: Row, folder: Path, seed: int, num_silos: int
) -> tuple[TrainConfig, FederatedConfig]:
    """Write the row's two configs, which ``sase federate`` accepts as well, and return them."""
    paths = folder / "train.yaml", folder / "federated.yaml"
    for path, mapping in zip(paths, (_train_mapping(comparison, row), {**comparison.federated, **row.federated})):
        write_text(path, yaml.safe_dump(mapping, sort_keys=False))
    return load_train_config(paths[0], seed=seed), load_federated_config(paths[1], [f"num_silos={num_silos}"])


def _settings(comparison: Comparison, name: str) -> dict[str, Any]:
    """Return what decides about the results of a row, but for the seed; raise InputError if a config is invalid."""
    row = comparison.rows[name]
    train = build_train_config(_train_mapping(comparison, row))
    federated = from_mapping(FederatedConfig, {**comparison.federated, **row.federated})
    configs = resume_key({"train": to_mapping(train), "federated": to_mapping(federated)})
    return {**configs, "kind": row.kind, "test_utterances": comparison.test_utterances}


def _train_mapping(comparison: Comparison, row: Row) -> dict[str, Any]:
    return merged(comparison.config, model=row.model, train=row.train)


def _train(train: TrainConfig, fed: FederatedConfig, folders: Folders, exp: Path, silos: Sequence[Silo]) -> Server:
    server = Server(train, fed, folders.dev_set, exp)
    run_rounds(server, local_exchange(silos))
    return server


def _scores(
    comparison: Comparison, folders: Folders, train: TrainConfig, server: Server, silos: Sequence[Silo] = ()
) -> Result:
    """Score the best model on the test set and on each silo's part of it; with FedBN also with the silo's own norms."""
    pairs, model = PairSet(folders.test_set, train.model.sample_rate), load_model(server.exp_dir / "best.pt")
    utts = _test_utts(comparison, pairs)
    chosen = PairSubset(pairs, utts=utts)
    rows = score_set(model, chosen, MEASURES)
    parts = _test_parts(folders)
    of_parts = {index: {utt: rows[utt] for utt in utts if utt in part} for index, part in parts.items()}
    result: Result = {
        "common": means(rows.values(), MEASURES),
        "parts": {index: means(part.values(), MEASURES) for index, part in of_parts.items()},
        "best_round": server.best_round,
        "scores": {"test": rows},
        "part_scores": of_parts,
    }
    if server.config.norm == "local":
        result["own"] = {}
        for silo in silos:
            if wanted := [utt for utt in utts if utt in parts.get(silo.index, ())]:
                result["own"][silo.index] = silo.evaluate(server.best_instruction(), True, MEASURES, utts=wanted)
    return result


def _alone(models: Sequence[Result]) -> Result:
    """Return the result of all silos alone: means over their models; on a silo's own part its own model."""
    tables = [model["scores"]["test"] for model in models]
    average: Scores = {
        utt: {name: float(np.mean([table[utt][name] for table in tables])) for name in MEASURES} for utt in tables[0]
    }
    own = {index: model for index, model in enumerate(models) if index in model["parts"]}
    return {
        "common": {name: float(np.mean([model["common"][name] for model in models])) for name in MEASURES},
        "parts": {index: model["parts"][index] for index, model in own.items()},
        "silos_common": [model["common"] for model in models],
        "scores": {"test": average},
        "part_scores": {index: model["part_scores"][index] for index, model in own.items()},
    }


def _training_summary(folder: Path, exp: Path) -> dict[str, Any]:
    rounds, timing = read_jsonl(exp / "rounds.jsonl"), read_jsonl(exp / "round_timing.jsonl")
    last = {entry["round"]: entry for entry in timing}  # a repeated round counts once
    return {
        "rounds": len(rounds),
        "steps": sum(int(silo["steps"]) for entry in rounds for silo in entry["silos"].values()),
        "bytes_up": sum(entry["bytes_up"] for entry in rounds),
        "bytes_down": sum(entry["bytes_down"] for entry in rounds),
        "seconds": round(sum(entry["seconds"] for entry in last.values()), 1),
        "train_seconds": round(sum(sum(entry["train"].values()) for entry in last.values()), 1),
        "exp": str(exp.relative_to(folder)),
    }


def _silo_folders(folders: Folders) -> list[Path]:
    return [folders.silos / f"silo{index}" for index in range(count_silos(folders.silos))]


def _test_parts(folders: Folders) -> dict[int, set[str]]:
    places = {index: place / "tt" for index, place in enumerate(_silo_folders(folders)) if (place / "tt").is_dir()}
    return {index: set(read_data_dir(place).utts) for index, place in places.items()}


def _test_utts(comparison: Comparison, pairs: PairSet) -> list[str]:
    return _evenly_spaced(pairs.utts, comparison.test_utterances)


def _evenly_spaced(utts: Sequence[str], count: int) -> list[str]:
    """Return ``count`` utterances, evenly spaced; all for 0."""
    count = min(len(utts), count or len(utts))
    return [utts[i] for i in np.unique(np.linspace(0, len(utts) - 1, count).round().astype(int))]

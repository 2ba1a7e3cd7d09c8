"""Which part earns its cost: networks and losses one by one, all else equal, over seeds; resumable run by run."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from sase import jsonfile
from sase.atomic import write_text
from sase.bench.stages import bench_enhance
from sase.config import Range, from_mapping, naming, to_mapping, to_yaml
from sase.data.datadir import read_data_dir
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.evaluation.scores import labels_of
from sase.model import build_model
from sase.processes import folder_lock, sase_command
from sase.profiling import count_parameters, macs_per_s
from sase.studies.grid import Grid, Jobs, Result, Results, Seeds, load_plan, merged
from sase.studies.scores import Identity, Scores, score_set
from sase.training.config import TrainConfig, build_train_config, load_train_config
from sase.training.distributed import init_workers
from sase.training.trainer import Trainer

UNPROCESSED = "unprocessed"
_OLD_KEYS, _OLD_ROW_KEYS = {"macs_as": "same_macs_as"}, {"any_macs": "other_macs"}  # accepted until version 1.0


@dataclass(frozen=True)
class Row:
    """What one row changes in the common config, and which row it is compared with.

    Attributes:
        against: the row it is compared with; None for a reference.
        table: heading of its section.
        other_macs: exempt from ``same_macs_as``, such as a network that takes the same time instead.
        model, data, train: keys that override those of the config's sections.
        loss: replaces the config's whole section; None keeps it.
    """

    against: str | None = None
    table: str = "network"
    other_macs: bool = False
    model: dict[str, object] = field(default_factory=dict)
    data: dict[str, object] = field(default_factory=dict)
    train: dict[str, object] = field(default_factory=dict)
    loss: dict[str, object] | None = None


@dataclass(frozen=True)
class Ablation:
    """The content of an ablation's YAML file.

    Attributes:
        path: of the file.
        rows: name to :class:`Row`, in the order of the tables.
        config: the training config as a mapping, as in conf/train_*.yaml.
        seeds: of every row.
        jobs: trainings at a time, each on one thread.
        same_macs_as: a row whose multiply-accumulates per second all networks must have; None for no such constraint.
        macs_tolerance: allowed relative deviation from them.
        hours: of sound that every training must see (±5 %); 0 for any.
    """

    path: str
    rows: dict[str, Row]
    config: dict[str, object]
    seeds: Seeds = (0, 1, 2)
    jobs: Jobs = 2
    same_macs_as: str | None = None
    macs_tolerance: Annotated[float, Range(0, 100)] = 0.05
    hours: Annotated[float, Range(0.001, 1e7, zero=True)] = 0.0


@dataclass(frozen=True)
class Sets:
    """Dump directories for training, for development and for the test; the last two are scored."""

    train: Path
    dev: Path
    test: Path

    @property
    def scored(self) -> dict[str, Path]:
        """Name to dump directory of the sets that are scored."""
        return {"test": self.test, "development": self.dev}


def load_ablation(path: str | Path) -> Ablation:
    """Return the :class:`Ablation` of a YAML file.

    Raises:
        InputError: as :func:`sase.studies.grid.load_plan`, a reference to an unknown row, or a row with an invalid
            config.
    """
    ablation = load_plan(Ablation, path, _OLD_KEYS, _OLD_ROW_KEYS)
    for name, row in ablation.rows.items():
        if row.against is not None and row.against not in ablation.rows:
            raise InputError(f"{path}: row {name} is compared with {row.against}, which is not a row")
    if ablation.same_macs_as is not None and ablation.same_macs_as not in ablation.rows:
        raise InputError(f"{path}: same_macs_as is {ablation.same_macs_as}, which is not a row")
    for name in ablation.rows:
        train_config(ablation, name, 0)
    with naming(path):
        grid(ablation, "")
    return ablation


def grid(ablation: Ablation, out: str | Path) -> Grid:
    """Return the :class:`~sase.studies.grid.Grid` of an ablation in a folder."""
    return Grid(Path(out), tuple(ablation.rows), ablation.seeds)


def train_config(ablation: Ablation, row: str, seed: int) -> TrainConfig:
    """Return the training config of a row.

    Raises:
        InputError: an unknown key, preset or objective.
    """
    change = ablation.rows[row]
    loss = {} if change.loss is None else {"loss": change.loss}
    try:
        config = merged(ablation.config, model=change.model, data=change.data, train=change.train)
        return build_train_config({**config, **loss, "seed": seed})
    except InputError as error:
        raise InputError(f"{ablation.path}: row {row}: {error}") from None


def check(ablation: Ablation, configs: Mapping[str, TrainConfig]) -> dict[str, float]:
    """Return the cost of each row's network relative to that of the row ``same_macs_as``: row to ratio.

    Args:
        ablation: an :class:`Ablation`.
        configs: row to :class:`~sase.training.config.TrainConfig`.

    Raises:
        InputError: a row whose cost or amount of training sound differs from what the file demands.
    """
    known: dict[Any, int] = {}
    ratios: dict[str, float] = {}

    def cost(model: Any) -> int:
        known[model] = known.get(model) or macs_per_s(build_model(model))
        return known[model]

    for row, config in configs.items():
        if ablation.same_macs_as:
            ratios[row] = ratio = cost(config.model) / cost(train_config(ablation, ablation.same_macs_as, 0).model)
            if abs(ratio - 1.0) > ablation.macs_tolerance and not ablation.rows[row].other_macs:
                raise InputError(
                    f"{ablation.path}: row {row} has {ratio:.3f} times the MACs of {ablation.same_macs_as}, outside "
                    f"±{ablation.macs_tolerance:g}; change its channels or recurrent"
                )
        hours = hours_of(config)
        if ablation.hours and abs(hours / ablation.hours - 1.0) > 0.05:
            raise InputError(
                f"{ablation.path}: row {row} trains on {hours:.2f} h of sound, not {ablation.hours:g}; "
                "set train.epochs and train.steps_per_epoch"
            )
    return ratios


def hours_of(config: TrainConfig) -> float:
    """Return the hours of sound that a training sees; 0 if that depends on the set (``steps_per_epoch: 0``)."""
    return config.train.epochs * config.train.steps_per_epoch * config.data.batch_size * config.data.segment_s / 3600.0


def run_all(
    ablation: Ablation, sets: Sets, out: str | Path, only: Collection[str] | None = None, ngpu: int = 0
) -> None:
    """Run every row and seed without a result; interrupted trainings resume from their checkpoints.

    Args:
        ablation: an :class:`Ablation`.
        sets: :class:`Sets`.
        out: the study's folder.
        only: names of rows; all if None.
        ngpu: 1 to train on a GPU.

    Raises:
        InputError: a row with a different cost, results of another config or of other data, or runs that failed.
    """
    plan = grid(ablation, out)
    rows = plan.selected(only)
    with folder_lock(plan.out):
        require_same_data(ablation, sets, out)
        check(ablation, {row: train_config(ablation, row, 0) for row in rows})
        results(ablation, sets, out)
        unprocessed(ablation, sets, out)

        def command(row: str, seed: int) -> list[str]:
            places = ["--train-set", sets.train, "--dev-set", sets.dev, "--test-set", sets.test, "--out", out]
            which = ["--config", ablation.path, "--row", row, "--seed", seed, "--ngpu", ngpu]
            return sase_command("ablation", *which, *places)

        plan.run([(row, seed) for seed in ablation.seeds for row in rows], command, ablation.jobs)


def run_one(ablation: Ablation, sets: Sets, out: str | Path, row: str, seed: int, ngpu: int = 0) -> Result:
    """Train one row with one seed, score it, measure its cost, and write its result; return the result.

    Scores are of the weights after the last step: which epoch the development set selects is half chance, and an early
    epoch differs from the last by more than rows differ from each other.

    Args: as for :func:`run_all`; ``row`` and ``seed`` of the run.
    """
    plan, workers = grid(ablation, out), init_workers(use_gpu=ngpu > 0)
    (row,) = plan.selected([row])
    folder = plan.folder(row, seed)
    with folder_lock(folder):
        require_same_data(ablation, sets, out)
        write_text(folder / "train.yaml", to_yaml(train_config(ablation, row, seed)))  # can be used with 'sase train'
        config = load_train_config(folder / "train.yaml")
        trainer = Trainer(config, sets.train, sets.dev, folder, workers)
        epochs = len(trainer.run())
        started, rate = time.monotonic(), config.model.sample_rate
        model = trainer.validated.eval()
        scores = {name: _scores(model, PairSet(path, rate, workers.device)) for name, path in sets.scored.items()}
        scoring_s = round(time.monotonic() - started, 1)
        (speed,) = bench_enhance({row: model.cpu()}, [4.0])
        result = {
            "row": row,
            "seed": seed,
            "config": to_mapping(config),
            "sets": _names(sets),
            "scores": scores,
            "parameters": count_parameters(model),
            "macs_per_s": macs_per_s(model),
            "rtf": {"best": speed["RTF best"], "processor": speed["RTF CPU time"]},
            "epochs": epochs,
            "seconds_here": {"training": _training_s(folder), "scoring": scoring_s},
        }
        plan.write(row, seed, result)
        return result


def require_same_data(ablation: Ablation, sets: Sets, out: str | Path) -> None:
    """Raise InputError if one of the sets has changed since the first run finished."""
    rate = _sample_rate(ablation)
    named = {"training set": sets.train, "development set": sets.dev, "test set": sets.test}
    grid(ablation, out).require_same_data({name: PairSet(path, rate) for name, path in named.items()})


def results(ablation: Ablation, sets: Sets, out: str | Path) -> Results:
    """Return the results of all finished runs, scores with NaN where a measure is undefined.

    Raises:
        InputError: a result of another config or other sets than the file and the command name.
    """
    plan, found = grid(ablation, out), grid(ablation, out).results()
    for row, seeds in found.items():
        for seed, result in seeds.items():
            config = to_mapping(train_config(ablation, row, seed))
            with naming(plan.folder(row, seed)):  # keys that an earlier version did not have get their defaults
                kept = to_mapping(from_mapping(TrainConfig, result["config"]))
            old = {"config": kept, "sets": result["sets"]}
            plan.require_same_settings(row, seed, old, {"config": config, "sets": _names(sets)})
            result["scores"] = jsonfile.null_to_nan(result["scores"])
    return found


def unprocessed(ablation: Ablation, sets: Sets, out: str | Path) -> dict[str, Scores]:
    """Return {set: scores} of the noisy input, stored like a row's."""
    plan = Grid(Path(out), (UNPROCESSED,), (0,))
    kept = plan.result(UNPROCESSED, 0)
    if kept is None or kept["sets"] != _names(sets):
        rate = _sample_rate(ablation)
        scores = {name: _scores(Identity(), PairSet(path, rate)) for name, path in sets.scored.items()}
        kept = {"sets": _names(sets), "scores": scores}
        plan.write(UNPROCESSED, 0, kept)
    return jsonfile.null_to_nan(kept["scores"])


def labels(sets: Sets) -> dict[str, dict[str, Any]]:
    """Return {set: labels, as :func:`sase.evaluation.scores.labels_of` returns them} of the scored sets."""
    return {name: labels_of(read_data_dir(path)) for name, path in sets.scored.items()}


def _sample_rate(ablation: Ablation) -> int:
    return train_config(ablation, next(iter(ablation.rows)), 0).model.sample_rate


def _scores(model: nn.Module, pairs: PairSet) -> Any:
    return jsonfile.nan_to_null(score_set(model, pairs))


def _training_s(folder: Path) -> float:
    """Return the seconds of all epochs, those before a break too; of an epoch that was done again, the last."""
    entries = jsonfile.read_jsonl(folder / "timing.jsonl")
    return round(sum({entry["epoch"]: entry["seconds"] for entry in entries}.values()), 1)


def _names(sets: Sets) -> dict[str, str]:
    return {name: str(getattr(sets, name)) for name in Sets.__dataclass_fields__}

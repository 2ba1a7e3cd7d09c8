"""Which idea earns its cost: networks and losses one by one, all else equal, over seeds; resumable run by run."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from sase import jsonfile
from sase.atomic import write_text
from sase.bench.stages import bench_enhance
from sase.config import from_mapping, to_mapping, to_yaml
from sase.data.datadir import read_data_dir
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.evaluation.scoring import labels_of
from sase.losses.objectives import build_loss
from sase.model import build_model, model_config
from sase.processes import folder_lock, sase_command
from sase.profiling import count_parameters, macs_per_s
from sase.studies.grid import Grid, Unprocessed, load_plan, score_set
from sase.training.checkpoint import first_difference
from sase.training.config import TrainConfig, load_train_config
from sase.training.distributed import init_workers
from sase.training.trainer import Trainer

UNPROCESSED = "unprocessed"
_SECTIONS = ("model", "data", "train")


@dataclass(frozen=True)
class Row:
    """What one row changes in the common config, and what it is compared with.

    Attributes:
        against: the row that differences are taken from; None for a row that is only compared with.
        table: under which heading it stands.
        any_macs: its network may cost what it likes, as one does that takes the same time instead.
        model, data, train: keys that replace those of the config's sections.
        loss: replaces the config's whole section; None keeps it.
    """

    against: str | None = None
    table: str = "network"
    any_macs: bool = False
    model: dict[str, object] = field(default_factory=dict)
    data: dict[str, object] = field(default_factory=dict)
    train: dict[str, object] = field(default_factory=dict)
    loss: dict[str, object] | None = None


@dataclass(frozen=True)
class Ablation:
    """What one YAML file says.

    Attributes:
        path: of the file.
        rows: name to :class:`Row`, in the order of the tables.
        config: the training config as a mapping, as conf/train_*.yaml has it.
        seeds: of every row.
        jobs: trainings at the same time, each on one thread.
        macs_as: a row; every network must cost as many multiplications a second as its does; None: any cost will do.
        macs_tolerance: by which share it may miss them.
        hours: how much training sound a run must see (±5 %); 0 for any.
    """

    path: str
    rows: dict[str, Row]
    config: dict[str, object]
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 2
    macs_as: str | None = None
    macs_tolerance: float = 0.05
    hours: float = 0.0


@dataclass(frozen=True)
class Sets:
    """Dump directories: to train on, to validate epochs by, and of the test; the last two are scored."""

    train: Path
    dev: Path
    test: Path

    @property
    def scored(self):
        """Name to dump directory of what is scored."""
        return {"test": self.test, "development": self.dev}


def load_ablation(path):
    """Return the :class:`Ablation` of a YAML file.

    Raises:
        InputError: what :func:`sase.studies.grid.load_plan` raises, or the name of a row that is not there.
    """
    ablation = load_plan(Ablation, path)
    for name, row in ablation.rows.items():
        if row.against is not None and row.against not in ablation.rows:
            raise InputError(f"{path}: row {name} is against {row.against}, which is no row")
    if ablation.macs_as is not None and ablation.macs_as not in ablation.rows:
        raise InputError(f"{path}: macs_as is {ablation.macs_as}, which is no row")
    return ablation


def grid(ablation, out):
    """Return the :class:`~sase.studies.grid.Grid` of an ablation in a folder."""
    return Grid(Path(out), tuple(ablation.rows), ablation.seeds)


def train_config(ablation, row, seed):
    """Return what a row is trained with, a :class:`~sase.training.config.TrainConfig`.

    Raises:
        InputError: an unknown key, preset or objective.
    """
    change, config = ablation.rows[row], dict(ablation.config)
    for name in _SECTIONS:
        config[name] = {**config.get(name, {}), **getattr(change, name)}
    if change.loss is not None:
        config["loss"] = dict(change.loss)
    try:
        model = to_mapping(model_config(config["model"]))
        train = from_mapping(TrainConfig, {**config, "model": model, "seed": seed})
        build_loss(train.loss)
        return train
    except InputError as error:
        raise InputError(f"{ablation.path}: row {row}: {error}") from None


def check(ablation, configs):
    """Return what the network of each row costs against that of the row ``macs_as``: row to ratio.

    Args:
        ablation: an :class:`Ablation`.
        configs: row to :class:`~sase.training.config.TrainConfig`.

    Raises:
        InputError: a row whose network costs, or whose training sees, another amount than the file says.
    """
    known, ratios = {}, {}

    def cost(model):
        known[model] = known.get(model) or macs_per_s(build_model(model))
        return known[model]

    for row, config in configs.items():
        if ablation.macs_as:
            ratios[row] = ratio = cost(config.model) / cost(train_config(ablation, ablation.macs_as, 0).model)
            if abs(ratio - 1.0) > ablation.macs_tolerance and not ablation.rows[row].any_macs:
                raise InputError(
                    f"{ablation.path}: row {row} costs {ratio:.3f} times what {ablation.macs_as} does, more than "
                    f"±{ablation.macs_tolerance:g} off; change its channels or recurrent"
                )
        hours = hours_of(config)
        if ablation.hours and abs(hours / ablation.hours - 1.0) > 0.05:
            raise InputError(
                f"{ablation.path}: row {row} is trained on {hours:.2f} h of sound, not {ablation.hours:g}; "
                "set train.epochs and train.steps_per_epoch"
            )
    return ratios


def hours_of(config):
    """Return how many hours of sound a training sees; 0 where that depends on the set (``steps_per_epoch: 0``)."""
    return config.train.epochs * config.train.steps_per_epoch * config.data.batch_size * config.data.segment_s / 3600.0


def run_all(ablation, sets, out, only=None, ngpu=0):
    """Run every row and seed that has no result yet; what was begun goes on from its checkpoint.

    Args:
        ablation: an :class:`Ablation`.
        sets: :class:`Sets`.
        out: the folder of everything.
        only: names of rows; all when None.
        ngpu: 1 to train on a GPU.

    Raises:
        InputError: a row of another cost than the others, results of another config, or runs that failed.
    """
    plan = grid(ablation, out)
    rows = plan.chosen(only)
    with folder_lock(plan.out):
        check(ablation, {row: train_config(ablation, row, 0) for row in rows})
        results(ablation, sets, out)
        unprocessed(ablation, sets, out)

        def command(row, seed):
            places = ["--train-set", sets.train, "--dev-set", sets.dev, "--test-set", sets.test, "--out", out]
            which = ["--config", ablation.path, "--row", row, "--seed", seed, "--ngpu", ngpu]
            return sase_command("ablation", *which, *places)

        plan.run([(row, seed) for seed in ablation.seeds for row in rows], command, ablation.jobs)


def run_one(ablation, sets, out, row, seed, ngpu=0):
    """Train one row with one seed, score it, measure its cost, and write its result; return that.

    It is scored as it is after its last step. Which epoch the development set would choose is half chance, and an early
    one differs from the last by more than one row does from another.

    Args: as :func:`run_all`; ``row`` and ``seed`` say which.
    """
    plan, workers = grid(ablation, out), init_workers(use_gpu=ngpu > 0)
    (row,) = plan.chosen([row])
    folder = plan.folder(row, seed)
    write_text(folder / "train.yaml", to_yaml(train_config(ablation, row, seed)))  # 'sase train' takes it as well
    config = load_train_config(folder / "train.yaml")
    trainer = Trainer(config, sets.train, sets.dev, folder, workers)
    epochs = len(trainer.run())
    began, rate = time.monotonic(), config.model.sample_rate
    model = trainer.validated.eval()
    scores = {name: _scores(model, PairSet(path, rate, workers.device)) for name, path in sets.scored.items()}
    scoring_s = round(time.monotonic() - began, 1)
    (speed,) = bench_enhance({row: model.cpu()}, [4.0])
    result = {
        "row": row,
        "seed": seed,
        "config": to_mapping(config),
        "sets": _names(sets),
        "scores": scores,
        "parameters": count_parameters(model),
        "macs_per_s": macs_per_s(model),
        "rtf": {"best": speed["RTF best"], "processor": speed["RTF processor"]},
        "epochs": epochs,
        "seconds_here": {"training": _training_s(folder), "scoring": scoring_s},
    }
    plan.write(row, seed, result)
    return result


def results(ablation, sets, out):
    """Return row to seed to result of what is done, scores with NaN where a measure is undefined.

    Raises:
        InputError: a result that was made with another config or other sets than the file and the command now say.
    """
    plan, found = grid(ablation, out), grid(ablation, out).results()
    for row, seeds in found.items():
        for seed, result in seeds.items():
            folder = plan.folder(row, seed)
            config = to_mapping(train_config(ablation, row, seed))
            old = {"config": result["config"], "sets": result["sets"]}
            if difference := first_difference(old, {"config": config, "sets": _names(sets)}):
                raise InputError(f"{folder}: was made otherwise ({difference}); delete it, or use another --out")
            result["scores"] = jsonfile.null_to_nan(result["scores"])
    return found


def unprocessed(ablation, sets, out):
    """Return {set: {utt: {measure: value}}} of the noisy input; kept in a folder as a row's are."""
    plan = Grid(Path(out), (UNPROCESSED,), (0,))
    kept = plan.result(UNPROCESSED, 0)
    if kept is None or kept["sets"] != _names(sets):
        rate = model_config(ablation.config["model"]).sample_rate
        scores = {name: _scores(Unprocessed(), PairSet(path, rate)) for name, path in sets.scored.items()}
        kept = {"sets": _names(sets), "scores": scores}
        plan.write(UNPROCESSED, 0, kept)
    return jsonfile.null_to_nan(kept["scores"])


def labels(sets):
    """Return {set: labels of :func:`sase.evaluation.scoring.labels_of`} of the sets that are scored."""
    return {name: labels_of(read_data_dir(path)) for name, path in sets.scored.items()}


def _scores(model, pairs):
    return jsonfile.nan_to_null(score_set(model, pairs))


def _training_s(folder):
    """Return the seconds of all epochs, those before a break too; of an epoch that was done again, the last."""
    entries = jsonfile.read_jsonl(folder / "timing.jsonl")
    return round(sum({entry["epoch"]: entry["seconds"] for entry in entries}.values()), 1)


def _names(sets):
    return {name: str(getattr(sets, name)) for name in Sets.__dataclass_fields__}

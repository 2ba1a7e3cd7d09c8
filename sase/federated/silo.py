"""One silo: its local round. It reads nothing but its own data directory and the instruction."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sase import metrics
from sase.config import from_mapping
from sase.data.dataset import Mixtures, PairSet
from sase.errors import InputError
from sase.federated.aggregation import update_norm
from sase.federated.config import FederatedConfig
from sase.federated.drift import DriftGuard, control_variate
from sase.federated.layout import layout_of, load_arrays, to_arrays
from sase.federated.payload import encode, num_bytes
from sase.federated.personal import PersonalState
from sase.losses.objectives import build_loss
from sase.model import build_model
from sase.training.batch_sharding import batch_backward
from sase.training.config import TrainConfig, build_optimizer
from sase.training.distributed import Workers
from sase.training.loop import EpochStats, GradientGuard, TrainingStep, learning_rate, train_epoch
from sase.training.performance import autocast, training_precision
from sase.training.validation import PairSubset, validate

CONTROL = "control/"  # before the names of SCAFFOLD's control variates


@dataclass(frozen=True)
class Instruction:
    """What the server tells every silo at the beginning of a round.

    Attributes:
        round: from 1.
        arrays: the global model by its names in the state dict: weights and norm statistics (float32), counters (int);
            under ``control/NAME`` SCAFFOLD's global control variate. Never the constants of the network.
        config: plain types, JSON can hold it: ``train`` and ``federated`` (the two configs as mappings), ``experiment``
            (an identifier), ``best_round`` (the best so far, 0 for none).
    """

    round: int
    arrays: dict[str, np.ndarray]
    config: dict

    @property
    def model(self):
        """Those arrays that are the network's."""
        return {name: value for name, value in self.arrays.items() if not name.startswith(CONTROL)}

    @property
    def control(self):
        """Parameter name to SCAFFOLD's global control variate; empty where there is none (yet)."""
        return {n.removeprefix(CONTROL): value for n, value in self.arrays.items() if n.startswith(CONTROL)}


@dataclass(frozen=True)
class Reply:
    """What a silo answers.

    Attributes:
        silo: its index.
        round: of the instruction.
        arrays: as :func:`sase.federated.payload.encode` gives them (float32, uint16, int8 or int64 arrays).
        metrics: name to float; the same names from every silo: ``examples`` (segments that its audio fills), ``steps``,
            ``bad_steps``, ``loss`` (mean), ``last_loss`` (mean of the last local epoch), ``update_norm``, ``bytes``,
            ``seconds``, ``train_began`` (by the silo's clock), ``train_seconds``.
    """

    silo: int
    round: int
    arrays: dict[str, np.ndarray]
    metrics: dict[str, float] = field(default_factory=dict)


class Silo:
    """One silo. A round is decided by the instruction and this silo's state of the round before: it can be repeated.

    Args:
        index: which one, from 0.
        data_dir: holds ``tr/``, a dump directory, and perhaps ``tt/``.
        state_dir: on the silo's own disk; for ``state-<round>.pt``.
        device: where to train.
    """

    def __init__(self, index, data_dir, state_dir, device="cpu"):
        self.index, self.data_dir, self.device = index, Path(data_dir), torch.device(device)
        self.personal = PersonalState(state_dir)
        self._pairs = {}

    def run(self, instruction):
        """Train one round; return the :class:`Reply`. Raises InputError for bad data or training that went astray."""
        began = time.monotonic()
        train, fed = _configs(instruction)
        torch.manual_seed(train.seed)
        mine = self.personal.read(instruction)
        model = self._model(train, fed, instruction, mine)
        layout = layout_of(model)
        mixtures = Mixtures(self._set("tr", train), train.data, 1000 * train.seed + self.index)
        start = to_arrays(model, layout.names)
        local = _LocalTraining(model, mixtures, train, fed, instruction.round)
        keep, upload = {}, {}
        correction = None
        if fed.scaffold:
            with training_precision(train.train.precision, self.device):
                keep["control"] = local.control_variate(layout)
            upload = {CONTROL + name: value for name, value in keep["control"].items()}
            if instruction.control and mine.get("control"):
                correction = {name: value - mine["control"][name] for name, value in instruction.control.items()}
        if not fed.fresh_optimizer and "optimizer" in mine:
            local.optimizer.load_state_dict(mine["optimizer"])
        train_began, train_clock = time.time(), time.monotonic()
        with training_precision(train.train.precision, self.device):
            stats, last = local.run(correction)
        train_seconds = time.monotonic() - train_clock
        arrays = to_arrays(model, layout.names)
        if fed.norm == "local":
            keep["norms"] = {name: value for name, value in arrays.items() if name in layout.norms}
        if not fed.fresh_optimizer:
            keep["optimizer"] = local.optimizer.state_dict()
        self.personal.write(instruction, keep)
        shared = [name for name in layout.weights if fed.norm != "local" or name not in layout.norms]
        norm = update_norm(start, arrays, shared)
        reference = {**instruction.model, **{name: np.zeros_like(value) for name, value in upload.items()}}
        compressed = {*layout.weights, *upload}
        upload = encode(fed.payload, {**arrays, **upload}, reference, compressed)
        values = {
            "examples": train.data.batch_size * mixtures.batches_per_epoch,
            "steps": stats.steps,
            "bad_steps": stats.bad_steps,
            "loss": stats.means().get("loss", math.nan),
            "last_loss": last.means().get("loss", math.nan),
            "update_norm": norm,
            "bytes": num_bytes(upload),
            "seconds": time.monotonic() - began,
            "train_began": train_began,
            "train_seconds": train_seconds,
        }
        return Reply(self.index, instruction.round, upload, {name: float(value) for name, value in values.items()})

    def evaluate(self, instruction, personal, measures=("SI_SDR", "PESQ_WB", "STOI"), subset="tt", utts=None):
        """Score the instruction's model on this silo's own test part.

        Args:
            instruction: its ``round`` is one more than that of the model in it.
            personal: whether with the silo's own norm layers of that round.
            measures: of :data:`sase.metrics.measures.METRICS`.
            subset: folder within the data directory.
            utts: the utterances; all of that folder when None.

        Returns:
            Measure to mean over the utterances where it is defined, and ``utterances``.
        """
        train, fed = _configs(instruction)
        mine = self.personal.read(instruction) if personal else {}
        if personal and "norms" not in mine:
            number = instruction.round - 1
            raise InputError(f"silo {self.index}: {self.personal.folder} holds no norm layers of round {number}")
        model = self._model(train, fed, instruction, mine)
        _, results = validate(model, PairSubset(self._set(subset, train), utts=utts))
        rows = [metrics.evaluate(clean, enhanced, train.model.sample_rate, measures) for clean, enhanced in results]
        means = {name: float(np.nanmean([row[name] for row in rows])) for name in measures}
        return {**means, "utterances": len(rows)}

    def _model(self, train, fed, instruction, mine):
        model = build_model(train.model).to(self.device)
        load_arrays(model, instruction.model)
        if fed.norm == "local" and "norms" in mine:
            load_arrays(model, mine["norms"])
        return model

    def _set(self, name, train):
        folder = self.data_dir / name
        if name not in self._pairs:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; make the silos with 'sase partition'")
            self._pairs[name] = PairSet(folder, train.model.sample_rate, self.device)
        return self._pairs[name]


class _LocalTraining:
    """The epochs of one silo's round; which batches and which learning rates is decided by the round's number."""

    def __init__(self, model, mixtures, train, fed, number):
        self.model, self.mixtures, self.train, self.fed = model, mixtures, train, fed
        self.steps_per_epoch = fed.local_steps or math.ceil(fed.epoch_share * mixtures.batches_per_epoch)
        self.steps_per_round = fed.local_epochs * self.steps_per_epoch
        self.first = (number - 1) * self.steps_per_round
        self.device = next(model.parameters()).device
        self.criterion = build_loss(train.loss)
        options = train.train
        self.optimizer = build_optimizer(options, model.parameters(), self.device)
        self.backward = batch_backward(Workers(0, 1, self.device), train.data.batch_size, options.micro_batch_size)
        self.guard = GradientGuard(options.clip_norm, options.max_bad_steps)

    def control_variate(self, layout):
        count = self.fed.control_steps or self.steps_per_round
        batches = (self.mixtures.batch(self.first + number) for number in range(count))
        statistics = [name for name in layout.names if name not in layout.weights]
        return control_variate(self.model, batches, self.criterion, self.guard, self._autocast, statistics)

    def run(self, correction):
        """Train; return the stats of the whole round and of its last epoch."""
        parameters = list(self.model.named_parameters())
        guard = self.guard
        if self.fed.fedprox_mu or correction:
            anchor = [p.detach().clone() for _, p in parameters] if self.fed.fedprox_mu else None
            if correction:
                correction = [torch.as_tensor(correction[name], device=self.device) for name, _ in parameters]
            guard = DriftGuard(self.guard, self.fed.fedprox_mu, anchor, correction)
        step = self.first
        whole = EpochStats()

        def rate():
            options = self.train.train
            if self.fed.schedule == "constant":
                return options.learning_rate
            total = self.fed.num_rounds * self.steps_per_round
            return learning_rate(step, options.learning_rate, options.warmup_steps, total, options.final_ratio)

        def on_step(stats):
            nonlocal step
            step += 1

        training_step = TrainingStep(
            self.model,
            self.criterion,
            self.optimizer,
            guard,
            rate,
            autocast=self._autocast,
            backward=self.backward,
        )
        for epoch in range(self.fed.local_epochs):
            first = self.first + epoch * self.steps_per_epoch
            batches = (self.mixtures.batch(number) for number in range(first, first + self.steps_per_epoch))
            stats = train_epoch(training_step, batches, on_step)
            whole = whole.merged(stats)
        return whole, stats

    def _autocast(self):
        return autocast(self.train.train.precision, self.device)


def _configs(instruction):
    return (
        from_mapping(TrainConfig, instruction.config["train"]),
        from_mapping(FederatedConfig, instruction.config["federated"]),
    )

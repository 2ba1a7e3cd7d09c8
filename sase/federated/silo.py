"""One silo and its local round. It reads only its own data directory, its own state and the instruction."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sase.config import from_mapping, naming
from sase.data.dataset import Mixtures, PairSet
from sase.data.fingerprint import RECORD, require_unchanged
from sase.errors import InputError
from sase.federated.aggregation import update_norm
from sase.federated.config import FederatedConfig
from sase.federated.drift import DriftGuard, control_variate
from sase.federated.exchange import CONTROL, Instruction, Reply
from sase.federated.layout import layout_of, load_arrays, to_arrays
from sase.federated.payload import encode, num_bytes
from sase.federated.personal import PersonalState, check_state
from sase.federated.reported import steps_per_round
from sase.federated.speech import is_audible, utterances
from sase.losses.objectives import build_loss
from sase.model import build_model
from sase.training.batch_sharding import batch_backward
from sase.training.checkpoint import load_optimizer
from sase.training.config import TrainConfig, build_optimizer
from sase.training.distributed import Workers
from sase.training.loop import EpochStats, GradientGuard, TrainingStep, learning_rate, train_epoch
from sase.training.performance import autocast, training_precision
from sase.training.validation import PairSubset, measure_set


class Silo:
    """One silo. A round depends only on the instruction and this silo's state of an earlier round, so it is repeatable.

    Args:
        index: from 0.
        data_dir: contains ``tr/``, a dump directory, and optionally ``tt/``.
        state_dir: folder on the silo's own disk for ``state-<round>.pt``.
        device: for training.
    """

    def __init__(self, index: int, data_dir: str | Path, state_dir: str | Path, device: str = "cpu") -> None:
        self.index, self.data_dir, self.device = index, Path(data_dir), torch.device(device)
        self.personal = PersonalState(state_dir)
        self._pairs: dict[str, PairSet] = {}
        self._has_speech = False
        self._experiment = ""  # whose training set has been checked

    def run(self, instruction: Instruction) -> Reply:
        """Train one round and return the reply.

        Raises:
            InputError: invalid data, none with speech, or diverged training.
        """
        started = time.monotonic()
        train, fed = _configs(instruction)
        torch.manual_seed(train.seed)
        restored = self.personal.read(instruction)
        model = self._model(train, fed, instruction, restored)
        pairs = self._training_set(instruction, train)
        self._require_speech(pairs)
        mixtures = Mixtures(pairs, train.data, 1000 * train.seed + self.index)
        local = _LocalTraining(model, mixtures, train, fed, instruction.round, restored)
        control = local.control_variate()
        result = local.run(_correction(instruction.control, restored.get("control")))
        arrays = to_arrays(model, local.layout.names)
        self.personal.write(instruction, local.personal_state(arrays, control))
        upload = _encode(fed.payload, instruction, arrays, control, local.layout.weights)
        shared = local.layout.shared_weights(fed.norm == "local")
        values = {
            "examples": train.data.batch_size * mixtures.batches_per_epoch,
            "steps": result.stats.steps,
            "bad_steps": result.stats.bad_steps,
            "loss": result.stats.means().get("loss", math.nan),
            "last_loss": result.last.means().get("loss", math.nan),
            "update_norm": update_norm(instruction.model, arrays, shared),
            "bytes": num_bytes(upload),
            "seconds": time.monotonic() - started,
            "train_began": result.started,
            "train_seconds": result.seconds,
        }
        return Reply(self.index, instruction.round, upload, {name: float(value) for name, value in values.items()})

    def examples(self, instruction: Instruction) -> int:
        """Return the number of segments in an epoch of this silo, as :meth:`run` reports it; without training.

        Args:
            instruction: its arrays are not used.

        Raises:
            InputError: invalid data, or none with speech.
        """
        train, _ = _configs(instruction)
        pairs = self._training_set(instruction, train)
        self._require_speech(pairs)
        return train.data.batch_size * Mixtures(pairs, train.data, 0).batches_per_epoch

    def release(self) -> None:
        """Free the memory of the data, which are loaded again when they are needed."""
        self._pairs.clear()

    def evaluate(
        self,
        instruction: Instruction,
        personal: bool,
        measures: Sequence[str] = ("SI_SDR", "PESQ_WB", "STOI"),
        subset: str = "tt",
        utts: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Score the instruction's model on this silo's own test set.

        Args:
            instruction: its ``round`` is one more than that of the model in it.
            personal: whether to use the silo's own norm layers of that round.
            measures: of :data:`sase.metrics.measures.METRICS`.
            subset: folder within the data directory.
            utts: the utterances to score; None for all in that folder.

        Returns:
            Measure to its mean over the utterances for which it is defined, and ``utterances``.
        """
        train, fed = _configs(instruction)
        restored = self.personal.read(instruction) if personal else {}
        if personal and "norms" not in restored:
            number = instruction.round - 1
            raise InputError(f"silo {self.index}: no norm layers of round {number} found in {self.personal.folder}")
        model = self._model(train, fed, instruction, restored)
        rows = measure_set(model, PairSubset(self._pair_set(subset, train), utts=utts), measures)
        means = {name: float(np.nanmean([row[name] for row in rows])) for name in measures}
        return {**means, "utterances": len(rows)}

    def _model(
        self, train: TrainConfig, fed: FederatedConfig, instruction: Instruction, restored: Mapping[str, Any]
    ) -> nn.Module:
        model = build_model(train.model).to(self.device)
        load_arrays(model, instruction.model)
        layout = layout_of(model)
        with naming(self.personal.folder):
            check_state(restored, layout, to_arrays(model, layout.names))
        if fed.norm == "local" and "norms" in restored:
            load_arrays(model, restored["norms"])
        return model

    def _require_speech(self, pairs: PairSet) -> None:
        """Check that not all clean audio is silent: losses ignore such utterances, so nothing would be learned."""
        self._has_speech = self._has_speech or any(is_audible(clean) for _, clean in utterances(pairs))
        if not self._has_speech:
            raise InputError(
                f"silo {self.index}: no speech in {self.data_dir / 'tr'}: the clean audio of all {len(pairs)} "
                "utterances is silent; this silo takes no part in training"
            )

    def _training_set(self, instruction: Instruction, train: TrainConfig) -> PairSet:
        """Return the training set; raise InputError if it is not that of the experiment's earlier rounds."""
        pairs, experiment = self._pair_set("tr", train), instruction.config["experiment"]
        if self._experiment != experiment or instruction.round == 1:
            record = self.personal.folder / RECORD
            advice = f"delete {RECORD} in the silo's state folder to train with it from now on"
            require_unchanged(record, {"training set": pairs}, instruction.round > 1, advice, experiment)
            self._experiment = experiment
        return pairs

    def _pair_set(self, name: str, train: TrainConfig) -> PairSet:
        folder = self.data_dir / name
        if name not in self._pairs:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; make the silos with 'sase partition'")
            self._pairs[name] = PairSet(folder, train.model.sample_rate, self.device)
        return self._pairs[name]


@dataclass(frozen=True)
class _TrainingResult:
    stats: EpochStats  # of all local epochs
    last: EpochStats  # of the last one
    started: float  # by the silo's clock
    seconds: float


class _LocalTraining:
    """The local epochs of one round; the round's number determines the batches and the learning rates."""

    def __init__(
        self,
        model: nn.Module,
        mixtures: Mixtures,
        train: TrainConfig,
        fed: FederatedConfig,
        round_number: int,
        restored: Mapping[str, Any],
    ) -> None:
        self.model, self.mixtures, self.train, self.fed = model, mixtures, train, fed
        self.layout = layout_of(model)
        self.steps_per_round = steps_per_round(mixtures.batches_per_epoch, fed)
        self.steps_per_epoch = self.steps_per_round // fed.local_epochs
        self.first = (round_number - 1) * self.steps_per_round
        self.device = next(model.parameters()).device
        self.criterion = build_loss(train.loss)
        options = train.train
        self.guard = GradientGuard(options.clip_norm, options.max_bad_steps)
        self.optimizer = build_optimizer(options, model.parameters(), self.device)
        if not fed.fresh_optimizer and "optimizer" in restored:
            with naming("the silo's own state"):
                load_optimizer(self.optimizer, restored["optimizer"])

    def control_variate(self) -> dict[str, np.ndarray]:
        """Return SCAFFOLD's control variate at the current model; empty without SCAFFOLD."""
        if not self.fed.scaffold:
            return {}
        count = self.fed.control_steps or self.steps_per_round
        batches = map(self.mixtures.batch, range(self.first, self.first + count))
        statistics = [name for name in self.layout.names if name not in self.layout.weights]
        with training_precision(self.train.train.precision, self.device):
            return control_variate(self.model, batches, self.criterion, self.guard, self._autocast, statistics)

    def run(self, correction: Mapping[str, np.ndarray] | None) -> _TrainingResult:
        """Train all local epochs.

        Args:
            correction: SCAFFOLD's ``c − c_k`` by parameter name, or None.
        """
        started, clock = time.time(), time.monotonic()
        done = self.first

        def rate() -> float:
            return self._learning_rate(done)

        def count_step(stats: EpochStats) -> None:
            nonlocal done
            done += 1

        step = TrainingStep(
            self.model,
            self.criterion,
            self.optimizer,
            self._guard(correction),
            rate,
            autocast=self._autocast,
            backward=batch_backward(
                Workers(0, 1, self.device), self.train.data.batch_size, self.train.train.micro_batch_size
            ),
        )
        stats = last = EpochStats()
        with training_precision(self.train.train.precision, self.device):
            for epoch in range(self.fed.local_epochs):
                first = self.first + epoch * self.steps_per_epoch
                batches = map(self.mixtures.batch, range(first, first + self.steps_per_epoch))
                last = train_epoch(step, batches, count_step)
                stats = stats.merged(last)
        return _TrainingResult(stats, last, started, time.monotonic() - clock)

    def personal_state(self, arrays: Mapping[str, np.ndarray], control: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return what stays on the silo's disk for the next round.

        Args:
            arrays: the trained model.
            control: of :meth:`control_variate`.
        """
        state: dict[str, Any] = {}
        if self.fed.scaffold:
            state["control"] = control
        if self.fed.norm == "local":
            state["norms"] = {name: value for name, value in arrays.items() if name in self.layout.norms}
        if not self.fed.fresh_optimizer:
            state["optimizer"] = self.optimizer.state_dict()
        return state

    def _learning_rate(self, step: int) -> float:
        options = self.train.train
        if self.fed.schedule == "constant":
            return options.learning_rate
        total = self.fed.num_rounds * self.steps_per_round
        return learning_rate(step, options.learning_rate, options.warmup_steps, total, options.final_ratio)

    def _guard(self, correction: Mapping[str, np.ndarray] | None) -> GradientGuard | DriftGuard:
        """Return the gradient guard, with the terms of FedProx and SCAFFOLD if they are in use."""
        if not self.fed.fedprox_mu and not correction:
            return self.guard
        parameters = list(self.model.named_parameters())
        anchor = [p.detach().clone() for _, p in parameters] if self.fed.fedprox_mu else None
        tensors = None
        if correction:
            tensors = [torch.as_tensor(correction[name], device=self.device) for name, _ in parameters]
        return DriftGuard(self.guard, self.fed.fedprox_mu, anchor, tensors)

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.train.train.precision, self.device)


def _correction(
    global_control: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray] | None:
    """Return SCAFFOLD's ``c − c_k``; None in a silo's first round."""
    if not global_control or not own:
        return None
    return {name: value - own[name] for name, value in global_control.items()}


def _encode(
    payload: str,
    instruction: Instruction,
    arrays: Mapping[str, np.ndarray],
    control: Mapping[str, np.ndarray],
    weights: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return the upload: the trained model and, with SCAFFOLD, the control variate."""
    controls = {CONTROL + name: value for name, value in control.items()}
    reference = {**instruction.model, **{name: np.zeros_like(value) for name, value in controls.items()}}
    return encode(payload, {**arrays, **controls}, reference, {*weights, *controls})


def _configs(instruction: Instruction) -> tuple[TrainConfig, FederatedConfig]:
    return (
        from_mapping(TrainConfig, instruction.config["train"]),
        from_mapping(FederatedConfig, instruction.config["federated"]),
    )

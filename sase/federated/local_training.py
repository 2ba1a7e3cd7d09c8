"""The local epochs of one round of a silo, with what federated methods change in them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sase.config import naming
from sase.data.remix import Mixtures
from sase.federated.config import SHARED_MOMENTS, FederatedConfig
from sase.federated.drift import DriftGuard, StepCorrection, control_variate
from sase.federated.exchange import Instruction
from sase.federated.layout import layout_of, to_arrays
from sase.federated.reported import steps_per_round
from sase.federated.shared_moments import load_moments, moments_of, restart_factor
from sase.losses.loss import build_loss
from sase.training.batch_sharding import batch_backward
from sase.training.checkpoint import load_optimizer
from sase.training.config import TrainConfig, build_optimizer
from sase.training.distributed import Workers
from sase.training.loop import EpochStats, GradientGuard, TrainingStep, learning_rate, train_epoch
from sase.training.performance import autocast, training_precision


@dataclass(frozen=True)
class TrainingResult:
    """What a silo's local training returns beside the trained network."""

    stats: EpochStats  # of all local epochs
    last: EpochStats  # of the last one
    control: dict[str, np.ndarray]  # the control variate, empty without one
    started: float  # by the silo's clock
    seconds: float


class LocalTraining:
    """The local epochs of one round; the round's number determines the batches and the learning rates."""

    def __init__(
        self,
        model: nn.Module,
        mixtures: Mixtures,
        train: TrainConfig,
        fed: FederatedConfig,
        instruction: Instruction,
        restored: Mapping[str, Any],
    ) -> None:
        self.model, self.mixtures, self.train, self.fed = model, mixtures, train, fed
        self.restored, self.control = restored, instruction.control
        self.layout = layout_of(model)
        self.start = to_arrays(model, self.layout.weights) if fed.feddyn_alpha else {}
        self.steps_per_round = steps_per_round(mixtures.batches_per_epoch, fed)
        self.steps_per_epoch = self.steps_per_round // fed.local_epochs
        self.first = (instruction.round - 1) * self.steps_per_round
        self.device = next(model.parameters()).device
        self.criterion = build_loss(train.loss)
        options = train.train
        self.guard = GradientGuard(options.clip_norm, options.max_bad_steps)
        self.optimizer = build_optimizer(options, model.parameters(), self.device)
        if not fed.fresh_optimizer and "optimizer" in restored:
            with naming("the silo's own state"):
                load_optimizer(self.optimizer, restored["optimizer"])
        self.restarts = False  # whether the first moment starts at 0, and the second does not
        if fed.shared_moments != "none" and instruction.round > 1:
            self.restarts = fed.shared_moments == "second" and not self.optimizer.state
            load_moments(model, self.optimizer, instruction.arrays, self.first)

    def moments(self) -> dict[str, np.ndarray]:
        """Return the moments that silos share."""
        return moments_of(self.model, self.optimizer, SHARED_MOMENTS[self.fed.shared_moments])

    def _gradient_variate(self) -> dict[str, np.ndarray]:
        """Return SCAFFOLD's control variate at the current model, if it is to correct gradients."""
        if not self.fed.scaffold or self.fed.scaffold_space != "gradients":
            return {}
        count = self.fed.control_steps or self.steps_per_round
        batches = map(self.mixtures.batch, range(self.first, self.first + count))
        statistics = [name for name in self.layout.names if name not in self.layout.weights]
        with training_precision(self.train.train.precision, self.device):
            return control_variate(self.model, batches, self.criterion, self.guard, self._autocast, statistics)

    def run(self) -> TrainingResult:
        """Train all local epochs."""
        control = self._gradient_variate()
        started, clock = time.time(), time.monotonic()
        done = self.first

        def rate() -> float:
            factor = restart_factor(self.optimizer, self.first, done - self.first + 1) if self.restarts else 1.0
            return self._learning_rate(done) * factor

        def count_step(stats: EpochStats) -> None:
            nonlocal done
            done += 1

        steps = None
        if self.fed.sends_controls and self.fed.scaffold_space == "steps":
            steps = StepCorrection(
                self.optimizer, self.model, self._step_correction(), lambda: self._learning_rate(done)
            )
        step = TrainingStep(
            self.model,
            self.criterion,
            self.optimizer,
            self._guard(),
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
        if steps:
            control = steps.mean_direction()
        return TrainingResult(stats, last, control, started, time.monotonic() - clock)

    def personal_state(self, arrays: Mapping[str, np.ndarray], control: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return what stays on the silo's disk for the next round.

        Args:
            arrays: the trained model.
            control: the control variate; may be empty.
        """
        state: dict[str, Any] = {}
        if self.fed.scaffold:
            state["control"] = control
        if self.fed.feddyn_alpha:
            state["dual"] = self._next_dual(arrays)
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

    def _guard(self) -> GradientGuard | DriftGuard:
        """Return the gradient guard, with the terms of FedProx, SCAFFOLD and FedDyn if they are in use."""
        correction, weight = self._gradient_correction(), self.fed.fedprox_mu or self.fed.feddyn_alpha
        if not weight and not correction:
            return self.guard
        parameters = list(self.model.named_parameters())
        anchor = [p.detach().clone() for _, p in parameters] if weight else None
        tensors = None
        if correction:
            tensors = [torch.as_tensor(correction[name], device=self.device) for name, _ in parameters]
        return DriftGuard(self.guard, weight, anchor, tensors)

    def _gradient_correction(self) -> dict[str, np.ndarray]:
        """Return what is added to the gradients: SCAFFOLD's ``c − c_k`` or FedDyn's ``−λ_k``; empty at first."""
        if self.fed.feddyn_alpha:
            return {name: -value for name, value in self.restored.get("dual", {}).items()}
        return self._scaffold() if self.fed.scaffold_space == "gradients" else {}

    def _step_correction(self) -> dict[str, np.ndarray]:
        """Return what is added to the steps: SCAFFOLD's ``c − c_k``, and FedAdamW's ``α c``."""
        correction, alpha = self._scaffold(), self.fed.alignment
        if not alpha:
            return correction
        return {name: correction.get(name, 0.0) + alpha * value for name, value in self.control.items()}

    def _scaffold(self) -> dict[str, np.ndarray]:
        own = self.restored.get("control")
        if not self.fed.scaffold or not self.control or not own:
            return {}
        return {name: value - own[name] for name, value in self.control.items()}

    def _next_dual(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return FedDyn's λ_k after the round: ``λ_k − α (w_k − w_global)``."""
        before, dual = self.start, self.restored.get("dual", {})
        alpha = np.float32(self.fed.feddyn_alpha)
        return {name: dual.get(name, 0) - alpha * (arrays[name] - before[name]) for name in self.layout.weights}

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.train.train.precision, self.device)

"""One training epoch as a plain function, the same for central and for federated training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sase.errors import InputError

if TYPE_CHECKING:
    from torch.optim.swa_utils import AveragedModel

    from sase.data.remix import Batch

Criterion = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]
Autocast = Callable[[], AbstractContextManager[Any]]
Backward = Callable[[torch.nn.Module, "Batch", Criterion, Autocast], dict[str, float]]


@dataclass
class EpochStats:
    """Sums over the accepted steps of an epoch, and the number of rejected steps."""

    steps: int = 0
    bad_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        """Add the losses of one accepted step."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def merged(self, later: EpochStats) -> EpochStats:
        """Return the stats of this part of an epoch and a later one combined."""
        names = {**self.sums, **later.sums}
        sums = {name: self.sums.get(name, 0.0) + later.sums.get(name, 0.0) for name in names}
        return EpochStats(self.steps + later.steps, self.bad_steps + later.bad_steps, sums)

    def means(self) -> dict[str, float]:
        """Return the mean of each loss per accepted step; empty without one."""
        return {name: total / self.steps for name, total in self.sums.items()} if self.steps else {}


class Guard(Protocol):
    """What a training step asks before it calls the optimiser: :class:`GradientGuard`, or a wrapper of one."""

    def clip_if_finite(self, parameters: list[torch.nn.Parameter], utts: Sequence[str]) -> bool: ...


class GradientGuard:
    """Clips gradients, rejects non-finite ones, and stops training after too many rejections in a row.

    Args:
        clip_norm: gradients with a larger norm are scaled down to it.
        max_bad_steps: number of consecutive rejections that stops training.

    Attributes:
        consecutive: rejections since the last finite gradient.
    """

    def __init__(self, clip_norm: float, max_bad_steps: int) -> None:
        self.clip_norm, self.max_bad_steps, self.consecutive = clip_norm, max_bad_steps, 0

    def clip_if_finite(self, parameters: list[torch.nn.Parameter], utts: Sequence[str]) -> bool:
        """Clip the gradients in place; return whether they are finite, so that the step may be taken.

        Args:
            parameters: with their gradients.
            utts: the utterances of the batch, for the error message.

        Raises:
            InputError: the gradient was not finite ``max_bad_steps`` times in a row.
        """
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if torch.isfinite(norm):
            self.consecutive = 0
            return True
        self.consecutive += 1
        if self.consecutive >= self.max_bad_steps:
            raise InputError(
                f"training stopped: the gradient was not finite in {self.consecutive} steps in a row; "
                f"lower train.learning_rate or check the last batch: {' '.join(utts)}"
            )
        return False


def learning_rate(step: int, peak: float, warmup_steps: int, total_steps: int, final_ratio: float) -> float:
    """Return the learning rate of ``step`` (from 0): linear warm-up, then half a cosine to ``final_ratio · peak``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * done)))


def backward(model: torch.nn.Module, batch: Batch, criterion: Criterion, autocast: Autocast) -> dict[str, float]:
    """Compute the gradients of a batch; return its ``loss`` and the terms of it.

    Args:
        model, criterion, autocast: as in :class:`TrainingStep`.
        batch: a :class:`sase.data.remix.Batch`.
    """
    with autocast():
        enhanced = model(batch.noisy, batch.lengths)
    loss, terms = criterion(enhanced.float(), batch.clean, batch.lengths)
    loss.backward()
    return {"loss": float(loss.detach()), **{name: float(value) for name, value in terms.items()}}


@dataclass
class TrainingStep:
    """Everything that one optimiser step needs; call it with a batch.

    Attributes:
        model: noisy waveform to enhanced waveform, possibly wrapped in ``DistributedDataParallel``.
        criterion: ``(enhanced, clean, lengths) -> (loss, terms)``, see :func:`sase.losses.loss.build_loss`.
        optimizer: of the model's parameters.
        guard: clips the gradients and decides whether to take the step.
        learning_rate: returns the learning rate of the next step; None leaves the optimiser's own.
        ema: averaged weights, updated after each accepted step.
        autocast: returns the context of the forward pass.
        backward: :func:`backward`, or a replacement for sharded batches (:mod:`sase.training.batch_sharding`).
    """

    model: torch.nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    guard: Guard
    learning_rate: Callable[[], float] | None = None
    ema: AveragedModel | None = None
    autocast: Autocast = nullcontext
    backward: Backward = backward

    def __post_init__(self) -> None:
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]

    def __call__(self, batch: Batch) -> dict[str, float] | None:
        """Take one step; return the losses, or None when the gradient was rejected."""
        if self.learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.backward(self.model, batch, self.criterion, self.autocast)
        if not self.guard.clip_if_finite(self._parameters, batch.utts):
            return None
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(getattr(self.model, "module", self.model))
        return losses


def train_epoch(
    step: TrainingStep, batches: Iterable[Batch], on_step: Callable[[EpochStats], None] | None = None
) -> EpochStats:
    """Take one optimiser step for every batch.

    Args:
        step: the model and what trains it.
        batches: iterable of :class:`sase.data.remix.Batch`.
        on_step: called after each step with the stats so far.
    """
    step.model.train()
    stats = EpochStats()
    for batch in batches:
        losses = step(batch)
        if losses is None:
            stats.bad_steps += 1
        else:
            stats.add(losses)
        if on_step is not None:
            on_step(stats)
    return stats

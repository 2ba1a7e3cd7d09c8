"""One epoch, as a plain function: the same for central and for federated training."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from sase.errors import InputError


@dataclass
class EpochStats:
    """What one epoch did: means over its good steps, and how many steps were refused."""

    steps: int = 0
    bad_steps: int = 0
    sums: dict = field(default_factory=dict)

    def add(self, values):
        """Take the values of one good step: name to float."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def merged(self, later):
        """Return the stats of this part of an epoch and of a later one together."""
        names = {**self.sums, **later.sums}
        sums = {name: self.sums.get(name, 0.0) + later.sums.get(name, 0.0) for name in names}
        return EpochStats(self.steps + later.steps, self.bad_steps + later.bad_steps, sums)

    def means(self):
        """Name to mean."""
        return {name: total / self.steps for name, total in self.sums.items()} if self.steps else {}


class GradientGuard:
    """Refuses steps whose gradient is not finite, and stops training after too many in a row.

    Args:
        clip_norm: larger gradients are scaled down to this norm.
        max_bad_steps: in a row.
    """

    def __init__(self, clip_norm, max_bad_steps):
        self.clip_norm, self.max_bad_steps, self.consecutive = clip_norm, max_bad_steps, 0

    def clip_if_finite(self, parameters, utts):
        """Clip the gradients and return True when they are finite; raise InputError after too many that are not."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if torch.isfinite(norm):
            self.consecutive = 0
            return True
        self.consecutive += 1
        if self.consecutive >= self.max_bad_steps:
            raise InputError(
                f"training stopped: the gradient was not finite in {self.consecutive} steps in a row; "
                f"lower train.learning_rate, or look at the last batch: {' '.join(utts)}"
            )
        return False


def learning_rate(step, peak, warmup_steps, total_steps, final_ratio):
    """Return the rate of ``step`` (from 0): a linear rise, then half a cosine down to ``final_ratio · peak``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * done)))


def backward(model, batch, criterion, autocast=None):
    """Leave the gradients of a batch in a model's parameters; return its ``loss`` and the parts of it as floats.

    Args:
        model, batch, criterion, autocast: as :func:`train_epoch` has them.
    """
    with autocast() if autocast else nullcontext():
        enhanced = model(batch.noisy, batch.lengths)
    loss, parts = criterion(enhanced.float(), batch.clean, batch.lengths)
    loss.backward()
    return {"loss": float(loss.detach()), **{name: float(value) for name, value in parts.items()}}


def train_epoch(
    model,
    batches,
    criterion,
    optimizer,
    guard,
    rate=None,
    averaged=None,
    autocast=None,
    on_step=None,
    backward=backward,
):
    """Take one optimiser step for every batch.

    Args:
        model: noisy waveform to enhanced waveform, maybe wrapped for several devices.
        batches: iterable of :class:`sase.data.dataset.Batch`.
        criterion: ``(enhanced, clean, lengths) -> (loss, parts)``, as :func:`sase.losses.objectives.build_loss` gives.
        optimizer: of the model's parameters.
        guard: a :class:`GradientGuard`.
        rate: called before each step, returns its learning rate; None leaves the optimiser's own.
        averaged: an ``AveragedModel`` to update after each good step.
        autocast: called for a context in which the model runs.
        on_step: called after each step with the stats so far.
        backward: :func:`backward`, or what does the same for a batch that is shared out, as
            :class:`sase.training.shares.ShardedBackward`.

    Returns:
        :class:`EpochStats` with ``loss`` and its parts.
    """
    model.train()
    stats = EpochStats()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for batch in batches:
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate()
        optimizer.zero_grad(set_to_none=True)
        values = backward(model, batch, criterion, autocast)
        if guard.clip_if_finite(parameters, batch.utts):
            optimizer.step()
            if averaged is not None:
                averaged.update_parameters(getattr(model, "module", model))
            stats.add(values)
        else:
            stats.bad_steps += 1
        if on_step is not None:
            on_step(stats)
    return stats

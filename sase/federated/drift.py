"""Corrections of a silo's gradients or steps against client drift: FedProx, SCAFFOLD, FedDyn, FedAdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sase.errors import InputError
from sase.federated.layout import load_arrays, to_arrays
from sase.training.loop import GradientGuard

if TYPE_CHECKING:
    from sase.data.remix import Batch


class DriftGuard:
    """A :class:`sase.training.loop.GradientGuard` that corrects the gradients after checking and clipping them.

    FedProx (Li et al. 2020) adds ``μ (w − w_global)``, SCAFFOLD (Karimireddy et al. 2020) ``c − c_k``, FedDyn (Acar et
    al. 2021) ``α (w − w_global) − λ_k``. All are added after clipping, which is meant for outliers among batches.

    Args:
        guard: checks and clips.
        mu: of FedProx, or FedDyn's α.
        anchor: the global weights in the order of the parameters; required if μ is not 0.
        correction: ``c − c_k`` or ``−λ_k`` in the same order, or None.
    """

    def __init__(
        self,
        guard: GradientGuard,
        mu: float = 0.0,
        anchor: Sequence[torch.Tensor] | None = None,
        correction: Sequence[torch.Tensor] | None = None,
    ) -> None:
        self.guard, self.mu, self.anchor, self.correction = guard, mu, anchor, correction

    @torch.no_grad()
    def clip_if_finite(self, parameters: list[nn.Parameter], utts: Sequence[str]) -> bool:
        """Clip and correct the gradients in place; return whether they are finite."""
        if not self.guard.clip_if_finite(parameters, utts):
            return False
        for index, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
            if self.mu and self.anchor is not None:
                parameter.grad.add_(parameter - self.anchor[index], alpha=self.mu)
            if self.correction is not None:
                parameter.grad.add_(self.correction[index])
        return True


class StepCorrection:
    """Corrects each step of an optimiser after it was taken, and measures the optimiser's own steps.

    A step of learning rate η then is ``w ← w + η (d + a)``, where d is the direction in which the optimiser moves, for
    Adam −m / √v, and a the correction: SCAFFOLD's ``c − c_k`` with variates that are mean directions, and FedAdamW's
    ``α c`` (Liu et al. 2025, arXiv 2510.27486, whose Δ_G is −c).

    Args:
        optimizer: of the model.
        model: before its first step.
        correction: a, by parameter name; empty for none.
        rate: returns η of the step that is being taken.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        correction: Mapping[str, np.ndarray],
        rate: Callable[[], float],
    ) -> None:
        self._rate, self._correction, self._total_rate = rate, correction, 0.0
        self._named = list(model.named_parameters())
        self._before = to_arrays(model, [name for name, _ in self._named])
        self._tensors = [
            (parameter, torch.as_tensor(correction[name], device=parameter.device))
            for name, parameter in self._named
            if name in correction
        ]
        optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def _after_step(self, *_: object) -> None:
        rate = self._rate()
        self._total_rate += rate
        for parameter, tensor in self._tensors:
            parameter.add_(tensor, alpha=rate)

    def mean_direction(self) -> dict[str, np.ndarray]:
        """Return c_k, the mean of d over the steps so far, weighted by their learning rates: name to float32 array."""
        if not self._total_rate:
            return {name: np.zeros_like(value) for name, value in self._before.items()}
        directions = {}
        for name, parameter in self._named:
            moved = parameter.detach().cpu().numpy().astype(np.float64) - self._before[name]
            direction = moved / self._total_rate - self._correction.get(name, 0.0)
            directions[name] = direction.astype(np.float32)
        return directions


def control_variate(
    model: nn.Module,
    batches: Iterable[Batch],
    criterion: Callable[..., tuple[torch.Tensor, Any]],
    guard: GradientGuard,
    autocast: Callable[[], AbstractContextManager[Any]],
    statistics: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return c_k, the mean gradient over batches at the current model (option I of SCAFFOLD), name to float32 array.

    Gradients are clipped per batch, as in training; non-finite ones are skipped.

    Args:
        model: left in training mode with its weights and norm statistics unchanged.
        batches: to average over.
        criterion, guard, autocast: see :class:`sase.training.loop.TrainingStep`.
        statistics: names of the norm statistics and counters, which a forward pass changes and which are restored.
    """
    model.train()
    before = to_arrays(model, statistics)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    sums, count = [torch.zeros_like(p) for _, p in named], 0
    for batch in batches:
        model.zero_grad(set_to_none=True)
        with autocast():
            enhanced = model(batch.noisy, batch.lengths)
        criterion(enhanced.float(), batch.clean, batch.lengths)[0].backward()
        if guard.clip_if_finite([p for _, p in named], batch.utts):
            count += 1
            for total, (_, parameter) in zip(sums, named):
                if parameter.grad is not None:
                    total.add_(parameter.grad)
    model.zero_grad(set_to_none=True)
    load_arrays(model, before)
    if not count:
        raise InputError("SCAFFOLD: no batch has a finite gradient at the global model; check the data")
    return {name: (total / count).cpu().numpy() for total, (name, _) in zip(sums, named)}

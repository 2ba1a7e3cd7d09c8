"""Corrections of a silo's gradients against client drift: FedProx and SCAFFOLD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sase.errors import InputError
from sase.federated.layout import load_arrays, to_arrays
from sase.training.loop import GradientGuard

if TYPE_CHECKING:
    from sase.data.dataset import Batch


class DriftGuard:
    """A :class:`sase.training.loop.GradientGuard` that corrects the gradients after checking and clipping them.

    FedProx (Li et al. 2020) adds ``μ (w − w_global)``, SCAFFOLD (Karimireddy et al. 2020) ``c − c_k``. Both are added
    after clipping, which is meant for outliers among single batches.

    Args:
        guard: checks and clips.
        mu: of FedProx.
        anchor: the global weights in the order of the parameters; required if μ is not 0.
        correction: ``c − c_k`` in the same order, or None.
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

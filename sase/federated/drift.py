"""Remedies against client drift that act on a silo's gradients: FedProx and SCAFFOLD."""

import torch

from sase.errors import InputError
from sase.federated.layout import load_arrays, to_arrays


class DriftGuard:
    """A :class:`sase.training.loop.GradientGuard` that corrects gradients after it has accepted and clipped them.

    FedProx (Li et al. 2020) adds ``μ (w − w_global)``, SCAFFOLD (Karimireddy et al. 2020) ``c − c_k``. Both come after
    the clipping, which is there for what single batches do.

    Args:
        guard: the one within.
        mu: FedProx's.
        anchor: list of tensors, the global weights in the order of the parameters; needed where μ is not 0.
        correction: list of tensors ``c − c_k`` in the same order, or None.
    """

    def __init__(self, guard, mu=0.0, anchor=None, correction=None):
        self.guard, self.mu, self.anchor, self.correction = guard, mu, anchor, correction

    @torch.no_grad()
    def clip_if_finite(self, parameters, utts):
        """Clip and correct the gradients; return True when they are finite."""
        if not self.guard.clip_if_finite(parameters, utts):
            return False
        for place, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
            if self.mu:
                parameter.grad.add_(parameter - self.anchor[place], alpha=self.mu)
            if self.correction is not None:
                parameter.grad.add_(self.correction[place])
        return True


def control_variate(model, batches, criterion, guard, autocast, statistics):
    """Return c_k, the mean gradient over batches at the model as it is (option I of SCAFFOLD), name to float32 array.

    Gradients are clipped one by one, as they will be in training, and those that are not finite left out.

    Args:
        model: in any mode; left in training mode with its weights and norm statistics as they were.
        batches: iterable of :class:`sase.data.dataset.Batch`.
        criterion, guard, autocast: as for :func:`sase.training.loop.train_epoch`.
        statistics: names of its norm statistics and counters, which a pass through the network changes.
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
        raise InputError("no batch has a finite gradient at the global model")
    return {name: (total / count).cpu().numpy() for total, (name, _) in zip(sums, named)}

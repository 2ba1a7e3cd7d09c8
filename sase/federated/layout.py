"""Which parts of a network silos exchange, and the network as a dict of numpy arrays and back."""

from dataclasses import dataclass

import torch
from torch import nn

from sase.nn.complex import NORMS

_NORM_LAYERS = (*NORMS.values(), nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Layout:
    """Names in a network's state dict by how they are averaged. What stands in none of these is constant.

    Attributes:
        weights: trained parameters.
        moments: pairs (mean, variance or covariance) of running norm statistics.
        counters: integers.
        norms: those names, of any kind, that belong to norm layers of maps (batch norm or per frame).
    """

    weights: tuple[str, ...]
    moments: tuple[tuple[str, str], ...]
    counters: tuple[str, ...]
    norms: frozenset[str]

    @property
    def names(self):
        """All that is exchanged, in a fixed order."""
        return (*self.weights, *(name for pair in self.moments for name in pair), *self.counters)


def layout_of(model):
    """Return the :class:`Layout` of a network.

    Running statistics are buffers ``running_mean`` with ``running_var`` or ``running_cov`` (real, imaginary, mixed)
    beside it; counters are integer buffers; every other buffer is a constant.
    """
    state = model.state_dict()
    weights = tuple(name for name, _ in model.named_parameters())
    moments, norms = [], set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, _NORM_LAYERS):
            norms.update(dot + name for name in module.state_dict())
        seconds = [dot + name for name in ("running_var", "running_cov") if dot + name in state]
        if f"{dot}running_mean" in state and seconds:
            moments.append((f"{dot}running_mean", seconds[0]))
    counters = tuple(name for name, value in state.items() if not value.dtype.is_floating_point)
    return Layout(weights, tuple(moments), counters, frozenset(norms))


def to_arrays(model, names):
    """Return copies of named tensors of a network's state, as numpy arrays."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().numpy().copy() for name in names}


@torch.no_grad()
def load_arrays(model, arrays):
    """Copy arrays into the tensors of a network that have their names, cast to each one's type."""
    state = model.state_dict()
    for name, value in arrays.items():
        state[name].copy_(torch.as_tensor(value))

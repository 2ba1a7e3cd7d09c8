"""Which tensors of a network the silos exchange, and conversion between a network and a dict of numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sase.nn.complex import NORMS

_NORM_LAYERS = (*NORMS.values(), nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Layout:
    """The names in a network's state dict, grouped by how they are averaged. All other names are constants.

    Attributes:
        weights: trained parameters.
        moments: pairs (mean, variance or covariance) of running norm statistics.
        counters: integers.
        norms: those of the names above that belong to norm layers of feature maps (batch norm or per frame).
    """

    weights: tuple[str, ...]
    moments: tuple[tuple[str, str], ...]
    counters: tuple[str, ...]
    norms: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """All names that are exchanged, in a fixed order."""
        return (*self.weights, *(name for pair in self.moments for name in pair), *self.counters)

    def shared_weights(self, local_norms: bool) -> tuple[str, ...]:
        """Weights that all silos have in common: all, or with ``local_norms`` (FedBN) those outside norm layers."""
        return tuple(name for name in self.weights if not (local_norms and name in self.norms))


def layout_of(model: nn.Module) -> Layout:
    """Return the :class:`Layout` of a network.

    Running statistics are buffers ``running_mean`` with a ``running_var`` or ``running_cov`` (real, imaginary, mixed)
    in the same module; counters are integer buffers; every other buffer is a constant.
    """
    state = model.state_dict()
    weights = tuple(name for name, _ in model.named_parameters())
    moments: list[tuple[str, str]] = []
    norms: set[str] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, _NORM_LAYERS):
            norms.update(dot + name for name in module.state_dict())
        seconds = [dot + name for name in ("running_var", "running_cov") if dot + name in state]
        if f"{dot}running_mean" in state and seconds:
            moments.append((f"{dot}running_mean", seconds[0]))
    counters = tuple(name for name, value in state.items() if not value.dtype.is_floating_point)
    return Layout(weights, tuple(moments), counters, frozenset(norms))


def to_arrays(model: nn.Module, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return copies of the named tensors of a network's state dict as numpy arrays."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().numpy().copy() for name in names}


@torch.no_grad()
def load_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy arrays into the tensors of a network with the same names, cast to each tensor's type."""
    state = model.state_dict()
    for name, value in arrays.items():
        state[name].copy_(torch.as_tensor(value))


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return arrays as tensors, for files that torch writes."""
    return {name: torch.as_tensor(np.asarray(arrays[name])) for name in arrays}


def to_numpy(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return tensors as arrays: the inverse of :func:`to_tensors`."""
    return {name: value.numpy() for name, value in tensors.items()}

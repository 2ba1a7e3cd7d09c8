"""Networks for inference alone: tensors that layers derive from their parameters become constants."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

_Network = TypeVar("_Network", bound=nn.Module)


class DerivingLayer(nn.Module):
    """A layer that computes with tensors derived from its parameters, such as a weight with a norm folded into it."""

    _num_constants = 0  # above 0 in a frozen layer

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return the derived tensors."""
        raise NotImplementedError

    @property
    def is_frozen(self) -> bool:
        """Whether the derived tensors are constants."""
        return self._num_constants > 0

    def derived(self) -> tuple[torch.Tensor, ...]:
        """Return the constants of a frozen layer, otherwise newly derived tensors."""
        if not self.is_frozen:
            return self.derive()
        return tuple(getattr(self, f"constant_{index}") for index in range(self._num_constants))

    def freeze(self) -> None:
        """Derive the tensors once; later changes of the parameters have no effect."""
        constants = self.derive()
        for index, constant in enumerate(constants):
            self.register_buffer(f"constant_{index}", constant.detach().clone(), persistent=False)
        self._num_constants = len(constants)

    def train(self, mode: bool = True) -> DerivingLayer:
        """Set the mode.

        Raises:
            ValueError: training of a frozen layer.
        """
        if mode and self.is_frozen:
            raise ValueError("a frozen network cannot be trained; train the one it was made from")
        super().train(mode)
        return self


def frozen(network: _Network) -> _Network:
    """Return a copy for inference alone: in eval mode, its derived tensors constant."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, DerivingLayer):
                module.freeze()
    return network

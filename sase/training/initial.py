"""The network before its first training step: randomly initialised or pretrained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sase import pretrained
from sase.config import to_mapping
from sase.errors import InputError
from sase.model import build_model
from sase.training.checkpoint import first_difference

if TYPE_CHECKING:
    from sase.model import SASE
    from sase.training.config import TrainConfig


def initial_model(config: TrainConfig) -> SASE:
    """Return the network of a configuration, with the weights that ``init`` names or random ones.

    Raises:
        InputError: ``init`` names no model, or one with another architecture.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if config.init:
        trained = pretrained.load(config.init)
        if difference := first_difference(to_mapping(trained.config), to_mapping(config.model)):
            raise InputError(
                f"init: {config.init} is another network than 'model:' describes ({difference}); "
                "set 'model:' to the values of the pretrained network"
            )
        model.load_state_dict(trained.state_dict())
    return model

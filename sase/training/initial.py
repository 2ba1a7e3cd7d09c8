"""The network that training begins with: random, or weights that were trained before."""

import torch

from sase import pretrained
from sase.config import to_mapping
from sase.errors import InputError
from sase.model import build_model
from sase.training.checkpoint import first_difference


def initial_model(config):
    """Return the network of a :class:`sase.training.config.TrainConfig` as it is before the first step.

    Raises:
        InputError: ``init`` names no model, or one of another network.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if config.init:
        trained = pretrained.load(config.init)
        if difference := first_difference(to_mapping(trained.config), to_mapping(config.model)):
            raise InputError(
                f"init: {config.init} is another network than 'model:' describes ({difference}); "
                "give 'model:' the values that it was trained with"
            )
        model.load_state_dict(trained.state_dict())
    return model

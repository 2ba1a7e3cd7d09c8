"""Replies that nobody trained, to measure a server with more silos than a machine can train."""

from __future__ import annotations

import functools
import json

import numpy as np

from sase.config import from_mapping
from sase.federated.exchange import Instruction, Reply
from sase.federated.layout import layout_of
from sase.federated.payload import encode
from sase.model import build_model
from sase.training.config import TrainConfig

_CHANGE = 1e-3  # of a weight in a round, relative to its value
_METRICS = {"examples": 100.0, "steps": 1.0, "bad_steps": 0.0, "loss": 0.0, "last_loss": 0.0}


def synthetic_reply(instruction: Instruction, silo: int) -> Reply:
    """Return a valid reply: the weights of the global model, scaled by a factor that differs between silos.

    The arrays of two silos have no bytes in common: Flower stores and transfers equal arrays once.
    """
    weights = _trained(json.dumps(instruction.config["train"]))
    model, factor = instruction.model, np.float32(1.0 + _CHANGE * (1.0 + _CHANGE * silo))
    changed = {name: value * factor if name in weights else value for name, value in model.items()}
    upload = encode(instruction.config["federated"]["payload"], changed, model, weights)
    return Reply(silo, instruction.round, upload, _METRICS)


@functools.cache
def _trained(train: str) -> frozenset[str]:
    """Return the names of the trained weights; ``train`` is the training's config in JSON."""
    return frozenset(layout_of(build_model(from_mapping(TrainConfig, json.loads(train)).model)).weights)

"""Which replies may change the global model: everything that arrives is checked here, and each refusal has a reason."""

import math
from dataclasses import dataclass

import numpy as np

from sase.federated.aggregation import update_norm
from sase.federated.payload import decode, num_bytes
from sase.federated.silo import CONTROL

_FINITE = ("examples", "steps", "loss", "last_loss")
_LEAST_FOR_MEDIAN = 3  # replies from which on one can be told from the others


@dataclass
class Admitted:
    """A reply that was found good: its arrays decoded, its control variate (if any) apart, and what it reported."""

    silo: int
    arrays: dict
    control: dict
    metrics: dict
    update_norm: float
    bytes: int


def admit(replies, instruction, config, layout):
    """Sort the good replies from the bad.

    Args:
        replies: list of :class:`sase.federated.silo.Reply`, in any order.
        instruction: what they answer.
        config: a :class:`sase.federated.config.FederatedConfig`.
        layout: a :class:`sase.federated.layout.Layout`.

    Returns:
        The good ones as :class:`Admitted`, sorted by silo, and a mapping from each refused silo's index to the reason.
    """
    good, refused = {}, {}
    for reply in sorted(replies, key=lambda reply: reply.silo):
        try:
            if not 0 <= reply.silo < config.num_silos:
                raise ValueError(f"there are only silos 0 to {config.num_silos - 1}")
            if reply.silo in good:
                raise ValueError("answered twice; the first answer counts")
            good[reply.silo] = _checked(reply, instruction, config, layout)
        except ValueError as error:
            refused[reply.silo] = str(error)
    if len(good) >= _LEAST_FOR_MEDIAN:
        median = float(np.median([reply.update_norm for reply in good.values()]))
        for silo, reply in list(good.items()):
            if reply.update_norm > config.max_norm_ratio * median:
                refused[silo] = f"its update has norm {reply.update_norm:.4g}, the median is {median:.4g}"
                del good[silo]
    return list(good.values()), refused


def _checked(reply, instruction, config, layout):
    if reply.round != instruction.round:
        raise ValueError(f"answers round {reply.round}, not {instruction.round}")
    for name in _FINITE:
        if not math.isfinite(reply.metrics.get(name, math.nan)):
            raise ValueError(f"its {name} is {reply.metrics.get(name, 'missing')}")
    if reply.metrics["examples"] <= 0 or reply.metrics["steps"] <= 0:
        raise ValueError("it trained on nothing")
    reference = dict(instruction.model)
    if config.scaffold:
        reference.update({CONTROL + name: np.zeros_like(reference[name]) for name in layout.weights})
    arrays = decode(config.payload, reply.arrays, reference, {name for name in reference if _is_weight(name, layout)})
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinity")
    for _, second in layout.moments:
        if (arrays[second][:2] if arrays[second].ndim == 2 else arrays[second]).min() < 0:
            raise ValueError(f"{second} holds a negative variance")
    control = {name.removeprefix(CONTROL): v for name, v in arrays.items() if name.startswith(CONTROL)}
    arrays = {name: value for name, value in arrays.items() if not name.startswith(CONTROL)}
    shared = [name for name in layout.weights if config.norm != "local" or name not in layout.norms]
    norm = update_norm(instruction.model, arrays, shared)
    return Admitted(reply.silo, arrays, control, dict(reply.metrics), norm, num_bytes(reply.arrays))


def _is_weight(name, layout):
    return name.removeprefix(CONTROL) in layout.weights

"""Checks of everything that silos send: which replies may change the global model, and why the others may not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sase.federated.aggregation import update_norm
from sase.federated.config import FederatedConfig
from sase.federated.exchange import CONTROL, Instruction, Reply
from sase.federated.layout import Layout
from sase.federated.payload import decode, num_bytes

_FINITE = ("examples", "steps", "loss", "last_loss")
_LEAST_FOR_MEDIAN = 3  # replies; with fewer, an outlier cannot be identified


@dataclass
class Admitted:
    """A valid reply.

    Attributes:
        silo: its index.
        arrays: decoded, without the control variate.
        control: parameter name to control variate; empty without SCAFFOLD.
        metrics: as reported by the silo.
        update_norm: computed from the arrays.
        bytes: size of the upload.
        gain_db: gain in SI-SNR of this update alone on the common set; only for the strategy ``sase``.
    """

    silo: int
    arrays: dict[str, np.ndarray]
    control: dict[str, np.ndarray]
    metrics: dict[str, float]
    update_norm: float
    bytes: int
    gain_db: float | None = None


def admit(
    replies: Iterable[Reply], instruction: Instruction, config: FederatedConfig, layout: Layout
) -> tuple[list[Admitted], dict[int, str]]:
    """Separate valid replies from invalid ones.

    Args:
        replies: in any order.
        instruction: the one they answer.
        config: of the federation.
        layout: of the network.

    Returns:
        The valid replies sorted by silo, and {silo: reason} of the rejected ones.
    """
    admitted: dict[int, Admitted] = {}
    rejected: dict[int, str] = {}
    for reply in sorted(replies, key=lambda reply: reply.silo):
        try:
            if not 0 <= reply.silo < config.num_silos:
                raise ValueError(f"unknown silo; the silos are 0 to {config.num_silos - 1}")
            if reply.silo in admitted:
                raise ValueError("duplicate reply; the first one counts")
            admitted[reply.silo] = _checked(reply, instruction, config, layout)
        except ValueError as error:
            rejected[reply.silo] = str(error)
    if len(admitted) >= _LEAST_FOR_MEDIAN:
        median = float(np.median([valid.update_norm for valid in admitted.values()]))
        for silo, valid in list(admitted.items()):
            if valid.update_norm > config.max_norm_ratio * median:
                rejected[silo] = f"its update has norm {valid.update_norm:.4g}, the median is {median:.4g}"
                del admitted[silo]
    return list(admitted.values()), rejected


def _checked(reply: Reply, instruction: Instruction, config: FederatedConfig, layout: Layout) -> Admitted:
    if reply.round != instruction.round:
        raise ValueError(f"answers round {reply.round}, not {instruction.round}")
    _check_metrics(reply.metrics)
    decoded = _decode(reply, instruction, config, layout)
    _check_values(decoded, layout)
    control = {name.removeprefix(CONTROL): value for name, value in decoded.items() if name.startswith(CONTROL)}
    arrays = {name: value for name, value in decoded.items() if not name.startswith(CONTROL)}
    norm = update_norm(instruction.model, arrays, layout.shared_weights(config.norm == "local"))
    return Admitted(reply.silo, arrays, control, dict(reply.metrics), norm, num_bytes(reply.arrays))


def _check_metrics(metrics: dict[str, float]) -> None:
    for name in _FINITE:
        if not math.isfinite(metrics.get(name, math.nan)):
            raise ValueError(f"its {name} is {metrics.get(name, 'missing')}")
    if metrics["examples"] <= 0 or metrics["steps"] <= 0:
        raise ValueError("it reports no training steps or no examples")


def _decode(reply: Reply, instruction: Instruction, config: FederatedConfig, layout: Layout) -> dict[str, np.ndarray]:
    reference = dict(instruction.model)
    if config.scaffold:
        reference.update({CONTROL + name: np.zeros_like(reference[name]) for name in layout.weights})
    compressed = {name for name in reference if name.removeprefix(CONTROL) in layout.weights}
    return decode(config.payload, reply.arrays, reference, compressed)


def _check_values(arrays: dict[str, np.ndarray], layout: Layout) -> None:
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinity")
    for _, second in layout.moments:
        variances = arrays[second][:2] if arrays[second].ndim == 2 else arrays[second]
        if variances.min() < 0:
            raise ValueError(f"{second} contains a negative variance")

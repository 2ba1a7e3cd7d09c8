"""Checks of everything that silos send: which replies may change the global model, and why the others may not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from sase.errors import one_line
from sase.federated.aggregation import update_norm
from sase.federated.config import SHARED_MOMENTS, FederatedConfig
from sase.federated.exchange import COMPANIONS, CONTROL, Instruction, Reply
from sase.federated.layout import Layout
from sase.federated.participation import Rebased
from sase.federated.payload import Part, Upload, num_bytes
from sase.federated.reported import checked_numbers
from sase.federated.shared_moments import check_moments
from sase.federated.statistics import check_statistics, statistics_excess

_LEAST_FOR_MEDIAN = 3  # replies; with fewer, an outlier cannot be identified
_RECENT_ROUNDS = 10  # whose update norms bound those of a round with fewer replies
_MAX_SIZE_RATIO = 1000  # of a silo's examples to the median
_LARGEST_STEP = 4.0  # of Adam in units of the learning rate, (1 − β₁) / √(1 − β₂) for a lone gradient, and decay
_CONTROL_SLACK = 2.0  # for what quantisation may add to the norm of a control variate

log = logging.getLogger(__name__)


@dataclass
class Admitted:
    """A valid reply.

    Attributes:
        silo: its index.
        arrays: name to array, decoded when it is read; without the control variate.
        control: parameter name to control variate, decoded when it is read; empty without SCAFFOLD.
        moments: prefix and parameter name to shared moment of Adam, likewise.
        metrics: as reported by the silo, within their bounds.
        update_norm: computed from the arrays.
        bytes: size of the upload.
        gain_db: gain in SI-SNR of this update alone on the common set; only for the strategy ``sase``.
        staleness: number of rounds by which it is late; its update is then part of the present model.
    """

    silo: int
    arrays: Mapping[str, np.ndarray]
    control: Mapping[str, np.ndarray]
    metrics: dict[str, float]
    update_norm: float
    bytes: int
    moments: Mapping[str, np.ndarray] = field(default_factory=dict)
    gain_db: float | None = None
    staleness: int = 0


def admit(
    replies: Iterable[Reply],
    instruction: Instruction,
    config: FederatedConfig,
    layout: Layout,
    history: Sequence[Mapping[str, Any]] = (),
    earlier: Mapping[int, Mapping[str, np.ndarray]] = MappingProxyType({}),
) -> tuple[list[Admitted], dict[int, str]]:
    """Separate valid replies from invalid ones.

    Args:
        replies: in any order.
        instruction: the one they answer.
        config: of the federation.
        layout: of the network.
        history: the records of the completed rounds, as in ``rounds.jsonl``.
        earlier: the models of earlier rounds, by round, whose late replies count.

    Returns:
        The valid replies sorted by silo, and {silo: reason} of the rejected ones.
    """
    admitted: dict[int, Admitted] = {}
    rejected: dict[int, str] = {}
    answered: dict[int, Instruction] = {}
    for reply in sorted(replies, key=lambda reply: reply.silo):
        try:
            if not 0 <= reply.silo < config.num_silos:
                raise ValueError(f"unknown silo; the silos are 0 to {config.num_silos - 1}")
            if reply.silo in admitted:
                raise ValueError("duplicate reply; the first one counts")
            if reply.round in earlier:
                asked = answered.get(reply.round) or _earlier(instruction, reply.round, earlier[reply.round])
                answered[reply.round] = asked
                late = _checked(reply, asked, config, layout, history)
                late.arrays = Rebased(late.arrays, asked.arrays, instruction.arrays, layout.weights)
                late.staleness = instruction.round - reply.round
                admitted[reply.silo] = late
            else:
                admitted[reply.silo] = _checked(reply, instruction, config, layout, history)
        except Exception as error:  # whatever a reply holds, the others count
            log.debug("reply of silo %d", reply.silo, exc_info=True)
            rejected[reply.silo] = one_line(error)
    comparisons = (
        partial(_too_long, history, config),
        _too_large,
        partial(_implausible, instruction, config, layout),
    )
    for outliers in comparisons if config.num_silos > 1 else ():
        found = outliers(list(admitted.values()))
        rejected |= found
        admitted = {silo: reply for silo, reply in admitted.items() if silo not in found}
    return list(admitted.values()), rejected


def _earlier(instruction: Instruction, number: int, model: Mapping[str, np.ndarray]) -> Instruction:
    """Return the instruction of an earlier round, whose silos are not known any more."""
    return replace(instruction, round=number, arrays=dict(model), silos=None)


def _too_long(
    history: Sequence[Mapping[str, Any]], config: FederatedConfig, replies: Sequence[Admitted]
) -> dict[int, str]:
    """Return {silo: reason} of updates much longer than the median or, of few replies, than in the recent rounds."""
    norms, of = [reply.update_norm for reply in replies], "the median is"
    if len(norms) < _LEAST_FOR_MEDIAN:
        recent = [record["silos"].values() for record in history[-_RECENT_ROUNDS:]]
        norms, of = [silo["update_norm"] for silos in recent for silo in silos], "the median of recent rounds is"
    if not norms:
        return {}
    median = float(np.median(norms))
    long = [reply for reply in replies if reply.update_norm > config.max_norm_ratio * median]
    return {reply.silo: f"its update has norm {reply.update_norm:.4g}, {of} {median:.4g}" for reply in long}


def _too_large(replies: Sequence[Admitted]) -> dict[int, str]:
    """Return {silo: reason} of numbers of examples that are out of proportion."""
    if len(replies) < _LEAST_FOR_MEDIAN:
        return {}
    median = float(np.median([reply.metrics["examples"] for reply in replies]))
    large = [reply for reply in replies if reply.metrics["examples"] > _MAX_SIZE_RATIO * median]
    return {r.silo: f"it reports {r.metrics['examples']:.4g} examples, the median is {median:.4g}" for r in large}


def _implausible(
    instruction: Instruction, config: FederatedConfig, layout: Layout, replies: Sequence[Admitted]
) -> dict[int, str]:
    """Return {silo: reason} of norm statistics far beyond the median or, of few replies, the trained global model."""
    trained = instruction.round > 1 or bool(instruction.config["train"]["init"])
    if len(replies) < _LEAST_FOR_MEDIAN and not trained:
        return {}
    found = {}
    for mean, second in layout.moments if replies else ():
        means, seconds = [reply.arrays[mean] for reply in replies], [reply.arrays[second] for reply in replies]
        centre = instruction.arrays[mean], instruction.arrays[second]
        if len(replies) >= _LEAST_FOR_MEDIAN:
            centre = np.median(means, axis=0), np.median(seconds, axis=0)
        for reply, own in zip(replies, zip(means, seconds)):
            if (excess := statistics_excess(own, centre)) > config.max_statistics_ratio:
                found[reply.silo] = f"the statistics of {second} are {excess:.4g} times the usual ones"
    return found


def _checked(
    reply: Reply,
    instruction: Instruction,
    config: FederatedConfig,
    layout: Layout,
    history: Sequence[Mapping[str, Any]],
) -> Admitted:
    if reply.round != instruction.round:
        raise ValueError(f"answers round {reply.round}, not {instruction.round}")
    if not instruction.asks(reply.silo):
        raise ValueError("takes no part in this round")
    train = instruction.config["train"]
    metrics = checked_numbers(reply.metrics, train, config, _registered(reply.silo, history))
    decoded = _decode(reply, instruction, config, layout)
    for name, value in decoded.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinity")
    check_statistics(decoded, layout)
    control = Part(decoded, {name.removeprefix(CONTROL): name for name in decoded if name.startswith(CONTROL)})
    clip_norm = float(train["train"]["clip_norm"])
    _check_control(control, clip_norm, config.scaffold_space)
    moments = Part(decoded, {name: name for name in decoded if name.startswith(SHARED_MOMENTS["both"])})
    check_moments(moments, clip_norm)
    arrays = Part(decoded, {name: name for name in decoded if not name.startswith(COMPANIONS)})
    norm = update_norm(instruction.model, arrays, layout.shared_weights(config.norm == "local"))
    if norm == 0.0:
        raise ValueError("its update is zero: it learned nothing from its data")
    return Admitted(reply.silo, arrays, control, metrics, norm, num_bytes(reply.arrays), moments)


def _registered(silo: int, history: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of examples in the first admitted reply of a silo."""
    return next((int(r["silos"][str(silo)]["examples"]) for r in history if str(silo) in r["silos"]), None)


def _decode(
    reply: Reply, instruction: Instruction, config: FederatedConfig, layout: Layout
) -> Mapping[str, np.ndarray]:
    reference = dict(instruction.model)
    zeros = {name: np.broadcast_to(reference[name].dtype.type(0), reference[name].shape) for name in layout.weights}
    for prefix in config.companions:
        reference.update({prefix + name: zero for name, zero in zeros.items()})
    compressed = {name for name in reference if name.removeprefix(CONTROL) in layout.weights}
    return Upload(config.payload, reply.arrays, reference, compressed)


def _check_control(control: Mapping[str, np.ndarray], clip_norm: float, space: str) -> None:
    """Check that a control variate is short enough for a mean of clipped gradients, or of Adam's steps."""
    norm = float(np.sqrt(sum(float(np.sum(np.square(value, dtype=np.float64))) for value in control.values())))
    if space == "steps":
        largest = max(clip_norm, _LARGEST_STEP * sum(value.size for value in control.values()) ** 0.5)
        if norm > _CONTROL_SLACK * largest:
            raise ValueError(f"its control variate has norm {norm:.4g}, steps have at most {largest:.4g}")
    elif norm > _CONTROL_SLACK * clip_norm:
        raise ValueError(f"its control variate has norm {norm:.4g}, gradients are clipped to {clip_norm:g}")

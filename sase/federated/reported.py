"""What silos report of themselves: numbers that weigh or pace their updates, bounded before they count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sase.errors import one_line
from sase.federated.clipping import WITHIN
from sase.federated.config import FederatedConfig

_MAX_LOSS = 1e6
_MAX_DEVIATIONS = 10.0  # of noise
_TIMINGS = ("seconds", "train_began", "train_seconds")  # for the record only


def checked_numbers(
    metrics: Mapping[str, object], train: Mapping[str, Any], config: FederatedConfig, registered: int | None
) -> dict[str, float]:
    """Return the numbers of a reply that the server uses, all finite; others are dropped.

    Args:
        metrics: as in :class:`sase.federated.exchange.Reply`, possibly of any type.
        train: the training config as a mapping.
        config: of the federation.
        registered: the number of examples in the first reply of this silo that was admitted; None if there is none.

    Raises:
        ValueError: a number is missing, not finite, or not possible with this configuration.
    """
    examples, steps, bad_steps = (_count(metrics, name) for name in ("examples", "steps", "bad_steps"))
    if examples <= 0 or steps <= 0:
        raise ValueError("it reports no training steps or no examples")
    batch_size = int(train["data"]["batch_size"])
    if examples % batch_size:
        raise ValueError(f"its {examples} examples are not whole batches of {batch_size}")
    if registered is not None and examples != registered:
        raise ValueError(
            f"it reports {examples} examples and had {registered} in its first reply; its data must not change"
        )
    expected = steps_per_round(examples // batch_size, config)
    if steps + bad_steps != expected:
        raise ValueError(f"it reports {steps} + {bad_steps} steps, its {examples} examples make {expected}")
    losses = {name: _number(metrics, name) for name in ("loss", "last_loss")}
    for name, loss in losses.items():
        if abs(loss) > _MAX_LOSS:
            raise ValueError(f"its {name} is {loss:.4g}, beyond ±{_MAX_LOSS:g}")
    bits = {WITHIN: _bit(metrics, config)} if config.dp_clip_quantile else {}
    counts = {"examples": float(examples), "steps": float(steps), "bad_steps": float(bad_steps)}
    return {**counts, **losses, **bits, **{name: _timing(metrics, name) for name in _TIMINGS}}


def steps_per_round(batches_per_epoch: int, config: FederatedConfig) -> int:
    """Return the number of optimiser steps in a round of a silo with this many batches."""
    return config.local_epochs * (config.local_steps or math.ceil(config.epoch_share * batches_per_epoch))


def _bit(metrics: Mapping[str, object], config: FederatedConfig) -> float:
    """Return the noised bit of a silo, which is no further from ±½ than noise can be."""
    bit = _number(metrics, WITHIN)
    # With sampling: poisson, a silo that is drawn alone has the noise of all.
    noise = config.bit_noise * (math.sqrt(config.participants) if config.sampling == "poisson" else 1.0)
    if abs(bit) > 0.5 + _MAX_DEVIATIONS * noise:
        raise ValueError(f"its {WITHIN} is {bit:.4g}, not a bit with noise of {noise:.4g}")
    return bit


def _number(metrics: Mapping[str, object], name: str) -> float:
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its {name} is {'missing' if value is None else one_line(repr(value), 40)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"its {name} is {number}")
    return number


def _count(metrics: Mapping[str, object], name: str) -> int:
    number = _number(metrics, name)
    if number < 0 or not number.is_integer():
        raise ValueError(f"its {name} is {number:.6g}, not a count")
    return int(number)


def _timing(metrics: Mapping[str, object], name: str) -> float:
    try:
        return _number(metrics, name)
    except ValueError:
        return 0.0

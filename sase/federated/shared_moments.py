"""Adam's moments as something that silos share: what they send of them, and how a round starts from their average.

FedAdamW (Liu et al. 2025, arXiv 2510.27486) shares second moments; there, a mean per block is sent, here each value.
All moments are sent free of the bias of their start at zero, m / (1 − β^t), since silos may have taken different
numbers of steps t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from sase.federated.exchange import FIRST, SECOND

_KEYS = {FIRST: "exp_avg", SECOND: "exp_avg_sq"}  # prefix of the arrays to key of torch's state
_SLACK = 10.0  # for what corrections of drift add to gradients


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer, prefixes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the moments of an AdamW optimiser, free of bias, as float32 arrays.

    Args:
        model: whose parameters it optimises.
        optimizer: after at least one step; parameters that never had a gradient have moments 0.
        prefixes: of the moments wanted.

    Returns:
        prefix and parameter name to array.
    """
    arrays = {}
    for prefix in prefixes:
        for name, parameter in model.named_parameters():
            state = optimizer.state.get(parameter) or {}
            value = state.get(_KEYS[prefix], torch.zeros_like(parameter))
            bias = _bias(optimizer, prefix, float(state["step"])) if state else 1.0
            arrays[prefix + name] = (value / bias).detach().cpu().numpy().astype(np.float32)
    return arrays


def load_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, arrays: Mapping[str, np.ndarray], steps: int
) -> None:
    """Replace moments of an AdamW optimiser by those in ``arrays``; those that are not in it stay, or are 0.

    Args:
        model: whose parameters it optimises.
        optimizer: new, or with the state of an earlier round.
        arrays: prefix and parameter name to array, free of bias.
        steps: the number of steps that a new optimiser is to have behind it, above 0.
    """
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        if not state:
            device = parameter.device if optimizer.defaults.get("fused") else "cpu"
            state["step"] = torch.tensor(float(steps), device=device)
            state.update({key: torch.zeros_like(parameter) for key in _KEYS.values()})
        for prefix, key in _KEYS.items():
            if prefix + name in arrays:
                value = torch.as_tensor(arrays[prefix + name], device=parameter.device)
                state[key] = value * _bias(optimizer, prefix, float(state["step"]))


def restart_factor(optimizer: torch.optim.Optimizer, steps: int, step: int) -> float:
    """Return what the learning rate is multiplied by where m starts at 0 and v does not.

    AdamW has one count of steps, by which it corrects the bias of both: 1 − β₁^t for m, which needs 1 − β₁^k.

    Args:
        optimizer: an AdamW optimiser.
        steps: the number of steps it had behind it when m was set to 0.
        step: k, from 1: those since, with the coming one.
    """
    beta = optimizer.defaults["betas"][0]
    return (1.0 - beta ** (steps + step)) / (1.0 - beta**step)


def average_moments(
    replies: Sequence[Mapping[str, np.ndarray]], alphas: np.ndarray, robust: bool = False
) -> dict[str, np.ndarray]:
    """Return the moments from which the next round starts, as float32 arrays; empty without any.

    Args:
        replies: the silos' moments, prefix and parameter name to array.
        alphas: the silos' weights α, (silos,).
        robust: return the median of each value instead of ``Σ α_k m_k``, so that a few harmful silos cannot steer it.
    """
    averages = {}
    for name in replies[0] if replies else ():
        values = [np.asarray(arrays[name], dtype=np.float64) for arrays in replies]
        average = np.median(values, axis=0) if robust else sum(alpha * value for alpha, value in zip(alphas, values))
        averages[name] = np.asarray(average).astype(np.float32)
    return averages


def check_moments(arrays: Mapping[str, np.ndarray], clip_norm: float) -> None:
    """Check that moments can be those of gradients that are clipped to ``clip_norm``.

    Raises:
        ValueError: a negative second moment, or a norm above that of the largest gradient.
    """
    squares = {FIRST: 0.0, SECOND: 0.0}
    for name, value in arrays.items():
        prefix = next(prefix for prefix in squares if name.startswith(prefix))
        exact = np.asarray(value, dtype=np.float64)
        if prefix == SECOND and (exact < 0).any():
            raise ValueError(f"{name} is negative")
        squares[prefix] += float(np.sum(exact if prefix == SECOND else exact * exact))
    for prefix, square in squares.items():
        if square > (_SLACK * clip_norm) ** 2:
            raise ValueError(
                f"its moments {prefix}* are those of gradients of norm {square**0.5:.4g}, "
                f"gradients are clipped to {clip_norm:g}"
            )


def _bias(optimizer: torch.optim.Optimizer, prefix: str, steps: float) -> float:
    return 1.0 - optimizer.defaults["betas"][0 if prefix == FIRST else 1] ** steps

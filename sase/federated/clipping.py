"""What a silo does to its update before it leaves: clipping, noise, and one noised bit for an adaptive norm.

The norm follows a quantile of the norms of the silos' updates without any of them being sent (Andrew et al. 2021,
"Differentially private learning with adaptive clipping"): a silo sends whether its update was within the present norm,
as ±½ plus noise. Update and bit together are then as private as an update alone with the configured noise: of z⁻², the
noise on the bit takes (2σ_b)⁻², since a bit is moved by half a unit where the update is moved by the norm.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sase.errors import InputError
from sase.federated.config import FederatedConfig

WITHIN = "within"  # name of the bit in a silo's reply, and of the share of the silos in a round's record


def update_noise(config: FederatedConfig) -> float:
    """Return the standard deviation of the noise on an update, in units of the norm.

    It is z, or with bits (z⁻² − (2σ_b)⁻²)^−½ (Andrew et al. 2021, theorem 1).

    Raises:
        InputError: the bits alone cost more than z allows.
    """
    noise = config.dp_noise_multiplier
    if not noise or not config.dp_clip_quantile:
        return noise
    rest = noise**-2.0 - (2.0 * config.bit_noise) ** -2.0
    if rest <= 0.0:
        raise InputError(f"federated config: dp_bit_noise is {config.bit_noise:g}, too little for {noise:g}")
    return float(rest**-0.5)


def next_norm(config: FederatedConfig, norm: float, within: float) -> float:
    """Return the norm of the next round, C · exp(−η (b − γ)).

    Args:
        config: of the federation.
        norm: C, of the round.
        within: b, the share of silos whose updates were within it; with noise, so it may be outside of [0, 1].
    """
    share = min(max(within, 0.0), 1.0)
    return norm * math.exp(-config.dp_clip_lr * (share - config.dp_clip_quantile))


def share_within(config: FederatedConfig, bits: Sequence[float]) -> float:
    """Return the share of silos within the norm from their bits, ±½ with noise.

    With ``sampling: poisson`` their sum is divided by the expected number, for their number is not published.
    """
    count = config.participants if config.sampling == "poisson" else len(bits)
    return 0.5 + math.fsum(bits) / count


def released(
    changes: Sequence[np.ndarray],
    names: Sequence[str],
    config: FederatedConfig,
    generator: np.random.Generator | None = None,
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Return an update as it may leave the silo, with the numbers that go with it.

    Args:
        changes: of the trained weights, of any shapes and one float type, in which the result is as well.
        names: of these tensors; a layer is all tensors whose names differ in the last part only.
        config: of the round, with ``dp_clip_norm``; from the server.
        generator: of the noise, for studies that must be repeatable; None, as in every federation: a secret one.

    Returns:
        (the changes, clipped and with noise; ``{WITHIN: bit}`` with ``dp_clip_quantile``, else nothing)
    """
    groups = _groups(names, config.dp_clip_per)
    bound = config.dp_clip_norm / math.sqrt(len(groups))
    result: dict[int, np.ndarray] = {}
    within = True
    for group in groups:
        norm = _norm(changes[index] for index in group)
        within = within and norm <= bound
        factor = min(1.0, bound / norm) if norm > 0.0 else 1.0
        for index in group:
            scaled = changes[index].copy()
            scaled *= factor
            result[index] = scaled
    if generator is None:
        generator = np.random.default_rng(secrets.randbits(256))  # not the seed of the training, which is public
    if deviation := update_noise(config) * config.dp_clip_norm:
        for value in result.values():
            value += deviation * generator.standard_normal(value.shape)
    numbers = {}
    if config.dp_clip_quantile:
        noise = config.bit_noise * generator.standard_normal() if config.bit_noise else 0.0
        numbers[WITHIN] = (0.5 if within else -0.5) + float(noise)
    return [result[index] for index in range(len(changes))], numbers


def released_model(
    arrays: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    weights: Iterable[str],
    config: FederatedConfig,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return a trained model whose difference from the global one is :func:`released`; and the numbers with it.

    Args:
        arrays: the trained model.
        reference: the global model.
        weights: names of the trained weights.
        config: of the round. Without ``dp_clip_norm`` the model is returned as it is; with secure aggregation too, for
            which the update is released in float64 before it is masked.
    """
    if not config.dp_clip_norm or config.secure_aggregation:
        return dict(arrays), {}
    trained = set(weights)
    names = [name for name in reference if name in trained]
    changes, numbers = released([arrays[name] - reference[name] for name in names], names, config)
    moved = {name: reference[name] + change for name, change in zip(names, changes)}
    return {**arrays, **moved}, numbers


def _groups(names: Sequence[str], per: str) -> list[list[int]]:
    """Return the indices of the tensors that are clipped together."""
    keys = {"model": lambda name: "", "layer": lambda name: name.rpartition(".")[0], "tensor": lambda name: name}[per]
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(keys(name), []).append(index)
    return list(found.values())


def _norm(arrays: Iterable[np.ndarray]) -> float:
    norms = [np.linalg.norm(array.ravel()) for array in arrays]
    # In the arrays' own type, as Flower clipped: a training of an earlier version continues with the same bits.
    return float(norms[0] if len(norms) == 1 else np.sqrt(sum(norm**2 for norm in norms)))

"""Differential privacy before training: which ε a configuration reaches, and which noise a wanted ε takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from sase import markdown
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.federated.privacy import Account, account, require_accountable

_LARGEST_NOISE = 1e6
_DIGITS = 3


def accounts(config: FederatedConfig, rounds: Sequence[int]) -> list[Account]:
    """Return ε after each of these numbers of rounds.

    With ``sampling: poisson``, ε against the server depends on the draws: it is 0 here and holds before the first one.

    Raises:
        InputError: the configuration has no noise, or ε cannot be accounted for.
    """
    if not config.dp_noise_multiplier:
        raise InputError("federated config: dp_noise_multiplier is 0: there is no noise, and no ε")
    require_accountable(config)
    return [account(config, number) for number in rounds]


def table(config: FederatedConfig, found: Sequence[Account]) -> list[str]:
    """Return the accounts as a table in Markdown, a line each; a dash where ε depends on the draws."""
    drawn = config.sampling == "poisson"

    def cells(of: Account) -> list[str]:
        server = ["–"] * 2 if drawn else [f"{of.uploads:.3g}", f"{of.uploads_without:.3g}"]
        return [str(of.rounds), f"{of.models:.3g}", f"{of.models_without:.3g}", *server]

    header = [
        "rounds",
        "ε of the models, data replaced",
        "silo added or removed",
        "against the server, data replaced",
        "silo added or removed",
    ]
    return markdown.table(header, map(cells, found), "r")


def noise_for(config: FederatedConfig, epsilon: float, removal: bool = False) -> float:
    """Return the smallest noise multiplier with which the models after all rounds have at most this ε.

    Args:
        config: its own ``dp_noise_multiplier`` is not used.
        epsilon: of the models.
        removal: for adding or removing a silo, instead of replacing its data.

    Returns:
        The multiplier, rounded up to three significant digits.

    Raises:
        InputError: no noise up to 1e6 suffices, or ε cannot be accounted for.
    """
    if not 0.0 < epsilon < math.inf:
        raise InputError(f"the target ε must be a positive number, got {epsilon:g}")

    def reaches(noise: float) -> bool:
        [found] = accounts(replace(config, dp_noise_multiplier=noise), [config.num_rounds])
        return (found.models_without if removal else found.models) <= epsilon

    low, high = 0.0, 1.0
    while not reaches(high):
        low, high = high, 2.0 * high
        if high > _LARGEST_NOISE:
            raise InputError(f"no dp_noise_multiplier up to {_LARGEST_NOISE:g} gives ε ≤ {epsilon:g}")
    while high - low > 10.0**-_DIGITS * high / 10.0:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    unit = 10.0 ** (math.floor(math.log10(high)) + 1 - _DIGITS)
    return math.ceil(high / unit) * unit

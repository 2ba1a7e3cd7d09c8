"""Split whole items, such as speakers, in given proportions."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

_MAX_EXCHANGED = 1000  # keys: the exchange step is quadratic in their number
_Key = TypeVar("_Key", bound=str)


def split_proportionally(weights: Mapping[_Key, float], proportions: Sequence[float]) -> dict[_Key, int]:
    """Return key to the index of its part, such that the sums of weights are as close to the proportions as possible.

    Greedy, heaviest key first, each to the part that lacks most; then the two keys of different parts are exchanged
    (or one is moved) that improve the split most, until no exchange does. No part is empty.

    Args:
        weights: positive; at least as many as parts.
        proportions: of the parts, as in ``[1, 2, 4, 8]``.

    Raises:
        ValueError: fewer keys than parts.
    """
    shares = np.asarray(proportions, dtype=np.float64)
    if len(weights) < len(shares):
        raise ValueError(f"cannot split {len(weights)} keys into {len(shares)} parts")
    keys = sorted(weights, key=lambda key: (-weights[key], key))
    # Zeros at the end can be exchanged for a key too, which moves it.
    weight = np.array([weights[key] for key in keys] + [0.0] * len(shares), dtype=np.float64)
    wanted = shares / shares.sum() * weight.sum()
    place: np.ndarray = np.empty(len(weight), dtype=int)
    sums: np.ndarray = np.zeros(len(shares))
    place[len(keys) :] = range(len(shares))
    counts = np.zeros(len(shares), dtype=int)
    for i in range(len(keys)):
        empty = np.flatnonzero(counts == 0)
        choice = empty if len(keys) - i == len(empty) else np.arange(len(shares))
        place[i] = choice[np.argmax((wanted - sums)[choice])]
        sums[place[i]] += weight[i]
        counts[place[i]] += 1
    while len(keys) <= _MAX_EXCHANGED:  # for more keys the greedy split is close enough
        moved = weight[None] - weight[:, None]  # [i, j]: what the share of i gains, and that of j loses
        mine, other = place[:, None], place[None]
        excess = (sums - wanted)[place]
        gain = (excess[:, None] ** 2 - (excess[:, None] + moved) ** 2) / wanted[mine]
        gain += (excess[None] ** 2 - (excess[None] - moved) ** 2) / wanted[other]
        alone = np.append(counts[place[: len(keys)]] == 1, [False] * len(shares))
        nothing = np.arange(len(weight)) >= len(keys)
        gain[(mine == other) | (alone[:, None] & nothing[None]) | (nothing[:, None] & alone[None])] = 0
        i, j = map(int, np.unravel_index(np.argmax(gain), gain.shape))
        if gain[i, j] <= 1e-9 * weight.sum():
            break
        place[i], place[j] = place[j], place[i]
        sums = np.bincount(place, weight, len(shares))
        counts = np.bincount(place[: len(keys)], minlength=len(shares))
    return {key: int(place[i]) for i, key in enumerate(keys)}

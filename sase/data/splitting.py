"""Share whole things out in wanted proportions."""

import numpy as np

_MAX_EXCHANGED = 1000  # keys: the search takes a square of them


def split_proportionally(weights, shares):
    """Return {key: number of its share}: shares whose sums of weights are as near to the wanted proportions as can be.

    The heaviest goes first, to the share that lacks most; then the two keys of different shares are exchanged (or one
    is moved) that help most, as long as any do. None is left empty.

    Args:
        weights: {key: weight}, all positive, as many as shares at least.
        shares: the proportions, as in ``[1, 2, 4, 8]``.
    """
    shares = np.asarray(shares, dtype=np.float64)
    if len(weights) < len(shares):
        raise ValueError(f"{len(weights)} keys cannot be shared out to {len(shares)}")
    keys = sorted(weights, key=lambda key: (-weights[key], key))
    # The nothings at the end can be exchanged for a key as well: so it is moved.
    weight = np.array([weights[key] for key in keys] + [0.0] * len(shares), dtype=np.float64)
    wanted = shares / shares.sum() * weight.sum()
    place, sums = np.empty(len(weight), dtype=int), np.zeros(len(shares))
    place[len(keys) :] = range(len(shares))
    counts = np.zeros(len(shares), dtype=int)
    for i in range(len(keys)):
        empty = np.flatnonzero(counts == 0)
        choice = empty if len(keys) - i == len(empty) else np.arange(len(shares))
        place[i] = choice[np.argmax((wanted - sums)[choice])]
        sums[place[i]] += weight[i]
        counts[place[i]] += 1
    while len(keys) <= _MAX_EXCHANGED:  # of more, the heaviest first is near enough
        moved = weight[None] - weight[:, None]  # [i, j]: what the share of i gains, and that of j loses
        mine, other = place[:, None], place[None]
        excess = (sums - wanted)[place]
        gain = (excess[:, None] ** 2 - (excess[:, None] + moved) ** 2) / wanted[mine]
        gain += (excess[None] ** 2 - (excess[None] - moved) ** 2) / wanted[other]
        alone = np.append(counts[place[: len(keys)]] == 1, [False] * len(shares))
        nothing = np.arange(len(weight)) >= len(keys)
        gain[(mine == other) | (alone[:, None] & nothing[None]) | (nothing[:, None] & alone[None])] = 0
        i, j = np.unravel_index(np.argmax(gain), gain.shape)
        if gain[i, j] <= 1e-9 * weight.sum():
            break
        place[i], place[j] = place[j], place[i]
        sums = np.bincount(place, weight, len(shares))
        counts = np.bincount(place[: len(keys)], minlength=len(shares))
    return {key: int(place[i]) for i, key in enumerate(keys)}

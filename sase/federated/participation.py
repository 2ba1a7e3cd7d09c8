"""Which silos take part in a round, and what a late reply counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np


def sampled_silos(num_silos: int, count: int, seed: int, number: int, attempt: int) -> tuple[int, ...]:
    """Return the silos of a round, sorted: all, or ``count`` different ones, each equally likely.

    Args:
        num_silos: number of silos.
        count: how many take part.
        seed: of the experiment.
        number: of the round.
        attempt: at this round, from 0; the others have other silos, since those of one may all be absent.
    """
    if count >= num_silos:
        return tuple(range(num_silos))
    generator = np.random.default_rng([seed, number, attempt])
    return tuple(sorted(generator.choice(num_silos, count, replace=False).tolist()))


def staleness_factors(staleness: Sequence[int]) -> np.ndarray:
    """Return (1 + s)^−½ for updates to a model that is s rounds old (FedBuff, Nguyen et al. 2022): float64 (silos,)."""
    return (1.0 + np.asarray(staleness, dtype=np.float64)) ** -0.5


class Rebased(Mapping[str, np.ndarray]):
    """A late model whose update is applied to a newer one: ``new + (late − old)``, computed when it is read.

    Args:
        late: name to array.
        old: the model from which it was trained.
        new: the model to which it is applied.
        names: of the weights; all other arrays are those of ``late``.
    """

    def __init__(
        self,
        late: Mapping[str, np.ndarray],
        old: Mapping[str, np.ndarray],
        new: Mapping[str, np.ndarray],
        names: Sequence[str],
    ) -> None:
        self._late, self._old, self._new, self._weights = late, old, new, frozenset(names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._weights:
            return self._late[name]
        late, old, new = (np.asarray(of[name], dtype=np.float64) for of in (self._late, self._old, self._new))
        return np.asarray(new + (late - old))

    def __iter__(self) -> Iterator[str]:
        return iter(self._late)

    def __len__(self) -> int:
        return len(self._late)

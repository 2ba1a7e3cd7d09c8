"""The standard of evidence: paired differences of two systems on the same utterances, over several seeds each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 10000
_BATCH = 1000  # resamples in memory at a time

Values = Mapping[str, float]  # of one measure by utterance


@dataclass(frozen=True)
class Difference:
    """A paired difference of one measure.

    Attributes:
        mean: over utterances and seeds.
        low, high: bootstrap interval of the mean over utterances; NaN if it could not be computed.
        seeds: the mean over utterances for each seed.
        count: utterances with a value in both systems and for every seed.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    count: int

    @property
    def deviation(self) -> float:
        """Standard deviation of the seeds' means; NaN for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else math.nan

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0 and all seeds, at least two, agree in that sign; otherwise 0."""
        if len(self.seeds) < 2:
            return 0
        if self.low > 0 and min(self.seeds) > 0:
            return 1
        return -1 if self.high < 0 and max(self.seeds) < 0 else 0


def paired_difference(
    first: Mapping[int, Values], second: Mapping[int, Values], level: float = LEVEL, resamples: int = RESAMPLES
) -> Difference:
    """Return the :class:`Difference` first − second.

    The interval covers the choice of utterances: the differences of an utterance are averaged over seeds, and the
    averages are resampled. Variation between seeds shows in the seeds' own means, not in the interval.

    Args:
        first, second: {seed: {utterance: value}}; only common seeds and utterances count, NaN counts as missing.
        level, resamples: as for :func:`bootstrap_interval`.

    Raises:
        ValueError: no seed or no utterance in common.
    """
    seeds = [seed for seed in first if seed in second]
    tables = [system[seed] for system in (first, second) for seed in seeds]
    utts = _common(tables)
    if not utts:
        raise ValueError("paired_difference needs a seed and an utterance that both systems have, got none")
    differences = np.array([[first[seed][utt] - second[seed][utt] for utt in utts] for seed in seeds])
    values = differences.mean(0)
    low, high = bootstrap_interval(values, level, resamples)
    return Difference(float(values.mean()), low, high, tuple(map(float, differences.mean(1))), len(utts))


def worst_group_difference(
    first: Mapping[int, Mapping[str, Values]],
    second: Mapping[int, Mapping[str, Values]],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Difference:
    """Return the :class:`Difference` first − second of the lowest group mean, such as that of the worst silo.

    Each seed and system has its own worst group. Utterances are resampled within their groups.

    Args:
        first, second: {seed: {group: {utterance: value}}}; otherwise as for :func:`paired_difference`.
        level, resamples: as for :func:`bootstrap_interval`.

    Raises:
        ValueError: no seed, or no group with utterances, in common.
    """
    seeds = [seed for seed in first if seed in second]
    tables = [system[seed] for system in (first, second) for seed in seeds]
    common = [group for group in (tables[0] if tables else ()) if all(group in table for table in tables)]
    utts = {group: _common([table[group] for table in tables]) for group in common}
    groups = [group for group in common if utts[group]]
    if not groups:
        raise ValueError("worst_group_difference needs a seed and a group that both systems have, got none")
    # of each group: (system, seed, utterance)
    values = [
        np.array([[[system[seed][g][u] for u in utts[g]] for seed in seeds] for system in (first, second)])
        for g in groups
    ]

    def by_seed(*indices: np.ndarray) -> np.ndarray:
        """Return (seed, ...) for one (..., utterance) index of each group."""
        means = [group[:, :, index].mean(-1) for group, index in zip(values, indices)]
        lowest = np.min(means, axis=0)
        return lowest[0] - lowest[1]

    places = [np.arange(group.shape[-1]) for group in values]
    differences = by_seed(*places)

    def statistic(*indices: np.ndarray, axis: int) -> np.ndarray:
        return by_seed(*indices).mean(0)

    low, high = _percentile_interval(places, statistic, level, resamples, seed=0)
    count = sum(map(len, places))
    return Difference(float(differences.mean()), low, high, tuple(map(float, differences)), count)


def difference_of_means(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Return the :class:`Difference` of systems of which only the means of each seed are known: without interval.

    Raises:
        ValueError: no seed in common.
    """
    differences = tuple(first[seed] - second[seed] for seed in first if seed in second)
    if not differences:
        raise ValueError("difference_of_means needs a seed that both systems have, got none")
    return Difference(float(np.mean(differences)), math.nan, math.nan, differences, 0)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean (Efron and Tibshirani, 1993, chapter 13), as (low, high).

    Args:
        values: (count,); the interval of fewer than two is NaN.
        level: of confidence.
        resamples: samples of ``count`` values that are drawn.
        seed: of the draws.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"bootstrap_interval needs (count,), got {values.shape}")
    return _percentile_interval([values], np.mean, level, resamples, seed)


def _common(tables: Sequence[Values]) -> list[str]:
    """Return the utterances with a finite value in every table."""
    return [
        utt for utt in (tables[0] if tables else ()) if all(math.isfinite(table.get(utt, math.nan)) for table in tables)
    ]


def _percentile_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], level: float, resamples: int, seed: int
) -> tuple[float, float]:
    if min(map(len, samples)) < 2:
        return math.nan, math.nan
    from scipy import stats

    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=_BATCH,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)

"""How sure a difference between two systems is that were scored on the same utterances, with several seeds each."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
REPEATS = 10000
_BLOCK = 1000  # of the resamples drawn at a time: bounded memory for any number of utterances


@dataclass(frozen=True)
class Difference:
    """A paired difference of one measure.

    Attributes:
        mean: over utterances and seeds.
        low, high: bootstrap interval of the mean over utterances; NaN where there are less than two.
        seeds: the mean over utterances for each seed.
        count: utterances that have a value in both, with every seed.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    count: int

    @property
    def deviation(self):
        """Standard deviation of the seeds' means; NaN for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else float("nan")

    @property
    def sign(self):
        """1 or -1 where the interval leaves out 0 and all of several seeds have that sign; else 0, not to rely on."""
        if len(self.seeds) < 2:
            return 0
        if self.low > 0 and min(self.seeds) > 0:
            return 1
        return -1 if self.high < 0 and max(self.seeds) < 0 else 0


def paired_difference(first, second, level=LEVEL, repeats=REPEATS, seed=0):
    """Return the :class:`Difference` first − second.

    The interval is over utterances: for each, the differences with all seeds are averaged, and those averages are drawn
    again. What another seed would change is told by the seeds' own means, not by the interval.

    Args:
        first, second: {seed: {utt: value}}; only seeds and utterances that both have count, and NaN counts as missing.
        level, repeats, seed: as for :func:`bootstrap_interval`.

    Raises:
        ValueError: they have no seed or no utterance in common.
    """
    seeds = [each for each in first if each in second]
    tables = [table[each] for table in (first, second) for each in seeds]
    utts = [utt for utt in (tables[0] if tables else ()) if all(np.isfinite(t.get(utt, np.nan)) for t in tables)]
    if not utts:
        raise ValueError("paired_difference needs a seed and an utterance that both systems have, got none")
    differences = np.array([[first[each][utt] - second[each][utt] for utt in utts] for each in seeds])
    values = differences.mean(0)
    low, high = bootstrap_interval(values, level, repeats, seed)
    return Difference(float(values.mean()), low, high, tuple(map(float, differences.mean(1))), len(utts))


def bootstrap_interval(values, level=LEVEL, repeats=REPEATS, seed=0):
    """Return the percentile bootstrap interval of a mean (Efron and Tibshirani, 1993, chapter 13), as (low, high).

    Args:
        values: (count,); of less than two, nothing can be said: NaN.
        level: of confidence.
        repeats: how many samples of ``count`` values are drawn.
        seed: of the draws.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"bootstrap_interval needs (count,), got {values.shape}")
    if len(values) < 2:
        return float("nan"), float("nan")
    rng, means = np.random.default_rng(seed), []
    for start in range(0, repeats, _BLOCK):
        index = rng.integers(len(values), size=(min(_BLOCK, repeats - start), len(values)))
        means.append(values[index].mean(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

"""The standard of evidence: paired differences and their intervals against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from sase.studies.evidence import (
    bootstrap_interval,
    difference_of_means,
    paired_difference,
    worst_group_difference,
)


def test_the_interval_of_two_values_is_binomial():
    # Of n values, k of them 1, the mean of a resample is Binomial(n, k / n) / n.
    for count, ones in ((20, 5), (100, 50), (7, 3)):
        values = np.arange(count) < ones
        expected = [stats.binom.ppf(q, count, ones / count) / count for q in (0.025, 0.975)]
        low, high = bootstrap_interval(values, resamples=40000)
        assert (low, high) == pytest.approx(expected, abs=1.01 / count)
        assert low < ones / count < high


def test_the_interval_of_many_values_is_normal():
    values = np.random.default_rng(3).normal(2.0, 3.0, 800)
    half = 1.959964 * values.std() / math.sqrt(len(values))
    low, high = bootstrap_interval(values, resamples=40000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03 * half)
    low90, high90 = bootstrap_interval(values, level=0.90, resamples=40000)
    assert (high90 - low90) / (high - low) == pytest.approx(1.644854 / 1.959964, rel=0.03)


@pytest.mark.recipe
def test_coverage_of_intervals():
    rng = np.random.default_rng(0)
    trials = [bootstrap_interval(rng.normal(0.0, 1.0, 60), resamples=400, seed=i) for i in range(400)]
    covered = np.mean([low <= 0.0 <= high for low, high in trials])
    assert 0.91 <= covered <= 0.98


def test_an_interval_is_equivariant_and_depends_on_its_seed():
    values = np.random.default_rng(1).gamma(2.0, size=50)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(values) == (low, high) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval(5.0 - 2.0 * values) != (low, high)
    assert bootstrap_interval(3.0 * values + 1.0) == pytest.approx((3 * low + 1, 3 * high + 1))
    assert bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25)
    assert all(math.isnan(end) for end in bootstrap_interval([1.0]))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        bootstrap_interval(np.zeros((2, 3)))


def systems(gain, noise=0.0, seeds=(0, 1, 2), count=40):
    """Two systems on the same utterances, which differ in difficulty by far more than the systems do."""
    rng = np.random.default_rng(7)
    hard = rng.normal(0.0, 10.0, count)
    second = {seed: {f"u{i}": hard[i] + rng.normal(0, noise) for i in range(count)} for seed in seeds}
    first = {seed: {u: v + gain + rng.normal(0, noise) for u, v in second[seed].items()} for seed in seeds}
    return first, second


def test_the_difficulty_of_utterances_cancels():
    difference = paired_difference(*systems(0.5))
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.5, 0.5, 0.5))
    assert difference.seeds == pytest.approx((0.5, 0.5, 0.5))
    assert difference.deviation == pytest.approx(0.0)
    assert difference.count == 40


def test_mean_deviation_and_sign_over_seeds():
    second = {seed: {"a": 0.0, "b": 0.0} for seed in range(3)}
    first = {0: {"a": 1.0, "b": 3.0}, 1: {"a": 2.0, "b": 4.0}, 2: {"a": 3.0, "b": 5.0}}
    difference = paired_difference(first, second)
    assert difference.seeds == (2.0, 3.0, 4.0)
    assert difference.mean == 3.0
    assert difference.deviation == pytest.approx(1.0)
    assert difference.low == 2.0
    assert difference.high == 4.0
    assert difference.sign == 1
    assert paired_difference(second, first).sign == -1
    first[0] = {"a": -9.0, "b": 8.0}  # one seed disagrees
    assert paired_difference(first, second).sign == 0
    single = paired_difference({0: first[1]}, {0: second[1]})
    assert math.isnan(single.deviation)
    assert single.low > 0
    assert single.sign == 0


def test_noise_alone_has_no_sign():
    difference = paired_difference(*systems(0.0, noise=1.0))
    assert difference.sign == 0
    assert difference.low < difference.mean < difference.high


def test_only_common_utterances_and_seeds_count():
    first, second = systems(1.0)
    del first[2]["u3"], second[0]["u5"]
    first[1]["u7"] = math.nan
    second[9] = second[0]
    assert paired_difference(first, second).count == 37
    del first[2], second[1]
    assert len(paired_difference(first, second).seeds) == 1
    for nothing in ({}, {5: {"u0": 1.0}}, {0: {"other": 1.0}}):
        with pytest.raises(ValueError, match="none"):
            paired_difference(nothing, second)


def test_the_worst_group_may_differ_between_systems():
    low = {"u0": 1.0, "u1": 3.0, "u2": 2.0}
    second = {seed: {"a": low, "b": {"v0": 5.0, "v1": 6.0}} for seed in range(2)}
    first = {seed: {"a": {utt: value + 9.0 for utt, value in low.items()}, "b": second[seed]["b"]} for seed in range(2)}
    difference = worst_group_difference(first, second)
    assert difference.mean == pytest.approx(5.5 - 2.0)  # b is the worst of the first system, a of the second
    assert difference.seeds == (3.5, 3.5)
    assert difference.count == 5
    # bounds of what resamples of a (1 to 3) and b (5 to 6) can give
    assert 5.0 - 3.0 <= difference.low < 3.5 < difference.high <= 6.0 - 1.0
    assert difference.sign == 1
    assert worst_group_difference(second, first).sign == -1


def test_equal_shifts_of_all_groups_are_the_difference_of_the_worst():
    rng = np.random.default_rng(2)
    second = {s: {g: {f"{g}{i}": v for i, v in enumerate(rng.normal(size=9))} for g in "abc"} for s in range(3)}
    first = {s: {g: {u: v + 0.25 for u, v in table.items()} for g, table in second[s].items()} for s in second}
    difference = worst_group_difference(first, second)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_group_of_one_utterance_has_no_interval():
    table = {seed: {"a": {"u": 1.0}, "b": {"v": 2.0, "w": 3.0}} for seed in range(2)}
    difference = worst_group_difference(table, table)
    assert math.isnan(difference.low)
    assert difference.sign == 0
    with pytest.raises(ValueError, match="none"):
        worst_group_difference({0: {}}, {0: {}})


def test_means_alone_have_no_interval():
    difference = difference_of_means({0: 1.0, 1: 2.0, 3: 9.0}, {0: 0.5, 1: 1.0})
    assert difference.seeds == (0.5, 1.0)
    assert difference.mean == 0.75
    assert math.isnan(difference.high)
    assert difference.sign == 0
    with pytest.raises(ValueError, match="none"):
        difference_of_means({0: 1.0}, {1: 1.0})

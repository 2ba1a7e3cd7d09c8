"""Paired differences and their intervals against closed forms."""

import math

import numpy as np
import pytest

from sase.studies.evidence import bootstrap_interval, paired_difference


def test_of_two_values_the_interval_is_the_binomial_one():
    # Of n values, k of them 1, the mean of a resample is Binomial(n, k / n) / n.
    stats = pytest.importorskip("scipy.stats")
    for count, ones in ((20, 5), (100, 50), (7, 3)):
        values = np.arange(count) < ones
        expected = [stats.binom.ppf(q, count, ones / count) / count for q in (0.025, 0.975)]
        low, high = bootstrap_interval(values, repeats=40000)
        assert (low, high) == pytest.approx(expected, abs=1.01 / count)
        assert low < ones / count < high


def test_of_many_values_the_interval_is_the_normal_one():
    values = np.random.default_rng(3).normal(2.0, 3.0, 800)
    half = 1.959964 * values.std() / math.sqrt(len(values))
    low, high = bootstrap_interval(values, repeats=40000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03 * half)
    low90, high90 = bootstrap_interval(values, level=0.90, repeats=40000)
    assert (high90 - low90) / (high - low) == pytest.approx(1.644854 / 1.959964, rel=0.03)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    trials = [bootstrap_interval(rng.normal(0.0, 1.0, 60), repeats=400, seed=i) for i in range(400)]
    covered = np.mean([low <= 0.0 <= high for low, high in trials])
    assert 0.91 <= covered <= 0.98


def test_an_interval_moves_and_scales_with_its_values_and_comes_from_its_seed():
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


def test_what_makes_utterances_hard_is_no_part_of_the_difference():
    told = paired_difference(*systems(0.5))
    assert (told.mean, told.low, told.high) == pytest.approx((0.5, 0.5, 0.5))
    assert told.seeds == pytest.approx((0.5, 0.5, 0.5))
    assert told.deviation == pytest.approx(0.0)
    assert told.count == 40


def test_mean_deviation_and_sign_over_seeds():
    second = {seed: {"a": 0.0, "b": 0.0} for seed in range(3)}
    first = {0: {"a": 1.0, "b": 3.0}, 1: {"a": 2.0, "b": 4.0}, 2: {"a": 3.0, "b": 5.0}}
    told = paired_difference(first, second)
    assert told.seeds == (2.0, 3.0, 4.0)
    assert told.mean == 3.0
    assert told.deviation == pytest.approx(1.0)
    assert told.low == 2.0
    assert told.high == 4.0
    assert told.sign == 1
    assert paired_difference(second, first).sign == -1
    first[0] = {"a": -9.0, "b": 8.0}  # one seed says otherwise
    assert paired_difference(first, second).sign == 0
    single = paired_difference({0: first[1]}, {0: second[1]})
    assert math.isnan(single.deviation)
    assert single.low > 0
    assert single.sign == 0


def test_a_difference_that_noise_makes_is_none():
    told = paired_difference(*systems(0.0, noise=1.0))
    assert told.sign == 0
    assert told.low < told.mean < told.high


def test_only_what_both_have_counts():
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

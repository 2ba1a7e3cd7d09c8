"""The mathematics of a round, against closed forms."""

import numpy as np
import pytest

from sase.federated.aggregation import (
    Rule,
    aggregate,
    combine,
    moving_average,
    nova_factors,
    silo_weights,
    softmax,
)
from sase.federated.config import FederatedConfig
from sase.federated.layout import Layout
from sase.federated.moments import pool_moments
from sase.federated.server_optimiser import ServerOptimiser

NORM = ("n.gain", "n.running_mean", "n.running_cov", "n.count")
LAYOUT = Layout(("a.weight", "n.gain"), (("n.running_mean", "n.running_cov"),), ("n.count",), frozenset(NORM))


def model(generator):
    return {
        "a.weight": generator.standard_normal((3, 4)).astype(np.float32),
        "n.gain": generator.standard_normal(4).astype(np.float32),
        "n.running_mean": generator.standard_normal(4).astype(np.float32),
        "n.running_cov": np.abs(generator.standard_normal((3, 2))).astype(np.float32),
        "n.count": np.int64(generator.integers(1, 100)),
    }


@pytest.fixture
def models():
    generator = np.random.default_rng(0)
    return [model(generator) for _ in range(4)]


def test_silo_weights_follow_their_formulas():
    n, losses, gains = [100, 200, 400, 800], [-9.0, -4.0, -6.0, -5.0], [0.5, -1.0, 0.0, 2.0]
    np.testing.assert_allclose(silo_weights("examples", n), np.array(n) / 1500, rtol=1e-15)
    np.testing.assert_allclose(silo_weights("uniform", n), 0.25)
    for name, sign in (("loss", -1), ("fair", 1)):
        powers = np.exp(sign * np.array(losses) / 3.0)
        np.testing.assert_allclose(silo_weights(name, n, losses, tau=3.0), powers / powers.sum(), rtol=1e-12)
    powers = np.array(n) ** 0.5 * np.exp(np.array(gains) / 2.0)
    expected = 0.1 + 0.6 * powers / powers.sum()
    np.testing.assert_allclose(
        silo_weights("sase", n, losses, gains, tau=2.0, gamma=0.5, alpha_min=0.1), expected, rtol=1e-12
    )


@pytest.mark.parametrize("strategy", ["examples", "uniform", "loss", "fair", "sase"])
def test_silo_weights_sum_to_one_for_extreme_values(strategy):
    alphas = silo_weights(strategy, [1, 1e6, 3], [-900.0, 900.0, 0.0], [300.0, -300.0, 5.0], 0.5, 1.0, 0.05)
    assert np.isfinite(alphas).all()
    assert (alphas >= 0).all()
    assert alphas.sum() == pytest.approx(1.0, abs=1e-12)
    if strategy == "sase":
        assert alphas.min() >= 0.05


def test_what_a_lie_about_examples_gains():
    """The weight of one of 4 silos of 1,000 examples that reports more of them."""
    default = FederatedConfig().max_weight

    def gained(reported, strategy="examples", max_weight=default):
        return silo_weights(strategy, [1000, 1000, 1000, reported], max_weight=max_weight)[3]

    assert [gained(reported) for reported in (1000, 2000, 10**6)] == pytest.approx([0.25, 0.4, 0.6])
    assert [gained(10**6, max_weight=limit) for limit in (0.375, 1e-6)] == pytest.approx([0.375, 0.375])
    assert gained(10**6, "uniform") == pytest.approx(0.25)


def test_larger_gain_gives_larger_weight():
    alphas = silo_weights("sase", [5, 5, 5], [0.0] * 3, [1.0, 3.0, -2.0], 1.0, 1.0, 0.0)
    assert list(np.argsort(alphas)) == [2, 0, 1]
    np.testing.assert_allclose(alphas, softmax([1, 3, -2]))


def test_plain_aggregation_is_the_weighted_update(models):
    reference, *silos = models
    alphas = np.array([0.2, 0.3, 0.5])
    for rate in (1.0, 0.7):
        result = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser("plain", rate))
        expected = reference["a.weight"].astype(np.float64)
        for alpha, silo in zip(alphas, silos):
            expected = expected - rate * alpha * (reference["a.weight"].astype(np.float64) - silo["a.weight"])
        np.testing.assert_allclose(result["a.weight"], expected, rtol=1e-6)
        assert result["a.weight"].dtype == np.float32
        assert result["n.count"] == max(silo["n.count"] for silo in silos)
        assert result["n.count"].dtype == np.int64


def test_single_silo_is_returned_bit_for_bit(models):
    reference, silo = models[:2]
    reference["a.weight"][0, 0], silo["a.weight"][0, 0] = 0.5, 1e-12  # cancellation would lose the second
    result = aggregate(reference, [silo], np.array([1.0]), LAYOUT, ServerOptimiser(), nova_factors([1.0], [17]))
    assert all(np.array_equal(result[name], silo[name]) for name in silo)


def test_pooled_moments_equal_those_of_all_data():
    generator = np.random.default_rng(1)
    parts = [generator.standard_normal((count, 6)) * 2 + generator.standard_normal(6) * 50 for count in (100, 300, 50)]
    alphas = np.array([100, 300, 50]) / 450

    def moments(x):
        real, imag = (x - x.mean(0))[:, :3], (x - x.mean(0))[:, 3:]
        return x.mean(0), np.stack([(real**2).mean(0), (imag**2).mean(0), (real * imag).mean(0)])

    means, covs = zip(*map(moments, parts))
    mean, cov = pool_moments(means, covs, alphas)
    expected = moments(np.concatenate(parts))
    np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(cov, expected[1], rtol=1e-10)
    mean, variance = pool_moments(means, [part.var(0) for part in parts], alphas)
    np.testing.assert_allclose(variance, np.concatenate(parts).var(0), rtol=1e-10)


def test_fednova_normalises_by_steps():
    """Three silos with equal mean gradient g per step: the update is τ_eff · g for any numbers of steps."""
    alphas, steps = np.array([0.2, 0.3, 0.5]), [10, 40, 5]
    reference, gradient = {"w": np.ones(3)}, np.array([0.1, -0.2, 0.3])
    silos = [{"w": reference["w"] - count * gradient} for count in steps]
    result = combine(reference, silos, alphas * nova_factors(alphas, steps))
    np.testing.assert_allclose(result["w"], reference["w"] - (0.2 * 10 + 0.3 * 40 + 0.5 * 5) * gradient, rtol=1e-12)
    np.testing.assert_allclose(nova_factors(alphas, [7, 7, 7]), 1.0)


def test_server_optimisers_follow_their_recursions():
    deltas = np.array([0.3, -0.1, 0.2])
    rate, beta, beta2, eps = 0.1, 0.9, 0.99, 1e-3
    for name in ("momentum", "adam", "yogi"):
        optimiser = ServerOptimiser(name, rate, beta, beta2, eps)
        w, first, second = 1.0, 0.0, eps**2
        weights = {"w": np.array([w])}
        for delta in deltas:
            silo = {"w": weights["w"] + delta}
            weights = optimiser.step(weights, combine(weights, [silo], [1.0]), [silo], [1.0])
            if name == "momentum":
                first = beta * first + delta
                w += rate * first
            else:
                first = beta * first + (1 - beta) * delta
                if name == "adam":
                    second = beta2 * second + (1 - beta2) * delta**2
                else:
                    second = second - (1 - beta2) * delta**2 * np.sign(second - delta**2)
                w += rate * first / (np.sqrt(second) + eps)
            assert weights["w"][0] == pytest.approx(w, rel=1e-12)
        again = ServerOptimiser(name, rate, beta, beta2, eps)
        again.load(optimiser.state())
        assert again.state() == optimiser.state()


def test_server_optimisers_never_touch_norm_statistics(models):
    reference, *silos = models
    alphas = np.array([0.2, 0.3, 0.5])
    plain = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser())
    adam = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser("adam", 0.5))
    for name in ("n.running_mean", "n.running_cov", "n.count"):
        assert np.array_equal(plain[name], adam[name])
    assert not np.allclose(plain["a.weight"], adam["a.weight"])
    assert not np.allclose(plain["n.gain"], adam["n.gain"])
    apart = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser("adam", 0.5), rule=Rule(local_norms=True))
    np.testing.assert_array_equal(apart["n.gain"], plain["n.gain"])  # FedBN: the plain average
    np.testing.assert_array_equal(apart["a.weight"], adam["a.weight"])


def test_moving_average_pools_norm_statistics(models):
    average, newest = models[:2]
    result = moving_average(average, newest, 0.8, LAYOUT)
    for name in ("a.weight", "n.gain", "n.running_mean"):
        np.testing.assert_allclose(result[name], 0.8 * average[name] + 0.2 * newest[name], rtol=1e-6, atol=1e-7)
    offset = average["n.running_mean"] - newest["n.running_mean"]
    real, imag = np.split(offset, 2)
    between = 0.16 * np.stack([real**2, imag**2, real * imag])
    expected = 0.8 * average["n.running_cov"] + 0.2 * newest["n.running_cov"] + between
    np.testing.assert_allclose(result["n.running_cov"], expected, rtol=1e-6)
    assert result["n.count"] == newest["n.count"]
    assert {name: value.dtype for name, value in result.items()} == {name: newest[name].dtype for name in newest}

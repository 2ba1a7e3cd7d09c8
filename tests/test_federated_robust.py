"""Robust aggregation and bounded weights, against closed forms and Flower's strategies."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum
from flwr.supercore.task_identity import TaskIdentity

from helpers.federation import fed_config
from sase.federated.admission import Admitted
from sase.federated.aggregation import (
    STRATEGIES,
    Rule,
    aggregate,
    bounded_factors,
    largest_weight,
    limited,
    nova_factors,
    silo_weights,
)
from sase.federated.global_model import _weights
from sase.federated.layout import Layout
from sase.federated.moments import pool_moments
from sase.federated.robust import AGGREGATIONS, SiloUpdates
from sase.federated.server_optimiser import ServerOptimiser

NORM = ("n.gain", "n.running_mean", "n.running_cov", "n.count")
LAYOUT = Layout(("a.weight", "n.gain"), (("n.running_mean", "n.running_cov"),), ("n.count",), frozenset(NORM))
ROBUST = [name for name in AGGREGATIONS if name not in ("mean", "clipped_mean")]


def model(generator, scale=1.0):
    variances = np.abs(generator.standard_normal((2, 2))) + 0.1
    mixed = 0.5 * np.sqrt(variances[0] * variances[1])
    return {
        "a.weight": (scale * generator.standard_normal((3, 4))).astype(np.float32),
        "n.gain": (scale * generator.standard_normal(4)).astype(np.float32),
        "n.running_mean": generator.standard_normal(4).astype(np.float32),
        "n.running_cov": np.stack([*variances, mixed]).astype(np.float32),
        "n.count": np.int64(generator.integers(1, 100)),
    }


def moved(reference, generator, length=0.1):
    """Return a model near another one."""
    return {
        n: (v + length * generator.standard_normal(v.shape)).astype(v.dtype) if n in LAYOUT.weights else v
        for n, v in reference.items()
    }


@pytest.fixture
def models():
    generator = np.random.default_rng(0)
    reference = model(generator)
    return reference, [moved(reference, generator) for _ in range(7)]


def combined(reference, silos, name, **values):
    alphas = np.full(len(silos), 1.0 / len(silos))
    return aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser(), rule=Rule(name, **values))


def flowers(strategy, silos):
    """Return what a strategy of Flower makes of the silos' weights."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    replies = []
    for silo in silos:
        arrays = ArrayRecord({name: Array(silo[name].astype(np.float64)) for name in LAYOUT.weights})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1.0})})
        query = Message(RecordDict({}), 5, MessageType.TRAIN)
        query.metadata.__dict__["_message_id"] = "m"
        replies.append(Message(content, reply_to=query))
    result, _ = strategy.aggregate_train(1, replies)
    return {name: array.numpy() for name, array in result.items()}


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_the_median_is_that_of_numpy_and_of_flower(models, count):
    reference, silos = models[0], models[1][:count]
    result, flower = combined(reference, silos, "median"), flowers(FedMedian(), silos)
    for name in LAYOUT.weights:
        expected = np.median([silo[name].astype(np.float64) for silo in silos], axis=0)
        np.testing.assert_allclose(result[name], expected, rtol=1e-6)
        np.testing.assert_allclose(result[name], flower[name], rtol=1e-6)
        assert result[name].dtype == np.float32


@pytest.mark.parametrize("count, share", [(4, 0.25), (7, 0.28), (5, 0.2)])
def test_the_trimmed_mean_is_flowers(models, count, share):
    reference, silos = models[0], models[1][:count]
    trimmed = SiloUpdates(np.ones(count) / count, lambda: None, share).num_poisoned
    flower = flowers(FedTrimmedAvg(beta=trimmed / count + 1e-9), silos)
    result = combined(reference, silos, "trimmed_mean", max_poisoned=share)
    for name in LAYOUT.weights:
        np.testing.assert_allclose(result[name], flower[name], rtol=1e-6)


@pytest.mark.parametrize("count, poisoned", [(3, 1), (4, 1), (7, 2)])
def test_krum_selects_flowers_silo(models, count, poisoned):
    reference, silos = models[0], models[1][:count]
    result = combined(reference, silos, "krum", max_poisoned=poisoned / count)
    flower = flowers(Krum(num_malicious_nodes=poisoned), silos)
    for name in LAYOUT.weights:
        np.testing.assert_array_equal(result[name], flower[name].astype(np.float32))


def test_the_geometric_median_minimises_the_sum_of_distances():
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal((5, 3))
    shares = AGGREGATIONS["geometric_median"](SiloUpdates(np.full(5, 0.2), lambda: matrix))
    assert shares.sum() == pytest.approx(1.0)

    def total(point):
        return np.linalg.norm(matrix - point, axis=1).sum()

    found = shares @ matrix
    for _ in range(200):
        assert total(found) <= total(found + 0.05 * generator.standard_normal(3)) + 1e-9
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])  # two of three at the same point
    shares = AGGREGATIONS["geometric_median"](SiloUpdates(np.full(3, 1 / 3), lambda: corners))
    np.testing.assert_allclose(shares @ corners, 0.0, atol=1e-5)


def test_long_updates_are_clipped_to_the_median_norm(models):
    reference, silos = models[0], models[1][:3]
    alphas = np.array([0.2, 0.3, 0.5])
    result = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser(), rule=Rule("clipped_mean"))
    updates = [
        np.concatenate([(s[n].astype(np.float64) - reference[n]).ravel() for n in LAYOUT.weights]) for s in silos
    ]
    norms = np.array([np.linalg.norm(update) for update in updates])
    total = sum(a * u * min(1.0, np.median(norms) / norm) for a, u, norm in zip(alphas, updates, norms))
    got = np.concatenate([(result[n].astype(np.float64) - reference[n]).ravel() for n in LAYOUT.weights])
    np.testing.assert_allclose(got, total, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_one_silo_is_returned_bit_for_bit(models, name):
    reference, silo = models[0], models[1][0]
    reference["a.weight"][0, 0], silo["a.weight"][0, 0] = 0.5, 1e-12  # cancellation would lose the second
    result = combined(reference, [silo], name)
    assert all(np.array_equal(result[key], silo[key]) for key in silo)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_equal_silos_are_returned(models, name):
    reference, silo = models[0], models[1][0]
    result = combined(reference, [silo] * 5, name)
    for key in silo:
        np.testing.assert_allclose(result[key], silo[key], rtol=1e-6)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("local_norms", [False, True])
def test_few_harmful_silos_do_not_move_the_model_far(models, name, local_norms):
    reference, silos = models
    harmful = [{n: v - 1e3 if n in LAYOUT.weights else v for n, v in silo.items()} for silo in silos[:2]]
    result = combined(reference, [*harmful, *silos[2:]], name, max_poisoned=0.28, local_norms=local_norms)
    for key in LAYOUT.weights:
        honest = np.array([silo[key] for silo in silos[2:]], np.float64)
        assert (np.abs(result[key] - honest.mean(0)) < 0.5).all()


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_harmful_statistics_do_not_count_and_covariances_stay_possible(models, name):
    generator = np.random.default_rng(5)
    reference, silos = models[0], [model(generator) for _ in range(5)]
    silos[0]["n.running_mean"] = silos[0]["n.running_mean"] + np.float32(1e4)
    silos[1]["n.running_cov"] = silos[1]["n.running_cov"] * np.float32(1e8)
    result = combined(reference, silos, name, max_poisoned=0.4)
    assert (np.abs(result["n.running_mean"]) < 5).all()
    assert (result["n.running_cov"][:2] < 50).all()
    real, imag, mixed = result["n.running_cov"].astype(np.float64)
    assert (mixed**2 <= real * imag * (1 + 1e-5)).all()
    assert result["n.count"] == max(silo["n.count"] for silo in silos)


def test_the_statistics_of_a_selected_silo_are_its_own(models):
    generator = np.random.default_rng(6)
    reference = models[0]
    silos = [{**model(generator), **{n: s[n] for n in LAYOUT.weights}} for s in models[1][:5]]
    result = combined(reference, silos, "krum")
    chosen = next(s for s in silos if np.array_equal(s["a.weight"], result["a.weight"]))
    np.testing.assert_array_equal(result["n.running_cov"], chosen["n.running_cov"])
    shares = np.array([0.25, 0.75])
    mean, second = pool_moments(
        [s["n.running_mean"] for s in silos[:2]], [s["n.running_cov"] for s in silos[:2]], shares
    )
    mixed = aggregate(reference, silos[:2], shares, LAYOUT, ServerOptimiser())
    np.testing.assert_allclose(mixed["n.running_mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(mixed["n.running_cov"], second, rtol=1e-6)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_a_server_optimiser_moves_along_the_combined_update(models, name):
    """With a learning rate of ½, plain or by momentum in the first round, the model moves half as far."""
    reference, silos = models[0], models[1][:4]
    alphas, rule = np.array([0.1, 0.2, 0.3, 0.4]), Rule(name)
    whole = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser(), rule=rule)
    for optimiser in (ServerOptimiser("plain", 0.5), ServerOptimiser("momentum", 0.5)):
        half = aggregate(reference, silos, alphas, LAYOUT, optimiser, rule=rule)
        expected = 0.5 * (whole["a.weight"].astype(np.float64) + reference["a.weight"])
        np.testing.assert_allclose(half["a.weight"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 16])
def test_no_silo_outweighs_the_limit(strategy, count):
    examples, losses, gains = np.ones(count), np.zeros(count), np.zeros(count)
    examples[0], losses[-1], gains[0] = 1e9, 1e5, 1e5
    alphas = silo_weights(strategy, examples, losses, gains, max_weight=0.6)
    assert alphas.sum() == pytest.approx(1.0, abs=1e-12)
    assert (alphas >= 0).all()
    assert alphas.max() <= min(1.0, max(0.6, 1.5 / count)) + 1e-12


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_a_silo_that_claims_few_steps_does_not_outweigh_the_others_by_fednova(count):
    alphas, steps, norms = np.full(count, 1 / count), np.array([1.0] + [100.0] * (count - 1)), np.ones(count)
    factors, largest = nova_factors(alphas, steps), largest_weight(0.6, count)
    bounded = bounded_factors(alphas, factors, norms, largest)
    moves = alphas * bounded
    assert moves[0] / moves.sum() == pytest.approx(largest)
    np.testing.assert_array_equal(bounded[1:], factors[1:])
    # Honestly, a hundredth of the steps makes a shorter update.
    assert bounded_factors(alphas, factors, norms / (1 + 9 * (steps < 2)) ** 2, largest) is factors
    assert bounded_factors(alphas[:1], factors[:1], [3.0], largest_weight(0.6, 1)) is not None
    both = bounded_factors(alphas, nova_factors(alphas, steps[::-1]), norms, largest)
    np.testing.assert_allclose(both, bounded[::-1])


def test_late_replies_give_the_others_no_more_than_the_limit():
    config = fed_config(mode="buffered", grace_s=1.0, num_silos=4, strategy="examples")
    replies = [
        Admitted(silo, {}, {}, {"examples": 1000.0 if silo == 0 else 10.0, "last_loss": 0.0}, 1.0, 1, staleness=4)
        for silo in range(4)
    ]
    replies[0].staleness = 0
    alphas = _weights(replies, config)
    assert alphas.max() == pytest.approx(0.6)
    np.testing.assert_allclose(alphas[1:], 0.4 / 3)


def test_what_a_silo_loses_goes_to_the_others_in_proportion():
    alphas = np.array([0.9, 0.06, 0.04])
    np.testing.assert_allclose(limited(alphas, 0.6), [0.6, 0.24, 0.16])
    np.testing.assert_allclose(limited(np.array([0.7, 0.28, 0.02]), 0.45), [0.45, 0.45, 0.1])
    np.testing.assert_allclose(limited(np.array([1.0, 0.0, 0.0]), 0.6), [0.6, 0.2, 0.2])
    assert limited(alphas, 0.9) is alphas

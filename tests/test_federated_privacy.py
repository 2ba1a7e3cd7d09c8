"""ε of the Gaussian mechanism, against published values and the definition."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from helpers.parameters import quick
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.federated.privacy import (
    account,
    delta_of,
    epsilon_of,
    published_epsilon,
    require_accountable,
    upload_epsilon,
)
from sase.federated.sampling_privacy import SampledRounds


def test_delta_is_the_hockey_stick_divergence_of_two_gaussians():
    grid = np.linspace(-30, 30, 400001)
    for mu, epsilon in ((1.0, 0.5), (2.0, 3.0), (0.5, 1.0)):
        excess = np.clip(norm.pdf(grid, mu) - math.exp(epsilon) * norm.pdf(grid), 0, None)
        assert delta_of(epsilon, mu) == pytest.approx(np.trapezoid(excess, grid), rel=1e-5)


@pytest.mark.parametrize("mu, delta, epsilon", [(1.0, 0.126936737, 1.0), (1.0, 1e-5, 4.3776)])
def test_known_values(mu, delta, epsilon):
    # Table of Dong, Roth and Su: a 1-GDP mechanism is (1, 0.127)-DP.
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=2e-3)


def test_epsilon_inverts_delta_over_a_wide_range():
    for mu in (0.01, 0.1, 1.0, 5.0, 20.0):
        for delta in (1e-3, 1e-5, 1e-9):
            epsilon = epsilon_of(mu, delta)
            assert delta_of(epsilon, mu) <= delta * (1 + 1e-6)
            if epsilon > 0:
                assert delta_of(epsilon * 0.999, mu) > delta


def test_epsilon_is_slightly_below_the_renyi_bound():
    """RDP of the Gaussian, ε = μ²a/2 + ln(1/δ)/(a − 1), is a slightly loose upper bound."""
    for mu in (0.5, 1.0, 3.0):
        bound = min(mu**2 * a / 2 + math.log(1e5) / (a - 1) for a in np.linspace(1.01, 200, 20000))
        assert 0.75 * bound < epsilon_of(mu, 1e-5) < bound


def test_more_noise_more_silos_and_fewer_rounds_are_more_private():
    base = published_epsilon(2.0, 4, 10, 1e-5)
    assert published_epsilon(4.0, 4, 10, 1e-5) < base
    assert published_epsilon(2.0, 16, 10, 1e-5) < base
    assert published_epsilon(2.0, 4, 40, 1e-5) > base
    assert upload_epsilon(2.0, 10, 1e-5) > base
    # T rounds at √T times the noise are one round.
    assert published_epsilon(2.0 * math.sqrt(10), 4, 10, 1e-5) == pytest.approx(published_epsilon(2.0, 4, 1, 1e-5))
    assert published_epsilon(0.0, 4, 10, 1e-5) == math.inf


@pytest.mark.parametrize(
    "change, message",
    [
        ({"strategy": "examples"}, "strategy is examples"),
        ({"min_silos": 3}, "min_silos is 3"),
        ({"fednova": True}, "fednova"),
    ],
)
def test_accounting_requires_equal_weights_and_full_participation(change, message):
    good = {"strategy": "uniform", "min_silos": 4, "norm": "none", "dp_clip_norm": 1.0, "dp_noise_multiplier": 1.0}
    require_accountable(FederatedConfig(**good))
    with pytest.raises(InputError, match=message):
        require_accountable(FederatedConfig(**{**good, **change}))


def test_both_epsilons_are_accounted_for_replacement_and_for_adding_or_removing():
    config = FederatedConfig(
        num_silos=4, min_silos=4, strategy="uniform", norm="none", dp_clip_norm=1.0, dp_noise_multiplier=8.0
    )
    found = account(config, 25)
    # Of the definitions: sensitivity 2C (replaced) or C (added or removed) over the noise, composed over the rounds.
    mus = [2 * 5 / (8 * 2), 2 * 5 / 8, 5 / (8 * 2), 5 / 8]
    given = [found.models, found.uploads, found.models_without, found.uploads_without]
    assert given == pytest.approx([epsilon_of(mu, 1e-5) for mu in mus])
    masked = account(replace(config, secure_aggregation=True), 25)
    assert (masked.uploads, masked.uploads_without) == (found.models, found.models_without)
    # Replacing is removing and adding: group privacy of two bounds it (Dwork and Roth 2014, theorem 2.2).
    once = found.models_without
    assert delta_of(2 * once, mus[0]) <= (1 + math.exp(once)) * 1e-5
    text = str(found)
    assert "\n" not in text
    assert all(f"{value:.3g}" in text for value in given)
    assert text.index("replaced") < text.index("added or removed")


def sampled(x, noise, probability, mean=1.0):
    """The density of (1 − q) N(0, σ²) + q N(mean, σ²)."""
    return (1 - probability) * norm.pdf(x, 0, noise) + probability * norm.pdf(x, mean, noise)


GRID = np.linspace(-40.0, 40.0, 1_000_001)


def hockey_stick(first, second, epsilon):
    """∫ (p − exp(ε) q)₊ over the grid."""
    return np.trapezoid(np.maximum(first(GRID) - math.exp(epsilon) * second(GRID), 0.0), GRID)


def test_sampling_everybody_is_the_gaussian_mechanism():
    for noise, rounds in ((1.0, 1), (2.0, 10), (5.0, 300)):
        exact = epsilon_of(math.sqrt(rounds) / noise, 1e-5)
        assert SampledRounds(noise, 1.0, rounds).epsilon(1e-5) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("noise", "probability"), quick([(2.0, 0.5), (0.7, 0.1), (3.0, 0.02)], several=True))
def test_one_sampled_round_is_the_integral_of_its_definition(noise, probability):
    found = SampledRounds(noise, probability, 1)
    for epsilon in (0.05, 0.2, 1.0):
        both = (lambda x: sampled(x, noise, probability)), (lambda x: norm.pdf(x, 0, noise))
        assert found.delta(epsilon, True) == pytest.approx(hockey_stick(*both, epsilon), rel=5e-3, abs=1e-12)
        assert found.delta(epsilon, False) == pytest.approx(hockey_stick(*both[::-1], epsilon), rel=5e-3, abs=1e-12)


@pytest.mark.parametrize(("noise", "probability"), [(0.7, 0.1), (2.0, 0.5), (3.0, 0.02)])
def test_replacement_is_bounded_by_removing_and_adding(noise, probability):
    epsilon = SampledRounds(noise, probability, 1).replacement_epsilon(1e-4)
    replaced = hockey_stick(
        lambda x: sampled(x, noise, probability), lambda x: sampled(x, noise, probability, -1.0), epsilon
    )
    assert 1e-9 < replaced <= 1e-4


def test_where_a_sum_needs_three_silos_one_may_reveal_two_others():
    """With two others drawn, a silo makes a sum of three updates of a round with noise only."""
    noise, probability, others, epsilon = 4.0, 0.1, 20, 0.3
    few = binom.pmf(2, others, probability)

    def part(mean):
        return hockey_stick(lambda x: sampled(x, noise, probability, mean), lambda x: norm.pdf(x, 0, noise), epsilon)

    parts = part(1.0), part(3.0)
    found = SampledRounds(noise, probability, 1, 3, others)
    assert found.delta(epsilon, True) == pytest.approx((1 - few) * parts[0] + few * parts[1], rel=5e-3)
    assert found.epsilon(1e-5) > SampledRounds(noise, probability, 1).epsilon(1e-5)


def test_ten_of_a_thousand_silos():
    """z = 1, 50 rounds, δ = 1e-5: replaced, without amplification, 28; with it a hundredth."""
    assert published_epsilon(1.0, 10, 50, 1e-5) == pytest.approx(28.37, abs=0.01)
    drawn = SampledRounds(math.sqrt(10), 0.01, 50)
    assert drawn.epsilon(1e-5) == pytest.approx(0.0736, rel=1e-3)
    assert 2 * drawn.epsilon(1e-5) < drawn.replacement_epsilon(1e-5) < 0.155
    # Rényi accounting bounds them from above: 0.1206 of dp-accounting's RdpAccountant; of σ = √10/2, which counts
    # twice the sensitivity for a silo that is added or removed, 0.3859. autodp 0.2.3.1 has 1.1358 for σ = 1.
    assert drawn.epsilon(1e-5) < 0.1206
    assert drawn.replacement_epsilon(1e-5) < SampledRounds(math.sqrt(10) / 2, 0.01, 50).epsilon(1e-5) < 0.3859
    assert SampledRounds(1.0, 0.01, 50).epsilon(1e-5) < 1.1358

"""Clipping at the silo: per model, layer or tensor, with noise, and with a norm that follows a quantile."""

import math
from dataclasses import replace

import numpy as np
import pytest
from flwr.supercore.differential_privacy import compute_clip_model_update

from helpers.federation import fed_config, largest_difference, train_config
from sase.config import from_mapping
from sase.errors import InputError
from sase.federated.clipping import WITHIN, next_norm, released, released_model, share_within, update_noise
from sase.federated.config import FederatedConfig
from sase.federated.inproc import local_exchange, local_silos, run
from sase.federated.private_rounds import CLIP_NORM
from sase.federated.secure.participant import limited
from sase.federated.secure.update import Update
from sase.federated.server import Server

CLIPPED = {"norm": "none", "dp_clip_norm": 2.0}
ADAPTIVE = {**CLIPPED, "strategy": "uniform", "dp_clip_quantile": 0.5}
NAMES = ["encoder.weight", "encoder.bias", "decoder.weight"]


def changes(dtype=np.float32):
    return [np.full((50, 40), 3.0, dtype), np.full(100, 1e-3, dtype), np.full(1000, -4.0, dtype)]


def norm(arrays):
    return math.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in arrays))


def test_an_update_within_the_norm_stays_as_it_is():
    kept, numbers = released(changes(), NAMES, fed_config(**{**CLIPPED, "dp_clip_norm": 1e4}))
    assert all(one.tobytes() == other.tobytes() for one, other in zip(kept, changes()))
    assert numbers == {}
    zero, _ = released([np.zeros(3, np.float32)], ["w"], fed_config(**CLIPPED))
    assert not zero[0].any()


def test_a_clipped_update_has_the_bits_of_flowers_own():
    generator = np.random.default_rng(0)
    for _ in range(50):
        reference = {name: generator.standard_normal((13, 7)).astype(np.float32) for name in NAMES}
        trained = {name: v + generator.standard_normal(v.shape).astype(np.float32) for name, v in reference.items()}
        expected = list(trained.values())
        compute_clip_model_update(expected, list(reference.values()), 2.0)
        clipped, _ = released_model(trained, reference, NAMES, fed_config(**CLIPPED))
        assert [clipped[name].tobytes() for name in NAMES] == [value.tobytes() for value in expected]


@pytest.mark.parametrize(
    ("per", "groups"), [("model", [[0, 1, 2]]), ("layer", [[0, 1], [2]]), ("tensor", [[0], [1], [2]])]
)
def test_each_part_has_the_same_bound_and_all_together_the_configured_one(per, groups):
    clipped, _ = released(changes(), NAMES, fed_config(**CLIPPED, dp_clip_per=per))
    bound = 2.0 / math.sqrt(len(groups))
    for group in groups:
        before, after = [changes()[i] for i in group], [clipped[i] for i in group]
        assert norm(after) == pytest.approx(min(bound, norm(before)), rel=1e-5)
        factor = norm(after) / norm(before)
        assert all(np.allclose(a, factor * b, rtol=1e-5) for a, b in zip(after, before))
    assert norm(clipped) <= 2.0 * (1 + 1e-6)
    assert all(array.dtype == np.float32 for array in clipped)


@pytest.mark.parametrize("per", ["model", "layer", "tensor"])
def test_the_noise_is_that_of_the_total_sensitivity_however_it_is_clipped(per):
    config = fed_config(**CLIPPED, dp_clip_per=per, dp_noise_multiplier=0.7)
    clipped, _ = released(changes(), NAMES, replace(config, dp_noise_multiplier=0.0))
    noised = [released(changes(), NAMES, config)[0] for _ in range(2)]
    noise = np.concatenate([(a - b).ravel() for a, b in zip(noised[0], clipped)])
    assert noise.std() == pytest.approx(2.0 * 0.7, rel=0.05)
    assert abs(noise.mean()) < 0.1
    assert not np.array_equal(noised[0][2], noised[1][2])
    np.random.seed(0)  # a seed set elsewhere has no effect
    assert not np.array_equal(noised[0][2], released(changes(), NAMES, config)[0][2])


def test_silos_without_and_with_masks_clip_alike():
    for per in ("model", "layer", "tensor"):
        config = fed_config(**CLIPPED, dp_clip_per=per)
        reference = {name: np.ones_like(value) for name, value in zip(NAMES, changes())}
        trained = {name: 1.0 + value for name, value in zip(NAMES, changes())}
        plain, _ = released_model(
            {**trained, "counter": np.int64(3)}, {**reference, "counter": np.int64(2)}, NAMES, config
        )
        flat = np.concatenate([value.ravel() for value in changes(np.float64)])
        sizes = {name: value.size for name, value in reference.items()}
        masked = limited(Update(flat, np.zeros(2)), config, sizes)
        moved = np.concatenate([(plain[name] - reference[name]).ravel() for name in NAMES])
        np.testing.assert_allclose(moved, masked.weights, atol=1e-6)
        assert plain["counter"] == 3


def test_update_and_bit_together_cost_what_the_update_alone_would():
    """μ² = 1/z_Δ² + (½)²/σ_b² = 1/z² for a silo that is added or removed; twice the shift if it is replaced."""
    config = fed_config(**ADAPTIVE, dp_noise_multiplier=1.5, dp_bit_noise=2.0)
    split = update_noise(config)
    assert (1.0 / split) ** 2 + (0.5 / 2.0) ** 2 == pytest.approx(1.0 / 1.5**2)
    assert split > 1.5
    draws = [released([np.zeros(200)], ["w"], config) for _ in range(500)]
    assert np.concatenate([arrays[0] for arrays, _ in draws]).std() == pytest.approx(2.0 * split, rel=0.02)
    bits = [numbers[WITHIN] for _, numbers in draws]
    assert np.std(bits) == pytest.approx(2.0, rel=0.1)
    assert np.mean(bits) == pytest.approx(0.5, abs=0.4)
    # Without its own key: a twentieth of the number of silos on their sum, as in the paper, or 2z.
    assert fed_config(**ADAPTIVE, num_silos=10000, dp_noise_multiplier=1.0).bit_noise == pytest.approx(5.0)
    assert fed_config(**ADAPTIVE, num_silos=100, dp_noise_multiplier=1.0).bit_noise == 2.0
    assert update_noise(fed_config(**ADAPTIVE)) == 0.0


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_the_norm_follows_the_quantile(quantile):
    norms = np.exp(np.random.default_rng(0).standard_normal(1000))
    config, bound = fed_config(**{**ADAPTIVE, "dp_clip_quantile": quantile}), 100.0
    for _ in range(300):
        bits = [0.5 if value <= bound else -0.5 for value in norms]
        bound = next_norm(config, bound, share_within(config, bits))
    assert bound == pytest.approx(np.quantile(norms, quantile), rel=0.02)


def test_one_round_cannot_move_the_norm_by_more_than_the_rate():
    config = fed_config(**ADAPTIVE, dp_clip_lr=0.3)
    assert next_norm(config, 1.0, 40.0) == pytest.approx(math.exp(-0.15))
    assert next_norm(config, 1.0, -40.0) == pytest.approx(math.exp(0.15))


def rounds_by_restarted_servers(config, silos_dir, dev_set, folder):
    """Return the server after all rounds, with another one for each."""
    for _ in range(config.num_rounds):
        server = Server(train_config(), config, dev_set, folder)
        assert server.finish_round(*local_exchange(local_silos(silos_dir, 3, folder))(server.instruction()))
    return server


@pytest.mark.recipe
def test_the_norm_of_a_federation_falls_until_it_clips_and_resumes_to_the_bit(silos_dir, dev_set, tmp_path):
    config = fed_config(**ADAPTIVE, dp_clip_lr=6.0, num_rounds=3, max_drop_db=0)
    whole = run(train_config(), config, silos_dir, dev_set, tmp_path / "whole")
    parts = rounds_by_restarted_servers(config, silos_dir, dev_set, tmp_path / "parts")
    assert whole.history == parts.history
    assert largest_difference(tmp_path / "whole/last.pt", tmp_path / "parts/last.pt") == 0.0
    expected = 2.0
    for record in whole.history:
        assert record[CLIP_NORM] == expected
        longest = max(silo["update_norm"] for silo in record["silos"].values())
        assert longest <= expected * (1 + 1e-4)  # the norm in this round's instruction
        expected *= math.exp(-6.0 * (record[WITHIN] - 0.5))
    shares = [record[WITHIN] for record in whole.history]
    assert shares[0] == 1.0
    assert min(shares) < 0.5  # it has reached the silos' norms
    assert "epsilon" not in whole.history[0]


@pytest.mark.recipe
def test_masks_do_not_change_the_adaptive_norm(silos_dir, dev_set, tmp_path):
    values = {**ADAPTIVE, "dp_clip_lr": 12.0, "num_rounds": 2, "max_drop_db": 0, "dp_clip_norm": 2.0}
    plain = run(train_config(), fed_config(**values), silos_dir, dev_set, tmp_path / "plain")
    masked = run(train_config(), fed_config(**values, secure_aggregation=True), silos_dir, dev_set, tmp_path / "masked")
    for name in (WITHIN, CLIP_NORM):
        found = [[record[name] for record in server.history] for server in (plain, masked)]
        assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert largest_difference(tmp_path / "plain/last.pt", tmp_path / "masked/last.pt") < 1e-5


@pytest.mark.recipe
def test_epsilon_of_an_adaptive_norm_is_that_of_the_configured_noise(silos_dir, dev_set, tmp_path):
    values = {**CLIPPED, "strategy": "uniform", "min_silos": 3, "dp_noise_multiplier": 3.0, "num_rounds": 1}
    fixed = run(train_config(), fed_config(**values), silos_dir, dev_set, tmp_path / "fixed")
    adaptive = run(
        train_config(), fed_config(**values, dp_clip_quantile=0.5), silos_dir, dev_set, tmp_path / "adaptive"
    )
    for name in ("epsilon", "epsilon_uploads"):
        assert fixed.history[0][name] == adaptive.history[0][name] > 0
    assert adaptive.history[0][WITHIN] != 1.0  # with noise


def test_a_bit_that_noise_cannot_give_is_refused(silos_dir, dev_set, tmp_path):
    server = Server(train_config(), fed_config(**ADAPTIVE, min_silos=2), dev_set, tmp_path)
    replies, _ = local_exchange(local_silos(silos_dir, 3, tmp_path))(server.instruction())
    replies[0] = replace(replies[0], metrics={**replies[0].metrics, WITHIN: 1e6})
    missing = {name: value for name, value in replies[1].metrics.items() if name != WITHIN}
    assert not server.finish_round([replies[0], replace(replies[1], metrics=missing), replies[2]], [])
    assert server.refusals == {"0": 1, "1": 1}
    assert "its within is missing" in server.last_failure


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "examples"}, "dp_clip_quantile requires strategy: uniform"),
        ({"mode": "buffered", "grace_s": 1.0}, "dp_clip_quantile requires .* mode: sync"),
        ({"dp_clip_per": "layer"}, "dp_clip_quantile requires .* dp_clip_per: model"),
        ({"dp_clip_norm": 0.0}, "dp_clip_quantile needs dp_clip_norm"),
        ({"dp_noise_multiplier": 2.0, "dp_bit_noise": 1.0}, "dp_bit_noise is 1: .* above 1, or 0"),
        ({"dp_clip_per": "channel"}, "dp_clip_per"),
    ],
)
def test_an_adaptive_norm_that_cannot_work_is_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        fed_config(**{**ADAPTIVE, **values})
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):  # a silo does not rely on the server's check
        update_noise(from_mapping(FederatedConfig, {**ADAPTIVE, "dp_noise_multiplier": 2.0, "dp_bit_noise": 1.0}))

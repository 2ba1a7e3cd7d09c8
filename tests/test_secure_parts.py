"""What secure aggregation is made of: models as integers, masks, shares of secrets, fingerprints, rosters."""

from itertools import combinations

import numpy as np
import pytest
import torch
from Crypto.Cipher import AES

from helpers.federation import train_config
from helpers.secure import TERMS, load_roster, make_silos
from sase.errors import InputError
from sase.federated.aggregation import Rule, aggregate
from sase.federated.layout import layout_of, to_arrays
from sase.federated.secure import shamir
from sase.federated.secure.fixed_point import FixedPoint
from sase.federated.secure.identity import Roster
from sase.federated.secure.session import Session, model_fingerprint
from sase.federated.secure.streams import add_stream, derive_key, stream
from sase.federated.secure.update import LOSSES, Format
from sase.federated.server_optimiser import ServerOptimiser
from sase.model import build_model


def trained(arrays, layout, silo):
    """A model as training would leave it: changed weights, norm statistics of other data, a higher counter."""
    generator = np.random.default_rng(silo)
    result = {name: value + np.float32(0.01) * generator.standard_normal(value.shape) for name, value in arrays.items()}
    for mean, second in layout.moments:
        spread = np.abs(generator.standard_normal(arrays[second].shape)) + 1.0
        if spread.ndim == 2:
            spread[2] = 0.3 * np.sqrt(spread[0] * spread[1]) * generator.choice([-1, 1], spread[2].shape)
        result[mean], result[second] = 3 * generator.standard_normal(arrays[mean].shape), spread
    result.update({name: arrays[name] + 5 for name in layout.counters})
    return {name: np.asarray(value).astype(arrays[name].dtype) for name, value in result.items()}


@pytest.mark.parametrize("local_norms", [False, True])
def test_a_model_from_integers_is_that_of_the_plain_mean(local_norms):
    """Weights, personal norm layers, pooled statistics and losses, with FedNova's factors for shared weights only."""
    torch.manual_seed(0)
    network = build_model(train_config("batch").model)
    layout = layout_of(network)
    reference = to_arrays(network, layout.names)
    models = [trained(reference, layout, silo) for silo in range(3)]
    alphas, factors = np.array([0.2, 0.3, 0.5]), np.array([2.5, 1.0, 0.7])
    rule = Rule("mean", local_norms=local_norms)
    expected = aggregate(reference, models, alphas, layout, ServerOptimiser(), factors, rule)
    number = Format(reference, layout, 8.0, 3, local_norms)
    shares = alphas * factors / np.sum(alphas * factors)
    encoded = [
        number.encode(number.update(model, dict.fromkeys(LOSSES, -4.0 + k)), alphas[k], shares[k])
        for k, model in enumerate(models)
    ]
    assert {name: value.size for name, value in encoded[0].items()} == number.sizes
    totals = {name: sum(values[name] for values in encoded) for name in encoded[0]}
    arrays, losses = number.arrays(number.decode(totals, float(np.sum(alphas * factors)), 1.0))
    assert losses == pytest.approx(dict.fromkeys(LOSSES, -4.0 + 0.3 + 1.0), abs=1e-7)
    assert arrays.keys() == expected.keys() - set(layout.counters)
    for name, value in arrays.items():
        assert np.abs(value - expected[name]).max() <= 1e-6 * max(1.0, np.abs(expected[name]).max()), name
    large = {**models[0], layout.weights[0]: models[0][layout.weights[0]] + 9}
    with pytest.raises(ValueError, match="update of the weights: a value of magnitude 9.* raise secure_range"):
        number.encode(number.update(large, dict.fromkeys(LOSSES, 0.0)), 0.5, 0.5)


def test_fixed_point_is_exact_to_half_a_step_and_never_wraps():
    number = FixedPoint("uint32", 8.0, 3)
    extreme = np.array([8.0, -8.0, 0.0, 1e-9])
    total = sum(number.encode(extreme, 1 / 3) for _ in range(3))
    assert np.abs(number.decode(total) - extreme).max() <= number.error
    assert number.error == pytest.approx(1.5 * 8 / 2**31, rel=1e-6)
    wide = FixedPoint("uint64", 2.0**36, 3)
    total = sum(wide.encode(np.array([2.0**36, -(2.0**36), 1e-3]), 1 / 3) for _ in range(3))
    assert np.abs(wide.decode(total) - [2.0**36, -(2.0**36), 1e-3]).max() <= wide.error + 1e-16 * 2**36
    for value in (8.0001, -9.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="exceeds the fixed-point range of ±8"):
            number.encode(np.array([0.0, value]), 0.5)
    for weight in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="weight"):
            number.encode(np.zeros(2), weight)


def test_a_stream_is_aes_in_counter_mode():
    key = derive_key(b"secret", b"purpose")
    expected = AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=bytes(16)).encrypt(bytes(200_000))
    for dtype, lengths in (("uint32", (0, 3, 16_384, 50_000)), ("uint64", (1, 8191, 8193, 25_000))):
        for length in lengths:  # of less than a block, of whole chunks, and of a part more
            mask = np.frombuffer(expected, dtype)[:length]
            assert np.array_equal(stream(key, length, dtype), mask)
            total = np.arange(length, dtype=dtype)
            add_stream(total, key)
            assert np.array_equal(total, np.arange(length, dtype=dtype) + mask)
            add_stream(total, key, subtract=True)
            assert np.array_equal(total, np.arange(length, dtype=dtype))
    assert derive_key(b"secret", b"another") != key


def test_any_shares_up_to_the_threshold_give_the_secret_and_fewer_fit_every_secret():
    secret, points = bytes(range(32)), [1, 2, 5, 9]
    shares = shamir.split(secret, points, 3)
    for chosen in combinations(points, 3):
        assert shamir.combine([shares], chosen) == [secret]
    # With two of three shares any other secret is as possible: a share for it exists at the third point.
    known, other = {1: shares[1], 2: shares[2]}, bytes(32)
    p = shamir.PRIME
    first, second = (int.from_bytes(share, "big") for share in known.values())
    # The quadratic with f(0) = 0, f(1) = first, f(2) = second, at 5: f(x) = a x² + b x.
    a = (second - 2 * first) * pow(2, -1, p) % p
    third = (25 * a + 5 * (first - a)) % p
    assert shamir.combine([{**known, 5: third.to_bytes(66, "big")}], [1, 2, 5]) == [other]
    with pytest.raises(ValueError, match="damaged"):
        shamir.combine([{**shares, 5: bytes(65) + b"\1"}], [1, 2, 5])
    for points, threshold in (([1, 2], 3), ([0, 1, 2], 3), ([1, 1, 2], 3)):
        with pytest.raises(ValueError, match="distinct positive points"):
            shamir.split(secret, points, threshold)


def test_the_threshold_leaves_no_two_sums_and_a_third_of_the_silos_in_league_with_the_server():
    for count in range(3, 40):
        threshold = Session(TERMS, dict.fromkeys(range(count))).threshold
        assert 3 <= threshold <= count
        in_league = (count - 1) // 3  # sign any list, and reveal any share
        assert 2 * threshold > count + in_league
        assert in_league < threshold


def test_fingerprints_of_models_tell_names_types_shapes_and_values_apart():
    base = {"a": np.zeros(4, np.float32), "b": np.ones((2, 2), np.float32)}
    others = [
        {**base, "a": np.zeros(4, np.float64)},
        {**base, "a": np.zeros((2, 2), np.float32)},
        {**base, "a": np.float32([0, 0, 0, 1e-30])},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    assert len({model_fingerprint(arrays) for arrays in (base, *others)}) == 6
    assert model_fingerprint(dict(reversed(base.items()))) == model_fingerprint(base)


def test_rosters_are_compared_by_their_fingerprint_and_damaged_ones_named(tmp_path):
    make_silos(tmp_path / "one", 3)
    make_silos(tmp_path / "other", 3)
    assert load_roster(tmp_path / "one").fingerprint == load_roster(tmp_path / "one").fingerprint
    assert load_roster(tmp_path / "one").fingerprint != load_roster(tmp_path / "other").fingerprint
    with pytest.raises(InputError, match="no keys of silos"):
        Roster.load(tmp_path)
    copy = tmp_path / "one/roster/silo3.pub"
    copy.write_bytes((tmp_path / "one/roster/silo0.pub").read_bytes())
    with pytest.raises(InputError, match="two silos have the same key"):
        load_roster(tmp_path / "one")
    copy.write_text("no key")
    with pytest.raises(InputError, match=r"silo3\.pub: not a key"):
        load_roster(tmp_path / "one")

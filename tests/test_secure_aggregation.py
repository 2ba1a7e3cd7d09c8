"""Secure sums: exact in fixed point, recovered when silos drop out, and closed to a server that deviates."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from Crypto.Cipher import AES
from scipy.stats import chisquare

from helpers.federation import train_config
from helpers.secure import TERMS, Round, load_roster, load_silos, make_silos, other_model, vectors
from sase.errors import InputError
from sase.federated.aggregation import Rule, aggregate, nova_factors, silo_weights
from sase.federated.config import FederatedConfig
from sase.federated.layout import layout_of, to_arrays
from sase.federated.secure import shamir
from sase.federated.secure.fixed_point import FixedPoint
from sase.federated.secure.identity import Roster
from sase.federated.secure.session import Announcement, Session, Terms, Weights, model_fingerprint
from sase.federated.secure.silo import SURVIVORS, survivors_statement
from sase.federated.secure.streams import add_stream, derive_key, stream
from sase.federated.secure.update import LOSSES, Format
from sase.federated.server_optimiser import ServerOptimiser
from sase.model import build_model

EXAMPLES = [2, 4, 8, 16, 6]
PLAIN = FederatedConfig()


def plain_mean(updates, examples, silos, config=PLAIN):
    """The weighted mean in float64, as without masks."""
    counts = [examples[silo] for silo in silos]
    alphas = silo_weights(config.strategy, counts, max_weight=config.max_weight)
    steps = [count // 2 for count in counts]
    factors = alphas * nova_factors(alphas, steps) if config.fednova else alphas
    return sum(factor * updates[silo] for factor, silo in zip(factors, silos))


def assert_close(mean, expected, silos):
    bound = FixedPoint("uint32", 8.0, silos).error
    assert np.abs(mean - expected).max() <= 4 * bound  # the rest of the weights scales what is left up
    assert np.linalg.norm(mean - expected) <= 5e-6 * np.linalg.norm(expected)


def sum_mean(made, totals, survivors):
    """The weighted mean that unmasked sums of these silos give."""
    weights = Weights.settle(made.sum.session, sorted(made.sum.shares), made.config, 2)
    _, factor, _ = weights.of_survivors(survivors)
    return factor * FixedPoint("uint32", made.limit, len(made.sum.shares)).decode(totals["weights"])


@pytest.fixture
def silos(tmp_path):
    return make_silos(tmp_path, 4)


@pytest.fixture
def finished(silos):
    """An honest round of four silos, all of which are in the sum."""
    made = Round(silos, vectors(4), EXAMPLES)
    made.keys(range(4))
    made.shares(range(4))
    return made


@pytest.mark.parametrize("fednova", [False, True])
@pytest.mark.parametrize("strategy", ["examples", "uniform"])
def test_the_sum_is_the_weighted_mean(silos, strategy, fednova):
    config, updates = FederatedConfig(strategy=strategy, fednova=fednova), vectors(4)
    made = Round(silos, updates, EXAMPLES, config)
    made.keys(range(4))
    made.shares(range(4))
    assert_close(made.unmasked(made.masked(range(4))), plain_mean(updates, EXAMPLES, range(4), config), 4)


@pytest.mark.parametrize("count", [4, 5])
def test_any_drop_outs_up_to_the_threshold_are_recovered(tmp_path, count):
    threshold = {4: 3, 5: 4}[count]
    updates, config, tried = vectors(count), FederatedConfig(fednova=True, strategy="uniform"), 0
    for left in range(threshold, count + 1):
        for survivors in combinations(range(count), left):
            tried += 1
            terms = other_model(f"model {tried}", tried)
            silos = make_silos(tmp_path / str(tried), count)
            made = Round(silos, updates, EXAMPLES, config, terms)
            assert made.keys(range(count)).threshold == threshold
            made.shares(range(count))
            masked = made.masked(survivors)
            helpers = survivors[len(survivors) - threshold :]  # others may drop out after they signed
            expected = plain_mean(updates, EXAMPLES, survivors, config)
            assert_close(made.unmasked(masked, helpers), expected, count)
    assert tried == count + 1


def test_a_drop_out_before_shares_are_sent_is_as_if_it_had_not_been_there(tmp_path):
    silos, updates = make_silos(tmp_path, 5), vectors(5)
    made = Round(silos, updates, EXAMPLES)
    made.keys(range(5))
    assert made.shares([0, 2, 3, 4]) == [0, 2, 3, 4]
    assert_close(made.unmasked(made.masked([0, 2, 3, 4])), plain_mean(updates, EXAMPLES, [0, 2, 3, 4]), 5)


def test_too_few_silos_are_an_error_at_every_step(silos, tmp_path):
    made = Round(silos, vectors(4), EXAMPLES)
    with pytest.raises(InputError, match="2 participants, at least 3 are needed"):
        made.keys([0, 1])
    made.keys(range(4))
    with pytest.raises(InputError, match="2 silos are left, 3 of 4 are needed"):
        made.shares([0, 1])
    made.shares(range(4))
    masked = made.masked(range(4))
    with pytest.raises(InputError, match="2 silos are left"):
        made.sum.close([1, 3])
    survivors = made.sum.close([0, 1, 2])
    signatures = made.ask([0, 1], lambda s: s.agree(survivors))
    with pytest.raises(InputError, match="2 silos are left"):
        made.sum.signatures(signatures)
    valid = made.sum.signatures({**signatures, **made.ask([2], lambda s: s.agree(survivors))})
    with pytest.raises(InputError, match="2 silos are left"):
        made.sum.total(masked, made.ask([0, 2], lambda s: s.unmask(valid)), ["weights"])


def test_a_round_is_completed_after_any_restart_of_silos(silos, tmp_path):
    """Every message may be repeated, by a server that was restarted too, and gets the same answer."""
    updates = vectors(4)
    made = Round(silos, updates, EXAMPLES)
    made.keys(range(4))
    made.shares(range(4))
    first = made.masked(range(4))
    made.silos = load_silos(tmp_path, 4)
    made.updates = vectors(4, seed=1)  # training that is not repeatable changes nothing
    again = made.masked(range(4))
    assert all(np.array_equal(first[silo]["weights"], again[silo]["weights"]) for silo in range(4))
    made.shares(range(4))
    mean = made.unmasked(again)
    made.silos = load_silos(tmp_path, 4)
    assert np.array_equal(mean, made.unmasked(again))
    assert_close(mean, plain_mean(updates, EXAMPLES, range(4)), 4)


def test_what_is_on_a_silos_disk_is_private(finished, tmp_path):
    finished.masked(range(4))
    folder = tmp_path / "silo0/state/secure"
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "masked.json": 0o600,
        "masked.npz": 0o600,
        "session.json": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700


# A server that deviates.


def test_a_masked_update_alone_is_noise(finished):
    """Zeros and an update look the same: uniform over all integers, uncorrelated with the update."""
    size = 20_000
    finished.updates = [np.zeros(size), *vectors(3, size)]
    masked = finished.masked(range(4))
    for silo in range(4):
        counts = np.bincount(masked[silo]["weights"] >> 26, minlength=64)
        assert chisquare(counts).pvalue > 1e-6
    numbers = masked[1]["weights"].view(np.int32).astype(float)
    assert abs(np.corrcoef(numbers, finished.updates[1])[0, 1]) < 5 / np.sqrt(size)


def test_a_feigned_drop_out_and_a_repeated_round_give_no_second_sum(finished, tmp_path):
    """Training is deterministic: the difference of the sums with and without silo 3 would be its update."""
    finished.unmasked(finished.masked(range(4)))
    with pytest.raises(InputError, match="signs one list only"):
        finished.silos[0].agree([0, 1, 2])
    without = {silo: of for silo, of in finished.sum.shares.items() if silo != 3}
    with pytest.raises(InputError, match="one list only"):
        finished.masked([0], without)
    for restarted in (False, True):
        silos = load_silos(tmp_path, 4) if restarted else finished.silos
        for terms in (TERMS, other_model(TERMS.model, 2), replace(TERMS, experiment="other", config="other")):
            for silo in silos:
                with pytest.raises(InputError, match=r"once only: .* its owner deletes .*masked\.json"):
                    silo.keys(terms, 2)
    silos[0].keys(other_model("another model", 2), 2)


def test_keys_renewed_before_the_sum_do_not_allow_a_second_one(finished, tmp_path):
    """The server keeps two sessions open for one model; a silo masks in one of them."""
    finished.masked([0])
    old = load_silos(tmp_path, 4)
    second = Round(old, vectors(4), EXAMPLES)
    with pytest.raises(InputError, match="once only"):
        second.keys([0, 1, 2, 3])
    second.keys([1, 2, 3])  # these have not masked yet
    with pytest.raises(InputError, match="not its own"):
        second.silos[1].shares(list(finished.sum.announcements.values()))


def test_a_server_gets_never_both_shares_of_a_silo(finished):
    masked = finished.masked(range(4))
    finished.sum.close([0, 1, 2])
    signed = finished.sum.signatures(finished.ask([0, 1, 2], lambda s: s.agree([0, 1, 2])))
    answers = finished.ask([0, 1, 2], lambda s: s.unmask(signed))
    for answer in answers.values():
        assert not set(answer["self"]) & set(answer["key"])
    # Without silo 3 its update stays hidden even though the server has it, late: its self mask is unknown.
    totals = finished.sum.total(masked, answers, ["weights"])
    expected = plain_mean(finished.updates, EXAMPLES, [0, 1, 2])
    assert_close(sum_mean(finished, totals, [0, 1, 2]), expected, 4)
    # Silos that receive different lists sign different statements, and none is complete.
    for silos in ([0, 1, 3], [1, 2, 3]):
        with pytest.raises(InputError, match="signs one list only"):
            finished.silos[1].agree(silos)
    with pytest.raises(InputError, match="not in the sum"):
        finished.silos[3].agree([0, 1, 2])
    with pytest.raises(InputError, match="has not signed"):
        finished.silos[3].unmask(signed)


def test_too_few_or_forged_signatures_reveal_no_share(finished):
    finished.masked(range(4))
    survivors = finished.sum.close(range(4))
    signed = finished.sum.signatures(finished.ask(range(4), lambda s: s.agree(survivors)))
    silo = finished.silos[0]
    with pytest.raises(InputError, match="2 silos are left, 3 of 4"):
        silo.unmask({name: signed[name] for name in ("0", "1")})
    with pytest.raises(InputError, match="not signed by the registered key of silo 2"):
        silo.unmask({**signed, "2": signed["3"]})
    fewer = survivors_statement(finished.sum.session.id, range(4), [0, 1, 2])
    other = {str(i): finished.silos[i].signer.sign(SURVIVORS, fewer).hex() for i in range(3)}
    with pytest.raises(InputError, match="not signed by"):  # three silos in league sign something else
        silo.unmask(other)
    with pytest.raises(InputError, match="not signed by"):  # what is signed for keys is not a signature of a list
        silo.unmask({**signed, "1": finished.sum.announcements[1]["signature"]})


def test_a_list_of_participants_that_lies_is_refused(silos, tmp_path):
    made = Round(silos, vectors(4), EXAMPLES)
    made.keys(range(4))
    listed = {silo: dict(of) for silo, of in made.sum.announcements.items()}
    forger = make_silos(tmp_path / "forged", 4)

    def refusal(change):
        with pytest.raises(InputError) as error:
            silos[0].shares(list({**listed, **change}.values()))
        assert "\n" not in str(error.value)
        return str(error.value)

    own_keys = forger[1].keys(TERMS, 4)
    assert "not signed by the registered key of silo 1" in refusal({1: own_keys})
    assert "not signed by" in refusal({1: {**listed[1], "mask_key": own_keys["mask_key"]}})
    assert "not signed by" in refusal({3: {**listed[3], "examples": 1}})  # weights
    assert "silo 9 has no registered key here" in refusal({9: {**listed[1], "silo": 9}})
    assert "not signed by" in refusal({2: {**listed[1], "silo": 2}})
    assert "twice" in refusal({9: listed[1]})
    assert "are not its own" in refusal({0: {**listed[0], "cipher_key": own_keys["cipher_key"]}})
    assert "examples are not possible" in refusal({1: {**listed[1], "examples": 0}})
    for name in ("mask_key", "cipher_key"):  # a secret that everybody knows
        low = Announcement.read({**listed[1], name: bytes(32).hex()})
        signed = Announcement.signed(1, low.cipher_key, low.mask_key, 4, TERMS, silos[1].signer)
        assert "a key of silo 1 is not a valid one" in refusal({1: signed.mapping()})
        made.sum.settle({1: signed.mapping()})
        assert made.sum.refused.pop(1) == "a key of silo 1 is not a valid one"
    assert "cipher_key has 3 bytes" in refusal({1: {**listed[1], "cipher_key": "00ff00"}})
    for silo in (0, 1):  # two silos, or one
        with pytest.raises(InputError, match="participants, at least 3 are needed"):
            silos[0].shares([listed[other] for other in range(silo + 1)])
    again = silos[0].keys(TERMS, EXAMPLES[0], least=4)
    with pytest.raises(InputError, match="3 participants, at least 4 are needed"):
        silos[0].shares([again, listed[1], listed[2]])


def test_other_terms_for_other_silos_give_no_signature_that_fits(silos):
    """A server that gives one silo the true model and the others one without gradients would learn its update."""
    made = Round(silos, vectors(4), EXAMPLES)
    terms = dict.fromkeys(range(4), TERMS) | {0: replace(TERMS, model="another")}
    listed = [silos[silo].keys(terms[silo], EXAMPLES[silo]) for silo in range(4)]
    for silo in range(4):
        with pytest.raises(InputError, match="not signed by the registered key"):
            silos[silo].shares(listed)
    made.keys(range(4))
    made.shares(range(4))
    for changed in (replace(TERMS, model="another"), replace(TERMS, config="another"), replace(TERMS, round=2)):
        made.sum.terms = changed
        with pytest.raises(InputError, match="not those that the silos agreed on"):
            made.silos[0].masked(changed, {str(s): of for s, of in made.sum.shares.items()}, made.encoder(0))


def test_two_lists_of_participants_give_shares_that_nobody_can_open(tmp_path):
    silos = make_silos(tmp_path, 5)
    made = Round(silos, vectors(5), EXAMPLES)
    made.keys(range(5))
    listed = made.sum.announcements
    answers = {s: silos[s].shares([listed[o] for o in (0, 1, 2, 3)]) for s in (0, 1)}
    answers |= {s: silos[s].shares([listed[o] for o in (0, 2, 3, 4)]) for s in (2, 3)}
    with pytest.raises(InputError, match="to other participants in this round, and does so once only"):
        silos[0].shares([listed[o] for o in (0, 1, 2, 4)])
    shares = {str(s): answer["shares"] for s, answer in answers.items()}
    with pytest.raises(InputError, match=r"the shares of silo 2 are damaged, or not of this session"):
        silos[0].masked(TERMS, shares, made.encoder(0))


def test_a_sum_that_is_almost_one_update_is_refused(silos):
    made = Round(silos, vectors(4), [1000, 2, 2, 2], FederatedConfig(max_weight=1.0))
    made.keys(range(4))
    made.shares(range(4))
    with pytest.raises(ValueError, match=r"a silo has a weight of 0\.994 in the sum"):
        made.masked([0])
    limited = Weights.settle(made.sum.session, range(4), FederatedConfig(), 2)
    assert limited.alphas[0] == pytest.approx(0.6)


def test_damaged_answers_of_silos_are_named_and_the_others_count(tmp_path):
    silos, updates = make_silos(tmp_path, 5), vectors(5)
    made = Round(silos, updates, EXAMPLES)
    answers = made.ask(range(5), lambda s: s.keys(TERMS, EXAMPLES[s.index]))
    forged = {**answers[4], "examples": 100}
    made.sum.settle({**answers, 4: forged})
    assert made.sum.refused == {4: "not signed by the registered key of silo 4"}
    made.shares(range(4))
    masked = made.masked(range(4))
    survivors = made.sum.close(range(4))
    signed = made.sum.signatures({**made.ask(range(4), lambda s: s.agree(survivors)), 3: {"signature": "zz"}})
    shares = made.ask(range(4), lambda s: s.unmask(signed))
    with pytest.raises(InputError, match="the shares of the mask of silo 1 do not give it|no secret"):
        made.sum.total(masked, {**shares, 0: {**shares[0], "self": {**shares[0]["self"], "1": "00" * 66}}}, ["weights"])
    assert_close(
        sum_mean(made, made.sum.total(masked, {**shares, 0: None}, ["weights"]), range(4)),
        plain_mean(updates, EXAMPLES, range(4)),
        4,
    )


# The parts.


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


def test_a_damaged_record_of_masked_models_is_not_taken_for_an_empty_one(finished, tmp_path):
    finished.masked(range(4))
    (tmp_path / "silo0/state/secure/masked.json").write_text("{")
    with pytest.raises(InputError, match="masks no more until its owner"):
        load_silos(tmp_path, 1)[0].keys(other_model("new", 2), 2)


def test_announcements_are_read_as_they_were_written(silos):
    made = silos[0].keys(TERMS, 6)
    assert Announcement.read(made).mapping() == made
    Announcement.read(made).verify(Terms(**TERMS.mapping()), silos[1].roster)

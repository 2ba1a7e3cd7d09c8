"""Secure sums: exact in fixed point, recovered when silos drop out, and closed to a server that deviates."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from helpers.secure import TERMS, Round, load_silos, make_silos, other_model, vectors
from sase.errors import InputError
from sase.federated.aggregation import nova_factors, silo_weights
from sase.federated.config import FederatedConfig
from sase.federated.secure.fixed_point import FixedPoint
from sase.federated.secure.session import Announcement, Terms, Weights
from sase.federated.secure.silo import SURVIVORS, survivors_statement

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


def test_with_noise_no_silo_may_be_left_out(tmp_path):
    """A server could unmask a sum of fewer updates, whose noise is less than what ε counts."""
    silos, updates = make_silos(tmp_path, 5), vectors(5)
    made = Round(silos, updates, EXAMPLES)
    made.keys(range(5))
    made.shares([0, 2, 3, 4])
    with pytest.raises(InputError, match="silo 0: .* a sum of fewer updates has less noise"):
        made.masked([0], complete=True)
    made = Round(make_silos(tmp_path / "again", 5), updates, EXAMPLES)
    made.keys(range(5))
    made.shares(range(5))
    made.masked(range(5), complete=True)
    with pytest.raises(InputError, match="a sum of fewer updates has less noise"):
        made.silos[0].agree([0, 1, 2, 3])
    assert made.silos[0].agree(range(5))["silo"] == 0


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
        "lock": 0o600,
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


def test_a_falsely_reported_drop_out_and_a_repeated_round_give_no_second_sum(finished, tmp_path):
    """Training is deterministic: the difference of the sums with and without silo 3 would be its update."""
    finished.unmasked(finished.masked(range(4)))
    with pytest.raises(InputError, match="it signs only one"):
        finished.silos[0].agree([0, 1, 2])
    without = {silo: of for silo, of in finished.sum.shares.items() if silo != 3}
    with pytest.raises(InputError, match="one list only"):
        finished.masked([0], without)
    for restarted in (False, True):
        silos = load_silos(tmp_path, 4) if restarted else finished.silos
        for terms in (TERMS, other_model(TERMS.model, 2), replace(TERMS, experiment="other", config="other")):
            for silo in silos:
                with pytest.raises(InputError, match=r"could reveal it; .* delete .*masked\.json"):
                    silo.keys(terms, 2)
    silos[0].keys(other_model("another model", 2), 2)


def test_keys_renewed_before_the_sum_do_not_allow_a_second_one(finished, tmp_path):
    """The server keeps two sessions open for one model; a silo masks in one of them."""
    finished.masked([0])
    old = load_silos(tmp_path, 4)
    second = Round(old, vectors(4), EXAMPLES)
    with pytest.raises(InputError, match="a second sum could reveal it"):
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
        with pytest.raises(InputError, match="it signs only one"):
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
    with pytest.raises(InputError, match="not signed by"):  # three colluding silos sign something else
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


def test_a_damaged_record_of_masked_models_is_not_taken_for_an_empty_one(finished, tmp_path):
    finished.masked(range(4))
    (tmp_path / "silo0/state/secure/masked.json").write_text("{")
    with pytest.raises(InputError, match="masks no more until its owner"):
        load_silos(tmp_path, 1)[0].keys(other_model("new", 2), 2)


def test_announcements_are_read_as_they_were_written(silos):
    made = silos[0].keys(TERMS, 6)
    assert Announcement.read(made).mapping() == made
    Announcement.read(made).verify(Terms(**TERMS.mapping()), silos[1].roster)

"""Poisson sampling by a secret: who is drawn, the noise of the sum, rounds without a sum, and what is refused."""

import itertools
import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.federation import PATIENCE_S, configs, fed_config, rounds, sase, train_config
from sase.errors import InputError
from sase.federated.budget import PrivacyBudget
from sase.federated.inproc import local_exchange, local_silos, run
from sase.federated.limits import PrivacyLimits
from sase.federated.participation import SECRET_FILE, SecretSampling
from sase.federated.privacy import account, epsilon_of, upload_epsilon
from sase.federated.rounds import run_rounds
from sase.federated.sampling_privacy import SampledRounds
from sase.federated.secure.local import local_carrier, local_participant, make_local_keys
from sase.federated.secure.rounds import secure_exchange
from sase.federated.server import Server
from sase.training.trainer import discard_training

SAMPLED = {
    **{"strategy": "uniform", "norm": "none", "dp_clip_norm": 1e-3, "dp_noise_multiplier": 20.0, "max_drop_db": 0},
    **{"sampling": "poisson", "clients_per_round": 2, "num_rounds": 3, "max_repeats": 0},
}


def key(folder, silos, counts, probability=2 / 3):
    """Write a secret by which the first rounds have these numbers of silos; None: any. Return the draws."""
    folder.mkdir(exist_ok=True)
    for number in range(100_000):
        secret = number.to_bytes(32)
        (folder / SECRET_FILE).write_text(secret.hex())
        sampling = SecretSampling(folder, probability)
        sampling.load(0)
        if all(len(sampling.silos(silos, n + 1)) == count for n, count in enumerate(counts)):
            return [sampling.silos(silos, n + 1) for n in range(len(counts))]
    raise AssertionError("no such secret")


def test_every_silo_is_drawn_independently_with_the_same_probability(tmp_path):
    sampling = SecretSampling(tmp_path, 0.3)
    sampling.load(0)
    taken = np.zeros((2000, 10))
    for number in range(2000):
        taken[number, list(sampling.silos(10, number + 1))] = 1
    deviation = math.sqrt(0.3 * 0.7 / 2000)
    assert np.abs(taken.mean(axis=0) - 0.3).max() < 5 * deviation
    assert taken.sum(axis=1).var() == pytest.approx(10 * 0.3 * 0.7, rel=0.2)  # binomial: no fixed number
    assert np.abs(np.corrcoef(taken.T) - np.eye(10)).max() < 5 / math.sqrt(2000)
    assert np.abs(np.corrcoef(taken[1:, 0], taken[:-1, 0])[0, 1]) < 5 / math.sqrt(2000)


def test_the_secret_is_private_kept_and_of_no_public_thing(tmp_path):
    draws = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for _ in range(2):  # the second one resumes
            sampling = SecretSampling(tmp_path / name, 0.5)
            sampling.load(0)
            draws.append([sampling.silos(20, number) for number in range(1, 20)])
        assert (tmp_path / name / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    assert draws[0] == draws[1]
    assert draws[2] == draws[3] != draws[0]
    discard_training(tmp_path / "a")
    assert not (tmp_path / "a" / SECRET_FILE).exists()


@pytest.mark.parametrize("content", [None, "00ff"])
def test_a_lost_secret_is_not_replaced_in_a_training_that_has_begun(silos_dir, dev_set, tmp_path, content):
    config = fed_config(**SAMPLED)
    key(tmp_path, 3, [0])
    run_rounds_of(config, silos_dir, dev_set, tmp_path, 1)
    path = tmp_path / SECRET_FILE
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=f"{SECRET_FILE}: missing or damaged; restore it") as error:
        Server(train_config(), config, dev_set, tmp_path)
    assert "\n" not in str(error.value)


def run_rounds_of(config, silos_dir, dev_set, folder, count):
    """Run some rounds, each with another server; return the models before and after each."""
    models = []
    for _ in range(count):
        server = Server(train_config(), config, dev_set, folder)
        models = models or [weights(server)]
        instruction = server.instruction()
        exchange = local_exchange(local_silos(silos_dir, 3, folder))
        assert server.finish_round(*(exchange(instruction) if instruction.silos else ([], [])))
        models.append(weights(server))
    return models


def weights(server):
    state = server.model.state_dict()
    return torch.cat([state[name].double().ravel() for name in server.layout.weights]).numpy()


@pytest.mark.recipe
def test_the_noise_of_the_model_does_not_tell_how_many_were_drawn(silos_dir, dev_set, tmp_path):
    """z √m C over m, with no silo too: otherwise its size would reveal in one look whether somebody took part."""
    drawn = key(tmp_path, 3, [1, 3, 0])
    models = run_rounds_of(fed_config(**SAMPLED), silos_dir, dev_set, tmp_path, 3)
    expected = 20.0 * 1e-3 / math.sqrt(2)
    for before, after in itertools.pairwise(models):
        assert (after - before).std() == pytest.approx(expected, rel=0.06)
    records = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [tuple(map(int, record["silos"])) for record in records] == drawn
    instruction = Server(train_config(), fed_config(**SAMPLED), dev_set, tmp_path).best_instruction()
    size = sum(value.nbytes for value in instruction.arrays.values())
    assert [record["bytes_down"] for record in records] == [size, 3 * size, 0]
    for number, record in enumerate(records):
        found = account(fed_config(**SAMPLED), number + 1, drawn[: number + 1])
        assert record["epsilon"] == round(found.models, 4)
        assert record["epsilon_uploads"] == round(found.uploads, 4)


def test_the_update_is_the_sum_over_the_expected_number(silos_dir, dev_set, tmp_path, monkeypatch):
    monkeypatch.setattr("sase.federated.clipping.update_noise", lambda config: 0.0)
    config = fed_config(**{**SAMPLED, "dp_clip_norm": 1.0})
    ((silo,), everyone) = key(tmp_path, 3, [1, 3])
    server = Server(train_config(), config, dev_set, tmp_path)
    exchange, silos = local_exchange(local_silos(silos_dir, 3, tmp_path)), None
    for silos in ((silo,), everyone):
        instruction, before = server.instruction(), weights(server)
        assert instruction.silos == silos
        assert instruction.config["federated"]["dp_noise_multiplier"] == pytest.approx(20.0 * math.sqrt(2 / len(silos)))
        replies, _ = exchange(instruction)
        sent = [np.concatenate([reply.arrays[n].ravel() for n in server.layout.weights]) for reply in replies]
        assert server.finish_round(replies, [])
        expected = sum(np.float64(one) - before for one in sent) / 2
        np.testing.assert_allclose(weights(server) - before, expected, atol=1e-6)


@pytest.mark.recipe
def test_those_who_are_drawn_train_through_flower(silos_dir, dev_set, tmp_path):
    exp, log = tmp_path / "exp", tmp_path / "log"
    drawn = key(exp, 3, [1, 3, 0])
    options = [
        *configs(tmp_path, num_silos=3, local_steps=1, **SAMPLED),
        "--dev-set",
        dev_set,
        "--silos",
        silos_dir,
        "--engine",
        "simulation",
    ]
    process = sase("federate", *options, "--exp", exp, log=log)
    try:
        assert process.wait(PATIENCE_S) == 0, log.read_text()[-2000:]
    finally:
        process.terminate()
    records = rounds(exp)
    assert [sorted(map(int, record["silos"])) for record in records] == [sorted(silos) for silos in drawn]
    assert 0 < records[0]["epsilon"] < records[2]["epsilon"] < records[2]["epsilon_uploads"]


def test_all_that_are_drawn_must_reply_and_a_retry_asks_the_same(silos_dir, dev_set, tmp_path):
    ((*drawn,),) = key(tmp_path, 3, [2])
    server = Server(train_config(), fed_config(**SAMPLED), dev_set, tmp_path)
    replies, _ = local_exchange(local_silos(silos_dir, 3, tmp_path))(server.instruction())
    assert not server.finish_round(replies[:1], [f"silo {drawn[1]}: not connected"])
    assert server.instruction().silos == tuple(drawn)
    with pytest.raises(InputError, match=r"round 1 failed 1 times: fewer than 2 valid replies"):
        run_rounds(server, lambda instruction: ([], ["silo 0: not connected"]))


@pytest.mark.recipe
def test_with_masks_fewer_than_three_silos_give_a_round_of_noise_only(silos_dir, dev_set, tmp_path):
    for index in range(4):
        (tmp_path / f"data/silo{index}").parent.mkdir(exist_ok=True)
        (tmp_path / f"data/silo{index}").symlink_to(silos_dir / f"silo{index % 3}")
    exp = tmp_path / "exp"
    drawn = key(exp, 4, [2, 4, 3], probability=3 / 4)
    values = {"num_silos": 4, "clients_per_round": 3, "num_rounds": 3, "secure_aggregation": True}
    config = fed_config(**{**SAMPLED, **values})
    server = Server(train_config(), config, dev_set, exp)
    roster, asked, models = make_local_keys(exp / "silos", 4), [], [weights(server)]
    carrier = local_carrier([local_participant(silo, exp / "silos") for silo in local_silos(tmp_path / "data", 4, exp)])

    def carry(request):
        if request.phase == "masked":
            asked.append(request.instruction.silos)
            models.append(weights(server))
        return carrier(request)

    run_rounds(server, secure_exchange(carry, roster, exp))
    assert asked == drawn[1:]
    assert [list(record["silos"]) for record in server.history] == [[], *([str(k) for k in of] for of in drawn[1:])]
    for before, after in zip(models, [*models[1:], weights(server)]):
        if (after - before).any():
            assert (after - before).std() == pytest.approx(20.0 * 1e-3 / math.sqrt(3), rel=0.06)
    # The server knows who was drawn, and sees two sums with the noise of three silos.
    assert server.history[-1]["epsilon_uploads"] == pytest.approx(epsilon_of(2 * math.sqrt(2 / 3) / 20, 1e-5), abs=1e-4)


def test_epsilon_against_the_server_is_that_of_the_silo_that_was_drawn_most():
    config = fed_config(**{**SAMPLED, "num_silos": 100, "clients_per_round": 4, "dp_noise_multiplier": 1.0})
    drawn = [(0, 1), (), (0, 5, 6, 7), (2,)]
    plain = account(config, 4, drawn)
    # Own noise z √(m/n): silo 0 sends with n = 2 and 4, silo 2 alone, with the noise of all.
    mu = math.sqrt(sum((2.0 / math.sqrt(4 / n)) ** 2 for n in (2, 4)))
    assert plain.uploads == pytest.approx(epsilon_of(mu, 1e-5))
    assert plain.uploads_without == pytest.approx(epsilon_of(mu / 2, 1e-5))
    assert plain.uploads > upload_epsilon(1.0, 1, 1e-5)
    masked = account(replace(config, secure_aggregation=True), 4, drawn)
    assert masked.uploads == pytest.approx(epsilon_of(2.0 / math.sqrt(4), 1e-5))  # its only sum: four updates
    sampled = SampledRounds(2.0, 0.04, 4)
    assert plain.models_without == pytest.approx(sampled.epsilon(1e-5))
    assert plain.models_without < plain.models <= epsilon_of(2.0 * math.sqrt(4) / 2.0, 1e-5)
    assert masked.models_without > plain.models_without  # two others may depend on a third
    assert "who do not know which silos were drawn" in str(plain)
    assert "\n" not in str(plain)


def test_a_silo_compares_the_noise_of_the_round_with_its_own_limit(silos_dir, dev_set, tmp_path):
    key(tmp_path, 3, [3, 1])
    server = Server(train_config(), fed_config(**{**SAMPLED, "dp_clip_quantile": 0.5}), dev_set, tmp_path)
    federated = server.instruction().config["federated"]
    with pytest.raises(InputError, match="asks for noise of 16.3"):  # 20 √(2/3)
        PrivacyBudget(0, tmp_path / "a", PrivacyLimits(min_noise=17.0)).require(federated)
    budget = PrivacyBudget(0, tmp_path / "b", PrivacyLimits(min_noise=16.0, max_epsilon=10.0))
    assert budget.charge(federated) == pytest.approx(epsilon_of(2.0 / (20.0 * math.sqrt(2 / 3)), 1e-5))
    # Bits that would cost more than the noise pays are refused as well.
    with pytest.raises(InputError, match="dp_bit_noise is 1:"):
        budget.require({**federated, "dp_bit_noise": 1.0})


def test_an_adaptive_norm_with_sampling_counts_rounds_of_noise(silos_dir, dev_set, tmp_path, caplog):
    key(tmp_path, 3, [0, 2])
    config = fed_config(**{**SAMPLED, "dp_clip_quantile": 0.5, "dp_bit_noise": 50.0, "num_rounds": 2})
    with caplog.at_level(logging.INFO):
        server = run(train_config(), config, silos_dir, dev_set, tmp_path)
    assert [len(record["silos"]) for record in server.history] == [0, 2]
    norms = [record["clip_norm"] for record in server.history]
    assert all(math.exp(-0.1) <= after / before <= math.exp(0.1) for before, after in itertools.pairwise(norms))
    assert server.history[0]["within"] != 0.5
    assert "against the server" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clients_per_round": 0}, "clients_per_round from 1 to 2"),
        ({"clients_per_round": 3}, "clients_per_round from 1 to 2"),
        ({"dp_noise_multiplier": 0.0}, "requires dp_noise_multiplier"),
        ({"grace_s": 1.0}, "grace_s: 0"),
        ({"sampling": "shuffled"}, "sampling"),
        ({"secure_aggregation": True}, "needs clients_per_round: at least 3, it is 2"),
    ],
)
def test_sampling_that_cannot_be_accounted_for_is_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        fed_config(**{**SAMPLED, **values})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_silos": 1}, "min_silos is 1, not 0: all that are drawn must reply"),
        ({"strategy": "examples"}, "strategy is examples"),
        ({"dp_delta": 1e-12}, "dp_delta is 1e-12"),
        ({"sampling": "fixed"}, "clients_per_round is 2, not all 3, and sampling not poisson"),
    ],
)
def test_a_server_refuses_what_the_accounting_does_not_cover(dev_set, tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        Server(train_config(), fed_config(**{**SAMPLED, **values}), dev_set, tmp_path)

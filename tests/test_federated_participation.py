"""Who takes part in a round: sampled silos, rounds that end early, and what late replies count."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message, MessageType, RecordDict

from helpers.federation import fed_config, train_config
from helpers.flower_grid import LocalGrid
from helpers.parameters import quick
from sase.errors import InputError
from sase.federated import inproc
from sase.federated.admission import admit
from sase.federated.exchange import Instruction, Reply
from sase.federated.flower.messages import pack_reply, unpack_reply
from sase.federated.flower.silo_grid import RoundEnd, SiloGrid
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.participation import sampled_silos, staleness_factors
from sase.federated.server import Server


def test_silos_are_drawn_evenly_and_reproducibly():
    drawn = [sampled_silos(20, 5, 1, number, 0) for number in range(1, 401)]
    assert all(len(set(silos)) == 5 and list(silos) == sorted(silos) for silos in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    assert counts.min() > 60  # 100 ± 4 standard deviations of 8.7
    assert counts.max() < 140
    assert drawn[7] == sampled_silos(20, 5, 1, 8, 0)
    assert drawn[7] != sampled_silos(20, 5, 1, 8, 1)  # another attempt
    assert drawn[7] != sampled_silos(20, 5, 2, 8, 0)  # another seed
    assert sampled_silos(4, 9, 0, 1, 0) == (0, 1, 2, 3)


@pytest.mark.recipe
def test_sampled_rounds_resume_with_the_same_silos(silos_dir, dev_set, tmp_path):
    config = fed_config(clients_per_round=2, num_rounds=4)
    whole = inproc.run(train_config(), config, silos_dir, dev_set, tmp_path / "whole")
    for _ in range(4):
        server = Server(train_config(), config, dev_set, tmp_path / "parts")
        silos = local_silos(silos_dir, 3, tmp_path / "parts")
        assert server.finish_round(*local_exchange(silos)(server.instruction()))
        assert not any(silo._pairs for silo in silos)  # data of silos that may not take part for long
    assert server.history == whole.history
    taken = [tuple(map(int, record["silos"])) for record in whole.history]
    assert taken == [sampled_silos(3, 2, train_config().seed, number, 0) for number in range(1, 5)]
    assert len(set(taken)) > 1
    one = whole.instruction()
    assert whole.history[0]["bytes_down"] == 2 * sum(value.nbytes for value in one.arrays.values())


def test_a_repeated_round_asks_other_silos_and_refuses_those_not_asked(silos_dir, dev_set, tmp_path):
    server = Server(train_config(), fed_config(clients_per_round=1, num_silos=3), dev_set, tmp_path)
    exchange, asked = local_exchange(local_silos(silos_dir, 3, tmp_path)), []
    for _ in range(8):
        asked.append(server.instruction().silos)
        assert not server.finish_round([], [f"silo {asked[-1][0]}: not connected"])
    assert len(set(asked)) == 3
    (chosen,) = server.instruction().silos
    other = replace(server.instruction(), silos=((chosen + 1) % 3,))
    assert not server.finish_round(*exchange(other))
    assert server.refusals == {str((chosen + 1) % 3): 1}
    assert "takes no part in this round" in server.last_failure


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clients_per_round": 2, "min_silos": 3}, r"min_silos is 3, more than clients_per_round \(2\)"),
        ({"mode": "buffered"}, "requires a grace_s above 0, scaffold: false"),
        ({"mode": "buffered", "grace_s": 1.0, "scaffold": True}, "requires a grace_s above 0, scaffold: false"),
        ({"mode": "late"}, "mode"),
    ],
)
def test_inconsistent_configs_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        fed_config(**values)


def reply(number):
    return lambda message, node: Message(
        pack_reply(Reply(node - 100, number[0], {"w": np.zeros(2, np.float32)}, {})), reply_to=message
    )


@pytest.mark.parametrize("keep_late", [False, True])
def test_a_round_ends_early_and_late_replies_are_dropped_or_kept(keep_late):
    number, end = [1], RoundEnd(2, 0.05, keep_late)
    grid = LocalGrid(reply(number), ["silo0", "silo1", "silo2", "silo3"])
    silos = SiloGrid(grid, 4, None, 0.0, 0.01)

    def exchange(asked=None):
        return silos.send_and_receive(RecordDict({}), MessageType.TRAIN, 60.0, str(number[0]), unpack_reply, asked, end)

    grid.silent = {101, 103}
    replies, failures = exchange()
    assert [(r.silo, r.round) for r in replies] == [(0, 1), (2, 1)]
    assert [failure.split(" within")[0] for failure in failures] == ["silo 1: no reply", "silo 3: no reply"]
    late = grid.sent[1]
    number[0] = 2
    replies, failures = exchange((0, 1, 2))  # silo 1 is busy and not asked again
    assert [(r.silo, r.round) for r in replies] == [(0, 2), (2, 2)]
    assert failures == ["silo 1: still in round 1"]
    grid.replies["m1"] = reply([1])(late, 101)
    grid.activated[103] = "2"  # silo 3 was restarted: its reply is lost
    grid.silent, number[0] = set(), 3
    replies, failures = exchange()
    expected = {(0, 3), (2, 3), (3, 3), *({(1, 1)} if keep_late else ())}
    assert {(r.silo, r.round) for r in replies} == expected
    assert failures == ["silo 1: still in round 1"]
    number[0] = 4
    assert {(r.silo, r.round) for r in exchange()[0]} == {(k, 4) for k in range(4)}


def test_a_reply_that_is_not_valid_does_not_end_a_round():
    """A silo that quickly sends NaN must not keep the server from waiting for the others."""
    grid = LocalGrid(reply([1]), ["silo0", "silo1", "silo2"])
    asked = []

    def is_valid(reply):
        asked.append(reply.silo)
        return reply.silo != 0

    end = RoundEnd(1, 0.0, False, is_valid)
    grid.silent = {101, 102}
    answers = threading.Timer(0.3, lambda: grid.replies.update(m1=reply([1])(grid.sent[1], 101)))
    answers.start()
    silos = SiloGrid(grid, 3, None, 0.0, 0.01)
    replies, failures = silos.send_and_receive(RecordDict({}), MessageType.TRAIN, 60.0, "1", unpack_reply, None, end)
    assert [r.silo for r in replies] == [0, 1]
    assert asked == [0, 1]
    assert [failure.split(" within")[0] for failure in failures] == ["silo 2: no reply"]


def test_the_server_admits_what_it_would_take(silos_dir, dev_set, tmp_path):
    server = Server(train_config(), fed_config(grace_s=1.0, min_silos=1), dev_set, tmp_path)
    sent = local_silos(silos_dir, 1, tmp_path)[0].run(server.instruction())
    assert server.admits(sent)
    name = next(iter(sent.arrays))
    assert not server.admits(replace(sent, arrays={**sent.arrays, name: sent.arrays[name] * np.nan}))
    assert not server.refusals


def test_busy_silos_are_asked_when_the_others_are_too_few():
    number = [1]
    grid = LocalGrid(reply(number), ["silo0", "silo1"])
    silos, ends = SiloGrid(grid, 2, None, 0.0, 0.01), (RoundEnd(1, 0.02, False), RoundEnd(2, 0.02, False))
    grid.silent = {101}
    silos.send_and_receive(RecordDict({}), MessageType.TRAIN, 60.0, "1", unpack_reply, None, ends[0])
    grid.silent, number[0] = set(), 2
    replies, failures = silos.send_and_receive(
        RecordDict({}), MessageType.TRAIN, 60.0, "2", unpack_reply, None, ends[1]
    )
    assert [r.silo for r in replies] == [0, 1]
    assert not failures


@pytest.mark.parametrize("payload", quick(["float32", "int8"]))
def test_a_late_update_counts_from_its_own_model_with_less_weight(silos_dir, dev_set, tmp_path, payload):
    """w + Σ α_k (w_k − w^(r_k)) with α ∝ n_k (1 + s_k)^−½, from the replies as they were sent."""
    config = fed_config(mode="buffered", grace_s=1.0, min_silos=2, max_weight=1.0, payload=payload)
    server = Server(train_config("batch"), config, dev_set, tmp_path)
    silos = local_silos(silos_dir, 3, tmp_path)
    first = server.instruction()
    late = silos[2].run(first)
    assert server.finish_round([silos[0].run(first), silos[1].run(first)], ["silo 2: no reply"])
    second = server.instruction()
    reply = silos[0].run(second)

    def update(sent, instruction):
        (one,), _ = admit([sent], instruction, config, server.layout)
        return {n: np.asarray(one.arrays[n], np.float64) - instruction.arrays[n] for n in server.layout.weights}

    updates, weights = [update(reply, second), update(late, first)], np.array([1.0, 2.0**-0.5])
    weights *= [reply.metrics["examples"], late.metrics["examples"]]
    weights /= weights.sum()
    assert server.finish_round([late, reply], [])
    record = server.history[-1]["silos"]
    assert record["2"]["staleness"] == 1
    assert "staleness" not in record["0"]
    assert [record["0"]["alpha"], record["2"]["alpha"]] == pytest.approx(weights, abs=1e-6)
    newest = server.instruction().arrays
    for name in server.layout.weights:
        expected = second.arrays[name] + sum(w * u[name] for w, u in zip(weights, updates))
        np.testing.assert_allclose(newest[name], expected, rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "sent").iterdir())) == 2


@pytest.mark.recipe
def test_replies_beyond_the_largest_staleness_are_refused(silos_dir, dev_set, tmp_path):
    config = fed_config(mode="buffered", grace_s=1.0, min_silos=1, max_staleness=1, num_rounds=9)
    server = Server(train_config(), config, dev_set, tmp_path)
    silos = local_silos(silos_dir, 3, tmp_path)
    old = silos[2].run(server.instruction())
    for _ in range(2):
        assert server.finish_round([silos[0].run(server.instruction())], [])
    assert server.finish_round([silos[0].run(server.instruction()), old], [])
    assert server.refusals == {"2": 1}
    assert [path.name for path in (tmp_path / "sent").iterdir()] == ["round-3"]


def test_staleness_factors_are_those_of_fedbuff():
    np.testing.assert_allclose(staleness_factors([0, 1, 3, 8]), [1.0, 0.5**0.5, 0.5, 1 / 3])


def test_silos_of_earlier_versions_accept_instructions_without_the_new_keys(dev_set, tmp_path):
    server = Server(train_config(), fed_config(), dev_set, tmp_path)
    sent = json.dumps(server.instruction().config["federated"])
    assert not any(name in sent for name in ("clients_per_round", "grace_s", "mode", "max_staleness"))
    assert isinstance(server.instruction(), Instruction)

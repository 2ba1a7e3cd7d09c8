"""Rounds whose development score collapses are computed again without the silos that cause it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from helpers.checkpoints import assert_same
from helpers.federation import fed_config, train_config
from helpers.parameters import quick
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.federated.development import Development
from sase.federated.exchange import Reply
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.rollback import leave_out
from sase.federated.rounds import run_rounds
from sase.federated.server import Server


def flipped(reply, instruction, scale=-30.0):
    """Return a reply whose update is multiplied; the servers here admit it."""
    arrays = dict(reply.arrays)
    for name, old in instruction.model.items():
        if "running" not in name:
            arrays[name] = (old + scale * (arrays[name] - old)).astype(old.dtype)
    return Reply(reply.silo, reply.round, arrays, reply.metrics)


def poisoned(silos, bad, change=flipped):
    """Return an exchange in which some silos, {round: silos}, do harm."""
    exchange = local_exchange(silos)

    def harmful(instruction):
        replies, failures = exchange(instruction)
        chosen = bad.get(instruction.round, ())
        return [change(r, instruction) if r.silo in chosen else r for r in replies], failures

    return harmful


def setup(silos_dir, dev_set, folder, **values):
    """Return a server whose silos learn fast, and them."""
    config = train_config("batch", learning_rate=0.02, warmup_steps=0)
    values = {"local_steps": 2, "strategy": "uniform", "max_norm_ratio": 1e3, **values}
    return Server(config, fed_config(**values), dev_set, folder), local_silos(
        silos_dir, values.get("num_silos", 3), folder
    )


def test_silos_are_left_out_greedily():
    harm = {"a": 0.0, "b": 5.0, "c": 1.0, "d": 9.0}

    def score(silos):
        return -sum(harm[silo] for silo in silos)

    assert list(leave_out("abcd", 2, score)) == [["a", "b", "c"], ["a", "c"]]
    assert list(leave_out("abcd", 4, score)) == []

    def undefined(silos):
        return math.nan if "b" in silos else 1.0

    assert next(leave_out("abc", 1, undefined)) == ["a", "c"]


@pytest.mark.recipe
def test_a_collapsed_round_equals_one_without_the_silo(silos_dir, dev_set, tmp_path):
    """Stateful: momentum, moving average and control variates are also those of a round without the silo."""
    options = {"server": "momentum", "average_decay": 0.1, "scaffold": True}
    server, silos = setup(silos_dir, dev_set, tmp_path / "rolled", **options)
    run_rounds(server, poisoned(silos, {2: (1,)}))
    entries = server.history
    assert [("rolled_back_from" in entry) for entry in entries] == [False, True, False]
    assert entries[1]["rolled_back_from"]["dev_SI_SNR"] < entries[0]["dev_SI_SNR"] - 3
    assert entries[1]["dev_SI_SNR"] >= max(entry["dev_SI_SNR"] for entry in entries[:1]) - 3
    assert list(entries[1]["silos"]) == ["0", "2"]
    assert entries[1]["refused"][0].startswith("silo 1: with its update the development SI-SNR is -")
    assert server.refusals == {"1": 1}

    other, silos = setup(silos_dir, dev_set, tmp_path / "absent", **options)
    exchange = local_exchange(silos)

    def absent(instruction):
        replies, failures = exchange(instruction)
        return [reply for reply in replies if (reply.round, reply.silo) != (2, 1)], failures

    run_rounds(other, absent)
    for name, value in other._global.newest.items():
        assert np.array_equal(value, server._global.newest[name]), name
    assert [entry["dev_SI_SNR"] for entry in other.history] == [entry["dev_SI_SNR"] for entry in entries]


@pytest.mark.recipe
def test_slow_decline_counts_from_given_weights(silos_dir, dev_set, tmp_path):
    """Each round loses less than ``max_drop_db``, all of them more: the best model before the round is the bound."""
    first, silos = setup(silos_dir, dev_set, tmp_path / "given", num_rounds=1)
    run_rounds(first, local_exchange(silos))
    given = replace(first.train, init=str(tmp_path / "given/best.pt"))
    reached = first.history[0]["dev_SI_SNR"]

    def declining(dev_db):
        server = Server(given, fed_config(num_silos=2, num_rounds=3, min_silos=1), dev_set, tmp_path / f"{dev_db}")
        scores = iter(dev_db)
        server._development.scores = lambda model: {"dev_SI_SNR": next(scores)}
        server._development.quick_db = lambda model: -float(len(model.silos) > 1)
        run_rounds(server, local_exchange(local_silos(silos_dir, 2, tmp_path / f"{dev_db}")))
        return [entry.get("rolled_back_from", {}).get("dev_SI_SNR") for entry in server.history]

    assert declining([reached - 2, reached - 4, reached - 1, reached - 2]) == [None, reached - 4, None]
    assert declining([reached - 9, reached - 1, reached + 2, reached - 0.9]) == [reached - 9, None, None]
    assert declining([reached - 2, reached - 9, reached - 5, reached]) == [None, reached - 9, None]  # gains enough
    assert declining([reached - 2, reached - 9, reached - 7, reached]) == [None, None, None]
    assert declining([reached - 1, reached + 9, reached + 5.9, reached + 6.1]) == [None, None, reached + 5.9]


def test_a_kept_collapse_is_the_new_start(dev_set):
    development = Development(nn.Identity(), PairSet(dev_set), fed_config(), "SI_SNR")
    records = [{"dev_SI_SNR": 9.0}, {"dev_SI_SNR": 2.0, "collapsed": True}, {"dev_SI_SNR": 4.0}]
    assert development.lowest_db([], -math.inf) == -math.inf
    assert development.lowest_db([], 10.0) == 7.0
    assert development.lowest_db(records[:1], 10.0) == 7.0
    assert development.lowest_db(records[:2], 10.0) == -1.0
    assert development.lowest_db(records, 10.0) == 1.0
    assert development.lowest_db([{"dev_SI_SNR": math.nan}, records[0]], -math.inf) == 6.0


def test_output_that_is_not_finite_is_rolled_back(silos_dir, dev_set, tmp_path):
    """Finite weights can still make an output that is not."""
    server, silos = setup(silos_dir, dev_set, tmp_path, max_norm_ratio=1e100, max_drop_db=0, num_rounds=1)
    run_rounds(server, poisoned(silos, {1: (2,)}, lambda r, i: flipped(r, i, 1e37)))
    entry = server.history[0]
    assert list(entry["silos"]) == ["0", "1"]
    assert entry["rolled_back_from"] == {"dev_SI_SNR": None}
    assert json.loads((tmp_path / "rounds.jsonl").read_text())["rolled_back_from"] == {"dev_SI_SNR": None}
    assert math.isfinite(entry["dev_SI_SNR"])


@pytest.mark.recipe
def test_a_killed_roll_back_resumes_bit_for_bit(silos_dir, dev_set, tmp_path):
    bad = {1: (), 2: (1,), 3: (1,)}
    whole, silos = setup(silos_dir, dev_set, tmp_path / "whole", server="momentum")
    run_rounds(whole, poisoned(silos, bad))

    class Killed(BaseException):
        pass

    for place in ("_accept", "_save"):
        server, silos = setup(silos_dir, dev_set, tmp_path / "parts", server="momentum")
        function = getattr(server, place)

        def dies(*args, server=server, function=function):
            if server.next_round == 2:
                raise Killed
            function(*args)

        setattr(server, place, dies)
        with pytest.raises(Killed):
            run_rounds(server, poisoned(silos, bad))
    server, silos = setup(silos_dir, dev_set, tmp_path / "parts", server="momentum")
    assert len(server.history) == 1
    run_rounds(server, poisoned(silos, bad))
    assert (tmp_path / "parts/rounds.jsonl").read_text() == (tmp_path / "whole/rounds.jsonl").read_text()
    assert "rolled_back_from" in (tmp_path / "whole/rounds.jsonl").read_text()
    for name in ("server.pt", "best.pt", "last.pt"):
        assert_same(tmp_path / "whole" / name, tmp_path / "parts" / name)


@pytest.mark.recipe
def test_a_collapse_of_all_is_kept_and_named(silos_dir, dev_set, tmp_path):
    """Nobody in particular is its cause: training itself has diverged."""

    def ruined(reply, instruction):  # the same by all
        generator = np.random.default_rng(0)
        weights = {name: value for name, value in instruction.model.items() if "running" not in name}
        noise = {n: generator.standard_normal(value.shape).astype(value.dtype) for n, value in weights.items()}
        return replace(reply, arrays={**reply.arrays, **noise})

    server, silos = setup(silos_dir, dev_set, tmp_path, num_rounds=2)
    run_rounds(server, poisoned(silos, {2: (0, 1, 2)}, ruined))
    entry = server.history[1]
    assert list(entry["silos"]) == ["0", "1", "2"]
    assert "whichever silos are left out" in entry["failed"][0]
    assert entry["dev_SI_SNR"] < server.history[0]["dev_SI_SNR"] - 3
    assert entry["collapsed"]
    assert not entry["best"]


@pytest.mark.recipe
def test_a_model_that_no_silos_make_finite_ends_in_one_line(silos_dir, dev_set, tmp_path):
    server, silos = setup(silos_dir, dev_set, tmp_path, max_repeats=1)
    with pytest.raises(InputError, match=r"round 2 failed 2 times.*whichever silos are left out.*round 1 is kept"):
        run_rounds(server, poisoned(silos, {2: (0, 1, 2)}, lambda r, i: flipped(r, i, 1e37)))
    assert len(server.history) == 1


@pytest.mark.parametrize("aggregation", quick(["mean", "median", "clipped_mean", "trimmed_mean", "geometric_median"]))
def test_robust_rules_need_no_roll_back(silos_dir, dev_set, tmp_path, aggregation):
    values = {"aggregation": aggregation, "max_poisoned": 0.34, "max_drop_db": 0}
    server, silos = setup(silos_dir, dev_set, tmp_path, num_rounds=2, **values)
    run_rounds(server, poisoned(silos, {2: (1,)}))
    first, second = server.history
    assert list(second["silos"]) == ["0", "1", "2"]
    assert (second["dev_SI_SNR"] > first["dev_SI_SNR"] - 3) == (aggregation != "mean")

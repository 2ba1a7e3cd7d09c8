"""The parts of the Flower engines, without Flower's processes: messages, ClientApp, ServerApp, privacy."""

import json
import math
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import (
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)

from helpers.checkpoints import assert_same
from helpers.federation import train_config
from helpers.flower_grid import LocalGrid, exchange, reply_of
from sase.errors import InputError
from sase.federated.config import FederatedConfig, checked
from sase.federated.exchange import Instruction, Reply
from sase.federated.flower.app import write_app
from sase.federated.flower.client_app import app as client_app
from sase.federated.flower.garbage import MAX_BYTES
from sase.federated.flower.messages import (
    pack_instruction,
    pack_reply,
    unpack_instruction,
    unpack_reply,
)
from sase.federated.flower.packing import is_packed, offer, pack, packing_mod, unpack
from sase.federated.flower.server_app import FINISH
from sase.federated.flower.server_app import app as server_app
from sase.federated.flower.silo_grid import SiloGrid
from sase.federated.flower.silo_process import FINISHED_FILE
from sase.federated.inproc import run as run_inproc


def context(settings, silo, run_id=1):
    return Context(
        run_id=run_id,
        node_id=100 + silo,
        node_config={"partition-id": silo},
        state=RecordDict(),
        run_config={"settings": str(settings)},
    )


def fed_config(**values):
    mapping = {"num_silos": 3, "num_rounds": 2, "repeat_wait_s": 0.0, "max_repeats": 0, **values}
    return checked(replace(FederatedConfig(), **mapping))


@pytest.fixture
def experiment(tmp_path, silos_dir, dev_set):
    def make(name, config, **settings):
        home = tmp_path / name / "flower"
        values = {
            "silos_dir": str(silos_dir),
            "state_dir": str(tmp_path / name / "silos"),
            "exp_dir": str(tmp_path / name),
            "dev_set": str(dev_set),
            "device": "cpu",
            "simulated": True,
            "order": [0, 1, 2],
            "server_threads": 1,
            "connect_s": 1.0,
            "poll_s": 0.01,
            **settings,
        }
        write_app(home, train_config(values.pop("norm", "layer")), config, **values)
        return home / "settings.json"

    return make


def serve(settings, names=("", "", ""), broken=()):
    def answer(message, node):
        if node - 100 in broken:
            return Message(Error(0, "ran out of\nluck"), reply_to=message)
        return client_app(message, context(settings, node - 100))

    grid = LocalGrid(answer, names)
    server_app(grid, context(settings, 0))
    return grid


@pytest.mark.parametrize("joined", [False, True])
def test_messages_preserve_every_array_to_the_bit(joined):
    arrays = {
        "weight": np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32),
        "count": np.array(7),
        "bits": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "steps": np.array([-127, 3], np.int8),
        "empty": np.zeros((0, 4), np.float32),
    }
    config = {"train": {"seed": 3}, "federated": {"dp_clip_norm": 0.0}, "experiment": "é", "best_round": 0}

    def carried(content):
        return unpack(pack(content)) if joined else content

    instruction = unpack_instruction(carried(offer(pack_instruction(Instruction(4, arrays, config)))))
    reply = unpack_reply(carried(pack_reply(Reply(2, 4, arrays, {"loss": math.nan, "steps": 5}))))
    assert instruction.round == reply.round == 4
    assert instruction.config == config
    assert reply.silo == 2
    assert math.isnan(reply.metrics["loss"])
    assert reply.metrics["steps"] == 5.0
    for got in (instruction.arrays, reply.arrays):
        assert list(got) == list(arrays)
        for name, array in arrays.items():
            assert got[name].dtype == array.dtype
            assert got[name].shape == array.shape
            assert got[name].tobytes() == array.tobytes()


def test_joined_arrays_are_few_objects_for_flower():
    arrays = {f"w{k}": np.full(3, k, np.float32) for k in range(200)}
    content = pack(pack_reply(Reply(0, 1, arrays, {"loss": 1.0})))
    objects, rest = 0, [content]
    while rest:
        objects += 1
        rest += list((rest.pop().children or {}).values())
    assert objects <= 6  # itself, a record, its array and chunk; numbers; silo and round


class PackingGrid(LocalGrid):
    """A grid that records which messages and replies have joined arrays; silo 1 may be an earlier installation."""

    def __init__(self, earlier):
        super().__init__(self.reply, ["silo0", "silo1"])
        self.earlier, self.joined = earlier, []

    def reply(self, message, node):
        def app(query, _):
            assert list(query.content["arrays"]) == ["w"]
            return reply_of(lambda node: node - 100)(query, node)

        asked = is_packed(message.content)
        reply = app(message, None) if node - 100 in self.earlier else packing_mod(message, None, app)
        self.joined.append((asked, is_packed(reply.content)))
        return reply


@pytest.mark.parametrize(
    ("order", "earlier", "first", "later"),
    [
        (None, (), [(False, True)] * 2, [(True, True)] * 2),
        (None, (1,), [(False, True), (False, False)], [(True, True), (False, False)]),
        ([0, 1], (), [(True, True)] * 2, [(True, True)] * 2),  # simulated: of this installation
    ],
)
def test_arrays_are_joined_once_both_sides_have_shown_that_they_can(order, earlier, first, later):
    config = {"federated": {"dp_clip_norm": 0.0}}
    instruction = pack_instruction(Instruction(1, {"w": np.zeros(2, np.float32)}, config))
    grid = PackingGrid(earlier)
    silos = SiloGrid(grid, 2, order, 0.0, 0.01)
    for _ in range(2):
        replies, failures = silos.send_and_receive(instruction, MessageType.TRAIN, 1.0, "1", unpack_reply)
        assert [reply.silo for reply in replies] == [0, 1]
        assert not failures
    assert grid.joined == [*first, *later]


def test_a_server_that_does_not_offer_it_gets_no_joined_arrays():
    instruction = pack_instruction(Instruction(1, {"w": np.zeros(2, np.float32)}, {"federated": {"dp_clip_norm": 0.0}}))
    query = Message(instruction, 100, MessageType.TRAIN)
    reply = packing_mod(query, None, lambda query, _: reply_of(lambda node: 0)(query, 100))
    assert list(reply.content["arrays"]) == ["w"]


@pytest.mark.recipe
def test_rounds_through_flower_equal_inproc_to_the_bit(experiment, silos_dir, dev_set, tmp_path):
    config = fed_config(payload="int8", scaffold=True, evaluate_every=2)
    serve(experiment("flower", config))
    run_inproc(train_config(), config, silos_dir, dev_set, tmp_path / "inproc")
    assert_same(tmp_path / "flower/server.pt", tmp_path / "inproc/server.pt")
    for name in ("rounds.jsonl", "silo_tests.jsonl"):
        assert (tmp_path / "flower" / name).read_text() == (tmp_path / "inproc" / name).read_text()


@pytest.mark.recipe
def test_silos_with_personal_norms_are_scored_with_them(experiment, tmp_path):
    settings = experiment("own", fed_config(norm="local"), norm="batch")
    serve(settings)
    scores = json.loads((tmp_path / "own/silo_scores.json").read_text())
    assert sorted(scores) == ["0", "1", "2"]
    for values in scores.values():
        assert values["own/SI_SDR"] != values["global/SI_SDR"]
        assert values["own/utterances"] >= 1


def test_one_failing_silo_is_skipped_and_too_few_replies_fail_in_one_line(experiment, tmp_path):
    settings = experiment("few", fed_config())
    serve(settings, broken=(1,))
    first = json.loads((tmp_path / "few/rounds.jsonl").read_text().splitlines()[0])
    assert first["failed"] == ["silo 1: ran out of luck"]
    assert sorted(first["silos"]) == ["0", "2"]
    settings = experiment("none", fed_config())
    with pytest.raises(InputError, match="round 1 failed"):
        serve(settings, broken=(0, 1, 2))
    assert (tmp_path / "none/flower/error.txt").read_text().count("\n") == 1


@pytest.mark.recipe
def test_real_silos_receive_the_end_and_choose_their_own_folders(experiment, silos_dir, tmp_path):
    settings = experiment("real", fed_config(), simulated=False, order=None, silos_dir="/nowhere")

    def answer(message, node):
        silo = node - 100
        here = {
            "silo": silo,
            "data-dir": str(silos_dir / f"silo{silo}"),
            "state-dir": str(tmp_path / f"mine{silo}"),
            "device": "cpu",
        }
        reply = client_app(message, replace(context(settings, silo), node_config=here))
        if message.metadata.message_type == FINISH:
            del grid.nodes[node]  # as `sase silo` does
        return reply

    grid = LocalGrid(answer, ["silo0", "silo1", "silo2"])
    server_app(grid, context(settings, 0))
    assert [message.metadata.message_type for message in grid.sent[-3:]] == [FINISH] * 3
    assert all((tmp_path / f"mine{silo}" / FINISHED_FILE).exists() for silo in range(3))


def test_a_silo_is_identified_by_its_key():
    grid = LocalGrid(reply_of(lambda node: 1), ["silo0", "silo1", "silo7"])
    replies, failures = exchange(grid)
    assert [reply.silo for reply in replies] == [1]
    assert failures[0] == "silo 2: not connected"
    assert "silo 0: its reply claims to be silo 1" in failures[1:]


def test_the_end_is_announced_without_waiting_for_replies(monkeypatch):
    """A silo stops its SuperNode when it reads the message, perhaps before its reply is complete."""
    grid = LocalGrid(reply_of(lambda node: node - 100), ["silo0", "silo1"])
    waited = []
    silos = SiloGrid(grid, 2, None, 0.0, 0.01, waited.append)

    def sleep(seconds):
        grid.nodes.popitem()  # a silo disconnects

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(grid, "pull_messages", lambda ids: pytest.fail("a reply was pulled"))
    silos.announce(RecordDict({}), FINISH, 60.0, "finish")
    assert len(grid.sent) == 2
    assert waited == ["silo 0, silo 1 to disconnect", "silo 0 to disconnect", ""]


def test_without_keys_a_silo_is_identified_by_its_reply_and_duplicates_are_rejected():
    grid = LocalGrid(reply_of(lambda node: 0 if node == 102 else node - 100), ["", "", ""])
    replies, failures = exchange(grid)
    assert [reply.silo for reply in replies] == [0, 1]
    assert "claims to be silo 0, a duplicate" in failures[0]


def test_a_silo_without_reply_is_named_and_not_waited_for_after_its_restart(monkeypatch):
    grid = LocalGrid(reply_of(lambda node: node - 100), ["silo0", "silo1", "silo2"])
    grid.silent = {101}
    replies, failures = exchange(grid)
    assert [reply.silo for reply in replies] == [0, 2]
    assert failures == ["silo 1: no reply within 0 s"]
    monkeypatch.setattr("sase.federated.flower.silo_grid._RESTART_CHECK_S", 0.0)
    push = grid.push_messages

    def push_and_restart(messages):
        numbers = push(messages)
        threading.Timer(0.2, lambda: grid.activated.update({101: "2"})).start()
        return numbers

    grid.push_messages = push_and_restart
    started = time.monotonic()
    _, failures = exchange(grid, timeout_s=60.0)
    assert failures == ["silo 1: restarted during the round"]
    assert time.monotonic() - started < 30.0


def test_the_longer_a_round_the_less_often_silos_are_asked_for_replies(monkeypatch):
    grid = LocalGrid(reply_of(lambda node: node - 100), ["silo0", "silo1"])
    grid.silent = {101}
    clock, polls = [0.0], []
    pull = grid.pull_messages

    def slow(message_ids):
        clock[0] += 0.02
        polls.append(clock[0])
        return pull(message_ids)

    grid.pull_messages = slow
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    silos = SiloGrid(grid, 2, None, 0.0, 0.1)
    replies, failures = silos.send_and_receive(RecordDict({}), MessageType.TRAIN, 600.0, "1", unpack_reply)
    assert [reply.silo for reply in replies] == [0]
    assert failures == ["silo 1: no reply within 600 s"]
    pauses = np.diff(polls[1:])
    assert pauses[0] < 0.2
    assert all(pause <= 0.13 + 0.06 * at for pause, at in zip(pauses, polls[1:]))
    assert len(polls) < 250
    assert clock[0] < 601


def test_nothing_is_left_of_a_large_reply_when_the_next_is_pulled():
    """Flower's messages leave reference cycles, which Python would collect some replies later."""
    left = []

    class Pulling(LocalGrid):
        def pull_messages(self, message_ids):
            assert not any(earlier() for earlier in left)
            messages = super().pull_messages(message_ids)
            if messages:
                response = type("Response", (), {})()
                response.content = {"response": response, "messages": messages}
                left.append(weakref.ref(response))
            return messages

    arrays = {"w": np.zeros(MAX_BYTES // 4 + 1, np.float32)}
    grid = Pulling(
        lambda sent, node: Message(pack_reply(Reply(node - 100, 1, arrays, {})), reply_to=sent), ["", "", ""]
    )
    silos = SiloGrid(grid, 3, [0, 1, 2], 0.0, 0.01)
    arguments = RecordDict({}), MessageType.TRAIN, 10.0, "1", lambda content: replace(unpack_reply(content), arrays={})
    replies, failures = silos.send_and_receive(*arguments)
    assert (len(replies), len(left), failures) == (3, 3, [])

"""The parts of the Flower engines, without Flower's processes: messages, ClientApp, ServerApp, privacy."""

import json
import math
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid import http_grid

from helpers.checkpoints import assert_same
from helpers.federation import train_config
from helpers.flower_grid import LocalGrid
from sase.errors import InputError
from sase.federated.config import FederatedConfig, checked
from sase.federated.exchange import Instruction, Reply
from sase.federated.flower import quota
from sase.federated.flower.app import write_app
from sase.federated.flower.client_app import app as client_app
from sase.federated.flower.messages import (
    Scores,
    pack_instruction,
    pack_reply,
    pack_scores,
    unpack_instruction,
    unpack_reply,
    unpack_scores,
)
from sase.federated.flower.packing import is_packed, offer, pack, packing_mod, unpack
from sase.federated.flower.patches import bound_replies, bounded_pull
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


def reply_of(silo):
    arrays = {"w": np.zeros(2, np.float32)}
    return lambda message, node: Message(pack_reply(Reply(silo(node), 1, arrays, {})), reply_to=message)


def exchange(grid, count=3, order=None, timeout_s=0.3):
    silos = SiloGrid(grid, count, order, 0.0, 0.01)
    return silos.send_and_receive(RecordDict({}), MessageType.TRAIN, timeout_s, "1", unpack_reply)


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


def npy(header, data=b""):
    """Return a file in npy format 1.0 with any header."""
    text = header.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def foreign(data, stype="numpy.ndarray", **metrics):
    """Return the content of a reply whose only array holds these bytes."""
    array = Array(dtype="float32", shape=(2,), stype=stype, data=data)
    return RecordDict(
        {
            "arrays": ArrayRecord({"w": array}),
            "metrics": MetricRecord(metrics),
            "about": ConfigRecord({"silo": 0, "round": 1}),
        }
    )


def about(**values):
    content = pack_reply(Reply(0, 1, {"w": np.zeros(2, np.float32)}, {}))
    content.config_records["about"].update(values)
    return content


def joined(about, data=b""):
    """Return the content of a reply with joined arrays, about which anything may be said."""
    content = pack(foreign(npy(TWO, bytes(8))))
    array = Array(dtype="uint8", shape=(2,), stype="packed", data=json.dumps(about).encode() + b"\n" + data)
    return RecordDict({**content, "packed": ArrayRecord({"packed": array})})


TWO = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
DAMAGED = {
    "arrays": RecordDict({"about": ConfigRecord({"silo": 0, "round": 1})}),
    "about": RecordDict({}),
    "about ": RecordDict({"arrays": ConfigRecord({}), "about": MetricRecord({}), "metrics": ArrayRecord()}),
    "magic string": foreign(b"no npy"),
    "holds 4 bytes": foreign(npy(TWO, bytes(4))),
    "holds 12 bytes": foreign(npy(TWO, bytes(12))),
    "declares float32 (1099511627776,)": foreign(npy(TWO.replace("2,", f"{2**40},"))),
    "declares float32 (-2, -1)": foreign(npy(TWO.replace("2,", "-2, -1"), bytes(8))),
    "declares object": foreign(npy(TWO.replace("<f4", "|O"), bytes(16))),
    "declares <U1": foreign(npy(TWO.replace("<f4", "<U1"), bytes(8))),
    "Header info length (40000)": foreign(b"\x93NUMPY\x01\x00" + (40000).to_bytes(2, "little") + b" " * 40000),
    "serialised as torch": foreign(npy(TWO, bytes(8)), stype="torch.tensor"),
    "reports a list as loss": foreign(npy(TWO, bytes(8)), loss=[1.0, 2.0]),
    "invalid name (20000000": foreign(npy(TWO, bytes(8)), **{"x" * 20_000_000: 1.0}),
    "invalid name (4": foreign(npy(TWO, bytes(8)), **{"\x1b[2J": 1.0}),
    "reports 101 numbers": foreign(npy(TWO, bytes(8)), **{f"n{k}": 1.0 for k in range(101)}),
    "is not an integer": about(silo="0" * 20_000_000),
    "is not an integer ": about(round=float("inf")),
    "is not an integer  ": about(silo=[0, 1]),
    "claims to be silo -1": about(silo=-1),
    "claims to be silo 4611686018427387904": about(silo=2**62),
    "array w: declares 9 bytes, 8 are left": joined({"arrays": [["w", "f", [2], "numpy.ndarray", 9]]}, bytes(8)),
    "array w: declares -1 bytes": joined({"arrays": [["w", "f", [2], "numpy.ndarray", -1]]}, bytes(8)),
    "1 bytes belong to no array": joined({"arrays": [["w", "f", [2], "numpy.ndarray", 8]]}, bytes(9)),
    "more than 20000 arrays": joined({"arrays": [[f"{k}", "f", [0], "numpy.ndarray", 0] for k in range(20_001)]}),
    "malformed reply": joined([1]),
    "malformed reply ": joined({"arrays": [["w", "f", [2], "numpy.ndarray", 0.5]]}, bytes(8)),
    "malformed reply  ": joined({"arrays": [[3, 3, "shape", 3, 8]]}, bytes(8)),
    "holds 4 bytes ": joined({"arrays": [["w", "f", [2], "numpy.ndarray", 132]]}, npy(TWO, bytes(4))),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_reply_is_named_and_the_others_count(message):
    def answer(query, node):
        content = DAMAGED[message] if node == 100 else pack_reply(Reply(1, 1, {"w": np.zeros(2, np.float32)}, {}))
        return Message(content, reply_to=query)

    replies, failures = exchange(LocalGrid(answer, ["silo0", "silo1"]), count=2)
    assert [reply.silo for reply in replies] == [1]
    assert len(failures) == 1
    assert failures[0].startswith("silo 0: ")
    assert message.strip() in failures[0]
    assert failures[0].isprintable()
    assert len(failures[0]) < 300


def test_an_error_of_a_silo_is_one_short_line():
    text = "\x1b]0;title\x07\x1b[2J" + "spam\n" * 4_000_000

    def answer(query, node):
        return Message(Error(0, text), reply_to=query)

    replies, failures = exchange(LocalGrid(answer, ["silo0"]), count=1)
    assert not replies
    assert failures[0].startswith("silo 0: ]0;title[2Jspam spam")
    assert failures[0].isprintable()
    assert len(failures[0]) < 320


def test_a_reply_that_flower_cannot_read_costs_no_other_reply():
    """Flower discards what is pulled together with a damaged reply, so replies are pulled one by one."""
    grid = LocalGrid(reply_of(lambda node: node - 100), ["silo0", "silo1", "silo2"])
    pull = grid.pull_messages

    def fragile(message_ids):
        pulled = pull(message_ids)
        if any(message.metadata.src_node_id == 101 or "m1" in message_ids for message in pulled):
            raise KeyError("arraychunk_ids\x1b[2J")
        return pulled

    grid.pull_messages = fragile
    replies, failures = exchange(grid)
    assert sorted(reply.silo for reply in replies) == [0, 2]
    assert failures == ["silo 1: damaged reply ('arraychunk_ids\\x1b[2J')"]
    grid = LocalGrid(reply_of(lambda node: node - 100), ["silo0"])
    grid.pull_messages = lambda message_ids: (_ for _ in ()).throw(httpx.ConnectError("gone"))
    with pytest.raises(httpx.ConnectError):  # the server's own connection: not the silo's fault
        exchange(grid, count=1)


def chunk_bomb(times):
    """Return an array's content and chunks; its bytes are those of one chunk of 1 MiB, many times."""
    array = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=bytes(1 << 20))
    indices = json.dumps([0] * times).encode()
    return array.deflate().replace(b'"arraychunk_ids": [0]', b'"arraychunk_ids": ' + indices), dict(array.slice_array())


def test_a_reply_is_bounded_before_flower_joins_its_chunks():
    grid = LocalGrid(reply_of(lambda node: node - 100), ["silo0", "silo1"])
    pull = grid.pull_messages

    def inflating(message_ids):
        content, chunks = chunk_bomb(1_000_000 if "m0" in message_ids else 1)  # a terabyte
        assert len(Array.inflate(content, children=chunks).data) == 1 << 20
        return pull(message_ids)

    grid.pull_messages = inflating
    replies, failures = exchange(grid, count=2)
    assert [reply.silo for reply in replies] == [1]
    assert failures == ["silo 0: damaged reply (its arrays have more than 1048576 bytes)"]
    content, chunks = chunk_bomb(3)
    assert len(Array.inflate(content, children=chunks).data) == 3 << 20  # the bound ends with the exchange


def test_a_reply_that_stays_incomplete_is_waited_for_until_the_round_ends():
    def never(name):
        raise ObjectUnavailableError(name)

    began = time.monotonic()
    with bounded_pull(1, 0.2), pytest.raises(ObjectPullError, match="timeout"):
        http_grid.pull_objects(["a"], never, initial_backoff=0.05)
    assert time.monotonic() - began < 30.0


def test_what_a_silo_stores_with_its_reply_is_bounded(monkeypatch):
    monkeypatch.setattr(quota, "MAX_BYTES", 1000)
    monkeypatch.setattr(quota, "MAX_OBJECTS", 5)
    accepted, sessions = [], iter(range(100))

    def push_messages(request, state):
        names = [tree.object_id for tree in request.message_object_trees[0].children]
        return SimpleNamespace(session_id=f"s{next(sessions)}", objects_to_push=names)

    def push_object(request, state):
        accepted.append(len(request.object_content))
        return "stored"

    handlers = SimpleNamespace(push_messages=push_messages, push_object=push_object)
    bound_replies(handlers)

    def announce(node, message, objects=3):
        tree = ObjectTree(object_id="root", children=[ObjectTree(object_id=str(k)) for k in range(objects)])
        metadata = SimpleNamespace(reply_to_message_id=message)
        messages, sender = [SimpleNamespace(metadata=metadata)], SimpleNamespace(node_id=node)
        request = SimpleNamespace(messages_list=messages, message_object_trees=[tree], node=sender)
        return handlers.push_messages(request=request, state=None).session_id

    def push(node, session, size):
        sender = SimpleNamespace(node_id=node)
        request = SimpleNamespace(node=sender, session_id=session, object_content=bytes(size))
        return handlers.push_object(request=request, state=None)

    with pytest.raises(HTTPException, match="more than 5 objects"):
        announce(1, "m1", objects=9)
    first = announce(1, "m1")
    assert push(1, first, 600) == "stored"
    again = announce(1, "m1")  # the same reply once more: no new quota
    for session, size in ((again, 600), (first, 1), ("", 1), ("unknown", 1)):
        with pytest.raises(HTTPException) as refused:
            push(1, session, size)
        assert refused.value.status_code == 413
    assert push(1, again, 400) == "stored"
    assert push(2, announce(2, "m2"), 1000) == "stored"  # another silo
    assert push(1, announce(1, "m3"), 1000) == "stored"  # the next round
    assert accepted == [600, 400, 1000, 1000]


def test_scores_are_numbers():
    content = pack_scores(Scores(1, {"own/SI_SDR": 3.5}))
    assert unpack_scores(content) == Scores(1, {"own/SI_SDR": 3.5})
    content.metric_records["metrics"]["own/STOI"] = [1.0]
    with pytest.raises(ValueError, match="a list as own/STOI"):
        unpack_scores(content)


def test_arrays_may_be_in_fortran_order_and_can_be_written_to():
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    received = unpack_reply(pack_reply(Reply(0, 1, {"w": array}, {}))).arrays["w"]
    np.testing.assert_array_equal(received, array)
    received += 1.0

"""Replies that Flower carries and that are damaged, or larger than they may be: each is its silo's failure alone."""

import gc
import json
import time
import weakref
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid import http_grid

from helpers.flower_grid import LocalGrid, exchange, reply_of
from sase.federated.exchange import Reply
from sase.federated.flower import quota
from sase.federated.flower.messages import (
    Scores,
    pack_reply,
    pack_scores,
    unpack_reply,
    unpack_scores,
)
from sase.federated.flower.packing import pack
from sase.federated.flower.patches import bound_replies
from sase.federated.flower.patches_pull import bounded_pull


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


def test_what_requests_for_a_reply_leave_in_memory_is_freed_before_the_next():
    class Response:
        def __init__(self):
            self.content, self.request = bytes(3_000_000), self  # a reference cycle, as in httpx

    left, most = [], []

    def pull(name):
        most.append(sum(reference() is not None for reference in left))
        response = Response()
        left.append(weakref.ref(response))
        return response.content

    gc.disable()  # so that nobody else collects
    try:
        with bounded_pull(1, 10.0):
            pulled = http_grid.pull_objects(list("abcdefgh"), pull, max_concurrent_pulls=1)
    finally:
        gc.enable()
    assert [len(content) for content in pulled.values()] == [3_000_000] * 8
    assert max(most) <= 1


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

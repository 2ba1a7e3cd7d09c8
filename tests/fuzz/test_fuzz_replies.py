"""Replies of a silo, mutated at every level of Flower's messages: refused by name or harmless, and the others count."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import strategies as st

from helpers.federation import first_round
from helpers.flower_grid import LocalGrid
from helpers.fuzzing import changes, cuts, hammer
from sase.federated.admission import admit
from sase.federated.flower.messages import pack_instruction, pack_reply, unpack_reply
from sase.federated.flower.silo_grid import SiloGrid
from sase.federated.global_model import GlobalModel, new_optimiser

SHARE = 0.06 / 3
NAMES = ("", "examples", "steps", "loss", "x" * 300, "\x1b[2J", "../x", "a\nb", "é")
NUMBERS = (0.0, -1.0, 0.5, 2.0, 1e9, 1e300, 2.0**63, math.nan, math.inf, -math.inf, 1e-3)
VALUES = (None, 0, -1, 2**62, 0.5, math.inf, "0", "x" * 5000, b"\0", [0, 1], [], True)
MARKS = (b"numpy.ndarray", b"descr", b"shape", b"arraychunk_ids", b"NUMPY", b"{", b"float32")
PIECES = (b"[" + b"0, " * 5000 + b"0]", b"0, " * 999, b"-1", b"99", b"|O8", b"<U9", b"1e9", b"[" * 2000, b"\xff")


@pytest.fixture(scope="module")
def federation(silos_dir, dev_set, tmp_path_factory):
    """A server of batch-normalised networks with SCAFFOLD, and the honest replies of its first round."""
    server, replies = first_round(silos_dir, dev_set, tmp_path_factory.mktemp("replies"))
    contents = [pack_reply(reply) for reply in replies]
    return SimpleNamespace(
        server=server, first=replies[0], question=pack_instruction(server.instruction()), contents=contents
    )


def require_harmless(federation, pull_first):
    """Exchange with three silos, the first of which replies with what ``pull_first(instruction message)`` returns."""
    server, instruction = federation.server, federation.server.instruction()

    def answer(query, node):
        return Message(federation.contents[node - 100], reply_to=query)

    grid = LocalGrid(answer, ["silo0", "silo1", "silo2"])
    pull = grid.pull_messages

    def pull_messages(message_ids):
        pulled = pull(message_ids)
        return [pull_first(pulled[0], grid.sent[0])] if message_ids == ["m0"] else pulled

    grid.pull_messages = pull_messages
    silos = SiloGrid(grid, 3, None, 0.0, 0.01)
    replies, failures = silos.send_and_receive(federation.question, MessageType.TRAIN, 5.0, "1", unpack_reply)
    admitted, rejected = admit(replies, instruction, server.config, server.layout)
    assert {1, 2} <= {reply.silo for reply in admitted}
    assert len(admitted) + len(rejected) + len(failures) == 3
    for line in (*failures, *rejected.values()):
        assert line
        assert line.isprintable()
        assert len(line) < 400
    start = GlobalModel(instruction.model, instruction.model, new_optimiser(server.config))
    model = start.after(admitted, server.config, server.layout, 0.0, None)
    assert not model.not_finite
    assert max(model.alphas) <= max(0.6, 1.5 / len(admitted)) + 1e-12


def edited(arrays, pick, choice):
    """Return arrays with one changed, missing or added; ``pick`` and ``choice`` are any integers."""
    name = sorted(arrays)[pick % len(arrays)]
    value = arrays[name]
    with np.errstate(all="ignore"):
        others = [
            *(np.full_like(value, fill) for fill in (np.nan, np.inf, -1, 3e38) if value.dtype.kind == "f"),
            *(value * value.dtype.type(factor) for factor in (0, -1, 9, 100) if value.dtype.kind == "f"),
            *(value.astype(kind) for kind in ("f8", "f2", "i1", "u2", "?", "c8", ">f4")),
            *(value[None], value.ravel()[:0], np.zeros((0, 5)), np.zeros((3, 0, 2**30)), np.array(1.0)),
        ]
    choice %= len(others) + len(NAMES) + 1
    if choice < len(others):
        return {**arrays, name: others[choice]}
    if choice < len(others) + len(NAMES):
        return {**arrays, NAMES[choice - len(others)]: value}
    return {other: arrays[other] for other in arrays if other != name}


ANY = st.integers(0, 2**20)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("arrays"), ANY, ANY),
        st.tuples(st.just("metrics"), st.sampled_from([*NAMES, "last_loss", "bad_steps"]), st.sampled_from(NUMBERS)),
        st.tuples(st.just("silo"), st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62]), st.none()),
        st.tuples(st.just("round"), st.sampled_from([-1, 0, 1, 2, 2**62]), st.none()),
    ),
    min_size=1,
    max_size=3,
)


def changed_reply(reply, edits):
    for what, first, second in edits:
        if what == "arrays" and reply.arrays:
            reply = replace(reply, arrays=edited(reply.arrays, first, second))
        elif what == "metrics":
            reply = replace(reply, metrics={**reply.metrics, first: second})
        elif what != "arrays":
            reply = replace(reply, **{what: first})
    return reply


@pytest.mark.fuzz
def test_values_of_replies(federation, record_property):
    def check(edits):
        content = pack_reply(changed_reply(federation.first, edits))
        require_harmless(federation, lambda pulled, query: Message(content, reply_to=query))

    hammer(check, EDITS, SHARE, record_property)


@pytest.mark.fuzz
def test_records_of_replies(federation, record_property):
    makers = (lambda: ArrayRecord(), lambda: ConfigRecord({"silo": 0}), lambda: MetricRecord({"loss": 1.0}), None)
    edits = st.tuples(
        st.sampled_from(["arrays", "about", "metrics"]),
        st.sampled_from([*NAMES, "silo", "round"]),
        st.sampled_from(VALUES),
        st.sampled_from([None, None, *range(len(makers))]),
    )

    def check(example):
        def changed(pulled, query):
            content = pack_reply(federation.first)
            for record, name, value, maker in example:
                try:
                    if maker is None:
                        content[record][name] = value
                    elif makers[maker] is None:
                        content.pop(record, None)
                    else:
                        content[record] = makers[maker]()
                except (TypeError, ValueError, KeyError):  # Flower refuses to pack it
                    continue
            return Message(content, reply_to=query)

        require_harmless(federation, changed)

    hammer(check, st.lists(edits, min_size=1, max_size=3), SHARE, record_property)


@pytest.mark.fuzz
def test_objects_of_replies(federation, record_property):
    """Mutate the serialised objects of a reply, as they lie in the SuperLink's store."""
    sample = {}

    def sampled(pulled, query):
        sample.update(get_all_nested_objects(pulled))
        sample["root"] = pulled.object_id
        return pulled

    require_harmless(federation, sampled)
    root = sample.pop("root")
    contents = {name: thing.deflate() for name, thing in sample.items()}
    places = sorted(contents, key=lambda name: contents[name])

    @st.composite
    def mutated(draw):
        name = draw(st.sampled_from(places))
        content = contents[name]
        _, changed = draw(changes(content, MARKS, PIECES) | cuts(content))
        return name, changed

    def check(example):
        some = {**contents, example[0]: example[1]}
        require_harmless(federation, lambda pulled, query: inflate_object_from_contents(root, some))

    hammer(check, mutated(), SHARE, record_property)

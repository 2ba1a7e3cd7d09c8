"""Secure sums over Flower's Message API, without Flower's processes: the ClientApp, the ServerApp and their records."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from helpers.federation import fed_config, largest_difference, rounds, train_config
from helpers.flower_grid import LocalGrid
from sase.errors import InputError
from sase.federated.certificates import make_certificates
from sase.federated.exchange import Instruction
from sase.federated.flower import deployment
from sase.federated.flower.app import write_app
from sase.federated.flower.client_app import app as client_app
from sase.federated.flower.packing import unpack
from sase.federated.flower.secure import MESSAGE, pack_answer, pack_request, unpack_answer, unpack_request
from sase.federated.flower.server_app import app as server_app
from sase.federated.inproc import run as run_inproc
from sase.federated.secure.identity import KEYS_FOLDER, Roster
from sase.federated.secure.messages import MASKED, Answer, Request

VALUES = {"max_drop_db": 0, "num_rounds": 2, "fednova": True, "num_silos": 3, "max_repeats": 0}


@pytest.fixture
def federation(tmp_path, silos_dir, dev_set):
    """Settings of a server, and a grid of three deployed silos, each with its own folders and key."""
    exp, keys = tmp_path / "exp", tmp_path / "certificates"
    make_certificates(keys, ["localhost"], 3)
    settings = {"exp_dir": str(exp), "dev_set": str(dev_set), "roster": str(keys / "server"), "device": "cpu"}
    settings |= {"simulated": False, "order": None, "server_threads": 1, "connect_s": 1.0, "poll_s": 0.01}
    write_app(exp / "flower", train_config("batch"), fed_config(**VALUES, secure_aggregation=True), **settings)
    path = exp / "flower/settings.json"
    sent = []

    def context(node):
        return Context(1, 100, node, RecordDict(), {"settings": str(path)})

    def answer(message, node):
        silo = node - 100
        sent.append((message.metadata.message_type, silo, message.content))
        here = {"silo": silo, "data-dir": str(silos_dir / f"silo{silo}"), "state-dir": str(tmp_path / f"state{silo}")}
        reply = client_app(message, context({**here, "device": "cpu", "certificates": str(keys / f"silo{silo}")}))
        if message.metadata.message_type == "query.finish":
            grid.nodes.pop(node)  # it disconnects
        replies.append(reply)
        return reply

    replies: list[Message] = []
    grid = LocalGrid(answer, ["silo0", "silo1", "silo2"])
    return {"exp": exp, "grid": grid, "context": context({}), "sent": sent, "replies": replies, "folder": tmp_path}


@pytest.mark.recipe
def test_rounds_of_deployed_silos_give_the_model_of_unmasked_ones(federation, silos_dir, dev_set, tmp_path):
    server_app(federation["grid"], federation["context"])
    plain = run_inproc(train_config("batch"), fed_config(**VALUES), silos_dir, dev_set, tmp_path / "plain")
    assert largest_difference(federation["exp"] / "last.pt", tmp_path / "plain/last.pt") < 1e-5
    assert [list(record["silos"]) for record in rounds(federation["exp"])] == [["0", "1", "2"]] * 2
    assert len(plain.history) == 2
    types = [of for of, *_ in federation["sent"]]
    assert types == [MESSAGE] * (2 * 5 * 3) + ["query.finish"] * 3
    # The global model goes to each silo once a round, and no update of a single silo comes back.
    assert (
        sum(bool(unpack(content).array_records["arrays"]) for of, _, content in federation["sent"] if of == MESSAGE)
        == 2 * 3
    )
    assert len({values["loss"] for values in rounds(federation["exp"])[0]["silos"].values()}) == 1
    # What a silo keeps to itself is private, and its secrets go at the end.
    for silo in range(3):
        folder = tmp_path / f"state{silo}/secure"
        assert {path.name for path in folder.iterdir()} == {"lock", "masked.json"}
        assert len(json.loads((folder / "masked.json").read_text())) == 2


def test_silos_get_the_public_keys_of_all(tmp_path):
    make_certificates(tmp_path, ["localhost"], 3)
    keys = {path.name: path.read_bytes() for path in (tmp_path / "server").glob("silo*.pub")}
    assert len(keys) == 3
    for silo in range(3):
        folder = tmp_path / f"silo{silo}"
        assert {path.name: path.read_bytes() for path in (folder / KEYS_FOLDER).iterdir()} == keys
        assert Roster.load(folder / KEYS_FOLDER).fingerprint == Roster.load(tmp_path / "server").fingerprint
    make_certificates(tmp_path, ["localhost"], 4)  # one more silo
    assert len(list((tmp_path / "silo0" / KEYS_FOLDER).iterdir())) == 4


def test_a_forged_or_missing_key_is_one_line(federation, tmp_path):
    for path in (tmp_path / "certificates/silo1/silos").glob("*.pub"):
        path.unlink()
    with pytest.raises(InputError, match=r"round 1 failed 1 times: .*2 participants, at least 3 are needed"):
        server_app(federation["grid"], federation["context"])
    said = [reply.error.reason for reply in federation["replies"] if reply.has_error()]
    assert len(said) == 1
    assert "silos: no keys of silos, silo0.pub ...; secure aggregation needs those of all silos there" in said[0]


def test_requests_and_answers_survive_the_wire():
    instruction = Instruction(3, {"w": np.ones((2, 3), np.float32)}, {"federated": {"dp_clip_norm": 0.0}})
    request = Request(MASKED, instruction, {"shares": {"1": {"2": "00ff"}}})
    read = unpack_request(pack_request(request))
    assert (read.phase, read.content, read.instruction.round) == (MASKED, request.content, 3)
    assert np.array_equal(read.instruction.arrays["w"], instruction.arrays["w"])
    arrays = {"weights": np.array([0, 2**32 - 1], np.uint32), "statistics": np.array([2**64 - 1], np.uint64)}
    answer = unpack_answer(pack_answer(Answer(2, {"seconds": 1.5}, arrays), 3))
    assert (answer.silo, answer.content) == (2, {"seconds": 1.5})
    assert all(np.array_equal(answer.arrays[name], value) for name, value in arrays.items())
    assert unpack_answer(pack_answer(Answer(0, None), 1)) == Answer(0, None, {})


def test_without_keys_a_deployment_with_secure_sums_does_not_start(dev_set, tmp_path):
    config = replace(fed_config(**VALUES), secure_aggregation=True)
    options = {"insecure": "true"}
    with pytest.raises(InputError, match="needs the silos' registered keys; do not use insecure=true"):
        deployment.run(train_config(), config, None, dev_set, tmp_path / "exp", "cpu", options)

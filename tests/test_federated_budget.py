"""A silo's own limits of differential privacy: what it counts, and what it refuses whatever the server says."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from helpers.federation import fed_config, train_config
from sase.bin.main import main
from sase.config import to_mapping
from sase.errors import InputError
from sase.federated.budget import FILE, PrivacyBudget
from sase.federated.flower import secure
from sase.federated.flower.client_app import app as client_app
from sase.federated.flower.messages import pack_instruction, unpack_reply
from sase.federated.flower.silo_process import SiloProcess
from sase.federated.limits import PrivacyLimits
from sase.federated.privacy import epsilon_of, upload_epsilon
from sase.federated.secure.messages import KEYS, MASKED, PHASES, Request
from sase.federated.secure.participant import Participant
from sase.federated.secure.session import model_fingerprint
from sase.federated.secure.silo import SecureSilo
from sase.federated.secure.state import FOLDER, SecureState
from sase.federated.server import Server
from sase.processes import folder_lock

PRIVATE = {"strategy": "uniform", "min_silos": 3, "norm": "none", "dp_clip_norm": 1.0, "dp_noise_multiplier": 4.0}


def asked(**values):
    return to_mapping(fed_config(**{**PRIVATE, **values}))


def test_uploads_of_one_noise_give_the_epsilon_of_the_accounting(tmp_path):
    budget = PrivacyBudget(2, tmp_path / "state", PrivacyLimits())
    for uploads in range(1, 5):
        assert budget.charge(asked()) == pytest.approx(upload_epsilon(4.0, uploads, 1e-5))


def test_all_uploads_count_whatever_their_noise_and_experiment(tmp_path):
    limits = PrivacyLimits(max_epsilon=100.0)
    noises = (4.0, 2.0, 1.0)
    found = [PrivacyBudget(0, tmp_path, limits).charge(asked(dp_noise_multiplier=noise)) for noise in noises]
    mus = [math.sqrt(sum((2 / noise) ** 2 for noise in noises[: n + 1])) for n in range(3)]
    assert found == pytest.approx([epsilon_of(mu, 1e-5) for mu in mus])
    # One without noise is a release of everything; a limit that is set later still knows.
    assert PrivacyBudget(0, tmp_path, PrivacyLimits()).charge(asked(dp_noise_multiplier=0.0)) == math.inf
    with pytest.raises(InputError, match="after upload 5 ε would be inf"):
        PrivacyBudget(0, tmp_path, limits).charge(asked())


@pytest.mark.parametrize(
    ("limits", "values", "message"),
    [
        ({"min_noise": 5.0}, {}, r"noise of 4 times the norm, it demands at least 5 \(--min-noise\)"),
        ({"min_noise": 1.0}, {"dp_noise_multiplier": 0.0}, "noise of 0 times"),
        ({"min_noise": 1.0}, {"dp_noise_multiplier": 0.0, "dp_clip_norm": 0.0}, "noise of 0 times"),
        ({"max_epsilon": 5.0}, {"dp_noise_multiplier": 0.0}, "it demands some"),
        ({"max_epsilon": 1.0}, {}, r"after upload 1 ε would be 1\.99.* more than 1 \(--max-epsilon\)"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_in_one_line_and_not_counted(tmp_path, limits, values, message):
    budget = PrivacyBudget(2, tmp_path, PrivacyLimits(**limits))
    for call in (budget.require, budget.charge):
        with pytest.raises(InputError, match=f"silo 2 refuses this round: .*{message}") as error:
            call(asked(**values))
        assert "\n" not in str(error.value)
    assert not (tmp_path / FILE).exists()


def test_a_silo_with_limits_checks_the_servers_config_itself(tmp_path):
    """Clipping does not bound what else is sent, such as the statistics of norm layers."""
    budget = PrivacyBudget(2, tmp_path, PrivacyLimits(min_noise=1.0))
    with pytest.raises(InputError, match="dp_clip_norm requires"):
        budget.require({**asked(), "norm": "average"})
    with pytest.raises(InputError, match="dp_noise_multiplier"):
        budget.require({**asked(), "dp_noise_multiplier": math.nan})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"uploads": 1}', '{"uploads": -1, "mu_squared": 1}', '{"uploads": 1, "mu_squared": "x"}']
)
def test_a_damaged_count_is_no_new_beginning(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=FILE):
        PrivacyBudget(2, tmp_path, PrivacyLimits()).charge(asked())
    assert (tmp_path / FILE).read_text() == text


def test_two_tasks_of_a_silo_do_not_count_as_one(tmp_path):
    with folder_lock(tmp_path, name=f"{FILE}.lock"), pytest.raises(InputError, match="locked by another process"):
        PrivacyBudget(2, tmp_path, PrivacyLimits()).charge(asked())
    assert not (tmp_path / FILE).exists()
    state = SecureState(tmp_path / FOLDER)
    with folder_lock(state.folder), pytest.raises(InputError, match="locked by another process"):
        state.record("model", "ab")
    assert not state.path.exists()


@pytest.mark.parametrize(
    "limits",
    [{"min_noise": -1.0}, {"min_noise": math.nan}, {"max_epsilon": 0.0}, {"max_epsilon": math.nan}, {"delta": 1.0}],
)
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(InputError, match="must be"):
        PrivacyLimits(**limits)


def answer(silo, silos_dir, state, message_config, server, **node):
    """The reply of a real silo's ClientApp to the first round, with these own settings."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    instruction = replace(server.instruction(), config={**server.instruction().config, "federated": message_config})
    message = Message(pack_instruction(instruction), 5, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "m"
    here = {"silo": silo, "data-dir": str(silos_dir / f"silo{silo}"), "state-dir": str(state), "device": "cpu", **node}
    return client_app(message, Context(1, 5, here, RecordDict(), {"settings": "none"}))


def test_the_client_app_obeys_the_limits_of_its_own_node(silos_dir, dev_set, tmp_path):
    config = fed_config(**PRIVATE, local_steps=1)
    server = Server(train_config(), config, dev_set, tmp_path / "exp")
    federated = server.instruction().config["federated"]
    refusing = answer(
        1, silos_dir, tmp_path / "a", federated, server, **{"dp-min_noise": "5.0", "dp-max_epsilon": "inf"}
    )
    assert "silo 1 refuses this round: the server asks for noise of 4" in refusing.error.reason
    assert not (tmp_path / "a" / FILE).exists()
    own = {"dp-min_noise": "4.0", "dp-max_epsilon": "3.5", "dp-delta": "1e-05"}
    reply = answer(1, silos_dir, tmp_path / "b", federated, server, **own)
    assert unpack_reply(reply.content).silo == 1
    assert json.loads((tmp_path / "b" / FILE).read_text()) == {"uploads": 1, "mu_squared": 0.25}
    second = answer(1, silos_dir, tmp_path / "b", federated, server, **own)  # the same round again: another release
    third = answer(1, silos_dir, tmp_path / "b", federated, server, **own)
    assert not second.has_error()
    assert "after upload 3 ε would be" in third.error.reason


def test_what_is_to_be_masked_is_never_sent_in_clear(silos_dir, dev_set, tmp_path):
    """Training is deterministic: a server that asks once more for what was masked would see that very update."""
    server = Server(train_config(), fed_config(**PRIVATE, local_steps=1), dev_set, tmp_path / "exp")
    federated, own = server.instruction().config["federated"], {"dp-min_noise": "4.0", "dp-max_epsilon": "inf"}
    asked_for = answer(1, silos_dir, tmp_path / "a", {**federated, "secure_aggregation": True}, server, **own)
    assert "silo 1: refuses to send an update that is not masked (the config has secure" in asked_for.error.reason
    assert not (tmp_path / "a" / FILE).exists()
    demanded = answer(1, silos_dir, tmp_path / "b", federated, server, **{"require-masks": "yes"})
    assert "refuses to send an update that is not masked (--require-masks)" in demanded.error.reason
    state = SecureState(tmp_path / "c" / FOLDER)
    state.record(model_fingerprint(server.instruction().model), "ab")
    again = answer(1, silos_dir, tmp_path / "c", federated, server)
    assert "already masked an update for this global model" in again.error.reason


def test_statistics_of_norm_layers_are_not_sent_past_the_clipping(silos_dir, dev_set, tmp_path):
    """A server that lies about its network: it says norm: none, and the network has statistics."""
    train = replace(train_config(), model=replace(train_config().model, norm="batch"))
    plain = Server(train, fed_config(local_steps=1), dev_set, tmp_path / "exp")
    federated = {**plain.instruction().config["federated"], **{k: v for k, v in PRIVATE.items() if k != "min_silos"}}
    refused = answer(1, silos_dir, tmp_path / "a", federated, plain)
    assert "dp_clip_norm does not bound the statistics" in refused.error.reason


def test_masked_updates_are_limited_and_counted_too(tmp_path, monkeypatch):
    """Before the keys are agreed, so that no other silo waits for one that refuses."""
    here = {"silo": 1, "certificates": str(tmp_path), "state-dir": str(tmp_path)}
    instruction = SimpleNamespace(config={"federated": asked()}, round=1)
    monkeypatch.setattr(SecureSilo, "load", lambda *_: None)
    monkeypatch.setattr(Participant, "answer", lambda self, request: request.phase)
    monkeypatch.setattr(secure, "unpack_request", lambda phase: Request(phase, instruction, {}))
    monkeypatch.setattr(secure, "pack_answer", lambda answer, number: answer)

    def ask(phase, **limits):
        budget = PrivacyBudget(1, tmp_path, PrivacyLimits(**limits))
        return secure.answer_request(SimpleNamespace(index=1), phase, here, {}, budget)

    for phase in (KEYS, MASKED):
        with pytest.raises(InputError, match="silo 1 refuses this round"):
            ask(phase, min_noise=5.0)
    assert [ask(phase, min_noise=4.0) for phase in PHASES] == list(PHASES)
    assert json.loads((tmp_path / FILE).read_text()) == {"uploads": 1, "mu_squared": 0.25}


def test_the_command_gives_its_limits_to_the_node_and_no_quote_can_change_them(silos_dir, tmp_path, monkeypatch):
    limits = PrivacyLimits(1.5, 8.0)
    silo = SiloProcess(0, silos_dir / "silo0", tmp_path, "localhost:1", None, "cpu", 1, limits=limits, masks_only=True)
    node = silo._command()[silo._command().index("--node-config") + 1]
    assert "dp-min_noise='1.5' dp-max_epsilon='8.0' dp-delta='1e-05' require-masks='yes'" in node
    words = ["silo", "--silo", "0", "--data-dir", str(silos_dir), "--server", "localhost:1", "--insecure"]
    monkeypatch.setattr(sys, "argv", ["sase", *words, "--max-epsilon", "0"])
    with pytest.raises(SystemExit, match="--max-epsilon 0: must be above 0"):
        main()
    assert not list(Path(tmp_path).iterdir())

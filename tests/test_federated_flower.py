"""The parts of the Flower engines, without Flower's processes: messages, ClientApp, ServerApp, privacy, version."""

import importlib
import importlib.metadata
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from helpers.checkpoints import assert_same
from helpers.federation import train_config
from sase.errors import InputError
from sase.federated.config import FederatedConfig, checked
from sase.federated.flower import deployment, patches, simulation
from sase.federated.flower.app import COMPONENTS, run_app, write_app
from sase.federated.flower.client_app import app as client_app
from sase.federated.flower.client_app import privacy_mod
from sase.federated.flower.messages import pack_instruction, pack_reply, unpack_instruction, unpack_reply
from sase.federated.flower.processes import (
    federation_environment,
    find_pids,
    supervised_federation,
    terminate_federation,
)
from sase.federated.flower.server_app import FINISH, SiloGrid
from sase.federated.flower.server_app import app as server_app
from sase.federated.flower.silo_process import FINISHED_FILE
from sase.federated.inproc import run as run_inproc
from sase.federated.silo import Instruction, Reply
from sase.processes import start


class LocalGrid(Grid):
    """A Flower grid whose nodes reply immediately, in this process."""

    def __init__(self, answer, names):
        self.answer, self.nodes = answer, {100 + k: name for k, name in enumerate(names)}
        self.activated, self.sent, self.replies, self.silent = dict.fromkeys(self.nodes, "1"), [], {}, set()
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

    run = property(lambda self: None)

    def set_run(self, run):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.nodes)

    def get_nodes(self):
        return [
            SimpleNamespace(node_id=node, name=name, registered_at=f"{node}", last_activated_at=self.activated[node])
            for node, name in self.nodes.items()
        ]

    def push_messages(self, messages):
        for message in messages:
            number = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = number
            self.sent.append(message)
            node = message.metadata.dst_node_id
            if node not in self.silent:
                reply = self.answer(message, node)
                self.replies[number] = reply
        return [f"m{len(self.sent) - len(messages) + k}" for k in range(len(messages))]

    def pull_messages(self, message_ids):
        return [self.replies.pop(number) for number in message_ids if number in self.replies]


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
        write_app(home, "127.0.0.1:1", None, train_config(values.pop("norm", "layer")), config, **values)
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


def test_messages_preserve_every_array_to_the_bit():
    arrays = {
        "weight": np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32),
        "count": np.array(7),
        "bits": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "steps": np.array([-127, 3], np.int8),
        "empty": np.zeros((0, 4), np.float32),
    }
    config = {"train": {"seed": 3}, "federated": {"dp_clip_norm": 0.0}, "experiment": "é", "best_round": 0}
    instruction = unpack_instruction(pack_instruction(Instruction(4, arrays, config)))
    reply = unpack_reply(pack_reply(Reply(2, 4, arrays, {"loss": math.nan, "steps": 5})))
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


def test_rounds_through_flower_equal_inproc_to_the_bit(experiment, silos_dir, dev_set, tmp_path):
    config = fed_config(payload="int8", scaffold=True)
    serve(experiment("flower", config))
    run_inproc(train_config(), config, silos_dir, dev_set, tmp_path / "inproc")
    assert_same(tmp_path / "flower/server.pt", tmp_path / "inproc/server.pt")
    assert (tmp_path / "flower/rounds.jsonl").read_text() == (tmp_path / "inproc/rounds.jsonl").read_text()


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
        return client_app(message, replace(context(settings, silo), node_config=here))

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
    monkeypatch.setattr("sase.federated.flower.server_app._RESTART_CHECK_S", 0.0)
    push = grid.push_messages

    def push_and_restart(messages):
        numbers = push(messages)
        threading.Timer(0.2, lambda: grid.activated.update({101: "2"})).start()
        return numbers

    grid.push_messages = push_and_restart
    started = time.monotonic()
    _, failures = exchange(grid, timeout_s=60.0)
    assert failures == ["silo 1: restarted during the round"]
    assert time.monotonic() - started < 10.0


def test_malformed_replies_are_failures():
    grid = LocalGrid(lambda message, node: Message(RecordDict({}), reply_to=message), ["silo0"])
    replies, failures = exchange(grid, count=1)
    assert not replies
    assert "malformed reply" in failures[0]


def private(trained, **federated):
    """Return what a silo sends that trained to ``trained`` from zeros, after the privacy mod."""
    federated = {"dp_clip_norm": 0.0, "dp_noise_multiplier": 0.0, "dp_delta": 1e-5, **federated}
    config = {"train": {}, "federated": federated}
    start_arrays = {name: np.zeros_like(value) for name, value in trained.items()}
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(pack_instruction(Instruction(1, start_arrays, config)), 5, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "m"

    def train(message, context):
        np.random.seed(0)  # as careless code might
        return Message(pack_reply(Reply(0, 1, trained, {}), list(trained)), reply_to=message)

    reply = privacy_mod(message, None, train)
    assert not reply.has_error(), reply.error
    return unpack_reply(reply.content).arrays


def test_updates_are_clipped_and_noised_as_configured():
    trained = {"a": np.full((50, 40), 3.0, np.float32), "b": np.full(1000, -4.0, np.float32)}

    def norm(arrays):
        return math.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in arrays.values()))

    free = private(trained)
    assert all(free[name].tobytes() == trained[name].tobytes() for name in trained)
    clipped = private(trained, dp_clip_norm=2.0)
    assert norm(clipped) == pytest.approx(2.0, rel=1e-4)
    np.testing.assert_allclose(clipped["a"] / clipped["b"][0], trained["a"] / trained["b"][0], rtol=1e-5)
    noised = [private(trained, dp_clip_norm=2.0, dp_noise_multiplier=0.7) for _ in range(2)]
    noise = np.concatenate([(noised[0][name] - clipped[name]).ravel() for name in trained])
    assert noise.std() == pytest.approx(2.0 * 0.7, rel=0.05)
    assert abs(noise.mean()) < 0.1
    assert not np.array_equal(noised[0]["b"], noised[1]["b"])  # a seed set elsewhere has no effect
    assert noised[0]["a"].dtype == np.float32


FLWR = """#!/bin/sh
# Flower's command as observed: 'run --stream' exits with 0 even when the run fails, or before it has finished.
case $1 in
  run) echo "Successfully started run 7" ;;
  ls) line=$(head -n 1 {folder}/statuses); sed -i 1d {folder}/statuses; echo "$line" ;;
esac
"""


@pytest.mark.parametrize(
    ("statuses", "rounds", "error"),
    [
        (["running", "running", "finished:completed"], 3, None),
        (["", "no JSON", "finished:completed"], 3, None),
        (["finished:completed"], 2, "after round 2 of 3"),
        (["finished:failed"], 3, "'finished:failed'"),
        (["finished:stopped"], 3, "'finished:stopped'"),
        ([""] * 9, 3, "'unknown'"),
    ],
)
def test_a_run_is_checked_by_its_status_and_its_rounds(tmp_path, monkeypatch, statuses, rounds, error):
    monkeypatch.setattr("sase.federated.flower.app._STATUS_INTERVAL_S", 0.0)
    monkeypatch.setattr("sase.federated.flower.app._MAX_UNKNOWN", 3)
    answers = [
        json.dumps({"runs": [{"status": s, "status-details": ""}]}) if ":" in s or s == "running" else s
        for s in statuses
    ]
    (tmp_path / "statuses").write_text("\n".join(answers) + "\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/flwr").write_text(FLWR.format(folder=tmp_path))
    (tmp_path / "bin/flwr").chmod(0o755)
    (tmp_path / "rounds.jsonl").write_text("".join(f'{{"round": {n + 1}}}\n' for n in range(rounds)))
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    superlink = SimpleNamespace(poll=lambda: None)
    if error is None:
        return run_app(tmp_path / "home", env, superlink, tmp_path, 3)
    with pytest.raises(InputError, match=error):
        run_app(tmp_path / "home", env, superlink, tmp_path, 3)


def test_processes_of_a_federation_are_found_and_terminated(tmp_path):
    env = federation_environment(tmp_path, 1)
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    # One that detaches, hides its environment as Flower's SuperExec does, and ignores SIGTERM.
    hidden = (
        "import ctypes, signal, time; ctypes.CDLL(None).prctl(4, 0); signal.signal(15, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(300)"
    )
    parent = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {hidden!r}],"
        "start_new_session=True); time.sleep(300)"
    )
    process = start([sys.executable, "-c", parent], env, tmp_path / "log")
    deadline = time.monotonic() + 30
    while "up" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(find_pids(tmp_path)) == 2
    assert process.pid in find_pids(tmp_path)
    assert not find_pids(tmp_path / "other")
    assert terminate_federation(tmp_path, grace_s=0.5) == 2
    assert not find_pids(tmp_path)
    process.wait()


def test_a_federation_is_locked_and_sigterm_interrupts_it(tmp_path):
    with (
        supervised_federation(tmp_path),
        pytest.raises(InputError, match="locked by another process"),
        supervised_federation(tmp_path),
    ):
        pass
    with supervised_federation(tmp_path), pytest.raises(KeyboardInterrupt), supervised_federation(tmp_path / "inner"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_engines_reject_bad_options(silos_dir, dev_set, tmp_path):
    def engine(module, silos, **options):
        module.run(train_config(), fed_config(), silos, dev_set, tmp_path / "exp", "cpu", options)

    for module in (simulation, deployment):
        with pytest.raises(InputError, match="--engine-option prot"):
            engine(module, silos_dir, prot="1")
    with pytest.raises(InputError, match="--silos"):
        engine(simulation, None)
    with pytest.raises(InputError, match="certificates=DIR"):
        engine(deployment, None)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="choose another"):
        engine(deployment, silos_dir, port=str(taken.getsockname()[1]))
    assert not find_pids(tmp_path / "exp/flower")


def test_the_largest_silo_trains_first(silos_dir, tmp_path):
    assert simulation.largest_first(silos_dir, 3) == [2, 0, 1]
    with pytest.raises(InputError, match=r"wav\.scp"):
        simulation.largest_first(tmp_path, 1)


def test_the_names_of_the_apps_on_the_wire_do_not_change():
    """Silos compare them with their own, also those of version 0.1."""
    assert COMPONENTS["serverapp"] == "sase.federated.server_app:app"
    assert COMPONENTS["clientapp"] == "sase.federated.client_app:app"
    assert importlib.import_module("sase.federated.server_app").app is server_app
    assert importlib.import_module("sase.federated.client_app").app is client_app


@pytest.mark.parametrize("found", ["1.40.2", "1.42.0", "2.41.0", None])
def test_another_version_of_flower_is_an_error_of_one_line(monkeypatch, found):
    def version(package):
        if found is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(InputError) as error:
        patches.check_version()
    expected = f"flwr {found or 'not found'}: version 1.41.0 is needed; run: pip install 'flwr[simulation]==1.41.0'"
    assert str(error.value) == expected


def test_the_version_of_flower_is_the_pinned_one_and_checked_before_private_names(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.41.7")
    patches.check_version()
    assert f"flwr[simulation]=={patches.VERSION}" in (Path(__file__).parent.parent / "setup.py").read_text()
    code = (
        "import importlib.metadata, sys; importlib.metadata.version = lambda package: '9.0.0'\n"
        "try: import sase.federated.flower.deployment\n"
        "except ValueError as error: print(error)\n"
        "print([name for name in sys.modules if name.startswith('flwr')])"
    )
    lines = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert lines[0].startswith("flwr 9.0.0: version 1.41.0 is needed")
    assert lines[1:] == ["[]"]


def test_private_names_of_flower_are_used_in_one_file():
    folder = Path(patches.__file__).parent
    private = re.compile(r"(from|import) flwr\.(?!app |clientapp|serverapp )")
    assert [path.name for path in sorted(folder.glob("*.py")) if private.search(path.read_text())] == ["patches.py"]

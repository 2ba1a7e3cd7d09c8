"""Rounds of the engine inproc: equivalence to central training, failures and resuming."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from helpers.checkpoints import states
from helpers.federation import fed_config, train_config
from helpers.parameters import quick
from sase.config import to_mapping
from sase.errors import InputError
from sase.federated.exchange import Reply
from sase.federated.inproc import local_exchange, local_silos, run
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.federated.silo import Silo
from sase.model import load_model
from sase.training.distributed import init_workers
from sase.training.trainer import Trainer


def weights(path):
    return load_model(path).state_dict()


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, name


@pytest.mark.parametrize("norm", quick(["layer", "batch"]))
def test_one_silo_equals_central_training_bit_for_bit(silos_dir, dev_set, tmp_path, norm):
    """One local epoch equals one central epoch; with the optimiser state kept, so do all epochs."""
    config = train_config(norm)
    trainer = Trainer(config, silos_dir / "silo0/tr", dev_set, tmp_path / "central", init_workers(use_gpu=False))
    first = []
    finish = trainer._finish_epoch

    def keep_first(*args):
        first.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        finish(*args)

    trainer._finish_epoch = keep_first
    trainer.run()
    fed = fed_config(num_silos=1, local_steps=0, fresh_optimizer=False)
    server = Server(config, fed, dev_set, tmp_path / "federated")
    exchange = local_exchange(local_silos(silos_dir, 1, tmp_path / "federated"))
    assert server.finish_round(*exchange(server.instruction()))
    assert_equal(first[0], weights(tmp_path / "federated/last.pt"))
    run_rounds(server, exchange)
    assert_equal(trainer.model.state_dict(), weights(tmp_path / "federated/last.pt"))
    assert [entry["dev_SI_SNR"] for entry in trainer.history] == [entry["dev_SI_SNR"] for entry in server.history]
    assert trainer.history[-1]["loss"] == pytest.approx(server.history[-1]["silos"]["0"]["loss"], abs=1e-6)


@pytest.mark.recipe
def test_fresh_optimiser_differs_from_the_second_round_on(silos_dir, dev_set, tmp_path):
    histories = {}
    for fresh in (True, False):
        fed = fed_config(num_silos=1, local_steps=2, fresh_optimizer=fresh)
        histories[fresh] = run(train_config(), fed, silos_dir, dev_set, tmp_path / str(fresh)).history
    assert histories[True][0] == histories[False][0]
    assert histories[True][1] != histories[False][1]


VARIANTS = {
    "plain": {},
    "sase": {"strategy": "sase", "common_dev_s": 0.5},
    "adam": {"server": "adam", "payload": "bfloat16"},
    "scaffold": {"scaffold": True, "payload": "int8"},
    "fedbn": {"norm": "local", "local_epochs": 2},
    "prox": {"fedprox_mu": 0.1, "fednova": True, "strategy": "loss", "fresh_optimizer": False},
    "nesterov": {"server": "nesterov", "server_lr": 0.7},
    "feddyn": {"feddyn_alpha": 0.1},
    "layerwise": {"layerwise": True},
    "steps": {"scaffold": True, "scaffold_space": "steps", "payload": "bfloat16"},
    "fedadamw": {"shared_moments": "second", "scaffold_space": "steps", "alignment": 0.5},
    "moments": {"shared_moments": "both", "payload": "int8"},
}
# All kinds of state, of the server and of the silos.
STATEFUL = {
    "server": {"strategy": "sase", "common_dev_s": 0.5, "server": "adam", "payload": "bfloat16", "average_decay": 0.7},
    "silos": {"scaffold": True, "payload": "int8", "norm": "local", "fresh_optimizer": False},
    "shared": {"shared_moments": "both", "feddyn_alpha": 0.1, "alignment": 0.5, "scaffold_space": "steps"},
}


@pytest.mark.recipe
@pytest.mark.parametrize("variant", STATEFUL)
def test_resuming_equals_an_uninterrupted_run(silos_dir, dev_set, tmp_path, variant):
    """Interrupted at every point of a round, with or without the silos' states of that round: identical bits."""
    config, fed = train_config("batch"), fed_config(**STATEFUL[variant])
    whole = run(config, fed, silos_dir, dev_set, tmp_path / "whole")
    exp = tmp_path / "parts"

    class Killed(BaseException):
        pass

    def dies(function, after):
        def wrapper(*args, **kwargs):
            if after:
                function(*args, **kwargs)
            raise Killed

        return wrapper

    for place in ("second silo", "last silo", "best", "state"):
        server, silos = Server(config, fed, dev_set, exp), local_silos(silos_dir, 3, exp)
        if place == "second silo":
            silos[1].run = dies(silos[1].run, after=False)
        elif place == "last silo":
            silos[2].run = dies(silos[2].run, after=True)
        elif place == "best":  # the round is aggregated but not saved
            server._save = dies(server._save, after=False)
        else:  # the round is saved, its timing is not
            server._save = dies(server._save, after=True)
        with pytest.raises(Killed):
            run_rounds(server, local_exchange(silos))
    run(config, fed, silos_dir, dev_set, exp)
    for name in ("server.pt", "best.pt", "last.pt"):
        assert_equal(states(tmp_path / "whole" / name), states(exp / name))
    assert (exp / "rounds.jsonl").read_text() == (tmp_path / "whole/rounds.jsonl").read_text()
    assert len(whole.history) == 3
    for silo in (exp / "silos").glob("*"):
        assert {p.name for p in silo.iterdir()} == {p.name for p in (tmp_path / "whole/silos" / silo.name).iterdir()}


@pytest.mark.recipe
def test_every_variant_trains_and_differs(silos_dir, dev_set, tmp_path):
    results = {
        name: run(train_config("batch"), fed_config(num_rounds=2, **values), silos_dir, dev_set, tmp_path / name)
        for name, values in VARIANTS.items()
    }
    lasts = {name: weights(tmp_path / name / "last.pt")["network.last.weight_real"] for name in results}
    for a in lasts:
        assert all(a == b or not torch.equal(lasts[a], lasts[b]) for b in lasts)
        entry = results[a].history[-1]
        assert entry["attempts"] == 1
        assert not entry["failed"]
        assert not entry["refused"]
        assert sum(silo["alpha"] for silo in entry["silos"].values()) == pytest.approx(1.0, abs=1e-5)
    examples = [results["plain"].history[0]["silos"][str(k)]["examples"] for k in range(3)]
    assert [results["plain"].history[0]["silos"][str(k)]["alpha"] for k in range(3)] == pytest.approx(
        [n / sum(examples) for n in examples], abs=1e-5
    )


class Exchange:
    """Local silos, some of which can be made to misbehave in chosen attempts."""

    def __init__(self, silos, spoil):
        self.exchange, self.spoil, self.calls = local_exchange(silos), spoil, 0

    def __call__(self, instruction):
        replies, failures = self.exchange(instruction)
        self.calls += 1
        kept = []
        for reply in replies:
            changed = self.spoil(self.calls, reply)
            if isinstance(changed, str):
                failures.append(changed)
            else:
                kept.append(changed)
        return kept[::-1], failures


def changed(reply, change):
    return Reply(reply.silo, reply.round, {n: change(n, v) for n, v in reply.arrays.items()}, dict(reply.metrics))


def nan(name, value):
    return np.full_like(value, np.nan) if "last" in name else value


def one_round(silos_dir, dev_set, exp, spoil):
    """Return a server after a round in which what silo 1 sends is ``spoil(reply)``."""
    server = Server(train_config(), fed_config(num_rounds=1), dev_set, exp)

    def misbehave(call, reply):
        return spoil(reply) if reply.silo == 1 else reply

    run_rounds(server, Exchange(local_silos(silos_dir, 3, exp), misbehave))
    return server


@pytest.fixture(scope="module")
def absent(silos_dir, dev_set, tmp_path_factory):
    """A server after a round that silo 1 did not take part in."""
    exp = tmp_path_factory.mktemp("absent")
    return one_round(silos_dir, dev_set, exp, lambda reply: "silo 1 failed: it is off")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: changed(r, nan), "network.last.weight_real contains NaN or infinity"),
        (lambda r: changed(r, lambda n, v: v[:1] if "to_bands" in n else v), "to_bands.weight has shape"),
        (lambda r: changed(r, lambda n, v: v * 1e4), "its update has norm"),
        (lambda r: Reply(r.silo, r.round + 1, r.arrays, r.metrics), "answers round 2, not 1"),
        (lambda r: Reply(r.silo, r.round, r.arrays, {**r.metrics, "last_loss": float("nan")}), "its last_loss is nan"),
        (lambda r: Reply(7, r.round, r.arrays, r.metrics), "the silos are 0 to 2"),
    ],
)
def test_invalid_reply_is_rejected_and_counted(absent, silos_dir, dev_set, tmp_path, spoil, message):
    """The round continues with the others, exactly as if that silo had not replied."""
    refused = one_round(silos_dir, dev_set, tmp_path, spoil)
    assert_equal(*(weights(server.exp_dir / "last.pt") for server in (refused, absent)))
    entry = refused.history[0]
    assert list(entry["silos"]) == ["0", "2"]
    assert len(entry["refused"]) == 1
    assert message in entry["refused"][0]
    assert sum(refused.refusals.values()) == 1
    assert not absent.refusals
    assert absent.history[0]["failed"] == ["silo 1 failed: it is off"]


@pytest.mark.recipe
def test_repeated_round_equals_the_first_attempt(silos_dir, dev_set, tmp_path):
    config, fed = train_config("batch"), fed_config(min_silos=3, norm="local", scaffold=True, num_rounds=2)
    run(config, fed, silos_dir, dev_set, tmp_path / "whole")
    server = Server(config, fed, dev_set, tmp_path / "repeated")

    def misbehave(call, reply):
        return "silo 2 failed: off" if reply.silo == 2 and call in (1, 3, 4) else reply

    off = Exchange(local_silos(silos_dir, 3, tmp_path / "repeated"), misbehave)
    run_rounds(server, off)
    assert off.calls == 5
    assert [entry["attempts"] for entry in server.history] == [2, 3]
    assert_equal(weights(tmp_path / "whole/last.pt"), weights(tmp_path / "repeated/last.pt"))


@pytest.mark.recipe
def test_round_without_success_fails_and_keeps_the_model(silos_dir, dev_set, tmp_path):
    config, fed = train_config(), fed_config(max_repeats=2)
    silos = local_silos(silos_dir, 3, tmp_path / "exp")
    server = Server(config, fed, dev_set, tmp_path / "exp")
    off = Exchange(silos, lambda call, reply: reply if call == 1 else f"silo {reply.silo} failed: off")
    failure = r"round 2 failed 3 times: fewer than 2 valid replies.*silo 2 failed: off.*round 1 is kept"
    with pytest.raises(InputError, match=failure):
        run_rounds(server, off)
    kept = weights(tmp_path / "exp/best.pt")
    again = run(config, fed, silos_dir, dev_set, tmp_path / "exp")  # resumes when the silos are back
    assert len(again.history) == 3
    whole = run(config, fed, silos_dir, dev_set, tmp_path / "whole")
    assert [e["dev_SI_SNR"] for e in whole.history] == [e["dev_SI_SNR"] for e in again.history]
    assert kept.keys() == weights(tmp_path / "whole/last.pt").keys()


def test_silo_without_data_is_reported_and_the_others_continue(silos_dir, dev_set, tmp_path):
    shutil.copytree(silos_dir, tmp_path / "silos")
    shutil.rmtree(tmp_path / "silos/silo1/tr")
    server = run(train_config(), fed_config(num_rounds=1), tmp_path / "silos", dev_set, tmp_path / "exp")
    entry = server.history[0]
    assert "silo1/tr: no such folder" in entry["failed"][0]
    assert list(entry["silos"]) == ["0", "2"]


@pytest.mark.recipe
def test_local_norms_differ_between_silos_and_are_averaged_globally(silos_dir, dev_set, tmp_path):
    config, fed = train_config("batch"), fed_config(norm="local", num_rounds=2)
    server = run(config, fed, silos_dir, dev_set, tmp_path / "exp")
    silos = local_silos(silos_dir, 3, tmp_path / "exp")
    server2 = Server(config, fed, dev_set, tmp_path / "exp")
    instruction = replace(server2.instruction(), arrays=server2._global.newest)
    own = [silo.personal.read(instruction)["norms"] for silo in silos]
    name = next(n for n in own[0] if n.endswith("running_mean"))
    assert not np.allclose(own[0][name], own[1][name])
    alphas = [server.history[-1]["silos"][str(k)]["alpha"] for k in range(3)]
    expected = sum(a * norms[name].astype(np.float64) for a, norms in zip(alphas, own))
    np.testing.assert_allclose(server2._global.newest[name], expected, rtol=1e-4, atol=1e-6)
    scores = [silo.evaluate(instruction, personal, ("SI_SDR",)) for silo in silos for personal in (False, True)]
    assert all(np.isfinite(score["SI_SDR"]) for score in scores)
    assert scores[0]["SI_SDR"] != scores[1]["SI_SDR"]
    assert scores[0]["utterances"] == 2


@pytest.mark.recipe
def test_silos_continue_from_the_newest_model_while_its_average_is_saved(silos_dir, dev_set, tmp_path):
    decay, expected = 0.6, None
    servers = {
        value: Server(train_config("batch"), fed_config(average_decay=value), dev_set, tmp_path / str(value))
        for value in (0.0, decay)
    }
    for number in range(3):
        sent = {value: server.instruction().arrays for value, server in servers.items()}
        assert all(np.array_equal(sent[0.0][name], sent[decay][name]) for name in sent[0.0])
        for value, server in servers.items():
            silos = local_silos(silos_dir, 3, tmp_path / str(value))
            assert server.finish_round([silo.run(server.instruction()) for silo in silos], [])
        newest, averaged = (weights(tmp_path / str(value) / "last.pt") for value in servers)
        name = servers[decay].layout.weights[0]
        expected = newest[name] if number == 0 else decay * expected + (1 - decay) * newest[name]
        torch.testing.assert_close(averaged[name], expected)
    assert not torch.equal(averaged[name], newest[name])


@pytest.mark.recipe
def test_personal_states_of_last_two_and_best_rounds_are_kept(silos_dir, dev_set, tmp_path):
    config, fed = train_config("batch"), fed_config(norm="local", num_rounds=5)
    server = run(config, fed, silos_dir, dev_set, tmp_path / "exp")
    names = {p.name for p in (tmp_path / "exp/silos/silo0").glob("*.pt")}
    assert {"state-4.pt", "state-5.pt"} <= names <= {"state-4.pt", "state-5.pt", f"state-{server.best_round}.pt"}
    other = Server(config, replace(fed, momentum=0.5), dev_set, tmp_path / "other")
    silo = Silo(0, silos_dir / "silo0", tmp_path / "exp/silos/silo0")
    assert silo.personal.read(replace(other.instruction(), round=6)) == {}
    best = server.best_instruction()
    assert best.round == server.best_round + 1
    assert silo.evaluate(best, True, ("SI_SDR",))["SI_SDR"] != silo.evaluate(best, False, ("SI_SDR",))["SI_SDR"]


def test_constants_are_never_sent(silos_dir, dev_set, tmp_path):
    server = Server(train_config("batch"), fed_config(num_rounds=1), dev_set, tmp_path / "exp")
    sent = server.instruction().arrays
    received = Silo(0, silos_dir / "silo0", tmp_path / "s").run(server.instruction()).arrays
    constant = set(server.model.state_dict()) - set(sent)
    assert constant
    assert all(name.endswith("omega") for name in constant)
    assert received.keys() == sent.keys()


@pytest.mark.recipe
def test_training_starts_from_given_weights(silos_dir, dev_set, tmp_path):
    config = train_config()
    run(config, fed_config(num_rounds=1), silos_dir, dev_set, tmp_path / "first", "cpu", {})
    given = replace(config, init=str(tmp_path / "first/best.pt"))
    server = Server(given, fed_config(), dev_set, tmp_path / "server")
    trainer = Trainer(given, silos_dir / "silo0/tr", dev_set, tmp_path / "central", init_workers(use_gpu=False))
    for model in (server.model, trainer.model):
        assert_equal(model.state_dict(), weights(tmp_path / "first/best.pt"))
    assert not all(
        map(
            torch.equal,
            server.model.state_dict().values(),
            Server(config, fed_config(), dev_set, tmp_path / "random").model.state_dict().values(),
        )
    )
    other = replace(train_config(norm="batch"), init=given.init)
    with pytest.raises(InputError, match="is another network than 'model:' describes .norm is"):
        Server(other, fed_config(), dev_set, tmp_path / "other")


@pytest.fixture
def command(silos_dir, dev_set, tmp_path):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(to_mapping(train_config("batch"))))
    (tmp_path / "fl.yaml").write_text("num_rounds: 4\nnorm: local\nscaffold: true\nlocal_steps: 4\n")

    def make(name, *more):
        arguments = ["--config", tmp_path / "train.yaml", "--fl-config", tmp_path / "fl.yaml", "--silos", silos_dir]
        arguments += ["--dev-set", dev_set, "--exp", tmp_path / name, "--engine", "inproc", "--threads", "1", *more]
        return [sys.executable, "-m", "sase.bin.main", "federate", *map(str, arguments)]

    return make


@pytest.mark.recipe
def test_killed_federation_resumes_bit_for_bit(command, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    for wait_s in (0.05, 0.2, 0.35):
        process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL, env=environment)
        deadline, rounds = time.monotonic() + 100, tmp_path / "killed/train.log"
        before = rounds.stat().st_size if rounds.exists() else 0
        while not (rounds.exists() and rounds.stat().st_size > before) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed"), check=True, capture_output=True, env=environment)
    for name in ("server.pt", "best.pt", "last.pt"):
        assert_equal(states(tmp_path / "whole" / name), states(tmp_path / "killed" / name))


@pytest.mark.recipe
def test_command_fails_with_one_line(command, tmp_path):
    result = subprocess.run(command("exp", "--fl-set", "max_norm_ratio=0"), capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("sase federate: ")
    assert last.endswith("fl.yaml: config: max_norm_ratio must be above 1, not 0.0")
    result = subprocess.run(command("exp", "--engine", "ray"), capture_output=True, text=True)
    assert result.returncode == 1
    assert "choose from inproc, simulation, deployment" in result.stderr
    bad = ["--fl-set", "repeat_wait_s=0", "--set", "train.max_bad_steps=1", "--set", "train.learning_rate=1000"]
    result = subprocess.run(command("exp", *bad), capture_output=True, text=True)
    assert result.returncode == 1
    assert "failed 4 times" in result.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "exp/best.pt").exists()

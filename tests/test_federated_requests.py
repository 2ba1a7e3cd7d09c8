"""Pausing and stopping a running federation between two rounds, and going on later."""

import logging
import sys
from types import SimpleNamespace

import pytest

from helpers import commands
from helpers.checkpoints import assert_same
from helpers.federation import configs, fed_config, rounds, sase, train_config, wait_until
from helpers.flower_grid import LocalGrid
from sase.bin.main import main
from sase.errors import InputError
from sase.federated import requests
from sase.federated.flower import server_app
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.requests import StoppedError, ask, clear
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.processes import folder_lock


@pytest.fixture
def federate(silos_dir, dev_set, tmp_path):
    """``federate(exp, request)`` trains three rounds; ``request`` is made while round 1 is exchanged."""

    def run(exp, request=None):
        server = Server(train_config(), fed_config(num_rounds=3), dev_set, tmp_path / exp)
        exchange = local_exchange(local_silos(silos_dir, 3, tmp_path / exp))

        def requesting(instruction):
            if request is not None and instruction.round == 1:
                with folder_lock(tmp_path / exp):
                    ask(tmp_path / exp, request)
            return exchange(instruction)

        run_rounds(server, requesting)
        return server

    return run


@pytest.mark.recipe
def test_a_stopped_federation_has_completed_its_round_and_resumes_to_the_bit(federate, tmp_path, caplog):
    with caplog.at_level(logging.INFO), pytest.raises(StoppedError):
        federate("parts", requests.STOP)
    assert "stopped after round 1 of 3, as requested; run the same command to resume" in caplog.text
    assert len(rounds(tmp_path / "parts")) == 1
    with pytest.raises(StoppedError):  # as long as nobody has cleared the request, which the command does
        federate("parts")
    clear(tmp_path / "parts")
    federate("parts")
    federate("whole")
    assert_same(tmp_path / "parts/server.pt", tmp_path / "whole/server.pt")
    assert (tmp_path / "parts/rounds.jsonl").read_text() == (tmp_path / "whole/rounds.jsonl").read_text()


@pytest.mark.recipe
@pytest.mark.parametrize("end", [requests.CONTINUE, requests.STOP])
def test_a_pause_lasts_until_it_is_ended(federate, tmp_path, monkeypatch, caplog, end):
    seen = []

    def sleep(seconds):
        seen.append(len(rounds(tmp_path / "exp")))
        if len(seen) == 5:
            with folder_lock(tmp_path / "exp"):
                ask(tmp_path / "exp", end)

    monkeypatch.setattr(requests, "time", SimpleNamespace(sleep=sleep))
    with caplog.at_level(logging.INFO):
        if end == requests.STOP:
            with pytest.raises(StoppedError):
                federate("exp", requests.PAUSE)
        else:
            assert federate("exp", requests.PAUSE).finished
    assert seen == [1] * 5
    assert f"paused after round 1 of 3, until 'sase federate --exp {tmp_path}/exp --continue'" in caplog.text
    assert ("continuing after round 1" in caplog.text) == (end == requests.CONTINUE)


def test_only_a_running_federation_can_be_asked(tmp_path, monkeypatch, capsys):
    (tmp_path / "exp").mkdir()
    for folder in ("exp", "nowhere"):
        with pytest.raises(InputError, match="no federation is running there"):
            ask(tmp_path / folder, requests.PAUSE)
    assert not (tmp_path / "nowhere").exists()

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["sase", "federate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    with folder_lock(tmp_path / "exp"):
        status, printed = command("--exp", tmp_path / "exp", "--pause")
        assert (status, printed.out) == (None, f"{tmp_path}/exp: asked to pause after the present round\n")
        assert (tmp_path / "exp/request").read_text() == "pause\n"
        assert command("--exp", tmp_path / "exp", "--continue")[1].out == f"{tmp_path}/exp: asked to continue\n"
        assert not (tmp_path / "exp/request").exists()
    status, printed = command("--exp", tmp_path / "exp")
    assert status == 2
    assert "the following arguments are required: --config, --fl-config, --dev-set" in printed.err
    assert command("--exp", tmp_path / "exp", "--pause", "--stop")[0] == 2


def test_silos_are_not_sent_away_when_their_server_stops(tmp_path, monkeypatch):
    """The parent process reports it: the ServerApp ends without an error, which would have it started again."""

    def stop(*_):
        raise StoppedError

    sent = []
    monkeypatch.setattr("sase.federated.rounds.run_rounds", stop)
    monkeypatch.setattr(server_app.SiloGrid, "announce", lambda *arguments: sent.append(arguments))
    fake = SimpleNamespace(config=fed_config(), finished=False, exp_dir=tmp_path)
    monkeypatch.setattr(server_app, "_make_server", lambda settings: fake)
    settings = {"home": tmp_path, "order": None, "connect_s": 0, "poll_s": 0, "simulated": False, "exp_dir": tmp_path}
    server_app._run(LocalGrid(lambda *_: None, ("", "", "")), settings)
    assert not sent
    monkeypatch.setattr("sase.federated.rounds.run_rounds", lambda *_: None)
    server_app._run(LocalGrid(lambda *_: None, ("", "", "")), settings)
    assert len(sent) == 1


@pytest.mark.parametrize(("options", "status"), [([], 130), (["--stop-status", "0"], 0)])
def test_a_requested_stop_may_be_a_success(silos_dir, dev_set, tmp_path, monkeypatch, options, status):
    """Services that restart what fails would start it again after any other status."""
    exp = tmp_path / "exp"

    def asked(exp_dir, done, total):
        if done == 1:
            (exp / requests.FILE).write_text("stop")
        requests.obey(exp_dir, done, total)

    monkeypatch.setattr("sase.federated.rounds.obey", asked)
    command = [*configs(tmp_path, num_rounds=3), "--silos", silos_dir, "--dev-set", dev_set, "--exp", exp, "--threads"]
    done = commands.sase("federate", *command, 1, "--engine", "inproc", "--fl-set", "local_steps=1", *options)
    assert done.returncode == status, done.stderr
    assert len(rounds(exp)) == 1


@pytest.mark.recipe
def test_the_command_stops_with_the_status_of_an_interruption_and_resumes(silos_dir, dev_set, tmp_path):
    exp = tmp_path / "exp"
    options = [*configs(tmp_path, num_rounds=200), "--silos", silos_dir, "--dev-set", dev_set, "--exp", exp]
    options += ["--engine", "inproc", "--fl-set", "local_steps=1"]
    process = sase("federate", *options, log=tmp_path / "log")
    wait_until(lambda: rounds(exp), process, "round 1")
    assert sase("federate", "--exp", exp, "--pause", log=tmp_path / "asked").wait(300) == 0
    wait_until(lambda: "paused after round" in (tmp_path / "log").read_text(), process, "the pause")
    done = len(rounds(exp))
    assert sase("federate", "--exp", exp, "--stop", log=tmp_path / "asked").wait(300) == 0
    assert process.wait(300) == 130
    assert len(rounds(exp)) == done < 200
    process = sase("federate", *options, log=tmp_path / "log")
    wait_until(lambda: len(rounds(exp)) > done, process, "the next round")
    process.kill()
    process.wait()

"""The process of a deployed silo that runs the tasks of all rounds."""

import importlib
import signal
import socket
import sys
import threading
from types import SimpleNamespace

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.exit import exit_handler

from helpers.federation import wait_until
from sase.federated.flower import patches_warm
from sase.federated.flower.patches_warm import COLD_VARIABLE, WarmClient, serve_tasks, wants_warm_client

# Runs tasks as the ClientApp's process does, each until the file with the name of its token exists.
WORKER = """
import os, socket, sys, time
with socket.socket(fileno=int(sys.argv[2])) as connection, connection.makefile("r") as tokens:
    for token in tokens:
        while not os.path.exists(os.path.join(sys.argv[1], token.strip())):
            time.sleep(0.01)
        print(os.getpid(), token.strip(), file=open(os.path.join(sys.argv[1], "log"), "a"), flush=True)
        connection.sendall(b".")
"""


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setattr(patches_warm, "_COMMAND", (sys.executable, "-c", WORKER, str(tmp_path)))
    client = WarmClient()
    yield client
    client._process.kill()
    client._process.wait()
    client._socket.close()


def test_a_process_takes_one_task_at_a_time_and_all_of_them(client, tmp_path):
    def finished(count):
        return lambda: (tmp_path / "log").exists() and len((tmp_path / "log").read_text().splitlines()) == count

    assert client.launch("first")
    process = client._process
    assert not client.launch("second")  # which needs a process of its own
    (tmp_path / "first").touch()
    wait_until(finished(1))
    wait_until(lambda: client.launch("third"))
    assert client._process is process
    process.kill()
    process.wait()
    (tmp_path / "fourth").touch()
    wait_until(lambda: client.launch("fourth"))
    assert client._process is not process
    wait_until(finished(2))
    pids, tokens = zip(*(line.split() for line in (tmp_path / "log").read_text().splitlines()))
    assert tokens == ("first", "fourth")
    assert len(set(pids)) == 2


def test_a_process_outlives_its_tasks(monkeypatch):
    """Flower ends a task with its process: exit handlers, a thread that kills it 5 s later, and sys.exit."""
    task = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    monkeypatch.setattr(task, "flwr_exit", task.flwr_exit)  # restored afterwards
    inflatable = importlib.import_module("flwr.supercore.inflatable.inflatable_utils")
    monkeypatch.setattr(inflatable, "pull_objects", inflatable.pull_objects)
    events = []

    def run_clientapp(address, token, **_):
        task.register_signal_handlers(event_type=None, exit_handlers=[lambda: events.append(f"closed {token}")])
        events.append(f"ran {token} at {address}")
        task.flwr_exit(0)

    monkeypatch.setattr(task, "run_clientapp", run_clientapp)
    monkeypatch.setattr(exit_handler, "registered_exit_handlers", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)}
    threads = set(threading.enumerate())
    ours, theirs = socket.socketpair()
    ours.sendall(b"a\nb\n")
    ours.shutdown(socket.SHUT_WR)
    try:
        serve_tasks(theirs, "here")
        assert [signal.getsignal(number) for number in before] == [signal.SIG_DFL] * 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
    assert events == ["ran a at here", "closed a", "ran b at here", "closed b"]
    assert ours.recv(10) == b".."
    assert set(threading.enumerate()) <= threads  # none of which kills the process
    ours.close()


def test_tasks_of_silos_are_warm_unless_they_are_to_be_cold(monkeypatch):
    monkeypatch.delenv(COLD_VARIABLE, raising=False)
    assert wants_warm_client(SimpleNamespace(task_type=TaskType.CLIENT_APP))
    assert not wants_warm_client(SimpleNamespace(task_type=TaskType.SERVER_APP))
    monkeypatch.setenv(COLD_VARIABLE, "1")
    assert not wants_warm_client(SimpleNamespace(task_type=TaskType.CLIENT_APP))

"""Federations on a machine that is busy with other work."""

import importlib
import sqlite3
import threading
import time
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from flwr.server.superlink.linkstate import sql_linkstate
from flwr.supercore import sql_mixin
from sqlalchemy import event

from sase.federated.flower import patches_busy


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A SuperLink's state on disk, patched as in :func:`sase.federated.flower.patches.run_superlink`."""
    import flwr.supercore.corestate.in_memory_corestate as in_memory
    import flwr.supercore.corestate.sql_corestate as sql
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager

    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", sql_mixin.SQLITE_PRAGMAS)  # restored afterwards
    monkeypatch.setattr(sql_linkstate, "HEARTBEAT_PATIENCE", sql_linkstate.HEARTBEAT_PATIENCE)
    clean_up = sql.SqlCoreState._cleanup_expired_task_tokens
    monkeypatch.setattr(sql.SqlCoreState, "_cleanup_expired_task_tokens", clean_up)
    for module in (in_memory, sql):
        for name in ("HEARTBEAT_PATIENCE", "HEARTBEAT_DEFAULT_INTERVAL"):
            monkeypatch.setattr(module, name, getattr(module, name))
    patches_busy.be_patient()
    path = str(tmp_path / "state.db")
    return path, LinkStateFactory(path, NoOpFederationManager(), ObjectStoreFactory(path)).state()


@pytest.mark.recipe
def test_a_database_that_is_locked_for_10_s_is_waited_for(database):
    """Flower's own 5 s are not enough: the SuperLink answers with status 500, and the run fails."""
    path, state = database
    held = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    held.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    threading.Timer(10.0, lambda: held.execute("COMMIT")).start()
    node = state.create_node("owner", "name", b"key", 30.0)
    assert time.monotonic() - started > 9.0
    assert state.get_node_id_by_public_key(b"key") == node
    held.close()


@pytest.mark.recipe
def test_a_silo_is_absent_after_45_s_without_a_heartbeat(database, monkeypatch):
    """Flower's own factor of 2 makes it 20 s, which a heartbeat may take on a busy machine."""
    _, state = database
    node = state.create_node("owner", "silo0", b"key", patches_busy.HEARTBEAT_S)
    assert state.activate_node(node, patches_busy.HEARTBEAT_S)
    begin = sql_linkstate.now()
    for seconds, status in ((40, "online"), (50, "offline")):
        monkeypatch.setattr(sql_linkstate, "now", lambda: begin + timedelta(seconds=seconds))  # noqa: B023
        (info,) = state.get_node_info(node_ids=[node])
        assert info.status == status
    assert state.acknowledge_node_heartbeat(node, patches_busy.HEARTBEAT_S)
    (info,) = state.get_node_info(node_ids=[node])
    assert info.status == "online"


@pytest.mark.recipe
def test_the_server_looks_for_lost_tasks_at_intervals(database, monkeypatch):
    _, state = database
    statements = []
    monkeypatch.setattr(patches_busy, "CLEAN_UP_INTERVAL_S", 3600.0)  # longer than 20 calls on a busy machine
    event.listen(state._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    for _ in range(20):
        state.get_run_status(set())
    assert len(statements) == 2
    monkeypatch.setattr(patches_busy, "CLEAN_UP_INTERVAL_S", 0.0)
    state.get_run_status(set())
    assert len(statements) == 4


def test_clients_wait_longer_than_the_database(monkeypatch):
    from flwr.supercore.protobuf.client import ProtobufClient

    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    patches_busy.wait_for_slow_answers()
    client = ProtobufClient("http://localhost:1")
    assert client._client.timeout.read == patches_busy.REQUEST_TIMEOUT_S > patches_busy.DATABASE_TIMEOUT_S


@pytest.mark.recipe
def test_a_task_whose_message_never_comes_fails_instead_of_waiting_for_hours(monkeypatch):
    """Its run has ended: the SuperNode does not fetch the arrays any more."""
    from flwr.supercore.inflatable import inflatable_utils

    def never(name):
        raise inflatable_utils.ObjectUnavailableError(name)

    monkeypatch.setattr(inflatable_utils, "pull_objects", inflatable_utils.pull_objects)
    monkeypatch.setattr(patches_busy, "MESSAGE_TIMEOUT_S", 0.2)
    patches_busy.bound_waiting_for_messages()
    with pytest.raises(inflatable_utils.ObjectPullError):
        inflatable_utils.pull_objects(["array"], never)


def test_a_silo_asks_less_often_after_half_a_minute_without_a_message(monkeypatch):
    node = importlib.import_module("flwr.supernode.start_client_internal")
    answers, waited = iter([None] * 30 + ["run"] + [None] * 11), []
    monkeypatch.setattr(node, "_pull_and_store_message", lambda *, state: next(answers))
    monkeypatch.setattr(patches_busy, "time", SimpleNamespace(sleep=waited.append))
    patches_busy.poll_less_when_idle()
    results = [node._pull_and_store_message(state="its") for _ in range(42)]
    assert results == [None] * 30 + ["run"] + [None] * 11
    pauses = [patches_busy.POLL_S + wait for wait in waited]
    assert pauses[:10] == [patches_busy.POLL_S] * 10
    assert all(a < b for a, b in pairwise(pauses[9:18]))
    assert set(pauses[20:30]) == {patches_busy.LONGEST_POLL_S}
    assert pauses[30:41] == [patches_busy.POLL_S] * 11
    assert pauses[41] > patches_busy.POLL_S
    assert patches_busy.LONGEST_POLL_S < patches_busy.SILENCE_S

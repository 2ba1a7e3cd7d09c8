"""Federations on a machine that is busy with other work."""

import sqlite3
import threading
import time

import pytest
from flwr.supercore import sql_mixin

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
    for module in (in_memory, sql):
        for name in ("HEARTBEAT_PATIENCE", "HEARTBEAT_DEFAULT_INTERVAL"):
            monkeypatch.setattr(module, name, getattr(module, name))
    patches_busy.be_patient()
    path = str(tmp_path / "state.db")
    return path, LinkStateFactory(path, NoOpFederationManager(), ObjectStoreFactory(path)).state()


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


def test_clients_wait_longer_than_the_database(monkeypatch):
    from flwr.supercore.protobuf.client import ProtobufClient

    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    patches_busy.wait_for_slow_answers()
    client = ProtobufClient("http://localhost:1")
    assert client._client.timeout.read == patches_busy.REQUEST_TIMEOUT_S > patches_busy.DATABASE_TIMEOUT_S

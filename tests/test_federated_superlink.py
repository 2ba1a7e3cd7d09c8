"""The SuperLink's memory: messages are on disk, and no copies of them are kept."""

import asyncio.constants
import os
import subprocess
import sys
from asyncio.sslproto import SSLProtocol

import pytest

from sase.federated.flower import patches_memory

# Writes, reads and deletes 160 MB in objects of 4 MB, in two threads; prints how much memory that has taken, in MB.
STORE = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.object_store import ObjectStoreFactory
from sase.federated.flower.patches_busy import be_patient
from sase.federated.flower.patches_memory import keep_no_messages

def in_memory():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon")) / 1e3

def use(number):
    content = ArrayChunk(os.urandom(4_000_000)).deflate()
    name = get_object_id(content)
    store.preregister(1, ObjectTree(object_id=name))
    store.put(name, content)
    assert store.get(name) == content
    store.delete(name)

be_patient()
if sys.argv[2] == "True":
    keep_no_messages()
store = ObjectStoreFactory(sys.argv[1]).store()
before = in_memory()
with ThreadPoolExecutor(2) as pool:
    list(pool.map(use, range(40)))
print(in_memory() - before)
"""


def test_connections_have_small_buffers(tmp_path, monkeypatch):
    import flwr.supercore.sql_mixin as database
    from flwr.supercore.object_store import ObjectStoreFactory
    from sqlalchemy import text

    monkeypatch.setattr(database, "SQLITE_PRAGMAS", database.SQLITE_PRAGMAS)  # restored afterwards
    monkeypatch.setattr(SSLProtocol, "max_size", SSLProtocol.max_size)
    for name in ("FLOW_CONTROL_HIGH_WATER_SSL_READ", "FLOW_CONTROL_HIGH_WATER_SSL_WRITE"):
        monkeypatch.setattr(asyncio.constants, name, getattr(asyncio.constants, name))
    monkeypatch.setattr(patches_memory, "return_large_blocks", lambda: None)  # this process keeps its allocator
    patches_memory.keep_no_messages()
    store = ObjectStoreFactory(str(tmp_path / "state.db")).store()
    with store.session() as session:
        assert session.scalar(text("PRAGMA cache_size")) == -500  # KiB
        assert session.scalar(text("PRAGMA mmap_size")) == 0
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"  # Flower's other settings remain
    assert SSLProtocol.max_size == patches_memory.TLS_BUFFER_BYTES
    for direction in ("READ", "WRITE"):
        limit = getattr(asyncio.constants, f"FLOW_CONTROL_HIGH_WATER_SSL_{direction}")
        assert 1024 * limit == patches_memory.TLS_BUFFER_BYTES


@pytest.mark.recipe
def test_updates_that_have_passed_through_are_not_kept_in_memory(tmp_path, root):
    command = [sys.executable, "-c", STORE, tmp_path / "state.db", "True"]
    env = {**os.environ, "PYTHONPATH": str(root)}
    printed = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    assert float(printed) < 20  # 14, and without the patches 24 to 37

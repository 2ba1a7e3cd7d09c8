"""Flower on a busy machine: how long its processes, its database and its clients wait before they give up."""

import importlib
from types import ModuleType
from typing import Any

# A task whose process has not reported by then is started once more. Flower's 30 s are less than the imports of torch
# and Ray take on a busy machine, where it then starts the task again and again, for ever.
START_TIMEOUT_S = 300
# How long a statement waits for a lock of the SuperLink's database. After Flower's 5 s, the SuperLink answers with
# status 500, which no client tries again, and the run fails.
DATABASE_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 90.0  # of Flower's clients: longer than the database may take


def replace(module: ModuleType | type, name: str, value: object) -> None:
    """Set one of Flower's names; raise AttributeError where Flower no longer has it."""
    getattr(module, name)
    setattr(module, name, value)


def be_patient() -> None:
    """Make the SuperLink or SuperNode of this process wait longer for starting tasks and for its database."""
    import flwr.supercore.corestate.in_memory_corestate as in_memory
    import flwr.supercore.corestate.sql_corestate as sql

    database = importlib.import_module("flwr.supercore.sql_mixin")
    for module in (in_memory, sql):  # a running task that sends no heartbeat still fails after 60 s
        running_s = module.HEARTBEAT_PATIENCE * module.HEARTBEAT_DEFAULT_INTERVAL
        replace(module, "HEARTBEAT_PATIENCE", running_s / START_TIMEOUT_S)
        replace(module, "HEARTBEAT_DEFAULT_INTERVAL", START_TIMEOUT_S)
    pragmas = dict(database.SQLITE_PRAGMAS)
    if "busy_timeout" not in pragmas:
        raise AttributeError("Flower sets no busy_timeout any more")
    pragmas["busy_timeout"] = str(1000 * DATABASE_TIMEOUT_S)
    replace(database, "SQLITE_PRAGMAS", tuple(pragmas.items()))


def wait_for_slow_answers() -> None:
    """Make the clients of Flower's APIs in this process wait for an answer longer than the database may take."""
    protobuf = importlib.import_module("flwr.supercore.protobuf.client")
    connect = protobuf.ProtobufClient.__init__

    def connect_patiently(client: Any, *args: Any, **kwargs: Any) -> None:
        connect(client, *args, **{"timeout": REQUEST_TIMEOUT_S, **kwargs})

    replace(protobuf.ProtobufClient, "__init__", connect_patiently)

"""Flower on a busy machine: how long its processes, its database and its clients wait, and what it need not repeat."""

import importlib
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

# A task whose process has not reported by then is started once more. Flower's 30 s are less than the imports of torch
# and Ray take on a busy machine, where it then starts the task again and again, for ever.
START_TIMEOUT_S = 300
# How long a statement waits for a lock of the SuperLink's database. After Flower's 5 s, the SuperLink answers with
# status 500, which no client tries again, and the run fails.
DATABASE_TIMEOUT_S = 60
# The SuperLink looks for tasks without heartbeats in every request, which takes a fifth of its CPU time: two writing
# statements, so that all requests wait for each other. They expire after a minute or more.
CLEAN_UP_INTERVAL_S = 1.0
# How long a silo's task waits for the arrays of its message. When the run ends meanwhile they never come, and Flower
# waits for two hours: such a process never replies, and one that is to run all tasks of the silo is lost for them.
MESSAGE_TIMEOUT_S = 600.0
# A silo that is not heard of for so long is absent, and its reply of the present round is lost. On a machine with ten
# runnable processes for each core, the 20 s that Flower makes of a heartbeat every 10 s are too short.
SILENCE_S = 45.0
HEARTBEAT_S = 10  # as silos announce; with Flower's 30 s, a dead one would go unnoticed for longer
# A silo asks for messages every 3 s, as any of Flower's, so that a round that follows soon starts soon. After half a
# minute without one it asks less often: a hundred silos that wait for others would keep a core of the server busy.
POLL_S, LONGEST_POLL_S = 3.0, 15.0
SOON = 10  # polls
REQUEST_TIMEOUT_S = 90.0  # of Flower's clients: longer than the database may take


def replace(module: ModuleType | type, name: str, value: object) -> None:
    """Set one of Flower's names; raise AttributeError where Flower no longer has it."""
    getattr(module, name)
    setattr(module, name, value)


def set_pragmas(**values: int) -> None:
    """Set pragmas of the connections to Flower's databases; raise AttributeError for one that Flower no longer sets."""
    database = importlib.import_module("flwr.supercore.sql_mixin")
    pragmas = dict(database.SQLITE_PRAGMAS)
    for name, value in values.items():
        if name not in pragmas:
            raise AttributeError(f"Flower sets no {name} any more")
        pragmas[name] = str(value)
    replace(database, "SQLITE_PRAGMAS", tuple(pragmas.items()))


def be_patient() -> None:
    """Make the SuperLink or SuperNode of this process wait longer for tasks, silos and its database."""
    import flwr.supercore.corestate.in_memory_corestate as in_memory
    import flwr.supercore.corestate.sql_corestate as sql

    nodes = importlib.import_module("flwr.server.superlink.linkstate.sql_linkstate")
    replace(nodes, "HEARTBEAT_PATIENCE", SILENCE_S / HEARTBEAT_S)
    replace(sql.SqlCoreState, "_cleanup_expired_task_tokens", _seldom(sql.SqlCoreState._cleanup_expired_task_tokens))
    for module in (in_memory, sql):  # a running task that sends no heartbeat still fails after 60 s
        running_s = module.HEARTBEAT_PATIENCE * module.HEARTBEAT_DEFAULT_INTERVAL
        replace(module, "HEARTBEAT_PATIENCE", running_s / START_TIMEOUT_S)
        replace(module, "HEARTBEAT_DEFAULT_INTERVAL", START_TIMEOUT_S)
    set_pragmas(busy_timeout=1000 * DATABASE_TIMEOUT_S)


def _seldom(clean_up: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a method that does nothing when the same object's was called less than a second ago."""

    def clean_up_seldom(state: Any) -> None:
        if time.monotonic() - vars(state).get("_cleaned_up_at", -CLEAN_UP_INTERVAL_S) >= CLEAN_UP_INTERVAL_S:
            vars(state)["_cleaned_up_at"] = time.monotonic()
            clean_up(state)

    return clean_up_seldom


def wait_for_slow_answers() -> None:
    """Make the clients of Flower's APIs in this process wait for an answer longer than the database may take."""
    protobuf = importlib.import_module("flwr.supercore.protobuf.client")
    connect = protobuf.ProtobufClient.__init__

    def connect_patiently(client: Any, *args: Any, **kwargs: Any) -> None:
        connect(client, *args, **{"timeout": REQUEST_TIMEOUT_S, **kwargs})

    replace(protobuf.ProtobufClient, "__init__", connect_patiently)


def bound_waiting_for_messages() -> None:
    """Make the tasks of a silo in this process fail when the arrays of their message do not come."""
    inflatable = importlib.import_module("flwr.supercore.inflatable.inflatable_utils")
    replace(inflatable, "pull_objects", partial(inflatable.pull_objects, max_time=MESSAGE_TIMEOUT_S))


def poll_pause_s(polls: int) -> float:
    """Return how many seconds a silo waits after so many polls in a row that brought no message."""
    return min(POLL_S * 1.2 ** max(0, polls - SOON), LONGEST_POLL_S)


def poll_less_when_idle() -> None:
    """Make the SuperNode of this process ask for messages less often while there are none."""
    node = importlib.import_module("flwr.supernode.start_client_internal")
    pull, polls = node._pull_and_store_message, 0

    def pull_or_pause(*args: Any, **kwargs: Any) -> Any:
        nonlocal polls
        run = pull(*args, **kwargs)
        polls = polls + 1 if run is None else 0
        time.sleep(max(0.0, poll_pause_s(polls) - POLL_S))  # Flower waits 3 s besides
        return run

    replace(node, "_pull_and_store_message", pull_or_pause)

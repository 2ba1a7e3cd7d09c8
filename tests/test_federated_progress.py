"""A federation that makes no progress: what it says, when it gives up, and how long Flower waits for its processes."""

import time
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from flwr.app import MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from sase import waiting
from sase.errors import InputError
from sase.federated.flower import patches_busy
from sase.federated.flower.progress import Patience, Status, Watch
from sase.federated.flower.silo_grid import SiloGrid


class Clock:
    """Stands in for ``time``; :meth:`run` lets it tick once a second."""

    strftime = staticmethod(time.strftime)

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def run(self, watch, seconds):
        for _ in range(seconds):
            self.now += 1
            watch.check()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def test_a_start_that_takes_too_long_is_reported_within_a_minute_and_given_up(clock, tmp_path, capsys):
    log = tmp_path / "superlink.log"
    log.write_text("before\n\x1b[92mERROR\x1b[0m:  Runtime task-token  authentication failed.\n\n")
    watch = Watch(tmp_path, Patience(start_s=400, stall_s=9), (tmp_path / "run.log", log))
    clock.run(watch, 60)
    (line,) = capsys.readouterr().err.splitlines()
    reason = "Flower to start the server (superlink.log: ERROR: Runtime task-token authentication failed.)"
    assert line.endswith(f"waiting for {reason} (31 of 400 s)")
    with pytest.raises(InputError) as error:
        clock.run(watch, 10_000)
    assert clock.now == 401
    message = f"no progress for 401 s, waiting for {reason}; run the same command to resume"
    assert str(error.value) == f"{message}, with --engine-option start_s=N to wait longer"
    assert len(capsys.readouterr().err.splitlines()) == 3  # at 61, 121 and 241 s


def test_only_waiting_without_any_change_is_given_up(clock, tmp_path, capsys):
    status = Status(tmp_path)
    status.write("of a run before")
    watch = Watch(tmp_path, Patience(start_s=50, stall_s=100), ())
    assert status.read() is None
    clock.run(watch, 40)
    status.write("")  # the server computes, for as long as it takes
    clock.run(watch, 5000)
    for number in range(5):
        status.write(f"replies of silo {number}")
        clock.run(watch, 90)
    said = capsys.readouterr().err
    assert "waiting for replies of silo 3 (31 of 100 s)" in said
    with pytest.raises(InputError, match=r"no progress for 101 s, waiting for replies of silo 4; .*stall_s=N"):
        clock.run(watch, 100)


def test_reports_become_rare_but_never_stop(clock, tmp_path, capsys):
    status = Status(tmp_path)
    watch = Watch(tmp_path, Patience(start_s=50, stall_s=10_000), ())
    status.write("replies of silo 1 (round 1)")
    clock.run(watch, 9_000)
    times = [int(line.rpartition("(")[2].split()[0]) for line in capsys.readouterr().err.splitlines()]
    assert times[:5] == [31, 61, 121, 241, 481]
    assert all(later - earlier <= 600 for earlier, later in pairwise(times))
    assert times[-1] > 8_000


def test_the_patience_is_longer_than_the_timeouts_of_the_server(tmp_path):
    assert Patience.read({}, 3600) == Patience(600, 4200)
    assert Patience.read({"stall_s": "30", "start_s": "20"}, 3600) == Patience(20, 30)
    for value in ("0", "-3", "nan", "inf", "", "1 s"):
        with pytest.raises(InputError, match="must be a positive number of seconds"):
            Patience.read({"stall_s": value}, 1)


def test_the_server_reports_the_silos_that_it_waits_for():
    nodes = {100: "silo0", 102: "silo2"}

    def infos():
        return [SimpleNamespace(node_id=node, name=name, last_activated_at="1") for node, name in nodes.items()]

    sent = []

    def push(messages):
        sent.extend(messages)
        return [f"m{len(sent)}"]

    grid = SimpleNamespace(get_nodes=infos, push_messages=push, pull_messages=lambda numbers: [])
    reports = []
    silos = SiloGrid(grid, 3, None, 0.05, 0.01, reports.append)
    silos.wait_for_silos(2)
    assert set(reports) == {"silos to connect: 2 of 3 are connected, missing: 1", ""}
    assert reports[-1] == ""
    reports.clear()
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    _, failures = silos.send_and_receive(RecordDict({}), MessageType.TRAIN, 0.05, "7", lambda content: content)
    assert len(failures) == 3
    assert set(reports) == {"replies of silo 0, silo 2 (round 7)", ""}
    assert reports[-1] == ""


def test_a_process_that_starts_slowly_is_not_started_again(monkeypatch):
    """Flower's 30 s are too short on a busy machine; a running task without heartbeats still fails after a minute."""
    import flwr.supercore.corestate.in_memory_corestate as in_memory
    import flwr.supercore.corestate.sql_corestate as sql
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager

    for module in (in_memory, sql):  # restored afterwards
        for name in ("HEARTBEAT_PATIENCE", "HEARTBEAT_DEFAULT_INTERVAL"):
            monkeypatch.setattr(module, name, getattr(module, name))
    patches_busy.be_patient()
    clock = SimpleNamespace(offset=timedelta(0))
    real_now = sql.now
    monkeypatch.setattr(sql, "now", lambda: real_now() + clock.offset)
    state = LinkStateFactory(":memory:", NoOpFederationManager(), ObjectStoreFactory()).state()
    run_id = state.create_run("a/b", "1.0", "hash", {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
    task_id = state.get_tasks(run_ids=[run_id])[0].task_id
    token = state.claim_task(task_id)
    clock.offset = timedelta(seconds=290)
    assert state.get_task_by_token(token).task_id == task_id
    assert state.claim_task(task_id) is None
    assert state.activate_task(task_id)
    clock.offset = timedelta(seconds=345)
    assert state.get_task_by_token(token).task_id == task_id
    clock.offset = timedelta(seconds=355)
    assert state.get_task_by_token(token) is None

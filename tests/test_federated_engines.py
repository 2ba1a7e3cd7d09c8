"""How the Flower engines run: status of the app, processes and locks, options, and the version of Flower."""

import importlib
import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.federation import train_config
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.federated.flower import deployment, patches, simulation
from sase.federated.flower.app import COMPONENTS, run_app
from sase.federated.flower.client_app import app as client_app
from sase.federated.flower.processes import (
    federation_environment,
    find_pids,
    runtime_folder,
    supervised_federation,
    terminate_federation,
)
from sase.federated.flower.progress import Patience
from sase.federated.flower.server_app import app as server_app
from sase.federated.flower.silo_process import FINISHED_FILE, SiloProcess
from sase.federated.requests import StoppedError
from sase.processes import start

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
    monkeypatch.setattr("sase.federated.flower.app._MAX_RESTARTS", 0)
    with_answers(statuses, rounds, tmp_path, monkeypatch)
    superlink, patience = SimpleNamespace(poll=lambda: None), Patience(60, 60)
    if error is None:
        return run_app(tmp_path / "home", os.environ, superlink, tmp_path, 3, patience)
    with pytest.raises(InputError, match=error):
        run_app(tmp_path / "home", os.environ, superlink, tmp_path, 3, patience)


def test_a_run_that_was_stopped_by_request_is_no_failure(tmp_path, monkeypatch):
    with_answers(["finished:completed"], 2, tmp_path, monkeypatch)
    (tmp_path / "request").write_text("stop\n")
    with pytest.raises(StoppedError):
        run_app(tmp_path / "home", os.environ, SimpleNamespace(poll=lambda: None), tmp_path, 3, Patience(60, 60))


@pytest.mark.parametrize("progress", [True, False])
def test_a_failed_run_is_started_again_as_long_as_rounds_are_completed(tmp_path, monkeypatch, caplog, progress):
    monkeypatch.setattr("sase.federated.flower.app._STATUS_INTERVAL_S", 0.0)
    monkeypatch.setattr("sase.federated.flower.app._MAX_RESTARTS", 1)
    with_answers(["finished:failed"] * 2 + ["finished:completed"], 1, tmp_path, monkeypatch)
    superlink, patience = SimpleNamespace(poll=lambda: None), Patience(60, 60)
    if not progress:
        with pytest.raises(InputError, match="'finished:failed' .*; restarted 1 times without completing a round"):
            run_app(tmp_path / "home", os.environ, superlink, tmp_path, 3, patience)
        return
    with open(tmp_path / "bin/flwr", "a") as file:  # every run completes a round
        file.write(f"n=$(wc -l < {tmp_path}/rounds.jsonl); [ $1 = ls ] || echo '{{\"round\": '$((n + 1))}} ")
        file.write(f">> {tmp_path}/rounds.jsonl\n")
    run_app(tmp_path / "home", os.environ, superlink, tmp_path, 3, patience)
    assert [f"after round {n} (1 of 1)" in caplog.text for n in (2, 3)] == [True, True]


def with_answers(statuses, rounds, tmp_path, monkeypatch):
    """Put a flwr command that reports these statuses in place of Flower's, and so many rounds into the ledger."""
    answers = [
        json.dumps({"runs": [{"status": s, "status-details": ""}]}) if ":" in s or s == "running" else s
        for s in statuses
    ]
    (tmp_path / "statuses").write_text("\n".join(answers) + "\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/flwr").write_text(FLWR.format(folder=tmp_path))
    (tmp_path / "bin/flwr").chmod(0o755)
    (tmp_path / "rounds.jsonl").write_text("".join(f'{{"round": {n + 1}}}\n' for n in range(rounds)))
    monkeypatch.setattr("sase.federated.flower.app.flower_command", lambda name: [f"{tmp_path}/bin/{name}"])


def test_a_run_that_flower_does_not_start_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sase.federated.flower.app.flower_command", lambda name: ["sleep"])
    monkeypatch.setattr("sase.waiting.FIRST_REPORT_S", 0.2)
    home, superlink = tmp_path / "home", SimpleNamespace(poll=lambda: None)
    home.mkdir()
    (home / "superlink.log").write_text("busy\n")
    monkeypatch.setattr("sase.federated.flower.app.start", lambda *_: SimpleNamespace(poll=lambda: None))
    with pytest.raises(InputError, match=r"no progress for 1 s, waiting for Flower to start .*superlink\.log: busy"):
        run_app(home, os.environ, superlink, tmp_path, 3, Patience(0.8, 60))
    assert "waiting for Flower to start the server" in capsys.readouterr().err


def test_the_processes_of_a_federation_send_arrays_in_small_objects(tmp_path):
    """The setting is a private one of Flower, which may rename it."""
    script = (
        "import numpy as np; from flwr.app import Array;"
        "print(*(len(part.deflate()) for _, part in Array(np.arange(900_000)).slice_array()))"
    )
    env = federation_environment(tmp_path, tmp_path, 1)
    sizes = list(map(int, subprocess.check_output([sys.executable, "-c", script], env=env, text=True).split()))
    assert len(sizes) == 4
    assert max(sizes) < 1.1 * 2**21


def test_processes_of_a_federation_are_found_and_terminated(tmp_path):
    env = federation_environment(tmp_path, tmp_path, 1)
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


def test_local_silos_disconnect_at_the_end_and_are_not_started_again(silos_dir, tmp_path, monkeypatch):
    """The server waits for them to disconnect; one that exits earlier is started again."""
    monkeypatch.setattr(SiloProcess, "_command", lambda silo: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr("sase.federated.flower.silo_process._RESTART_DELAY_S", 0.0)
    silo = SiloProcess(0, silos_dir / "silo0", tmp_path, "localhost:1", None, "cpu", 1)
    try:
        silo.start()
        killed = silo._process
        killed.kill()
        killed.wait()
        while silo._process is killed:
            deployment._look_after([silo])
        started_again = silo._process
        (tmp_path / FINISHED_FILE).touch()
        for _ in range(5):
            deployment._look_after([silo])
            assert started_again.wait(timeout=30) == -signal.SIGTERM
        assert silo._process is started_again
    finally:
        silo.close()


def test_the_runtime_folder_is_private_short_and_removed(tmp_path, monkeypatch):
    with runtime_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "socket").touch()
    assert not folder.exists()
    (tmp_path / "runtime_folder").write_text(str(folder))  # as a killed run leaves it
    folder.mkdir()
    with runtime_folder(tmp_path) as other:
        assert not folder.exists()
    assert not other.exists()
    monkeypatch.setattr("sase.federated.flower.processes._FOLDER_PREFIX", f"/{'x' * 90}/sase-")
    with pytest.raises(InputError, match="set TMPDIR to a shorter one"), runtime_folder(tmp_path):
        pass


def test_engines_reject_bad_options(silos_dir, dev_set, tmp_path):
    def engine(module, silos, **options):
        module.run(train_config(), FederatedConfig(num_silos=3), silos, dev_set, tmp_path / "exp", "cpu", options)

    for module in (simulation, deployment):
        with pytest.raises(InputError, match="--engine-option prot"):
            engine(module, silos_dir, prot="1")
    with pytest.raises(InputError, match="--silos"):
        engine(simulation, None)
    for module, option, value in (
        (simulation, "jobs", "0"),
        (simulation, "jobs", "many"),
        (simulation, "connect_s", "nan"),
        (simulation, "start_s", "-1"),
        (deployment, "stall_s", "inf"),
        (deployment, "connect_s", "soon"),
        (deployment, "port", "http"),
    ):
        with pytest.raises(InputError, match=f"--engine-option {option}={value}: must be"):
            engine(module, silos_dir, **{option: value})
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


def test_private_names_of_flower_are_used_in_the_patches_alone():
    folder = Path(patches.__file__).parent
    private = re.compile(r"(from|import) flwr\.(?!app |clientapp|serverapp )")
    users = {path.name for path in folder.glob("*.py") if private.search(path.read_text())}
    assert "patches.py" in users
    assert all(name.startswith("patches") for name in users)

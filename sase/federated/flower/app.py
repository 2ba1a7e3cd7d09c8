"""The Flower app of an experiment: written into its folder, run by ``flwr run``, and checked against the ledger."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sase
from sase.atomic import write_text
from sase.config import to_mapping
from sase.errors import InputError
from sase.federated.flower.patches import NO_ADDRESS, RUN_STARTED, flower_command
from sase.federated.flower.progress import Patience, Watch
from sase.federated.requests import raise_if_stopped
from sase.jsonfile import read_jsonl
from sase.processes import last_line, start

if TYPE_CHECKING:  # they import torch, which a SuperNode does without
    from sase.federated.config import FederatedConfig
    from sase.training.config import TrainConfig

# Silos compare these names, and silos of version 0.1 know no others.
COMPONENTS = {"serverapp": "sase.federated.server_app:app", "clientapp": "sase.federated.client_app:app"}
SCORES_FILE = "silo_scores.json"  # in the experiment folder: scores of the best model on each silo's own test set
_CONNECTION = "sase"
_FAILED, _COMPLETED = "finished:failed", "finished:completed"
_MAX_RESTARTS = 3  # without a completed round in between
_ACTIVE = ("pending", "starting", "running")
_UNKNOWN = "unknown"
_RUN_LOG = "run.log"
_MAX_UNKNOWN = 20  # consecutive failures of 'flwr ls' until a run is given up
_STATUS_INTERVAL_S = 5.0
_POLL_S = 0.1
log = logging.getLogger(__name__)
_PYPROJECT = """# Rewritten by every run. No dependencies: Flower would install them. No code: every node runs its own.
[project]
name = "sase"
version = {version}
description = "Federated speech enhancement"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "sase"

[tool.flwr.app.components]
serverapp = {serverapp}
clientapp = {clientapp}

[tool.flwr.app.config]
settings = {settings}
"""


def write_app(
    home: Path,
    train_config: "TrainConfig",
    fed_config: "FederatedConfig",
    **settings: Any,
) -> None:
    """Write the app and the connection that ``flwr run`` reads into a federation's folder.

    Args:
        home: the federation's folder.
        train_config, fed_config: the experiment.
        settings: JSON values for :mod:`sase.federated.flower.server_app` and, in the simulation,
            :mod:`sase.federated.flower.client_app`.
    """
    settings_path = home / "settings.json"
    everything = {"train": to_mapping(train_config), "federated": to_mapping(fed_config), "home": str(home), **settings}
    write_text(settings_path, json.dumps(everything, indent=1))
    values = {"version": sase.__version__, "settings": str(settings_path), **COMPONENTS}
    write_text(home / "app" / "pyproject.toml", _PYPROJECT.format(**{k: json.dumps(v) for k, v in values.items()}))
    # The address is not used: the commands connect to the SuperLink's socket.
    connection = f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\naddress = "{NO_ADDRESS}"\n'
    write_text(home / "flwr" / "config.toml", f"{connection}insecure = true\n")


def run_app(
    home: Path,
    env: Mapping[str, str],
    superlink: subprocess.Popen,
    exp_dir: Path,
    num_rounds: int,
    patience: Patience,
    federation: Mapping[str, Any] | None = None,
    on_poll: Callable[[], object] = lambda: None,
) -> None:
    """Run the app until it has finished, and print the experiment's log as it grows.

    A run that fails inside Flower is started again and continues with the round after the last completed one.

    Args:
        home: the federation's folder, after :func:`write_app`.
        env: :func:`sase.federated.flower.processes.federation_environment`.
        superlink: the SuperLink's process.
        exp_dir: the experiment folder.
        num_rounds: how many rounds the ledger must have at the end.
        patience: how long it may make no progress.
        federation: settings of Flower's simulation, ``--federation-config``.
        on_poll: called several times a second; may raise to abort.

    Raises:
        StoppedError: the operator asked for it.
        InputError: the run failed, made no progress for too long, or finished without all rounds (``flwr run`` exits
            with 0 even then).
    """
    train_log = LogFollower(exp_dir / "train.log")
    restarts, done = 0, rounds_done(exp_dir)
    while (reason := _run_once(home, env, superlink, patience, federation, on_poll, train_log)) is not None:
        if (now := rounds_done(exp_dir)) > done:
            restarts, done = 0, now
        if restarts == _MAX_RESTARTS:
            raise InputError(f"{reason}; restarted {restarts} times without completing a round")
        restarts += 1
        log.warning("%s; starting it again after round %d (%d of %d)", reason, done, restarts, _MAX_RESTARTS)
    if (done := rounds_done(exp_dir)) < num_rounds:
        raise_if_stopped(exp_dir, done, num_rounds)
        raise InputError(f"{home / _RUN_LOG}: Flower's run finished after round {done} of {num_rounds}")


def _run_once(
    home: Path,
    env: Mapping[str, str],
    superlink: subprocess.Popen,
    patience: Patience,
    federation: Mapping[str, Any] | None,
    on_poll: Callable[[], object],
    train_log: "LogFollower",
) -> str | None:
    """Run the app once; return why it failed if another run may succeed, else None.

    Raises:
        InputError: it failed for a reason of its own, was stopped, or made no progress for too long.
    """
    error_path, log_path = home / "error.txt", home / _RUN_LOG
    error_path.unlink(missing_ok=True)
    log_path.unlink(missing_ok=True)
    command: list[str | Path] = [*flower_command("flwr"), "run", home / "app", _CONNECTION, "--stream"]
    if federation:
        command += ["--federation-config", " ".join(f"{name}={value}" for name, value in federation.items())]
    watch = Watch(home, patience, (log_path, home / "superlink.log"))

    def poll() -> None:
        train_log.print_new()
        watch.check()
        on_poll()
        if superlink.poll() is not None:
            raise InputError(f"{home}/superlink.log: the SuperLink exited: {last_line(home / 'superlink.log')}")
        time.sleep(_POLL_S)

    runner = start(command, env, log_path)
    while runner.poll() is None:
        poll()
    status, details = _wait_until_finished(env, log_path, poll)
    train_log.print_new()
    if error_path.exists():
        raise InputError(error_path.read_text().strip())
    if status == _COMPLETED:
        return None
    reason = f"{log_path}: Flower's run is '{status}' {details or last_line(log_path)}"
    if status != _FAILED:
        raise InputError(reason)
    return reason


def _wait_until_finished(env: Mapping[str, str], log_path: Path, poll: Callable[[], None]) -> tuple[str, str]:
    """Return (status, details) of a run that is over: 'flwr run' also exits when its log stream breaks before that."""
    status, details = run_status(env, log_path)
    unknown = 0
    while status in _ACTIVE or (status == _UNKNOWN and unknown < _MAX_UNKNOWN):
        unknown = unknown + 1 if status == _UNKNOWN else 0
        next_query = time.monotonic() + _STATUS_INTERVAL_S
        while time.monotonic() < next_query:
            poll()
        status, details = run_status(env, log_path)
    return status, details


def run_status(env: Mapping[str, str], log_path: Path) -> tuple[str, str]:
    """Return (status, details), as ``flwr ls`` reports them, of the run that wrote this log."""
    parts = log_path.read_text(errors="replace").split(RUN_STARTED)
    if len(parts) < 2:
        return "never started", ""
    run_id = parts[1].split()[0]
    command: list[str | Path] = [*flower_command("flwr"), "ls", _CONNECTION, "--run-id", run_id, "--format", "json"]
    try:
        listing = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
        run = json.loads(listing.stdout)["runs"][0]
        return run["status"], run["status-details"]
    except (subprocess.TimeoutExpired, ValueError, LookupError) as error:
        return _UNKNOWN, f"'flwr ls' gave no status ({type(error).__name__})"


def is_complete(exp_dir: Path, fed_config: "FederatedConfig") -> bool:
    """Return whether an experiment has all rounds and, with personal norms, the silos' own scores."""
    scored = fed_config.norm != "local" or (exp_dir / SCORES_FILE).exists()
    return rounds_done(exp_dir) >= fed_config.num_rounds and scored


def rounds_done(exp_dir: Path) -> int:
    """Return the number of the last round in an experiment's ledger; 0 for none."""
    rounds = read_jsonl(exp_dir / "rounds.jsonl")
    return rounds[-1]["round"] if rounds else 0


class LogFollower:
    """Prints what is appended to a log from now on, as ``tail -f -n 0`` does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0

    def print_new(self) -> None:
        """Write the complete lines that are new to standard error."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.position)
            new = file.read()
        lines = new[: new.rfind(b"\n") + 1]
        self.position += len(lines)
        sys.stderr.write(lines.decode(errors="replace"))

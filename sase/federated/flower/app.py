"""The Flower app of an experiment: written beside it, run by ``flwr run``, believed only when rounds have advanced."""

import json
import subprocess
import sys
import time
from pathlib import Path

import sase
from sase.atomic import write_text
from sase.config import to_mapping
from sase.errors import InputError
from sase.processes import last_line, start

COMPONENTS = {"serverapp": "sase.federated.server_app:app", "clientapp": "sase.federated.client_app:app"}
SCORES = "silo_scores.json"  # in the experiment folder: the best model on each silo's own test part
_CONNECTION = "sase"
_UNDER_WAY = ("pending", "starting", "running")
_UNTOLD = "unknown"
_UNTOLD_TIMES = 20  # in a row, until a superlink that runs and does not tell is given up
_ASK_S = 5.0  # between two questions how the run is
_APP = """# Written anew by every run. No dependencies: Flower would install them. No code: everyone runs their own.
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


def write_app(home, address, ca_file, train_config, fed_config, **settings):
    """Write what ``flwr run`` needs into a federation's folder.

    Args:
        home: the federation's folder.
        address: HOST:PORT of the superlink.
        ca_file: certificate that signed the superlink's; None when it does not encrypt.
        train_config, fed_config: the experiment.
        settings: plain values for :mod:`sase.federated.flower.server_app` and, simulated, :mod:`sase.federated.flower.client_app`.
    """
    settings_path = home / "settings.json"
    everything = {"train": to_mapping(train_config), "federated": to_mapping(fed_config), "home": str(home), **settings}
    write_text(settings_path, json.dumps(everything, indent=1))
    values = {"version": sase.__version__, "settings": str(settings_path), **COMPONENTS}
    write_text(home / "app" / "pyproject.toml", _APP.format(**{k: json.dumps(v) for k, v in values.items()}))
    trust = f"root-certificates = {json.dumps(str(ca_file))}" if ca_file else "insecure = true"
    connection = f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
    write_text(home / "flwr" / "config.toml", f"{connection}address = {json.dumps(address)}\n{trust}\n")


def run_app(home, env, superlink, exp_dir, num_rounds, federation=None, watch=lambda: None):
    """Run the app to its end, showing the experiment's log as it grows.

    Args:
        home: the federation's folder, with what :func:`write_app` wrote.
        env: :func:`sase.federated.flower.processes.federation_environment`.
        superlink: its ``Popen``.
        exp_dir: the experiment folder.
        num_rounds: how many rounds there must be at the end.
        federation: settings of Flower's simulation, ``--federation-config``.
        watch: called now and then; may raise to give up.

    Raises:
        InputError: the run did not finish, or finished without all rounds (Flower's own status is 0 even then).
    """
    error_path, log_path = home / "error.txt", home / "run.log"
    error_path.unlink(missing_ok=True)
    log_path.unlink(missing_ok=True)
    command = [_flwr(env), "run", home / "app", _CONNECTION, "--stream"]
    if federation:
        command += ["--federation-config", " ".join(f"{name}={value}" for name, value in federation.items())]
    shown = Tail(exp_dir / "train.log")

    def look_after():
        shown.show()
        watch()
        if superlink.poll() is not None:
            raise InputError(f"{home}/superlink.log: the superlink ended: {last_line(home / 'superlink.log')}")
        time.sleep(0.1)

    runner = start(command, env, log_path)
    while runner.poll() is None:
        look_after()
    # 'flwr run' follows the run's log, and ends as well when that connection breaks: the run itself may go on.
    status, details = run_status(env, log_path)
    untold = 0
    while status in _UNDER_WAY or (status == _UNTOLD and untold < _UNTOLD_TIMES):
        untold = untold + 1 if status == _UNTOLD else 0
        until = time.monotonic() + _ASK_S
        while time.monotonic() < until:
            look_after()
        status, details = run_status(env, log_path)
    shown.show()
    if error_path.exists():
        raise InputError(error_path.read_text().strip())
    if status != "finished:completed":
        raise InputError(f"{log_path}: Flower's run is '{status}' {details or last_line(log_path)}")
    if (done := rounds_done(exp_dir)) < num_rounds:
        raise InputError(f"{log_path}: Flower's run has ended after round {done} of {num_rounds}")


def run_status(env, log_path):
    """Return (status, details) of the run whose log this is, as ``flwr ls`` has it."""
    words = log_path.read_text(errors="replace").split("Successfully started run ")
    if len(words) < 2:
        return "never started", ""
    run_id = words[1].split()[0]
    command = [_flwr(env), "ls", _CONNECTION, "--run-id", run_id, "--format", "json"]
    try:
        answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        run = json.loads(answer.stdout)["runs"][0]
        return run["status"], run["status-details"]
    except (subprocess.TimeoutExpired, ValueError, LookupError) as error:
        return _UNTOLD, f"'flwr ls' did not tell ({type(error).__name__})"


def complete(exp_dir, fed_config):
    """Return whether an experiment has all its rounds, and the silos' own scores where they have norms of their own."""
    scored = fed_config.norm != "local" or (exp_dir / SCORES).exists()
    return rounds_done(exp_dir) >= fed_config.num_rounds and scored


def rounds_done(exp_dir):
    """Return the number of the last round in an experiment's ledger; 0 for none."""
    last = last_line(Path(exp_dir) / "rounds.jsonl")
    return json.loads(last)["round"] if last else 0


class Tail:
    """Shows what is appended to a log from now on."""

    def __init__(self, path):
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0

    def show(self):
        """Write the whole lines that are new to standard error."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.position += len(whole)
        sys.stderr.write(whole.decode(errors="replace"))


def _flwr(env):
    return Path(env["PATH"].split(":")[0]) / "flwr"

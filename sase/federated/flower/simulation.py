"""Engine ``simulation``: all silos on this machine in Flower's simulation (Ray), one Ray instance per experiment."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from sase.atomic import write_text
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.federated.flower import progress
from sase.federated.flower.app import is_complete, run_app, write_app
from sase.federated.flower.processes import (
    federation_environment,
    runtime_folder,
    supervised_federation,
    wait_until_serving,
)
from sase.federated.flower.progress import Patience, seconds
from sase.federated.secure.local import ROSTER, make_local_keys
from sase.processes import start
from sase.training.config import TrainConfig

_OPTIONS = ("jobs", "connect_s", *progress.OPTIONS)
_CONNECT_S = 300.0
_POLL_S = 0.1
_TASK_POLL_S = 1.0  # one task is started, with all apps


def run(
    train_config: TrainConfig,
    fed_config: FederatedConfig,
    silos_dir: str | Path | None,
    dev_set: str | Path,
    exp_dir: str | Path,
    device: str,
    options: Mapping[str, str],
) -> None:
    """Train in simulation until every round has advanced; all processes are terminated, also on failure.

    Args:
        train_config, fed_config, silos_dir, dev_set, exp_dir, device: as in :mod:`sase.federated`.
        options: ``jobs``, how many silos train at the same time (default: the smaller of cores and silos);
            ``connect_s`` (300): how long to wait for Ray to create the simulated nodes; ``start_s``, ``stall_s``: see
            :class:`sase.federated.flower.progress.Patience`.

    Raises:
        InputError: a round failed, or Flower did not run.
    """
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise InputError(f"--engine-option {unknown[0]}: the simulation has {', '.join(_OPTIONS)}")
    if silos_dir is None:
        raise InputError("the simulation needs --silos: a folder with silo0, silo1, ...")
    silos_dir, exp_dir = Path(silos_dir).resolve(), Path(exp_dir).resolve()
    if is_complete(exp_dir, fed_config):
        return
    cores = len(os.sched_getaffinity(0))
    jobs = _read_jobs(options.get("jobs", str(min(cores, fed_config.num_silos))))
    connect_s = seconds(options, "connect_s", _CONNECT_S)
    patience = Patience.read(options, max(connect_s, fed_config.round_timeout_s))
    home = exp_dir / "flower"
    with supervised_federation(home), runtime_folder(home) as folder:
        env = {**federation_environment(home, folder, max(1, cores // jobs), _TASK_POLL_S), **_ray_environment(folder)}
        shutil.rmtree(home / "flwr", ignore_errors=True)
        superlink = _start_superlink(home, env)
        if fed_config.secure_aggregation:
            make_local_keys(exp_dir / "silos", fed_config.num_silos)
        write_app(
            home,
            train_config,
            fed_config,
            dev_set=str(Path(dev_set).resolve()),
            exp_dir=str(exp_dir),
            device=device,
            silos_dir=str(silos_dir),
            state_dir=str(exp_dir / "silos"),
            roster=str(exp_dir / "silos" / ROSTER),
            simulated=True,
            order=largest_first(silos_dir, fed_config.num_silos),
            server_threads=cores,
            connect_s=connect_s,
            poll_s=_POLL_S,
        )
        federation = {
            "num-supernodes": fed_config.num_silos,
            "client-resources-num-cpus": 1,
            "client-resources-num-gpus": 0.0 if device == "cpu" else 1.0 / jobs,
            "init-args-num-cpus": jobs,
            "init-args-log-to-driver": "false",
        }
        run_app(home, env, superlink, exp_dir, fed_config.num_rounds, patience, federation)


def _read_jobs(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"--engine-option jobs={value}: must be 1 or more")
    return int(value)


def largest_first(silos_dir: Path, count: int) -> list[int]:
    """Return the silos' indices by decreasing number of utterances: the longest training must not start last."""

    def num_utterances(index: int) -> int:
        path = silos_dir / f"silo{index}" / "tr" / "wav.scp"
        if not path.is_file():
            raise InputError(f"{path}: no such file; make the silos with 'sase partition'")
        with open(path, "rb") as file:
            return sum(1 for _ in file)

    sizes = [num_utterances(index) for index in range(count)]
    return sorted(range(count), key=lambda index: (-sizes[index], index))


def _start_superlink(home: Path, env: Mapping[str, str]) -> subprocess.Popen:
    log_path = home / "superlink.log"
    log_path.unlink(missing_ok=True)
    # Without --database: its state is in memory, where nothing waits for a lock, and small. No message passes through
    # it, since all apps are in one process with a state of their own, which Flower keeps in memory too.
    command = [sys.executable, "-m", "sase.federated.flower.superlink", "--insecure", "--simulation"]
    superlink = start(command, env, log_path)
    wait_until_serving(superlink, env, log_path)
    return superlink


def _ray_environment(folder: Path) -> dict[str, str]:
    """Return the environment in which Ray accepts calls only from processes that can read a file in ``folder``."""
    token_path = folder / "ray_token"
    write_text(token_path, secrets.token_hex(32))
    return {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}

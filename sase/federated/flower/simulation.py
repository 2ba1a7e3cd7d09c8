"""Engine ``simulation``: all silos on this machine in Flower's simulation (Ray), one Ray instance per experiment."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sase.atomic import write_text
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.federated.flower.app import is_complete, run_app, write_app
from sase.federated.flower.processes import (
    federation_environment,
    supervised_federation,
    terminate_federation,
    wait_until_healthy,
)
from sase.processes import last_line, start
from sase.training.config import TrainConfig

_CONNECT_S = 300.0  # until Ray has created the simulated nodes
_POLL_S = 0.1
_RAY_PREFIX = f"{tempfile.gettempdir()}/sase-ray-"
_ATTEMPTS = 3  # another process may take the port between finding it free and using it


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
        options: ``jobs``, how many silos train at the same time (default: the smaller of cores and silos).

    Raises:
        InputError: a round failed, or Flower did not run.
    """
    if unknown := sorted(set(options) - {"jobs"}):
        raise InputError(f"--engine-option {unknown[0]}: the simulation has only jobs")
    if silos_dir is None:
        raise InputError("the simulation needs --silos: a folder with silo0, silo1, ...")
    silos_dir, exp_dir = Path(silos_dir).resolve(), Path(exp_dir).resolve()
    if is_complete(exp_dir, fed_config):
        return
    cores = len(os.sched_getaffinity(0))
    jobs = int(options.get("jobs", min(cores, fed_config.num_silos)))
    if jobs < 1:
        raise InputError(f"--engine-option jobs={jobs}: must be 1 or more")
    home = exp_dir / "flower"
    with supervised_federation(home), _ray_folder(home) as ray_folder:
        env = {**federation_environment(home, max(1, cores // jobs)), "RAY_TMPDIR": ray_folder}
        shutil.rmtree(home / "flwr", ignore_errors=True)
        superlink, port = _start_superlink(home, env)
        write_app(
            home,
            f"127.0.0.1:{port}",
            None,
            train_config,
            fed_config,
            dev_set=str(Path(dev_set).resolve()),
            exp_dir=str(exp_dir),
            device=device,
            silos_dir=str(silos_dir),
            state_dir=str(exp_dir / "silos"),
            simulated=True,
            order=largest_first(silos_dir, fed_config.num_silos),
            server_threads=cores,
            connect_s=_CONNECT_S,
            poll_s=_POLL_S,
        )
        federation = {
            "num-supernodes": fed_config.num_silos,
            "client-resources-num-cpus": 1,
            "client-resources-num-gpus": 0.0 if device == "cpu" else 1.0 / jobs,
            "init-args-num-cpus": jobs,
            "init-args-log-to-driver": "false",
        }
        run_app(home, env, superlink, exp_dir, fed_config.num_rounds, federation)


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


@contextmanager
def _ray_folder(home: Path) -> Iterator[str]:
    """Yield a temporary folder for Ray, removed at the end, as is one left by a killed run.

    Its path is short, since Ray's sockets are in it and the length of a socket's path is limited.
    """
    record = home / "ray_folder"
    if record.exists() and record.read_text().startswith(_RAY_PREFIX):
        shutil.rmtree(record.read_text(), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_RAY_PREFIX)
    write_text(record, folder)
    try:
        yield folder
    finally:
        terminate_federation(home)
        shutil.rmtree(folder, ignore_errors=True)
        record.unlink()


def _start_superlink(home: Path, env: Mapping[str, str]) -> tuple[subprocess.Popen, int]:
    log_path = home / "superlink.log"
    for attempt in range(_ATTEMPTS):
        log_path.unlink(missing_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "sase.federated.flower.superlink", "--insecure", "--simulation"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        superlink = start(command, env, log_path)
        try:
            wait_until_healthy(superlink, port, None, log_path)
            return superlink, port
        except InputError:
            if "address already in use" not in log_path.read_text(errors="replace") or attempt == _ATTEMPTS - 1:
                raise
    raise InputError(f"{log_path}: {last_line(log_path)}")

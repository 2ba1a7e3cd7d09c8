"""Engine ``simulation``: all silos on this machine, by Flower's simulation (Ray), each experiment on its own."""

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from sase.atomic import write_text
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated.flower.app import complete, run_app, write_app
from sase.federated.flower.processes import end, exclusive_federation, federation_environment, wait_healthy
from sase.processes import last_line, start

_CONNECT_S = 300.0  # until Ray has made the simulated nodes
_POLL_S = 0.1
_RAY_PREFIX = f"{tempfile.gettempdir()}/sase-ray-"
_ATTEMPTS = 3  # somebody may take the port between our finding it free and using it


def run(train_config, fed_config, silos_dir, dev_set, exp_dir, device, options):
    """Train in simulation until every round has advanced; nothing is left running, whatever happens.

    Args:
        train_config, fed_config, silos_dir, dev_set, exp_dir, device: as :mod:`sase.federated` has them.
        options: ``jobs``, how many silos train at the same time (as many as there are cores, or silos).

    Raises:
        InputError: a round that could not be done, or Flower that did not run.
    """
    if unknown := sorted(set(options) - {"jobs"}):
        raise InputError(f"--engine-option {unknown[0]}: the simulation knows jobs")
    if silos_dir is None:
        raise InputError("the simulation needs --silos: a folder with silo0, silo1, ...")
    silos_dir, exp_dir = Path(silos_dir).resolve(), Path(exp_dir).resolve()
    if complete(exp_dir, fed_config):
        return
    cores = len(os.sched_getaffinity(0))
    jobs = int(options.get("jobs", min(cores, fed_config.num_silos)))
    if jobs < 1:
        raise InputError(f"--engine-option jobs={jobs}: must be 1 or more")
    home = exp_dir / "flower"
    with exclusive_federation(home), _ray_folder(home) as ray_folder:
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


def largest_first(silos_dir, count):
    """Return the silos' indices by the number of their utterances: what takes longest must not begin last."""

    def utterances(index):
        path = silos_dir / f"silo{index}" / "tr" / "wav.scp"
        if not path.is_file():
            raise InputError(f"{path}: no such file; make the silos with 'sase partition'")
        with open(path, "rb") as file:
            return sum(1 for _ in file)

    sizes = [utterances(index) for index in range(count)]
    return sorted(range(count), key=lambda index: (-sizes[index], index))


@contextmanager
def _ray_folder(home):
    """Yield a folder for Ray, with a short path, since its sockets lie there; remove it, and what a killed run left."""
    note = home / "ray_folder"
    if note.exists() and note.read_text().startswith(_RAY_PREFIX):
        shutil.rmtree(note.read_text(), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_RAY_PREFIX)
    write_text(note, folder)
    try:
        yield folder
    finally:
        end(home)
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink()


def _start_superlink(home, env):
    log_path = home / "superlink.log"
    for attempt in range(_ATTEMPTS):
        log_path.unlink(missing_ok=True)
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "sase.federated.flower.superlink",
            "--insecure",
            "--simulation",
            "--host",
            "127.0.0.1",
            "--port",
            port,
        ]
        superlink = start(command, env, log_path)
        try:
            wait_healthy(superlink, port, None, log_path)
            return superlink, port
        except InputError:
            if "address already in use" not in log_path.read_text(errors="replace") or attempt == _ATTEMPTS - 1:
                raise
    raise InputError(f"{log_path}: {last_line(log_path)}")

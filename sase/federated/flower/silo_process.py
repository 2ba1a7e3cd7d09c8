"""A real silo: its SuperNode process, restarted when it exits, and why it cannot connect."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from sase.endpoints import resolve_endpoint
from sase.errors import InputError
from sase.federated.certificates import silo_credentials
from sase.federated.connection import reachable
from sase.federated.flower.patches import ACTIVATION_FAILED, ROUND_LINE
from sase.federated.flower.patches_busy import SILENCE_S
from sase.federated.flower.patches_warm import COLD_VARIABLE
from sase.federated.flower.processes import federation_environment, runtime_folder, supervised_federation
from sase.federated.limits import PrivacyLimits
from sase.federated.secure.identity import KEYS_FOLDER, Roster
from sase.private import make_private
from sase.processes import last_line, start
from sase.waiting import Waiting

FINISHED_FILE = "finished"  # in a silo's state folder once the server has announced the end of training
_RESTART_DELAY_S = 8.0
_REJECTED_S = 2 * SILENCE_S  # to the server, a killed silo stays connected for a while, and its restart is rejected
_POLL_S = 1.0
_REACHABLE_CHECK_S = 10.0

log = logging.getLogger(__name__)


class SiloProcess:
    """One silo's SuperNode.

    Args:
        index: of the silo, from 0.
        data_dir: with ``tr/`` and optionally ``tt/``; its contents never leave this machine.
        state_dir: for the silo's personal state, log and Flower home.
        server: HOST:PORT.
        credentials: folder with ``ca.crt`` and ``silo.key``; None for a server without TLS.
        device: torch device to train on.
        threads: CPU threads.
        warm: keep the process that trains, with its data, from round to round.
        limits: of differential privacy, which the server must respect; None for no limits.
        masks_only: send no update outside of a secure sum, whatever the server asks.

    Raises:
        InputError: ``data_dir`` has no ``tr/``.
    """

    def __init__(
        self,
        index: int,
        data_dir: str | Path,
        state_dir: str | Path,
        server: str,
        credentials: Path | None,
        device: str,
        threads: int,
        warm: bool = True,
        limits: PrivacyLimits | None = None,
        masks_only: bool = False,
    ) -> None:
        self.limits, self.masks_only = limits, masks_only
        self.index, self.data_dir, self.state_dir = index, Path(data_dir).resolve(), Path(state_dir).resolve()
        self.server, self.credentials, self.device = server, credentials, device
        self.home = self.state_dir / "flower"
        self.log_path = self.state_dir / "supernode.log"
        self.log_offset = 0  # where the log of the running process starts
        self.threads, self.warm = threads, warm
        self._env: dict[str, str] = {}  # of the SuperNode
        self._process: subprocess.Popen | None = None
        self._terminated = False
        self._exited_at: float | None = None
        self._rejected_since: float | None = None
        self._supervision = ExitStack()
        if not (self.data_dir / "tr").is_dir():
            raise InputError(f"{self.data_dir}: no folder tr in it; make it with 'sase partition' or 'sase dump'")

    @property
    def finished(self) -> bool:
        """Whether the server has announced the end of training."""
        return (self.state_dir / FINISHED_FILE).exists()

    def start(self) -> None:
        """Start the SuperNode, after terminating what a killed run of this silo left behind; its files are private."""
        self._supervision.enter_context(supervised_federation(self.home))
        folder = self._supervision.enter_context(runtime_folder(self.home))
        self._env = federation_environment(self.home, folder, self.threads)
        if not self.warm:
            self._env[COLD_VARIABLE] = "1"
        make_private(self.state_dir)
        (self.state_dir / FINISHED_FILE).unlink(missing_ok=True)
        self._launch()

    def terminate(self) -> None:
        """Send SIGTERM to the SuperNode, once, which then unregisters, and do not wait."""
        if self._process is not None and self._process.poll() is None and not self._terminated:
            self._process.terminate()
            self._terminated = True

    def close(self) -> None:
        """Terminate all processes of the silo and wait for them."""
        self._supervision.close()

    def restart_if_exited(self) -> None:
        """Restart the SuperNode some seconds after it has exited; call it periodically.

        Raises:
            InputError: the server rejects its key.
        """
        assert self._process is not None, "start() comes first"
        now = time.monotonic()
        if self._process.poll() is None:
            self._exited_at = None
        elif self._exited_at is None:
            self._exited_at = now
            self._report_exit(self._process.returncode, now)
        elif now - self._exited_at > _RESTART_DELAY_S:
            self._exited_at = None
            self._launch()

    def _report_exit(self, status: int, now: float) -> None:
        if ACTIVATION_FAILED not in _read_from(self.log_path, self.log_offset):
            self._rejected_since = None
            log.info("silo %d: its SuperNode exited (status %s: %s)", self.index, status, last_line(self.log_path))
            return
        self._rejected_since = self._rejected_since or now
        if now - self._rejected_since > _REJECTED_S:
            raise InputError(
                f"silo {self.index}: {self.server} rejects its key ({self.credentials}/silo.key); the server needs "
                f"silo.pub as silo{self.index}.pub in its certificates folder, and no second silo {self.index}"
            )

    def _launch(self) -> None:
        self.log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process, self._terminated = start(self._command(), self._env, self.log_path), False

    def _command(self) -> list[str | Path | int]:
        paths = {"data-dir": self.data_dir, "state-dir": self.state_dir, "device": self.device}
        if self.credentials is not None:
            paths["certificates"] = self.credentials
        own = {f"dp-{name}": value for name, value in asdict(self.limits).items()} if self.limits else {}
        if self.masks_only:
            own["require-masks"] = "yes"
        if bad := [str(value) for value in paths.values() if "'" in str(value)]:
            raise InputError(f"{bad[0]}: Flower does not accept a path with a quote in it; use another")
        node_config = " ".join(
            [f"silo={self.index}", *(f"{name}='{value}'" for name, value in {**paths, **own}.items())]
        )
        command: list[str | Path | int] = [sys.executable, "-m", "sase.federated.flower.supernode"]
        command += ["--superlink", self.server, "--node-config", node_config]
        if self.credentials is None:
            return [*command, "--insecure"]
        command += ["--root-certificates", self.credentials / "ca.crt"]
        return [*command, "--auth-supernode-private-key", self.credentials / "silo.key"]


def run_silo(
    index: int,
    data_dir: str | Path,
    state_dir: str | Path,
    server: str,
    certificates: str | Path | None,
    device: str = "cpu",
    threads: int | None = None,
    wait_s: float = 600.0,
    warm: bool = True,
    limits: PrivacyLimits | None = None,
    masks_only: bool = False,
) -> None:
    """Run one silo of a federation: connect, train on request, return when the server says that training is over.

    Args:
        index: of the silo, from 0.
        data_dir, state_dir, device: as for :class:`SiloProcess`.
        server: HOST:PORT, or a file into which the server writes it (``announce`` of the deployment).
        certificates: the folder ``silo<index>/`` of ``tools/make_certificates.sh``, or its parent; None for a server
            without TLS.
        threads: CPU threads; all cores when None.
        wait_s: how long to wait for a server that is not reachable, at the start and later.
        warm, limits, masks_only: as for :class:`SiloProcess`.

    Raises:
        InputError: the server has another certificate, rejects the silo, or is not reachable for too long.
    """
    server = resolve_endpoint(server, wait_s)
    credentials = None if certificates is None else silo_credentials(Path(certificates).resolve(), index)
    ca_file = None if credentials is None else credentials / "ca.crt"
    threads = threads or len(os.sched_getaffinity(0))
    silo = SiloProcess(index, data_dir, state_dir, server, credentials, device, threads, warm, limits, masks_only)
    _wait_for_server(server, ca_file, wait_s)
    if credentials is not None and (credentials / KEYS_FOLDER).is_dir():
        roster = Roster.load(credentials / KEYS_FOLDER)
        log.info("silo %d: keys of %d silos, fingerprint %s", index, len(roster.keys), roster.fingerprint)
    log.info("silo %d: data %s, server %s, log %s", index, silo.data_dir, server, silo.log_path)
    try:
        silo.start()
        _supervise(silo, ca_file, wait_s)
        log.info("silo %d: training is finished", index)
    finally:
        silo.close()


def _supervise(silo: SiloProcess, ca_file: Path | None, wait_s: float) -> None:
    """Keep a started silo running and log its rounds until the server says that training is over."""
    start_offset, logged_rounds = silo.log_offset, set[str]()
    unreachable: Waiting | None = None
    checked_at = time.monotonic()
    while not silo.finished:
        silo.restart_if_exited()
        for number in _new_rounds(silo.log_path, start_offset, logged_rounds):
            log.info("silo %d: round %s", silo.index, number)
        now = time.monotonic()
        if now - checked_at > _REACHABLE_CHECK_S:
            checked_at = now
            unreachable = None if reachable(silo.server, ca_file) else unreachable or Waiting()
        if unreachable is not None:
            unreachable.report(lambda: f"the server {silo.server}, which is not reachable", wait_s)
            if unreachable.seconds > wait_s:
                raise InputError(f"{silo.server}: not reachable for {wait_s:.0f} s; run this command again when it is")
        time.sleep(_POLL_S)


def _new_rounds(path: Path, offset: int, logged_rounds: set[str]) -> Iterator[str]:
    """Yield the round numbers in a SuperNode's log after ``offset`` that are not in ``logged_rounds``; add them."""
    for number in ROUND_LINE.findall(_read_from(path, offset)):
        if number not in logged_rounds:
            logged_rounds.add(number)
            yield number


def _read_from(path: Path, offset: int) -> str:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _wait_for_server(server: str, ca_file: Path | None, wait_s: float) -> None:
    waiting = Waiting()
    while not reachable(server, ca_file):
        waiting.report(lambda: f"the server {server}", wait_s)
        if waiting.seconds > wait_s:
            raise InputError(f"{server}: no server answers there; is it running, and is the port open?")
        time.sleep(_POLL_S)

"""A real silo: the supernode process beside its data, kept alive, and what it means when it cannot connect."""

import logging
import os
import re
import socket
import ssl
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from sase.endpoints import free_port, resolve_endpoint
from sase.errors import InputError
from sase.federated.flower.processes import exclusive_federation, federation_environment
from sase.processes import last_line, start

FINISHED = "finished"  # in a silo's state folder: the server has said that training is over
_RESTART_S = 8.0
_REFUSED_S = 40.0  # a silo that was killed is connected still, for the server, for as long as a few heartbeats
_CHECK_S = 1.0

log = logging.getLogger(__name__)


class SiloProcess:
    """One silo's supernode.

    Args:
        index: which silo.
        data_dir: its data, with ``tr/`` and perhaps ``tt/``; never leaves this machine.
        state_dir: what the silo keeps: personal state, log, Flower's home.
        server: HOST:PORT.
        trust: folder with ``ca.crt`` and ``silo.key``; None for a server that does not encrypt.
        device: where it trains.
        threads: CPU threads.
    """

    def __init__(self, index, data_dir, state_dir, server, trust, device, threads):
        self.index, self.data_dir, self.state_dir = index, Path(data_dir).resolve(), Path(state_dir).resolve()
        self.server, self.trust, self.device = server, trust, device
        self.home = self.state_dir / "flower"
        self.log_path = self.state_dir / "supernode.log"
        self.env = federation_environment(self.home, threads)
        self.process, self.began_at = None, 0
        self.ended_at, self.refused_since = None, None
        self._held = ExitStack()
        if not (self.data_dir / "tr").is_dir():
            raise InputError(f"{self.data_dir}: has no folder tr; make it with 'sase partition' or 'sase dump'")

    @property
    def finished(self):
        """Whether the server has said that training is over."""
        return (self.state_dir / FINISHED).exists()

    def open(self):
        """Start the supernode; ends what an earlier, killed one left."""
        self._held.enter_context(exclusive_federation(self.home))
        (self.state_dir / FINISHED).unlink(missing_ok=True)
        self._start()

    def ask_to_end(self):
        """Ask the supernode to say goodbye and end, and do not wait for it."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def close(self):
        """End it, with all its processes."""
        self._held.close()

    def tend(self):
        """Start the supernode again if it has ended.

        Raises:
            InputError: the server refuses it.
        """
        if self.process.poll() is None:
            self.ended_at = None
            return
        now = time.monotonic()
        if self.ended_at is None:
            self.ended_at = now
            if "Failed to activate SuperNode" in self._latest():
                self.refused_since = self.refused_since or now
                if now - self.refused_since > _REFUSED_S:
                    raise InputError(
                        f"silo {self.index}: {self.server} refuses its key ({self.trust}/silo.key); the server needs "
                        f"silo.pub as silo{self.index}.pub in its certificates folder, and no second silo {self.index}"
                    )
            else:
                self.refused_since = None
                log.info(
                    "silo %d: its process has ended (status %s: %s)",
                    self.index,
                    self.process.returncode,
                    last_line(self.log_path),
                )
        elif now - self.ended_at > _RESTART_S:
            self.ended_at = None
            self._start()

    def _start(self):
        self.began_at = self.log_path.stat().st_size if self.log_path.exists() else 0
        config = {"data-dir": self.data_dir, "state-dir": self.state_dir, "device": self.device}
        if bad := [str(value) for value in config.values() if "'" in str(value)]:
            raise InputError(f"{bad[0]}: Flower cannot be told a name with a quote in it; use another")
        words = [f"silo={self.index}", *(f"{name}='{value}'" for name, value in config.items())]
        command = [
            sys.executable,
            "-m",
            "sase.federated.flower.supernode",
            "--superlink",
            self.server,
            "--host",
            "127.0.0.1",
            "--port",
            free_port(),
            "--node-config",
            " ".join(words),
        ]
        if self.trust is None:
            command += ["--insecure"]
        else:
            command += ["--root-certificates", self.trust / "ca.crt"]
            command += ["--auth-supernode-private-key", self.trust / "silo.key"]
        self.process = start(command, self.env, self.log_path)

    def _latest(self):
        with open(self.log_path, "rb") as file:
            file.seek(self.began_at)
            return file.read().decode(errors="replace")


def run_silo(index, data_dir, state_dir, server, certificates, device="cpu", threads=None, wait_s=600.0):
    """Be one silo of a federation: connect, train when asked, return when the server says that training is over.

    Args:
        index: which silo, from 0.
        data_dir, state_dir, device: as :class:`SiloProcess` has them.
        server: HOST:PORT, or a file into which the server writes it (``announce`` of the deployment).
        certificates: the folder ``silo<index>/`` that ``tools/make_certificates.sh`` made, or the one above it; None
            for a server that does not encrypt.
        threads: CPU threads; all cores when None.
        wait_s: how long to wait for a server that is not there yet, and for one that has gone.

    Raises:
        InputError: the server is not who it should be, refuses the silo, or is not there for too long.
    """
    server = resolve_endpoint(server, wait_s)
    trust = None
    if certificates is not None:
        certificates = Path(certificates).resolve()
        trust = certificates / f"silo{index}" if (certificates / f"silo{index}").is_dir() else certificates
        for name in ("ca.crt", "silo.key"):
            if not (trust / name).is_file():
                raise InputError(f"{trust / name}: no such file; tools/make_certificates.sh makes it")
    silo = SiloProcess(index, data_dir, state_dir, server, trust, device, threads or len(os.sched_getaffinity(0)))
    ca_file = trust and trust / "ca.crt"
    _wait_for_server(server, ca_file, wait_s)
    log.info("silo %d: data %s, server %s, log %s", index, silo.data_dir, server, silo.log_path)
    try:
        silo.open()
        told, gone_since, looked, before = set(), None, time.monotonic(), silo.began_at
        while not silo.finished:
            silo.tend()
            for number in _asked(silo.log_path, before, told):
                log.info("silo %d: round %s", index, number)
            if time.monotonic() - looked > 10.0:
                looked = time.monotonic()
                gone_since = None if _reachable(server, ca_file) else gone_since or looked
                if gone_since and looked - gone_since > wait_s:
                    raise InputError(f"{server}: has not been there for {wait_s:.0f} s; type the same again when it is")
            time.sleep(_CHECK_S)
        log.info("silo %d: the server says that training is over", index)
    finally:
        silo.close()


def _asked(path, start, told):
    """Yield the numbers of rounds that a supernode's log shows after ``start`` and that are not yet in ``told``."""
    with open(path, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    for number in re.findall(r"\[RUN \d+, ROUND (\d+)\]", text):
        if number not in told:
            told.add(number)
            yield number


def _wait_for_server(server, ca_file, wait_s):
    deadline = time.monotonic() + wait_s
    while not _reachable(server, ca_file):
        if time.monotonic() > deadline:
            raise InputError(f"{server}: nobody answers there; is the server running, and the port open?")
        time.sleep(_CHECK_S)


def _reachable(server, ca_file):
    """Return whether the server answers.

    Raises:
        InputError: it does, and is not the one whose certificate we trust.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--server {server}: must be HOST:PORT")
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            if ca_file is not None:
                context = ssl.create_default_context(cafile=ca_file)
                with context.wrap_socket(connection, server_hostname=host):
                    pass
            return True
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate is not what {ca_file} vouches for ({error.verify_message})"
        raise InputError(f"{server}: refused, {why}") from None
    except ssl.SSLError as error:
        raise InputError(f"{server}: does not speak TLS ({error.reason}); is it run with insecure=true?") from None
    except OSError:
        return False

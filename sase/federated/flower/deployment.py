"""Engine ``deployment``: one server and real silos, each a process on its own machine, or all of them on this one."""

import logging
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from sase.endpoints import free_port, host_names, publish_endpoint
from sase.errors import InputError
from sase.federated.certificates import make_certificates
from sase.federated.flower.app import complete, run_app, write_app
from sase.federated.flower.processes import exclusive_federation, federation_environment, wait_healthy
from sase.federated.flower.silo_process import SiloProcess
from sase.processes import start

log = logging.getLogger(__name__)
_POLL_S = 0.5
_OPTIONS = {
    "port": "18000",
    "host": "",
    "certificates": "",
    "insecure": "false",
    "connect_s": "600",
    "announce": "",
}


def run(train_config, fed_config, silos_dir, dev_set, exp_dir, device, options):
    """Be the server of a federation until every round has advanced; typed again after any end, it goes on.

    Args:
        train_config, fed_config, dev_set, exp_dir, device: as :mod:`sase.federated` has them.
        silos_dir: with ``silo0`` ..., to run all silos on this machine as well; None where they run elsewhere.
        options: ``port`` (18000), where silos find the server; ``host`` to listen on (all addresses, or with
            ``silos_dir`` the loopback); ``certificates``, the folder ``server/`` that ``tools/make_certificates.sh``
            made, or the one above it (with ``silos_dir``: made when left out); ``insecure`` (false): no encryption, and
            no keys; ``connect_s`` (600): how long to wait for silos to connect at the beginning; ``announce``: a file
            into which to write HOST:PORT once silos can connect, for a server that a scheduler sends somewhere: the
            port is any free one, and certificates are made, in ``flower/certificates``, where none are named.

    Raises:
        InputError: a round that could not be done, a port or certificate that does not serve, Flower that did not run.
    """
    settings = _Settings.read(options, silos_dir)
    exp_dir, local = Path(exp_dir).resolve(), silos_dir is not None
    silos_dir = Path(silos_dir).resolve() if local else None
    if complete(exp_dir, fed_config):
        return
    home = exp_dir / "flower"
    with exclusive_federation(home):
        server_folder = None
        if not settings.insecure:
            certificates = settings.certificates or home / "certificates"
            if not settings.certificates:
                make_certificates(certificates, host_names() if settings.announce else [], fed_config.num_silos)
            server_folder = certificates / "server" if (certificates / "server").is_dir() else certificates
        cores = len(os.sched_getaffinity(0))
        env = federation_environment(home, cores)
        shutil.rmtree(home / "flwr", ignore_errors=True)
        superlink = _start_superlink(home, env, settings, server_folder)
        address, ca_file = f"127.0.0.1:{settings.port}", server_folder and server_folder / "ca.crt"
        if not settings.insecure:
            registered = register_keys(address, server_folder, fed_config.num_silos)
            log.info("server on port %d; registered keys: %s", settings.port, ", ".join(registered))
        if settings.announce:
            publish_endpoint(settings.announce, settings.port)
        write_app(
            home,
            address,
            ca_file,
            train_config,
            fed_config,
            dev_set=str(Path(dev_set).resolve()),
            exp_dir=str(exp_dir),
            device=device,
            simulated=False,
            order=None,
            server_threads=cores,
            connect_s=settings.connect_s,
            poll_s=_POLL_S,
        )
        silos = []
        if local:
            for index in range(fed_config.num_silos):
                trust = None if settings.insecure else certificates / f"silo{index}"
                name, threads = f"silo{index}", max(1, cores // fed_config.num_silos)
                state_dir = exp_dir / "silos" / name
                silos.append(SiloProcess(index, silos_dir / name, state_dir, address, trust, device, threads))
        try:
            for silo in silos:
                silo.open()
            run_app(home, env, superlink, exp_dir, fed_config.num_rounds, watch=lambda: [silo.tend() for silo in silos])
        finally:
            for silo in silos:
                silo.ask_to_end()
            for silo in reversed(silos):
                silo.close()


def register_keys(address, folder, num_silos):
    """Register the silos whose keys are in ``folder``, ``silo0.pub`` ..., and nobody else.

    Args:
        address: HOST:PORT of a superlink on this machine, encrypted.
        folder: with ``ca.crt`` and the keys.
        num_silos: more keys than that are refused.

    Returns:
        The names of the silos that are registered now.
    """
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    wanted = {}
    for index in range(num_silos):
        path = folder / f"silo{index}.pub"
        if path.exists():
            try:
                wanted[public_key_to_bytes(load_ssh_public_key(path.read_bytes()))] = f"silo{index}"
            except ValueError as error:
                raise InputError(f"{path}: not a key as tools/make_certificates.sh makes them ({error})") from None
    if not wanted:
        raise InputError(f"{folder}: no keys of silos, silo0.pub ...; tools/make_certificates.sh makes them")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    client = ControlHttpClient.from_server_address(
        address, False, (folder / "ca.crt").read_bytes(), [RuntimeVersionHttpInterceptor(component_name="cli")]
    )
    names = []
    try:
        nodes = [node for node in client.ListNodes(ListNodesRequest()).nodes_info if node.status != "unregistered"]
        for node in nodes:
            if wanted.get(node.public_key) == node.name:
                names.append(wanted.pop(node.public_key))
            else:
                client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        for key, name in wanted.items():
            client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
        return sorted([*names, *wanted.values()])
    finally:
        client.close()


@dataclass(frozen=True)
class _Settings:
    port: int
    host: str
    certificates: Path | None
    insecure: bool
    connect_s: float
    announce: Path | None

    @classmethod
    def read(cls, options, silos_dir):
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise InputError(f"--engine-option {unknown[0]}: the deployment knows {', '.join(_OPTIONS)}")
        given = {**_OPTIONS, **({"port": free_port()} if "announce" in options else {}), **options}
        if given["insecure"] not in ("true", "false"):
            raise InputError(f"--engine-option insecure={given['insecure']}: must be true or false")
        try:
            port, connect_s = int(given["port"]), float(given["connect_s"])
        except ValueError:
            raise InputError("--engine-option: port and connect_s must be numbers") from None
        certificates = Path(given["certificates"]).resolve() if given["certificates"] else None
        insecure = given["insecure"] == "true"
        announced = Path(given["announce"]).resolve() if given["announce"] else None
        if not insecure and certificates is None and silos_dir is None and announced is None:
            raise InputError("needs --engine-option certificates=DIR, of tools/make_certificates.sh (or insecure=true)")
        if certificates is not None and not certificates.is_dir():
            raise InputError(f"{certificates}: no such folder; tools/make_certificates.sh makes it")
        host = given["host"] or ("0.0.0.0" if silos_dir is None else "127.0.0.1")
        return cls(port, host, certificates, insecure, connect_s, announced)


def _start_superlink(home, env, settings, folder):
    command = [
        sys.executable,
        "-m",
        "sase.federated.flower.superlink",
        "--host",
        settings.host,
        "--port",
        settings.port,
        "--database",
        home / "state.db",
    ]
    if folder is None:
        command += ["--insecure"]
    else:
        files = {name: folder / name for name in ("ca.crt", "server.crt", "server.key")}
        for path in files.values():
            if not path.is_file():
                raise InputError(f"{path}: no such file; tools/make_certificates.sh makes it")
        command += [
            "--ssl-ca-certfile",
            files["ca.crt"],
            "--ssl-certfile",
            files["server.crt"],
            "--ssl-keyfile",
            files["server.key"],
            "--enable-supernode-auth",
        ]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            message = f"port {settings.port}: {error.strerror}; choose another, --engine-option port=N"
            raise InputError(message) from None
    log_path = home / "superlink.log"
    log_path.unlink(missing_ok=True)
    superlink = start(command, env, log_path)
    wait_healthy(superlink, settings.port, folder and folder / "ca.crt", log_path)
    return superlink

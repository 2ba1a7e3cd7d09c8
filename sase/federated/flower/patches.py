"""All uses and patches of Flower's private names. They hold for one version of Flower, which is checked on import."""

import importlib
import importlib.metadata
import logging
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

from sase.errors import InputError
from sase.processes import kill_with_parent

VERSION = "1.41.0"  # the one that setup.py pins; patch releases of it are accepted


def check_version() -> None:
    """Check that the installed version of Flower is the one that this module is written for.

    Raises:
        InputError: flwr is not installed, or in another version.
    """
    try:
        found = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        found = "not found"
    if found.split(".")[:2] != VERSION.split(".")[:2]:
        raise InputError(f"flwr {found}: version {VERSION} is needed; run: pip install 'flwr[simulation]=={VERSION}'")


check_version()

from flwr.common.constant import ErrorCode  # noqa: E402  (the version is checked first)
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM  # noqa: E402

CLIENT_APP_ERROR = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CLIPPING_NORM = KEY_CLIPPING_NORM  # where Flower's clipping mods look for the norm in a message's ConfigRecord

# Text in the output of Flower's commands.
RUN_STARTED = "Successfully started run "
ACTIVATION_FAILED = "Failed to activate SuperNode"
ROUND_LINE = re.compile(r"\[RUN \d+, ROUND (\d+)\]")


def patch_superlink(middleware: Callable[..., Any]) -> Callable[[], None]:
    """Patch the SuperLink and return its command, which reads the arguments of this process.

    Args:
        middleware: class of an ASGI middleware that every HTTP request passes before Flower's own.
    """
    import flwr.superlink.main as superlink
    from starlette.middleware import Middleware

    command = importlib.import_module("flwr.superlink.cli.flower_superlink")  # the package has a function of this name
    # The SuperExec checks whether its parent's process id exists, which it does until a killed parent has been reaped.
    _replace(command, "get_popen_detach_kwargs", lambda: {"preexec_fn": kill_with_parent})
    flower_middleware = superlink._get_middleware
    _replace(superlink, "_get_middleware", lambda: [Middleware(middleware), *flower_middleware()])
    return command.flower_superlink


def patch_supernode(is_trusted: Callable[[bytes], bool], heartbeat_s: float) -> Callable[[], None]:
    """Patch the SuperNode and return its command, which reads the arguments of this process.

    Args:
        is_trusted: called with every Flower App Bundle (FAB) from the server; the node runs it when this returns True.
        heartbeat_s: seconds between two heartbeats.
    """
    import flwr.supercore.heartbeat as heartbeat
    import flwr.supernode.fleet_http_connection as connection
    import flwr.supernode.start_client_internal as node
    from flwr.supernode.cli import flower_supernode

    _replace(node, "subprocess", SimpleNamespace(Popen=partial(subprocess.Popen, preexec_fn=kill_with_parent)))
    _replace(node, "_init_connection", partial(connect_with_fab_check, node._init_connection, is_trusted))
    for module in (heartbeat, connection):
        _replace(module, "HEARTBEAT_DEFAULT_INTERVAL", heartbeat_s)
    return flower_supernode


@contextmanager
def connect_with_fab_check(
    connect: Callable[..., AbstractContextManager[tuple[Any, ...]]],
    is_trusted: Callable[[bytes], bool],
    *args: Any,
    **kwargs: Any,
) -> Iterator[tuple[Any, ...]]:
    """Open a SuperNode's connection, ``connect(*args, **kwargs)``, on which FABs that are not trusted are rejected."""
    from flwr.supercore.run import RunNotRunningException

    with connect(*args, **kwargs) as (node_id, receive, send, get_run, get_fab, *others):

        def get_trusted_fab(fab_hash: str, run_id: int) -> Any:
            fab = get_fab(fab_hash, run_id)
            if not is_trusted(fab.content):
                logging.getLogger("flwr").error("REJECTED: the server sent an app that is not this package's")
                raise RunNotRunningException  # makes the SuperNode skip the message
            return fab

        yield node_id, receive, send, get_run, get_trusted_fab, *others


def node_public_key(openssh_key: bytes) -> bytes:
    """Convert an OpenSSH public key into the form in which the SuperLink stores it.

    Raises:
        ValueError: not an OpenSSH public key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    key = load_ssh_public_key(openssh_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an elliptic curve key")
    return public_key_to_bytes(key)


def register_nodes(address: str, ca_certificate: bytes, keys: Mapping[bytes, str]) -> list[str]:
    """Register SuperNodes with a SuperLink and unregister all others.

    Args:
        address: HOST:PORT of the SuperLink's control API, with TLS.
        ca_certificate: PEM certificate of the authority that signed the SuperLink's.
        keys: key, as :func:`node_public_key` returns it, to the name of the node.

    Returns:
        The sorted names of the registered nodes.
    """
    from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    interceptors = [RuntimeVersionHttpInterceptor(component_name="cli")]
    client = ControlHttpClient.from_server_address(address, False, ca_certificate, interceptors)
    missing = dict(keys)
    try:
        for node in client.ListNodes(ListNodesRequest()).nodes_info:
            if node.status == "unregistered":
                continue
            if missing.get(node.public_key) == node.name:
                del missing[node.public_key]
            else:
                client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        for key, name in missing.items():
            client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
    finally:
        client.close()
    return sorted(keys.values())


def _replace(module: ModuleType, name: str, value: object) -> None:
    getattr(module, name)  # raises where Flower no longer has this name
    setattr(module, name, value)

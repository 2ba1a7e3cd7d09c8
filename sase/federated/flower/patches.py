"""Uses and patches of Flower's private names, with :mod:`sase.federated.flower.patches_busy`.

They hold for one version of Flower, which is checked on import.
"""

import importlib
import importlib.metadata
import logging
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial, partialmethod
from types import SimpleNamespace
from typing import Any, cast

from sase.errors import InputError
from sase.federated.flower.patches_busy import (
    be_patient,
    bound_waiting_for_messages,
    poll_less_when_idle,
    replace,
    wait_for_slow_answers,
)
from sase.federated.flower.patches_memory import keep_no_messages
from sase.federated.flower.patches_warm import WarmClient, wants_warm_client
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

from flwr.common.constant import (  # noqa: E402  (the version is checked first)
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
    ErrorCode,
)
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM  # noqa: E402

CLIENT_APP_ERROR = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CLOCK_AHEAD_S = SYSTEM_TIME_TOLERANCE  # a silo whose clock is further ahead of the server's is refused
CLOCK_BEHIND_S = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE  # or further behind
CLIPPING_NORM = KEY_CLIPPING_NORM  # where Flower's clipping mods look for the norm in a message's ConfigRecord

# Text in the output of Flower's commands.
RUN_STARTED = "Successfully started run "
ACTIVATION_FAILED = "Failed to activate SuperNode"
ROUND_LINE = re.compile(r"\[RUN \d+, ROUND (\d+)\]")

log = logging.getLogger("flwr")


# Flower insists on an address where we use a socket.
NO_ADDRESS = "localhost:1"


def flower_command(name: str) -> list[str]:
    """Return the command line that runs one of Flower's commands in a child process, see :func:`run_command`."""
    return [sys.executable, "-m", "sase.federated.flower.command", name]


def run_command(name: str, socket_path: str) -> None:
    """Run one of Flower's commands, whose Control and Runtime clients connect to a Unix socket.

    Args:
        name: ``flwr``, ``flower-superexec``, ``flwr-serverapp`` ...; it reads the arguments of this process.
        socket_path: the socket.
    """
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

    connect_to_socket(socket_path)
    bound_waiting_for_messages()
    replace(SubprocessExecutor, "launch", partialmethod(_launch_task, WarmClient()))
    (command,) = importlib.metadata.distribution("flwr").entry_points.select(group="console_scripts", name=name)
    command.load()()


def connect_to_socket(socket_path: str) -> None:
    """Let the Control and Runtime clients of this process connect to a Unix socket."""
    import flwr.supercore.protobuf.client as protobuf

    wait_for_slow_answers()
    connect = protobuf.ProtobufClient.__init__

    def connect_to_it(client: Any, *args: Any, **kwargs: Any) -> None:
        connect(client, *args, **kwargs)
        _use_socket(client, socket_path)

    replace(protobuf.ProtobufClient, "__init__", connect_to_it)


def _launch_task(executor: Any, warm_client: WarmClient, spec: Any) -> Any:
    """Hand a silo's task to its process, or start one; the token is in a file without a name: arguments are public."""
    from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND
    from flwr.supercore.superexec.executor.types import LaunchResult

    if wants_warm_client(spec) and warm_client.launch(spec.token):
        return LaunchResult.accepted()
    name, address = TASK_TYPE_TO_COMMAND[spec.task_type], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type]
    with open(os.memfd_create("token"), "wb", buffering=0) as token:
        token.write(spec.token.encode())
        token_file = ["--token-file", f"/proc/self/fd/{token.fileno()}"]
        command = [*flower_command(name), address, NO_ADDRESS, "--insecure", *token_file]
        log.info("starting %s", name)
        subprocess.Popen(
            [*command, "--parent-pid", str(os.getpid())], pass_fds=[token.fileno()], preexec_fn=kill_with_parent
        )
    return LaunchResult.accepted()


def _use_socket(client: Any, socket_path: str) -> None:
    """Connect a client of a Flower API to a Unix socket."""
    import httpx

    timeout = client._client.timeout
    client._client.close()
    client._client = httpx.Client(transport=httpx.HTTPTransport(uds=socket_path), timeout=timeout)


def run_superlink(socket_path: str, about: Mapping[str, object], folder: str) -> None:
    """Run the SuperLink with the arguments of this process: all of its APIs on a Unix socket, the Fleet API on TCP too.

    In the simulation, nothing is served on TCP.

    Args:
        socket_path: the socket.
        about: properties of the federation for registered silos, see :class:`sase.federated.flower.listener.FleetOnly`.
        folder: of files without names with what is received and sent.
    """
    command = importlib.import_module("flwr.superlink.cli.flower_superlink")  # the package has a function of this name
    # The SuperExec checks whether its parent's process id exists, which it does until a killed parent has been reaped.
    replace(command, "get_popen_detach_kwargs", lambda: {"preexec_fn": kill_with_parent})
    replace(command, "_get_superexec_command", lambda **_: _superexec_command())
    replace(command, "_run_superlink_http_api", partial(_serve_superlink, socket_path, about, folder))
    bound_replies(importlib.import_module("flwr.superlink.servicer.fleet.fleet_handlers"))
    be_patient()
    keep_no_messages()
    command.flower_superlink()


def _serve_superlink(socket_path: str, about: Mapping[str, object], folder: str, lifespan_config: Any) -> None:
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.logger import console_handler
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.main import create_app

    from sase.federated.flower.garbage import make_collections_cheap
    from sase.federated.flower.listener import PublicPort, Server, private_socket

    config = lifespan_config
    app = create_app(config, SuperLinkLifespan)
    name_of = partial(name_of_signer, app) if config.enable_supernode_auth else lambda headers: ""
    public = None
    if not config.simulation:
        public = PublicPort(config.host, config.port, config.ssl_certfile, config.ssl_keyfile, name_of, about)
    make_collections_cheap()
    server = Server(app, public, folder, log_config=get_uvicorn_log_config(console_handler.level))
    server.run([private_socket(socket_path)])


def bound_replies(handlers: Any) -> None:
    """Bound the number and the bytes of the objects that a silo stores with a reply: refused with status 413.

    Args:
        handlers: Flower's module of the Fleet API's handlers.
    """
    from fastapi import HTTPException
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

    from sase.federated.flower.quota import MAX_BYTES, MAX_OBJECTS, ReplyQuota

    quota, push_messages, push_object = ReplyQuota(), handlers.push_messages, handlers.push_object

    def bounded_messages(request: Any, state: Any) -> Any:
        trees = request.message_object_trees
        if sum(1 for tree in trees for _ in iterate_object_tree(tree)) > MAX_OBJECTS:
            log.error("node %d: a reply of more than %d objects", request.node.node_id, MAX_OBJECTS)
            raise HTTPException(413, f"a reply of more than {MAX_OBJECTS} objects")
        response = push_messages(request=request, state=state)
        if response.objects_to_push:
            replied = request.messages_list[0].metadata.reply_to_message_id
            quota.open(response.session_id, request.node.node_id, replied)
        return response

    def bounded_object(request: Any, state: Any) -> Any:
        if not quota.admits(request.session_id, len(request.object_content)):
            log.error("node %d: a reply of more than %d bytes, or one unknown", request.node.node_id, MAX_BYTES)
            raise HTTPException(413, f"a reply of more than {MAX_BYTES} bytes, or one that was not announced")
        return push_object(request=request, state=state)

    replace(handlers, "push_messages", bounded_messages)
    replace(handlers, "push_object", bounded_object)


def name_of_signer(app: Any, headers: Mapping[str, str]) -> str | None:
    """Return the name of the registered node that signed these headers of a request to the Fleet API; None if none did.

    The request's body is not read.
    """
    from fastapi import HTTPException
    from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.node_auth import authenticate_node

    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        state = SimpleNamespace(protobuf_request=RegisterNodeFleetRequest(public_key=key))
        request: Any = SimpleNamespace(app=app, headers=headers, state=state)
        authenticate_node(request)
    except (KeyError, ValueError, HTTPException):
        return None
    linkstate = get_linkstate(request)
    if (node := linkstate.get_node_id_by_public_key(key)) is None:
        return None
    return next((str(info.name) for info in linkstate.get_node_info(node_ids=[node])), None)


def run_supernode(is_trusted: Callable[[bytes], bool], heartbeat_s: float, socket_path: str) -> None:
    """Run the SuperNode with the arguments of this process; its Runtime API is on a Unix socket.

    Args:
        is_trusted: called with every Flower App Bundle (FAB) from the server; the node runs it when this returns True.
        heartbeat_s: seconds between two heartbeats.
        socket_path: the socket.
    """
    import flwr.supernode.start_client_internal as node

    command = importlib.import_module("flwr.supernode.cli.flower_supernode")  # the package has a function of this name

    def start_superexec(_: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(_superexec_command(), preexec_fn=kill_with_parent)

    replace(command, "_start_supernode_http_api", partial(_serve_supernode, socket_path))
    replace(node, "subprocess", SimpleNamespace(Popen=start_superexec))
    replace(node, "_init_connection", partial(connect_with_fab_check, node._init_connection, is_trusted))
    send_heartbeats_every(heartbeat_s)
    be_patient()
    wait_for_slow_answers()
    poll_less_when_idle()
    command.flower_supernode()


def send_heartbeats_every(heartbeat_s: float) -> None:
    """Set the seconds between two heartbeats of a node of this process."""
    import flwr.supercore.heartbeat as heartbeat
    import flwr.supernode.fleet_http_connection as connection

    for module in (heartbeat, connection):
        replace(module, "HEARTBEAT_DEFAULT_INTERVAL", heartbeat_s)


def _serve_supernode(socket_path: str, config: Any, state_factory: Any) -> tuple[Any, Any]:
    from flwr.supernode.main import create_app

    from sase.federated.flower.listener import Server, private_socket, start_in_thread

    server = Server(create_app(state_factory=state_factory))
    return server, start_in_thread(server, private_socket(socket_path))


def _superexec_command() -> list[str]:
    command = [*flower_command("flower-superexec"), "--insecure", "--runtime-api-address", NO_ADDRESS]
    return [*command, "--parent-pid", str(os.getpid())]


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
                log.error("REJECTED: the server sent an app that is not this package's")
                raise RunNotRunningException  # makes the SuperNode skip the message
            return fab

        yield node_id, receive, send, get_run, get_trusted_fab, *others


def signed_headers(private_key: Any) -> dict[str, str]:
    """Return headers for a request to the Fleet API, signed now with a silo's private key."""
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    request = SimpleNamespace(headers={})
    sign = NodeAuthHttpInterceptor(private_key, private_key.public_key()).intercept
    sign(cast(Any, SimpleNamespace(request=request)), cast(Any, lambda context: None))
    return dict(request.headers)


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


def register_nodes(socket_path: str, keys: Mapping[bytes, str]) -> list[str]:
    """Register SuperNodes with a SuperLink and unregister all others.

    Args:
        socket_path: the SuperLink's Unix socket.
        keys: key, as :func:`node_public_key` returns it, to the name of the node.

    Returns:
        The sorted names of the registered nodes.
    """
    from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    interceptors = [RuntimeVersionHttpInterceptor(component_name="cli")]
    client = ControlHttpClient.from_server_address(NO_ADDRESS, True, None, interceptors)
    _use_socket(client, socket_path)
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

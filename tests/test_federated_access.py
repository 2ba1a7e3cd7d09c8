"""What other users of a machine can do to a federation's processes: real ones, and the calls that would start code."""

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from helpers.federation import wait_until
from helpers.strangers import accessible_sockets, command_lines, exposed, listening_ports, unix_sockets
from sase.endpoints import free_port
from sase.federated.certificates import make_certificates
from sase.federated.doctor.findings import FAILED, OK
from sase.federated.doctor.server import check_server
from sase.federated.flower import patches
from sase.federated.flower.deployment import register_keys
from sase.federated.flower.listener import Server, private_socket, start_in_thread
from sase.federated.flower.patches_warm import COLD_VARIABLE, WarmClient
from sase.federated.flower.processes import (
    federation_environment,
    find_pids,
    runtime_folder,
    socket_path,
    supervised_federation,
    wait_until_serving,
)
from sase.federated.flower.silo_process import SiloProcess
from sase.federated.onboarding import Membership
from sase.processes import start

pytestmark = pytest.mark.recipe
SUPERLINK = [sys.executable, "-m", "sase.federated.flower.superlink"]
PROTOBUF = {"content-type": "application/protobuf"}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A deployed SuperLink with TLS and a silo's SuperNode, both started with umask 0."""
    folder = tmp_path_factory.mktemp("federation")
    home, port = folder / "exp/flower", free_port()
    make_certificates(folder / "certificates", ["localhost"], 2)
    server = folder / "certificates/server"
    for index in range(2):
        (folder / f"data{index}/tr").mkdir(parents=True)
    previous = os.umask(0)
    try:
        with ExitStack() as stack:
            stack.enter_context(supervised_federation(home))
            env = federation_environment(home, stack.enter_context(runtime_folder(home)), 1)
            options = ["--host", "127.0.0.1", "--port", port, "--database", home / "state.db"]
            options += ["--ssl-ca-certfile", server / "ca.crt", "--ssl-certfile", server / "server.crt"]
            options += ["--ssl-keyfile", server / "server.key", "--enable-supernode-auth"]
            superlink = start([*SUPERLINK, *options], env, home / "superlink.log")
            wait_until_serving(superlink, env, home / "superlink.log")
            assert register_keys(env, server, 1) == ["silo0"]
            address, states = f"127.0.0.1:{port}", [folder / "state0", folder / "state1"]
            silos = []
            for index, state in enumerate(states):
                credentials = folder / f"certificates/silo{index}"
                silos.append(SiloProcess(index, folder / f"data{index}", state, address, credentials, "cpu", 1))
                silos[-1].start()
                stack.callback(silos[-1].close)
            log = states[0] / "supernode.log"
            wait_until(lambda: "SuperNode ID" in log.read_text(), superlink, "silo 0", patience_s=120)
            yield SimpleNamespace(home=home, env=env, port=port, superlink=superlink, states=states, folder=folder)
    finally:
        os.umask(previous)


def control_and_runtime_paths():
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    paths = [path for _, path in PROTOBUF_REQUEST_TYPES if not path.startswith("/v1/fleet/")]
    assert len(paths) > 50
    return paths


def test_every_call_that_is_not_a_silos_is_refused_on_every_tcp_port(federation):
    """The executor's call hands out the tasks' tokens, the control calls start runs and register keys."""
    assert set(listening_ports(find_pids(federation.home))) == {federation.port}
    where = f"https://127.0.0.1:{federation.port}"
    with httpx.Client(verify=False, headers=PROTOBUF) as client:
        for path in control_and_runtime_paths():
            assert client.post(where + path).status_code == 403, path
    assert federation.superlink.poll() is None


def test_the_calls_are_answered_on_the_socket_which_no_other_user_can_open(federation):
    path = socket_path(federation.env)
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), headers=PROTOBUF) as client:
        assert client.post("http://x/v1/control/list-runs").status_code == 200
    sockets = unix_sockets(find_pids(federation.home))
    assert path in sockets
    for name in sockets:
        assert Path(name).parent.stat().st_mode & 0o077 == 0
    if os.getuid() == 0:
        assert not accessible_sockets(sockets)
        with open_to_all(path):
            assert accessible_sockets(sockets) == {path}  # the check itself works


def open_to_all(path):
    """Let every user connect to a socket in the block."""
    stack = ExitStack()
    for each, mode in ((Path(path).parent, 0o755), (Path(path), 0o666)):
        stack.callback(each.chmod, each.stat().st_mode & 0o777)
        each.chmod(mode)
    return stack


def test_a_silos_machine_has_no_open_port(federation):
    homes = [state / "flower" for state in federation.states]
    wait_until(lambda: any(b"flower-superexec" in command(pid) for pid in find_pids(homes[0])), what="SuperExec")
    assert listening_ports(find_pids(homes[0])) == {}
    (path,) = unix_sockets(find_pids(homes[0]))
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), headers=PROTOBUF) as client:
        assert client.post("http://x/v1/runtime/acquire-task").status_code != 403
    assert Path(path).parent.stat().st_mode & 0o077 == 0
    if os.getuid() == 0:
        assert not accessible_sockets([path])


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_silo_with_an_unregistered_key_is_refused_as_before(federation):
    log = federation.states[1] / "supernode.log"
    wait_until(lambda: patches.ACTIVATION_FAILED in log.read_text(), what="silo 1 refused", patience_s=120)


def test_the_doctor_tells_a_registered_silo_from_another(federation):
    """Flower's own check of signatures; that of tests/test_doctor.py is an oracle without Flower."""
    for index, status in enumerate((OK, FAILED)):
        about = Membership(index, f"localhost:{federation.port}")
        found = {f.check: f for f in check_server(about, federation.folder / f"certificates/silo{index}")}
        assert found["registration"].status == status
        assert ("silo0" in found["registration"].message) == (status == OK)
        assert found["clock"].status == OK
        assert ("versions" in found) == (status == OK)


def test_only_signatures_of_registered_keys_are_known(federation):
    """A body larger than 64 KiB is read for the registered silo alone, whose signature is in the headers."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    where, sizes = f"https://127.0.0.1:{federation.port}/v1/fleet/push-object", {}
    for index in range(2):
        key = load_ssh_private_key((federation.folder / f"certificates/silo{index}/silo.key").read_bytes(), None)
        signer = NodeAuthHttpInterceptor(key, key.public_key())
        with httpx.Client(verify=False) as client:

            def send(context, client=client):
                return client.send(context.request)

            request = client.build_request("POST", where, headers=PROTOBUF, content=bytes(100_000))
            context = SimpleNamespace(request=request, rpc_method="PushObject", message=None)
            sizes[index] = signer.intercept(context, send).status_code
    assert sizes[0] != 413
    assert sizes[1] == 413


def test_everything_that_server_and_silos_write_is_private(federation):
    for folder in (federation.home, *federation.states):
        assert len(list(folder.rglob("*"))) > 3
        assert exposed(folder) == []


def test_a_tasks_token_is_on_no_command_line_and_reaches_its_process(tmp_path, monkeypatch):
    token, seen = os.urandom(32).hex(), []

    async def server(scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            return await send({"type": "lifespan.shutdown.complete"})
        seen.extend(value.decode() for _, value in scope["headers"])
        await send({"type": "http.response.start", "status": 500, "headers": []})
        return await send({"type": "http.response.body", "body": b""})

    tmp_path.chmod(0o700)
    http = Server(server)
    thread = start_in_thread(http, private_socket(tmp_path / "socket"))
    for name, value in federation_environment(tmp_path / "home", tmp_path, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(COLD_VARIABLE, "1")
    from flwr.supercore.constant import TaskType

    patches._launch_task(None, WarmClient(), SimpleNamespace(task_type=TaskType.CLIENT_APP, token=token))
    (pid,) = wait_for(lambda: find_pids(tmp_path / "home"))
    try:
        wait_until(lambda: b"flwr-clientapp" in command(pid), what="flwr-clientapp")
        assert not [line for line in command_lines() if token.encode() in line]
        wait_until(lambda: token in seen, what="the token", patience_s=60)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        http.should_exit = True
        thread.join(10)


def wait_for(found, patience_s=30.0):
    deadline = time.monotonic() + patience_s
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value

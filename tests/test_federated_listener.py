"""The listeners of Flower's servers: what a private socket and a bounded TCP port accept, with raw connections."""

import asyncio
import errno
import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from starlette.concurrency import run_in_threadpool

from sase.endpoints import free_port
from sase.federated.certificates import make_certificates
from sase.federated.flower import listener
from sase.federated.flower.bodies import PIECE_BYTES, Bodies
from sase.federated.flower.listener import PublicPort, Server, UnknownConnections, private_socket, start_in_thread

KEY = {"key": "known"}


async def echo(scope, receive, send):
    """ASGI application that answers with the path and the size of the body."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    event = await receive()
    answer = f"{scope['path']} {len(event['body'])}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    return await send({"type": "http.response.body", "body": answer})


@contextmanager
def serving(folder, tls=None, app=echo):
    """Serve an application on ``folder/socket`` and on a TCP port; yield the port."""
    folder.chmod(0o700)
    port = free_port()
    files = (None, None) if tls is None else (str(tls / "server/server.crt"), str(tls / "server/server.key"))
    public = PublicPort("127.0.0.1", port, *files, lambda headers: "silo0" if headers.get("key") == "known" else None)
    server = Server(app, public)
    thread = start_in_thread(server, private_socket(folder / "socket"))
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder, ["localhost"], 1)
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(listener, "KEY_TIMEOUT_S", 0.4)
    monkeypatch.setattr(listener, "BODY_TIMEOUT_S", 3.0)
    monkeypatch.setattr(listener, "MAX_UNKNOWN_CONNECTIONS", 8)


def seconds_until_closed(connection, began=None, limit_s=30.0):
    """Return how many seconds after ``began``, or now, the other side closes a connection."""
    began = began or time.monotonic()
    connection.settimeout(limit_s)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


def read_until(connection, end):
    received = b""
    while not received.endswith(end):
        received += connection.recv(4096)
    return received


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_the_socket_serves_everything_and_the_port_only_the_fleet_api(tmp_path):
    with serving(tmp_path) as port:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "socket"))) as client:
            assert client.post("http://x/v1/control/start-run", content=b"abc").text == "/v1/control/start-run 3"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.post("/v1/fleet/pull-messages", content=b"abc").text == "/v1/fleet/pull-messages 3"
            assert client.get("/health").text == "/health 0"
            for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet", "/docs", "/", "/healthy"):
                # Nothing that a client says of itself changes that.
                for headers in ({}, KEY, {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1"}):
                    assert client.post(path, headers=headers).status_code == 403
        for path in ("//v1/control/start-run", "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run"):
            with connect(port) as raw:  # httpx would normalise the path
                raw.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
                assert b"/v1/control/start-run 0" not in raw.recv(4096)


def test_another_user_cannot_open_the_socket(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError, match="other users"):
        private_socket(tmp_path / "socket")
    tmp_path.chmod(0o700)
    (tmp_path / "socket").touch()  # left by a killed run
    previous = os.umask(0)
    try:
        with private_socket(tmp_path / "socket"):
            assert (tmp_path / "socket").stat().st_mode & 0o077 == 0
    finally:
        os.umask(previous)


def test_the_limit_exceeds_the_objects_into_which_flower_splits_a_message():
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    assert 2 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE < listener.MAX_BODY


def test_bodies_are_bounded_before_and_after_a_key_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(listener, "MAX_UNKNOWN_BODY", 1000)
    monkeypatch.setattr(listener, "MAX_BODY", 5000)
    with serving(tmp_path) as port, httpx.Client() as client:
        where = f"http://127.0.0.1:{port}/v1/fleet/push-object"
        for headers, limit in (({}, 1000), (KEY, 5000)):
            assert client.post(where, headers=headers, content=bytes(limit)).text.endswith(f" {limit}")
            assert client.post(where, headers=headers, content=bytes(limit + 1)).status_code == 413
            chunks = iter([bytes(limit), b"x"])  # without a declared length
            assert client.post(where, headers=headers, content=chunks).status_code == 413


@pytest.mark.recipe
@pytest.mark.parametrize("tls", [False, True])
def test_connections_without_a_known_key_are_closed_in_time(tmp_path, certificates, quick, tls):
    """In every phase: no TLS handshake, no request, half a header, a slow body."""
    context = ssl.create_default_context(cafile=certificates / "ca.crt")
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n"
    with serving(tmp_path, certificates if tls else None) as port:
        sent = [b"", b"GET", head, head + b"content-length: 9\r\n\r\n", head + b"content-length: 9\r\n\r\nx"]
        for data in sent:
            began = time.monotonic()
            with connect(port) as raw:
                channel = context.wrap_socket(raw, server_hostname="localhost") if tls else raw
                channel.sendall(data)
                assert 0.2 < seconds_until_closed(channel, began) < 20.0, data
        if tls:
            began = time.monotonic()
            with connect(port) as raw:  # no handshake
                assert 0.2 < seconds_until_closed(raw, began) < 20.0


def test_headers_are_bounded(tmp_path):
    with serving(tmp_path) as port, connect(port) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        sent = 0
        with pytest.raises(OSError, match=r"(?i)reset|broken pipe"):
            for _ in range(2000):
                raw.sendall(b"a: " + b"b" * 1000 + b"\r\n")
                sent += 1000
                time.sleep(0.001)
        assert sent < 1_000_000


def test_a_known_key_keeps_its_connection_and_its_body_may_take_longer(tmp_path, quick):
    with serving(tmp_path) as port, connect(port) as raw:
        head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\nkey: known\r\ncontent-length: 2\r\n\r\n"
        for _ in range(2):
            raw.sendall(head + b"a")
            time.sleep(0.6)  # longer than an unknown connection may exist
            raw.sendall(b"b")
            assert b"/v1/fleet/push-object 2" in read_until(raw, b"0\r\n\r\n")
        raw.sendall(head)
        assert b"408" in raw.recv(4096)  # not for ever, though


@pytest.mark.recipe
def test_idle_connections_do_not_lock_a_silo_out(tmp_path, monkeypatch):
    monkeypatch.setattr(listener, "MAX_UNKNOWN_CONNECTIONS", 8)
    with serving(tmp_path) as port:
        idle = [connect(port) for _ in range(8)]
        with httpx.Client(headers=KEY) as silo:
            where = f"http://127.0.0.1:{port}/v1/fleet/pull-messages"
            assert silo.post(where).status_code == 200
            idle += [connect(port) for _ in range(20)]
            assert silo.post(where).status_code == 200
        assert all(seconds_until_closed(connection) < 20.0 for connection in idle[:20])
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")  # the newest are open
        assert b"200 OK" in idle[-1].recv(4096)
        for connection in idle:
            connection.close()


def test_the_oldest_unknown_connection_is_closed_first(monkeypatch):
    monkeypatch.setattr(listener, "MAX_UNKNOWN_CONNECTIONS", 2)

    async def scenario():
        closed, connections = [], UnknownConnections()
        for name in ("a", "b"):
            connections.add((name, 1), lambda name=name: closed.append(name))
        connections.remove(("a", 1))  # it presents a known key
        for name in ("c", "d"):
            connections.add((name, 1), lambda name=name: closed.append(name))
        connections.replace(("d", 1), lambda: closed.append("d, opened"))
        connections.replace(("a", 1), lambda: closed.append("never"))
        connections.add(("e", 1), lambda: None)
        connections.add(("f", 1), lambda: None)
        return closed, len(connections)

    assert asyncio.run(scenario()) == (["b", "c", "d, opened"], 2)


def test_a_server_that_cannot_start_says_so(tmp_path):
    async def broken(scope, receive, send):
        await send({"type": "lifespan.startup.failed", "message": "no"})

    tmp_path.chmod(0o700)
    before = set(threading.enumerate())  # of which some may end meanwhile: those of earlier tests
    with pytest.raises(RuntimeError, match="did not start"):
        start_in_thread(Server(broken, lifespan="on"), private_socket(tmp_path / "socket"))
    assert set(threading.enumerate()) <= before


def test_few_requests_are_answered_at_once(tmp_path):
    """Each may hold an object of 5 MiB several times over."""
    lock, running, most = threading.Lock(), 0, 0

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await run_in_threadpool(work)
        return await echo(scope, receive, send)

    def call(_):
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "socket"))) as client:
            return client.post("http://server/x", content=b"abc").text

    with serving(tmp_path, app=app), ThreadPoolExecutor(3 * listener.MAX_THREADS) as pool:
        assert list(pool.map(call, range(3 * listener.MAX_THREADS))) == ["/x 3"] * 3 * listener.MAX_THREADS
    assert most == listener.MAX_THREADS


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES + 1, 5_000_000])
def test_large_answers_arrive_whole(certificates, tmp_path, size):
    body = os.urandom(size)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await echo(scope, receive, send)
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        return await send({"type": "http.response.body", "body": body})

    context = ssl.create_default_context(cafile=certificates / "server/ca.crt")
    with serving(tmp_path, certificates, app) as port, httpx.Client(verify=context) as client:
        for call in ("x", "pull-object"):
            assert client.post(f"https://localhost:{port}/v1/fleet/{call}", headers=KEY).content == body


def test_a_body_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """A full disk: the request is refused before it reaches the application."""

    class FullDisk:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Bodies, "_file", lambda self: FullDisk())
    with serving(tmp_path) as port, httpx.Client() as client:
        answer = client.post(f"http://127.0.0.1:{port}/v1/fleet/push-object", headers=KEY, content=b"abc")
    assert answer.status_code == 507
    assert "No space left" in answer.text

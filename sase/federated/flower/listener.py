"""The listeners of Flower's servers: all of their APIs on a private Unix socket, the Fleet API alone on a TCP port.

Flower 1.41 serves every API on one TCP port, where any client may start runs, which is code on the server and on
every silo. An address says nothing about who connects: every user of a machine, its tunnels and its proxies come from
the loopback interface. So calls that start code are accepted on a Unix socket in a folder of mode 0700 only, where the
kernel admits the processes of this user alone. Silos, on other machines, need nothing but the Fleet API.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse

from sase.federated.connection import ABOUT_PATH
from sase.federated.flower.bodies import App, Bodies, Receive, Scope, Send
from sase.federated.versions import installed_versions

KEY_TIMEOUT_S = 10.0  # from accepting a connection to a request signed with a known key, the TLS handshake included
MAX_UNKNOWN_CONNECTIONS = 256  # connections that have not presented a known key yet
MAX_UNKNOWN_BODY = 64 * 1024  # bytes; without a known key, only keys are sent
MAX_BODY = 16 * 1024 * 1024  # bytes; Flower by itself splits arrays into objects of 5 MiB
BODY_TIMEOUT_S = 300.0
MAX_THREADS = 4  # requests that are handled at once; the others wait: they share a database
_FLEET = "/v1/fleet/"
_RETRY_ACCEPT_S = 1.0

log = logging.getLogger("flwr")


class FleetOnly:
    """ASGI middleware of the TCP port: the Fleet API and ``/health``, with bodies bounded in size and time.

    A silo that presents a known key at ``/health`` is answered with the versions of the server's packages, the name
    under which its key is registered, and what the server says of the federation.

    A request is refused with status 403 for another API, 413 for a body that is too large, 408 for one that is too
    slow, 507 for one that the disk has no room for. Bodies of more than 64 KiB are read only after a known key has been
    presented.

    Args:
        bodies: the application, and how it is given bodies.
        name_of: called with the headers of a request, before its body is read: the name of the known key that signed
            it, such as ``silo0``; None if none did. A server without keys knows everyone, by an empty name.
        connections: is notified of connections that have presented a known key.
        about: JSON values with which a silo with a known key is answered at ``/health``, besides versions and name.
    """

    def __init__(
        self,
        bodies: Bodies,
        name_of: Callable[[Headers], str | None],
        connections: "UnknownConnections",
        about: Mapping[str, object],
    ) -> None:
        self.bodies, self.name_of, self.connections, self.about = bodies, name_of, connections, about

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path.startswith(_FLEET) or path == ABOUT_PATH):
            return await _refuse(scope, receive, send, 403, "only the Fleet API is served here")
        name = await run_in_threadpool(self.name_of, Headers(scope=scope))
        known = name is not None
        if known and path == ABOUT_PATH:
            answer = {"versions": installed_versions(), "name": name, **self.about}
            return await JSONResponse(answer)(scope, receive, send)
        if known:
            self.connections.remove(scope["client"])
        limit, timeout_s = (MAX_BODY, BODY_TIMEOUT_S) if known else (MAX_UNKNOWN_BODY, KEY_TIMEOUT_S)
        try:
            body = await asyncio.wait_for(self.bodies.receive(receive, limit), timeout_s)
        except ValueError as error:
            return await _refuse(scope, receive, send, 413, str(error))
        except TimeoutError:
            return await _refuse(scope, receive, send, 408, f"no complete body within {timeout_s:.0f} s")
        except OSError as error:
            log.error("a body of %s: %s", name, error)
            return await _refuse(scope, receive, send, 507, f"the server cannot store it: {error.strerror}")
        if body is not None:  # None: disconnected
            await self.bodies.answer(scope, body, receive, send)
        return None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    response = PlainTextResponse(reason, status_code=status, headers={"connection": "close"})
    await response(scope, receive, send)


class UnknownConnections:
    """The open connections that have not presented a known key: at most 256, each for at most 10 s.

    A new connection beyond that number closes the oldest, so that idle connections cannot lock silos out.
    """

    def __init__(self) -> None:
        self._close: dict[tuple[str, int], Callable[[], object]] = {}  # in the order of acceptance
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._close)

    def add(self, client: tuple[str, int], close: Callable[[], object]) -> None:
        """Bound the connection from this address; ``close`` closes it."""
        self.remove(client)
        while len(self._close) >= MAX_UNKNOWN_CONNECTIONS:
            self._expire(next(iter(self._close)))
        self._close[client] = close
        self._timers[client] = asyncio.get_running_loop().call_later(KEY_TIMEOUT_S, self._expire, client)

    def replace(self, client: tuple[str, int], close: Callable[[], object]) -> None:
        """Close the connection from this address with ``close`` from now on."""
        if client in self._close:
            self._close[client] = close

    def remove(self, client: tuple[str, int] | None) -> None:
        """Leave the connection from this address open: it has presented a known key."""
        if client in self._close:
            del self._close[client]
            self._timers.pop(client).cancel()

    def _expire(self, client: tuple[str, int]) -> None:
        self._timers.pop(client).cancel()
        self._close.pop(client)()


class Server(uvicorn.Server):
    """A server on a private Unix socket and, if ``public`` is given, with bounded access on a TCP port.

    Args:
        app: served on the Unix socket, all of it.
        public: address to listen on and how it is served; None for no TCP port.
        folder: of files without names with what is received and sent; None for the system's.
        options: of ``uvicorn.Config``, for both.
    """

    def __init__(self, app: App, public: "PublicPort | None" = None, folder: str | None = None, **options: Any) -> None:
        # No proxy headers: they would let a client choose its address.
        options = {"access_log": False, "ws": "none", "loop": "asyncio", "proxy_headers": False, **options}
        bodies = Bodies(app, folder)
        super().__init__(uvicorn.Config(cast(Any, bodies), **options))
        self._public, self._connections = public, UnknownConnections()
        self._accepting: asyncio.Task[None] | None = None
        self._opening = set[asyncio.Task[None]]()
        if public is not None:
            gate = FleetOnly(bodies, public.name_of, self._connections, public.about)
            # h11 limits the size of headers.
            tls: dict[str, Any] = {"ssl_certfile": public.certificate, "ssl_keyfile": public.key}
            self._public_config = uvicorn.Config(cast(Any, gate), **options, **tls, http="h11", lifespan="off")
            self._public_config.load()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        current_default_thread_limiter().total_tokens = MAX_THREADS
        await super().startup(sockets)
        if self.started and self._public is not None:
            self._accepting = asyncio.create_task(self._accept(self._public.listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._public is not None and self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._public.listener.close()
        for task in list(self._opening):
            task.cancel()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError:  # too many open files
                await asyncio.sleep(_RETRY_ACCEPT_S)
                continue
            client = str(address[0]), int(address[1])
            task = asyncio.create_task(self._open(connection, client))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            self._connections.add(client, task.cancel)

    async def _open(self, connection: socket.socket, client: tuple[str, int]) -> None:
        """Do the TLS handshake, if any, and give the connection to uvicorn."""
        config = self._public_config
        connection.setblocking(False)
        limit: dict[str, Any] = {"ssl_handshake_timeout": KEY_TIMEOUT_S} if config.ssl else {}

        def protocol() -> asyncio.Protocol:
            make = cast(Callable[..., asyncio.Protocol], config.http_protocol_class)
            return make(config=config, server_state=self.server_state, app_state=self.lifespan.state)

        with contextlib.suppress(OSError):  # a client without TLS, or that closed the connection
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(protocol, connection, ssl=config.ssl, **limit)
            self._connections.replace(client, transport.abort)


class PublicPort:
    """A TCP port that other machines can reach.

    Args:
        host, port: the address to listen on.
        certificate, key: files of the server's TLS certificate; None without TLS.
        name_of, about: see :class:`FleetOnly`.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        certificate: str | None,
        key: str | None,
        name_of: Callable[[Headers], str | None],
        about: Mapping[str, object] | None = None,
    ) -> None:
        self.certificate, self.key, self.name_of, self.about = certificate, key, name_of, about or {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=MAX_UNKNOWN_CONNECTIONS)
        self.listener.setblocking(False)


def private_socket(path: str | Path) -> socket.socket:
    """Return a Unix socket bound to ``path``, to which only this user can connect; a killed run's socket is replaced.

    Raises:
        PermissionError: other users have access to the folder.
    """
    folder = Path(path).parent
    if (status := folder.stat()).st_mode & 0o077 or status.st_uid != os.getuid():
        raise PermissionError(f"{folder}: other users have access to this folder")
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    Path(path).chmod(0o600)
    return listener


def start_in_thread(server: Server, listener: socket.socket) -> threading.Thread:
    """Run a server on a Unix socket in a new thread; return when it accepts connections.

    Raises:
        RuntimeError: it did not start.
    """
    thread = threading.Thread(target=server.run, args=([listener],), name="runtime-api")
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    if not server.started:
        raise RuntimeError("the Runtime API did not start")
    return thread

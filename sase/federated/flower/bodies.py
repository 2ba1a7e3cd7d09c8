"""Bodies of requests and answers in files while they are received and sent, and few of them in memory at once.

A silo sends and receives arrays as objects of up to 5 MiB, which take several times that while the SuperLink handles
them. How many are on their way depends on the number of silos, and for how long on their networks: those are in files.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from typing import IO, Any

from sase.federated.flower.garbage import Garbage

PIECE_BYTES = 32 * 1024  # that are given to the TLS layer at once; a body that is not larger stays in memory
OBJECTS_AT_ONCE = 1  # more take memory, not less time: the database lets one write at a time
_OBJECT_CALLS = ("/push-object", "/pull-object")

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Bodies:
    """ASGI middleware through which all calls with objects of messages pass, those of every listener of a server.

    Args:
        app: the application.
        folder: of the files, which have no names; None for the system's, which may be in memory.
    """

    def __init__(self, app: App, folder: str | None = None) -> None:
        self.app, self.folder = app, folder
        self._turns = asyncio.Semaphore(OBJECTS_AT_ONCE)
        self._garbage = Garbage()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _has_object(scope):  # streams and the lifespan of the application are among these
            return await self.app(scope, receive, send)
        body = await self.receive(receive)
        if body is not None:
            await self.answer(scope, body, receive, send)

    async def receive(self, receive: Receive, limit: int | None = None) -> IO[bytes] | None:
        """Return a request's body, None if the client disconnected.

        Raises:
            ValueError: it exceeds ``limit`` bytes.
            OSError: it cannot be written, for example because the disk is full.
        """
        body, more, size = self._file(), True, 0
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                body.close()
                return None
            data = event.get("body", b"")
            size += len(data)
            if limit is not None and size > limit:
                body.close()
                raise ValueError(f"a body of more than {limit} bytes")
            body.write(data)
            more = event.get("more_body", False)
        body.seek(0)
        return body

    async def answer(self, scope: Scope, body: IO[bytes], receive: Receive, send: Send) -> None:
        """Have the application answer a request, and send the answer when it is complete.

        Args:
            body: as :meth:`receive` returned it; it is closed.
            scope, receive, send: of the request.
        """
        if _has_object(scope):
            async with self._turns:
                events = await self._run(scope, body, receive)
                self._garbage.collect()
        else:
            events = await self._run(scope, body, receive)
        for event in events:
            if event["type"] == "http.response.body":
                await _send_file(event, send)
            else:
                await send(event)

    async def _run(self, scope: Scope, body: IO[bytes], receive: Receive) -> list[Event]:
        """Return what the application sends; its bodies are joined in one file."""
        events: list[Event] = []
        answer: IO[bytes] | None = None

        async def read() -> Event:
            if body.closed:
                return await receive()
            with body:
                data = body.read()
            self._garbage.add(len(data))
            return {"type": "http.request", "body": data, "more_body": False}

        async def keep(event: Event) -> None:
            nonlocal answer
            if event["type"] != "http.response.body":
                events.append(event)
                return
            if answer is None:
                answer = self._file()
                events.append({"type": "http.response.body", "file": answer})
            self._garbage.add(answer.write(event.get("body", b"")))

        # A connection keeps the scope of its last request, and Flower puts the decoded body into the scope's state.
        await self.app({**scope, "state": dict(scope.get("state", {}))}, read, keep)
        return events

    def _file(self) -> IO[bytes]:
        return tempfile.SpooledTemporaryFile(PIECE_BYTES, dir=self.folder)


def _has_object(scope: Scope) -> bool:
    return scope["type"] == "http" and scope.get("path", "").endswith(_OBJECT_CALLS)


async def _send_file(event: Event, send: Send) -> None:
    """Send a body piece by piece, each when the client has taken the one before.

    A connection's TLS layer would copy all of a large body, and keep memory of that size until the silo disconnects.
    """
    with event["file"] as file:
        left = file.tell()
        file.seek(0)
        while left > PIECE_BYTES:
            piece = file.read(PIECE_BYTES)
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": file.read(), "more_body": False})

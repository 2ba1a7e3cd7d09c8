"""HTTP requests whose lines arrive in bounded time: a timeout of a socket restarts with every byte."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

HEADERS_S = 60.0  # in which a server sends its headers, or the size and the beginning of a chunk


class _Watched(http.client.HTTPConnection):
    """A connection that hangs up on a server that is slow to send its headers."""

    def getresponse(self) -> http.client.HTTPResponse:
        """See http.client; raise ConnectionAbortedError when the time is up."""
        expired, connection = threading.Event(), self.sock
        timer = threading.Timer(HEADERS_S, _hang_up, [connection, expired])
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        finally:
            timer.cancel()
        if expired.is_set():  # http.client takes the end of the connection for the end of the headers
            raise ConnectionAbortedError(f"no complete headers in {HEADERS_S:g} s")
        response.connection = connection  # type: ignore[attr-defined]  # for :func:`blocks`
        return response


def _hang_up(connection: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):  # closed meanwhile
        connection.shutdown(socket.SHUT_RDWR)


class _WatchedTLS(_Watched, http.client.HTTPSConnection):
    pass


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Watched, req)


class _HandlerTLS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_WatchedTLS, req)


def urlopen(request: urllib.request.Request, timeout_s: float) -> Any:
    """As urllib.request.urlopen; a server that does not complete its headers in time is a lost connection.

    Args:
        request: what to ask for.
        timeout_s: longest silence.
    """
    return urllib.request.build_opener(_Handler, _HandlerTLS).open(request, timeout=timeout_s)


def blocks(response: Any, size: int) -> Iterator[bytes]:
    """Yield a response's body as it arrives, at most ``size`` bytes at a time.

    Raises:
        ConnectionAbortedError: nothing of it has arrived for 60 s, although the server sends something, such as the
            size of a chunk, byte by byte.
        OSError, http.client.HTTPException: the connection is lost.
    """
    expired, ended = threading.Event(), threading.Event()
    since: float | None = None  # when the present read began

    def watch() -> None:
        left_s = HEADERS_S
        while not ended.wait(max(left_s, 0.01)):
            began = since
            left_s = HEADERS_S if began is None else began + HEADERS_S - time.monotonic()
            if left_s <= 0:
                return _hang_up(response.connection, expired)

    threading.Thread(target=watch, daemon=True).start()
    try:
        while True:
            since = time.monotonic()
            block = response.read1(size)
            since = None
            if expired.is_set():
                raise ConnectionAbortedError(f"no data in {HEADERS_S:g} s")
            if not block:
                return
            yield block
    finally:
        ended.set()

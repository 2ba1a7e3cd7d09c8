"""HTTP requests whose headers arrive in bounded time: a timeout of a socket restarts with every byte."""

import contextlib
import http.client
import socket
import threading
import urllib.request
from typing import Any

HEADERS_S = 60.0  # in which a server sends its headers


class _Watched(http.client.HTTPConnection):
    """A connection that hangs up on a server that is slow to send its headers."""

    def getresponse(self) -> http.client.HTTPResponse:
        """See http.client; raise ConnectionAbortedError when the time is up."""
        expired = threading.Event()
        timer = threading.Timer(HEADERS_S, self._hang_up, [expired])
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        finally:
            timer.cancel()
        if expired.is_set():  # http.client takes the end of the connection for the end of the headers
            raise ConnectionAbortedError(f"no complete headers in {HEADERS_S:g} s")
        return response

    def _hang_up(self, expired: threading.Event) -> None:
        expired.set()
        with contextlib.suppress(OSError, AttributeError):  # closed meanwhile
            self.sock.shutdown(socket.SHUT_RDWR)


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

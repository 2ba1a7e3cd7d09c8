"""``python -m sase.federated.flower.superlink``: Flower's SuperLink, with only the Fleet API open to other machines.

Flower 1.41 serves all its APIs on one port, and everyone who reaches that port may start runs (code, on the server and
on every silo) and register keys. Silos need the Fleet API alone, so all else is restricted to this machine. Takes the
arguments of flower-superlink.
"""

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import PlainTextResponse

from sase.federated.flower.patches import patch_superlink

_PUBLIC_PATHS = ("/v1/fleet/", "/health")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class LocalOnlyMiddleware:
    """ASGI middleware: 403 for other machines, except on the Fleet API, where SuperNodes sign their requests."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (scope["path"].startswith(_PUBLIC_PATHS) or is_local(scope)):
            forbidden = PlainTextResponse("allowed from the server's own machine only", status_code=403)
            return await forbidden(scope, receive, send)
        return await self.app(scope, receive, send)


def is_local(scope: Scope) -> bool:
    """Return whether an ASGI request comes from this machine: from a loopback address, or the one it was sent to."""
    client, server = scope.get("client"), scope.get("server")
    if client is None:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback or (server is not None and client[0] == server[0])
    except ValueError:
        return False


def main() -> None:
    """Run the SuperLink behind :class:`LocalOnlyMiddleware`; its SuperExec is killed with it."""
    patch_superlink(LocalOnlyMiddleware)()


if __name__ == "__main__":
    main()

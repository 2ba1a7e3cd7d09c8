"""``python -m sase.federated.flower.superlink``: Flower's superlink, of which other machines see only what silos need.

Flower 1.41 serves everything on one port, and whoever reaches that port may start runs (code, on the server and on
every silo) and register keys. Silos need none of it, so it is answered to this machine alone. Takes flower-superlink's
arguments.
"""

import importlib
import ipaddress

import flwr.superlink.main as superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from sase.processes import kill_with_parent

command = importlib.import_module("flwr.superlink.cli.flower_superlink")  # the package has a function of this name
_FOR_SILOS = ("/v1/fleet/", "/health")


class Fence:
    """ASGI middleware: 403 to other machines, but for the calls of Flower's silos, which their keys sign."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and not (scope["path"].startswith(_FOR_SILOS) or is_local(scope)):
            refusal = PlainTextResponse("only the server's own machine may do this", status_code=403)
            return await refusal(scope, receive, send)
        return await self.app(scope, receive, send)


def is_local(scope):
    """Return whether an ASGI connection comes from this machine: from its loopback, or from the address it came to."""
    client, server = scope.get("client"), scope.get("server")
    try:
        return bool(client) and (
            ipaddress.ip_address(client[0]).is_loopback or (bool(server) and client[0] == server[0])
        )
    except ValueError:
        return False


def main():
    """Run the superlink behind its fence; its executor ends with it, killed or not."""
    # Flower's executor looks for its parent's id, which is there for as long as nobody has asked how the parent ended.
    command.get_popen_detach_kwargs = lambda: {"preexec_fn": kill_with_parent}
    middleware = superlink._get_middleware
    superlink._get_middleware = lambda: [Middleware(Fence), *middleware()]
    command.flower_superlink()


if __name__ == "__main__":
    main()

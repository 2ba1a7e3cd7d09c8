"""``python -m sase.federated.flower.command NAME ...``: a Flower command that calls its server on a socket.

NAME is ``flwr``, ``flower-superexec``, ``flwr-serverapp``, ``flwr-clientapp`` or ``flwr-simulation``; the rest are its
own arguments.
"""

import sys

from sase.federated.flower.patches import run_command
from sase.federated.flower.processes import socket_path


def main() -> None:
    """Run the command that the first argument names."""
    del sys.argv[0]
    run_command(sys.argv[0], socket_path())


if __name__ == "__main__":
    main()

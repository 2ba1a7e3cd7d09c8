"""``python -m sase.federated.flower.superlink``: Flower's SuperLink, with only the Fleet API on a TCP port.

Takes the arguments of flower-superlink; in the simulation, ``--host`` and ``--port`` are ignored.
"""

from sase.federated.flower.patches import run_superlink
from sase.federated.flower.processes import socket_path


def main() -> None:
    """Run the SuperLink; its SuperExec is killed with it."""
    run_superlink(socket_path())


if __name__ == "__main__":
    main()

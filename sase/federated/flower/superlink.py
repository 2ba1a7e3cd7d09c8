"""``python -m sase.federated.flower.superlink``: Flower's SuperLink, with only the Fleet API on a TCP port.

Takes the arguments of flower-superlink; in the simulation, ``--host`` and ``--port`` are ignored.
"""

import os

from sase.federated.flower.patches import run_superlink
from sase.federated.flower.processes import home_path, socket_path

RATE_VARIABLE = "SASE_SAMPLE_RATE"  # in the environment of a deployed server: of the network, in Hz


def main() -> None:
    """Run the SuperLink; its SuperExec is killed with it."""
    rate = os.environ.get(RATE_VARIABLE)
    run_superlink(socket_path(), {"sample_rate": int(rate)} if rate else {}, home_path())


if __name__ == "__main__":
    main()

"""``python -m sase.bench.untrained_silos ANNOUNCED CERTIFICATES COUNT``: all silos of a deployment, which do not train.

A silo of its own takes 200 MB when it is idle. For its server, these are silos as any other: each has its key and its
connection, sends heartbeats, asks for messages, receives the model and sends an update of full size.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sase.allocator import keep_freed_memory
from sase.bench.synthetic_replies import synthetic_reply
from sase.endpoints import resolve_endpoint
from sase.federated.flower.answering import answer_next
from sase.federated.flower.patches_busy import poll_pause_s
from sase.federated.flower.patches_node import Node, behave_as_supernodes, connected_node
from sase.federated.flower.server_app import FINISH

_AT_A_TIME = 4  # silos that receive or send
_PATIENCE_S = 300.0  # until the server has registered the keys


def serve(server: str, certificates: Path, count: int) -> None:
    """Answer for silos 0 to ``count`` - 1 until the server says that training is over.

    Args:
        server: HOST:PORT.
        certificates: folder with ``silo0`` ...
        count: number of silos.
    """
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        connections = {silo: ExitStack() for silo in range(count)}

        def connect(silo: int) -> Node:
            return connections[silo].enter_context(connected_node(server, certificates / f"silo{silo}"))

        def answer(silo: int) -> str | None:
            return answer_next(nodes[silo], silo, lambda instruction: synthetic_reply(instruction, silo))

        nodes = dict(zip(connections, pool.map(connect, connections)))
        polls = dict.fromkeys(nodes, 0)  # in a row without a message
        due = dict.fromkeys(nodes, time.monotonic())
        while nodes:
            time.sleep(max(0.0, min(due[silo] for silo in nodes) - time.monotonic()))
            asking = [silo for silo in nodes if due[silo] <= time.monotonic()]
            for silo, message_type in zip(asking, pool.map(answer, asking)):
                polls[silo] = 0 if message_type else polls[silo] + 1
                due[silo] = time.monotonic() + (0.0 if message_type else poll_pause_s(polls[silo]))
                if message_type == FINISH:
                    connections[silo].close()
                    del nodes[silo]


def main() -> None:
    """Wait until the server has written its port to the file ANNOUNCED, and serve."""
    announced, certificates, count = sys.argv[1:]
    keep_freed_memory()
    behave_as_supernodes()
    port = resolve_endpoint(announced, _PATIENCE_S).rpartition(":")[2]
    serve(f"127.0.0.1:{port}", Path(certificates), int(count))


if __name__ == "__main__":
    main()

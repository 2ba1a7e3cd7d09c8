"""``python -m sase.bench.server_alone TRAIN FEDERATED DEV EXP``: a server whose replies nobody trained.

What a round takes of the server alone, without any transfer: every reply goes through the records of Flower's messages,
as if it had arrived from a silo.
"""

from __future__ import annotations

import sys

from sase.allocator import keep_freed_memory
from sase.bench.synthetic_replies import synthetic_reply
from sase.federated.config import load_federated_config
from sase.federated.exchange import Exchange, Instruction, Reply
from sase.federated.flower.messages import pack_reply, unpack_reply
from sase.federated.flower.packing import pack, unpack
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.training.config import load_train_config


def synthetic_exchange(server: Server) -> Exchange:
    """Return the function for :func:`sase.federated.rounds.run_rounds` that replies for all silos of a round."""

    def exchange(instruction: Instruction) -> tuple[list[Reply], list[str]]:
        replies = []
        for silo in range(server.config.num_silos):
            if instruction.asks(silo):
                sent = pack(pack_reply(synthetic_reply(instruction, silo)))
                replies.append(server.spool.keep(unpack_reply(unpack(sent))))
        return replies, []

    return exchange


def main() -> None:
    """Run all rounds."""
    train, federated, dev_set, exp_dir = sys.argv[1:]
    keep_freed_memory()
    server = Server(load_train_config(train), load_federated_config(federated), dev_set, exp_dir)
    run_rounds(server, synthetic_exchange(server))


if __name__ == "__main__":
    main()

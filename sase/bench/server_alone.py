"""``python -m sase.bench.server_alone TRAIN FEDERATED DEV EXP``: a server whose replies nobody trained.

What a round takes of the server alone, for more silos than a machine can train: every reply is the global model with
noise, and goes through the records of Flower's messages, as if it had arrived from a silo.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np

from sase.federated.config import load_federated_config
from sase.federated.exchange import Exchange, Instruction, Reply
from sase.federated.flower.messages import pack_reply, unpack_reply
from sase.federated.flower.packing import pack, unpack
from sase.federated.payload import encode
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.training.config import load_train_config
from sase.training.performance import keep_freed_memory

_CHANGE = 1e-3  # of a weight in a round
_METRICS = {"examples": 100.0, "steps": 1.0, "bad_steps": 0.0, "loss": 0.0, "last_loss": 0.0}


def made_up_replies(server: Server) -> Exchange:
    """Return the function for :func:`sase.federated.rounds.run_rounds` that replies for all silos of a round."""
    generator = np.random.default_rng(0)
    weights = set(server.layout.weights)
    noise: dict[str, np.ndarray] = {}

    def changed(model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in weights - noise.keys():
            noise[name] = (_CHANGE * generator.standard_normal(model[name].shape)).astype(np.float32)
        return {name: value + noise[name] if name in weights else value for name, value in model.items()}

    def exchange(instruction: Instruction) -> tuple[list[Reply], list[str]]:
        replies = []
        for silo in range(server.config.num_silos):
            if instruction.asks(silo):
                upload = encode(server.config.payload, changed(instruction.model), instruction.model, weights)
                sent = pack(pack_reply(Reply(silo, instruction.round, upload, _METRICS)))
                replies.append(server.spool.keep(unpack_reply(unpack(sent))))
        return replies, []

    return exchange


def main() -> None:
    """Run all rounds."""
    train, federated, dev_set, exp_dir = sys.argv[1:]
    keep_freed_memory()
    server = Server(load_train_config(train), load_federated_config(federated), dev_set, exp_dir)
    run_rounds(server, made_up_replies(server))


if __name__ == "__main__":
    main()

"""What a secure sum brings the server, as replies of the silos in it."""

from __future__ import annotations

from collections.abc import Iterable

from sase.federated.admission import Admitted
from sase.federated.aggregation import update_norm
from sase.federated.config import FederatedConfig
from sase.federated.exchange import Instruction, Reply
from sase.federated.layout import Layout


def admit_mean(
    replies: Iterable[Reply], instruction: Instruction, config: FederatedConfig, layout: Layout
) -> list[Admitted]:
    """Return the replies of :func:`sase.federated.secure.rounds.secure_exchange`, sorted by silo.

    Arrays, losses and ``update_norm`` are those of the mean, for every silo alike: those of a single update are not
    known, and neither are they compared with others.

    Args:
        replies: in any order.
        instruction: the one they answer.
        config: of the federation.
        layout: of the network.
    """
    replies = sorted(replies, key=lambda reply: reply.silo)
    shared = layout.shared_weights(config.norm == "local")
    norm = update_norm(instruction.model, replies[0].arrays, shared) if replies else 0.0
    return [
        Admitted(reply.silo, reply.arrays, {}, reply.metrics, norm, int(reply.metrics["bytes"])) for reply in replies
    ]

"""A silo's side of Flower's messages without Flower's ClientApp: the instruction of a round in, a reply out."""

from collections.abc import Callable

from flwr.app import Message, MessageType, RecordDict

from sase.federated.exchange import Instruction, Reply
from sase.federated.flower.messages import Scores, pack_reply, pack_scores, unpack_instruction
from sase.federated.flower.packing import is_offered, pack, unpack
from sase.federated.flower.patches_node import Node


def answer_next(node: Node, silo: int, run: Callable[[Instruction], Reply]) -> str | None:
    """Answer the next message to a silo, if there is one.

    Args:
        node: of the silo.
        silo: its index.
        run: called with the instruction of a round; messages of other types are answered without numbers.

    Returns:
        The type of the message; None if there is none.
    """

    def content(message: Message) -> RecordDict:
        if message.metadata.message_type != MessageType.TRAIN:
            return pack_scores(Scores(silo, {}))
        reply = pack_reply(run(unpack_instruction(unpack(message.content))))
        return pack(reply) if is_offered(message.content) else reply

    message = node.answer(content)
    return None if message is None else message.metadata.message_type

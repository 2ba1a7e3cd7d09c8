"""A Flower grid without Flower's processes."""

from types import SimpleNamespace

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from sase.federated.exchange import Reply
from sase.federated.flower.messages import pack_reply, unpack_reply
from sase.federated.flower.silo_grid import SiloGrid


class LocalGrid(Grid):
    """A Flower grid whose nodes reply immediately, in this process."""

    def __init__(self, answer, names):
        self.answer, self.nodes = answer, {100 + k: name for k, name in enumerate(names)}
        self.activated, self.sent, self.replies, self.silent = dict.fromkeys(self.nodes, "1"), [], {}, set()
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

    run = property(lambda self: None)

    def set_run(self, run):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.nodes)

    def get_nodes(self):
        return [
            SimpleNamespace(node_id=node, name=name, registered_at=f"{node}", last_activated_at=self.activated[node])
            for node, name in self.nodes.items()
        ]

    def push_messages(self, messages):
        for message in messages:
            number = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = number
            self.sent.append(message)
            node = message.metadata.dst_node_id
            if node not in self.silent:
                reply = self.answer(message, node)
                self.replies[number] = reply
        return [f"m{len(self.sent) - len(messages) + k}" for k in range(len(messages))]

    def pull_messages(self, message_ids):
        return [self.replies.pop(number) for number in message_ids if number in self.replies]


def reply_of(silo):
    """Return an answer for :class:`LocalGrid`: a reply in which a node claims to be ``silo(node)``."""
    arrays = {"w": np.zeros(2, np.float32)}
    return lambda message, node: Message(pack_reply(Reply(silo(node), 1, arrays, {})), reply_to=message)


def exchange(grid, count=3, order=None, timeout_s=0.3):
    """Return the replies and failures of a training message to ``count`` silos."""
    silos = SiloGrid(grid, count, order, 0.0, 0.01)
    return silos.send_and_receive(RecordDict({}), MessageType.TRAIN, timeout_s, "1", unpack_reply)

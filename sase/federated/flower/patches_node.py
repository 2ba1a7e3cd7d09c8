"""A node of a federation without Flower's SuperNode: messages are answered in this process, with its own connection."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict

from sase.federated.certificates import read_private_key
from sase.federated.flower.patches import send_heartbeats_every
from sase.federated.flower.patches_busy import HEARTBEAT_S, wait_for_slow_answers


class Node:
    """A connected node; of its requests, those of a SuperNode between two messages and for one message.

    Args:
        connection: what Flower's connection of a SuperNode consists of.
    """

    def __init__(self, connection: tuple[Any, ...]) -> None:
        _, self._receive, self._send, _, _, self._pull, self._push, self._confirm = connection

    def answer(self, reply: Callable[[Message], RecordDict]) -> Message | None:
        """Answer the next message, if there is one.

        Args:
            reply: returns the content of the answer to a message.

        Returns:
            The message; None if there is none.

        Raises:
            Exception: of Flower, when the server cannot be reached or does not accept the answer.
        """
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            iterate_object_tree,
            no_object_id_recompute,
        )
        from flwr.supercore.inflatable.inflatable_utils import (
            inflate_object_from_contents,
            pull_objects,
            push_objects,
        )

        received = self._receive()
        if received is None:
            return None
        metadata, tree = received[0].metadata, received[1]
        run, number = metadata.run_id, metadata.message_id
        names = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
        message: Any = inflate_object_from_contents(number, pull_objects(names, lambda name: self._pull(run, name)))
        message.metadata.__dict__["_message_id"] = number
        self._confirm(run, number)
        answer = Message(reply(message), reply_to=message)
        with no_object_id_recompute():
            answer.metadata.__dict__["_message_id"] = answer.object_id
            objects, tree = get_all_nested_objects(answer), get_object_tree(answer)
            wanted, session = self._send(answer, tree, 0.0)
            push_objects(
                objects, lambda name, content: self._push(run, session, name, content), object_ids_to_push=wanted
            )
        return message


def behave_as_supernodes() -> None:
    """Make the nodes of this process as alive and as patient as those of silos; call it once."""
    send_heartbeats_every(HEARTBEAT_S)
    wait_for_slow_answers()


@contextmanager
def connected_node(server: str, credentials: Path) -> Iterator[Node]:
    """Connect to a server as a silo does, and disconnect at the end.

    Args:
        server: HOST:PORT.
        credentials: folder with ``ca.crt`` and ``silo.key``.
    """
    from flwr.supernode.fleet_http_connection import http_request_response

    key = read_private_key(credentials / "silo.key")
    with http_request_response(server, False, str(credentials / "ca.crt"), (key, key.public_key())) as connection:
        yield Node(connection)

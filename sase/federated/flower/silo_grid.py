"""A Flower grid addressed by silo: one message to many silos, and their replies, also those that are late."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from sase.errors import one_line
from sase.federated.exchange import Reply
from sase.federated.flower.garbage import Garbage
from sase.federated.flower.messages import Scores
from sase.federated.flower.packing import is_packed, offer, pack, unpack
from sase.federated.flower.patches_pull import bounded_pull
from sase.federated.secure.messages import Answer

_POLL_SHARE, _MAX_POLL_S = 0.05, 5.0  # of the time since the message was sent
_RESTART_CHECK_S = 5.0  # between two checks for silos that were restarted
_DISCONNECT_POLL_S = 0.5
_LEAST_PULL_S = 10.0  # for a reply that is complete, even when another one has used up the time
_MAX_REPLY_RATIO, _LEAST_REPLY_BYTES = 4, 1 << 20
_EXTRA_TTL_S = 3600.0  # a message outlives its timeout, so that this module and not Flower decides who was late

R = TypeVar("R", Reply, Scores, Answer)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundEnd:
    """When a round ends before all silos have replied, and what becomes of the other replies.

    Attributes:
        enough: the number of replies that suffice.
        grace_s: seconds for which further replies are waited for then.
        keep_late: return later replies with those of a later round; else they are dropped.
        counts: whether a reply is one of those that suffice; others are returned as well.
    """

    enough: int
    grace_s: float
    keep_late: bool
    counts: Callable[[Any], bool] = lambda reply: True


@dataclass(frozen=True)
class _Late:
    """A message whose reply was not waited for. Its silo is busy and gets no other one meanwhile."""

    node: int
    silo: int | None
    round: str
    activation: str | None  # of the node when it was sent
    until: float  # when it is given up, by the monotonic clock


class SiloGrid:
    """A Flower grid addressed by silo: maps nodes to silos and exchanges one message with all of them.

    Args:
        grid: Flower's.
        count: the number of silos.
        order: the silos of simulated nodes, in the order in which Flower created the nodes; None for real nodes, which
            are identified by the name with which their key is registered (``silo2``) or, without keys, by their reply.
            Simulated silos are of this installation, so they read joined arrays
            (:mod:`sase.federated.flower.packing`) from the start.
        connect_s: how long the first round waits for silos to connect.
        poll_s: seconds between two polls for replies.
        report: called with what is waited for, when that changes; with an empty string when nothing is.
    """

    def __init__(
        self,
        grid: Grid,
        count: int,
        order: Sequence[int] | None,
        connect_s: float,
        poll_s: float,
        report: Callable[[str], object] = lambda waiting_for: None,
    ) -> None:
        self.grid, self.count, self.order = grid, count, order
        self.connect_s, self.poll_s, self.report = connect_s, poll_s, report
        self._claimed: dict[int, int] = {}  # node to the silo that its last reply named, for nodes without a key
        self._waited = False
        self._late: dict[str, _Late] = {}
        self._read_packed = set[int]()  # nodes that read joined arrays
        self._garbage = Garbage()

    def wait_for_silos(self, needed: int, silos: Collection[int] | None = None) -> None:
        """Wait for silos to connect: the first time for all of them, later for the ``needed`` ones of a round.

        Returns when they are connected or ``connect_s`` has passed; a round with too few silos then fails.

        Args:
            needed: how many.
            silos: those of the round; None for all.
        """
        everyone = range(self.count) if silos is None else silos
        wanted, deadline = needed if self._waited else len(everyone), time.monotonic() + self.connect_s
        self._waited = True
        while len(nodes := self._connected(silos)) < wanted and time.monotonic() < deadline:
            absent = ", ".join(map(str, self._absent(nodes, silos)))
            missing = f", missing: {absent}" if absent else ""
            self.report(f"silos to connect: {len(nodes)} of {wanted} are connected{missing}")
            time.sleep(self.poll_s)
        self.report("")

    def send_and_receive(
        self,
        content: RecordDict,
        message_type: str,
        timeout_s: float,
        group_id: str,
        read: Callable[[RecordDict], R],
        silos: Collection[int] | None = None,
        end: RoundEnd | None = None,
    ) -> tuple[list[R], list[str]]:
        """Send one message to connected silos and collect the replies.

        Args:
            content: of the message.
            message_type: Flower's.
            timeout_s: a silo that has not replied by then has failed.
            group_id: names the message in Flower's log.
            read: called with the content of a reply.
            silos: which ones; None for all. A node that is not identified yet gets the message too.
            end: when not all replies are waited for; None: they are.

        Returns:
            (list of what ``read`` returned, list of str: which silo failed and why).
        """
        nodes, started, max_bytes = self._connected(silos), time.monotonic(), _max_reply_bytes(content)
        replies: list[R] = []
        failures = [f"silo {silo}: not connected" for silo in self._absent(nodes, silos)]
        activations, checked_at, deadline = self._activations(), started, started + timeout_s
        busy = self._busy(activations) if end else {}
        asked = {node: silo for node, silo in nodes.items() if node not in busy}
        if end and not end.keep_late and len(asked) < end.enough:
            asked = nodes  # the busy ones reply after their previous round
        failures += [f"{_label(node, nodes[node])}: still in round {busy[node]}" for node in nodes if node not in asked]
        pending = self._push(content, message_type, timeout_s + _EXTRA_TTL_S, group_id, asked, failures)
        ends_early, seen, valid = False, 0, 0  # seen are replies of which it is known whether they count
        while (pending or (end and self._lacks(end, valid))) and time.monotonic() < deadline:
            late = [_label(late.node, late.silo) for late in self._late.values() if end and end.keep_late]
            labels = ", ".join(sorted({_label(node, nodes[node]) for node in pending.values()} | set(late)))
            self.report(f"replies of {labels} ({f'round {group_id}' if group_id.isdecimal() else group_id})")
            polled = time.monotonic()
            for message_id, node in list(pending.items()):
                with bounded_pull(max_bytes, max(_LEAST_PULL_S, deadline - time.monotonic())):
                    if self._take(message_id, node, nodes[node], read, replies, failures):
                        del pending[message_id]
                self._garbage.collect()
            if end:
                self._receive_late(end, group_id, max_bytes, read, replies, failures)
                valid += sum(map(end.counts, replies[seen:]))
                seen = len(replies)
            if end and not ends_early and valid >= end.enough:
                ends_early, deadline = True, min(deadline, time.monotonic() + end.grace_s)
            if time.monotonic() - checked_at > _RESTART_CHECK_S:
                checked_at = time.monotonic()
                self._drop_restarted(pending, nodes, activations, failures)
            if pending or self._late:
                time.sleep(self._pause_s(started, polled, deadline))
        self.report("")
        waited_s = time.monotonic() - started if ends_early else timeout_s
        failures += [f"{_label(node, nodes[node])}: no reply within {waited_s:.0f} s" for node in pending.values()]
        if ends_early:
            for message_id, node in pending.items():
                until = started + timeout_s
                self._late[message_id] = _Late(node, nodes[node], group_id, activations.get(node), until)
        return replies, failures

    def _pause_s(self, started: float, polled: float, deadline: float) -> float:
        """Return how long to wait before the next poll.

        A poll is a request for every silo that has not replied: the server would do little else in a long round or with
        many silos. So it waits for a twentieth of the time so far, and for as long as the last poll took.

        Args:
            started: when the message was sent.
            polled: when the last poll began.
            deadline: when the round ends.
        """
        now = time.monotonic()
        pause_s = max(self.poll_s, now - polled, min(_POLL_SHARE * (now - started), _MAX_POLL_S))
        return max(0.0, min(pause_s, deadline - now))

    def _lacks(self, end: RoundEnd, count: int) -> bool:
        """Whether late replies are needed to end the round, besides those that count."""
        return end.keep_late and bool(self._late) and count < end.enough

    def _busy(self, activations: dict[int, str]) -> dict[int, str]:
        """Return the nodes that have not replied yet, and to which round; forget lost messages."""
        now = time.monotonic()
        self._late = {
            message_id: late
            for message_id, late in self._late.items()
            if activations.get(late.node) == late.activation and now < late.until
        }
        return {late.node: late.round for late in self._late.values()}

    def _receive_late(
        self,
        end: RoundEnd,
        group_id: str,
        max_bytes: int,
        read: Callable[[RecordDict], R],
        replies: list[R],
        failures: list[str],
    ) -> None:
        for message_id, late in list(self._late.items()):
            counts = end.keep_late and late.round != group_id
            with bounded_pull(max_bytes, _LEAST_PULL_S):
                if self._take(message_id, late.node, late.silo, read if counts else None, replies, failures):
                    del self._late[message_id]
            self._garbage.collect()

    def announce(self, content: RecordDict, message_type: str, timeout_s: float, group_id: str) -> None:
        """Send a message after which silos disconnect, and wait until they have.

        Replies are not pulled: a silo may disconnect before its reply is complete, and Flower then waits for the rest.
        """
        nodes, started = self._connected(), time.monotonic()
        failures: list[str] = []
        self._push(content, message_type, timeout_s + _EXTRA_TTL_S, group_id, nodes, failures)
        for failure in failures:
            log.warning("%s: %s", group_id, failure)
        while (left := nodes.keys() & self._connected().keys()) and time.monotonic() - started < timeout_s:
            self.report(f"{', '.join(sorted(_label(node, nodes[node]) for node in left))} to disconnect")
            time.sleep(max(self.poll_s, _DISCONNECT_POLL_S))
        self.report("")

    def _push(
        self,
        content: RecordDict,
        message_type: str,
        ttl: float,
        group_id: str,
        nodes: dict[int, int | None],
        failures: list[str],
    ) -> dict[str, int]:
        """Send the message to every node; return message id to node."""
        pending, size = {}, _bytes(content)
        self._garbage.add(size)  # of what was computed since the last message
        self._garbage.collect()
        plain = offer(content)
        packed = pack(plain)
        for node, silo in sorted(nodes.items(), key=lambda item: self._send_order(item[1])):
            arrays = packed if self.order is not None or node in self._read_packed else plain
            message = Message(arrays, node, message_type, ttl=ttl, group_id=group_id)
            message_id = next(iter(self.grid.push_messages([message])), None)
            if message_id is None:
                failures.append(f"{_label(node, silo)}: Flower did not accept the message")
            else:
                pending[message_id] = node
            self._garbage.add(size)
            self._garbage.collect()
        return pending

    def _take(
        self,
        message_id: str,
        node: int,
        silo: int | None,
        read: Callable[[RecordDict], R] | None,
        replies: list[R],
        failures: list[str],
    ) -> bool:
        """Read the reply to a message, or discard it without ``read``; return False as long as there is none."""
        message = self._pull(message_id, _label(node, silo), failures)
        if isinstance(message, Message):
            self._garbage.add(_bytes(message.content) if message.has_content() else 0)
            if read is not None:
                self._receive(message, node, silo, read, replies, failures)
        return message is not None

    def _pull(self, message_id: str, label: str, failures: list[str]) -> Message | str | None:
        """Return the reply to a message, None as long as there is none, or why it cannot be read.

        Replies are pulled one by one: Flower raises for a damaged one, after discarding those pulled together with it.
        """
        try:
            return next(iter(self.grid.pull_messages([message_id])), None)
        except (OSError, httpx.HTTPError):  # of the connection to the SuperLink, not of the reply
            raise
        except Exception as error:
            failures.append(f"{label}: damaged reply ({one_line(error, 200)})")
            return failures[-1]

    def _receive(
        self,
        message: Message,
        node: int,
        silo: int | None,
        read: Callable[[RecordDict], R],
        replies: list[R],
        failures: list[str],
    ) -> None:
        label = _label(node, silo)
        if message.has_error():
            reason = one_line(message.error.reason or "")
            failures.append(f"{label}: {reason or f'error {message.error.code}'}")
            return
        try:
            if is_packed(message.content):
                self._read_packed.add(node)
            reply = read(unpack(message.content))
        except OSError:  # of this machine's disk
            raise
        except Exception as error:  # whatever a reply holds, the others count
            log.debug("%s", label, exc_info=True)
            failures.append(f"{label}: malformed reply ({one_line(error, 200)})")
            return
        if silo is not None and reply.silo != silo:
            failures.append(f"{label}: its reply claims to be silo {reply.silo}")
        elif reply.silo not in range(self.count) or reply.silo in [other.silo for other in replies]:
            failures.append(f"{label}: its reply claims to be silo {reply.silo}, a duplicate or out of range")
        else:
            self._claimed[node] = reply.silo
            replies.append(reply)

    def _drop_restarted(
        self,
        pending: dict[str, int],
        nodes: dict[int, int | None],
        activations: dict[int, str],
        failures: list[str],
    ) -> None:
        """Stop waiting for silos that were restarted after the message was sent: it is lost."""
        now = self._activations()
        for message_id, node in list(pending.items()):
            if node in now and now[node] != activations.get(node):
                failures.append(f"{_label(node, nodes[node])}: restarted during the round")
                del pending[message_id]

    def _activations(self) -> dict[int, str]:
        return {info.node_id: info.last_activated_at for info in self.grid.get_nodes()}

    def _connected(self, silos: Collection[int] | None = None) -> dict[int, int | None]:
        """Return connected node to silo, None for a node that is not identified yet; only some silos if given."""
        infos = list(self.grid.get_nodes())
        if self.order is not None:
            infos.sort(key=lambda info: info.registered_at)
            nodes: dict[int, int | None] = {info.node_id: silo for info, silo in zip(infos, self.order)}
        else:
            nodes = {info.node_id: self._identify(info.name, info.node_id) for info in infos}
        return {node: silo for node, silo in nodes.items() if silos is None or silo is None or silo in silos}

    def _identify(self, name: str, node: int) -> int | None:
        number = name.removeprefix("silo")
        return int(number) if name.startswith("silo") and number.isdecimal() else self._claimed.get(node)

    def _absent(self, nodes: dict[int, int | None], silos: Collection[int] | None = None) -> list[int]:
        known = set(nodes.values())
        if None in known:  # it may be any of them
            return []
        return [silo for silo in (range(self.count) if silos is None else silos) if silo not in known]

    def _send_order(self, silo: int | None) -> tuple[bool, int]:
        if silo is None:
            return True, 0
        return False, self.order.index(silo) if self.order is not None else silo


def _max_reply_bytes(content: RecordDict) -> int:
    """Return the largest size of a reply's arrays: weights and control variates in float32, and some to spare."""
    return _MAX_REPLY_RATIO * _bytes(content) + _LEAST_REPLY_BYTES


def _bytes(content: RecordDict) -> int:
    """Return the size of a message's arrays."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())


def _label(node: int, silo: int | None) -> str:
    return f"node {node}" if silo is None else f"silo {silo}"

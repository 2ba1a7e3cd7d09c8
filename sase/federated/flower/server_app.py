"""The Flower ServerApp around :class:`sase.federated.server.Server`: the same in the simulation and for real silos."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from sase.atomic import write_text
from sase.config import from_mapping
from sase.errors import InputError, one_line
from sase.federated.exchange import Instruction, Reply
from sase.federated.flower.app import SCORES_FILE
from sase.federated.flower.messages import Scores, pack_instruction, unpack_reply, unpack_scores
from sase.federated.flower.patches import bounded_pull
from sase.federated.flower.progress import Status
from sase.federated.flower.secure import MESSAGE, pack_request, unpack_answer
from sase.federated.secure.identity import Roster
from sase.federated.secure.messages import KEYS, Answer, Request

if TYPE_CHECKING:
    from sase.federated.server import Server

FINISH = "query.finish"
_RESTART_CHECK_S = 5.0  # between two checks for silos that were restarted
_FINISH_TIMEOUT_S = 60.0
_DISCONNECT_POLL_S = 0.5
_LEAST_PULL_S = 10.0  # for a reply that is complete, even when another one has used up the time
_MAX_REPLY_RATIO, _LEAST_REPLY_BYTES = 4, 1 << 20
_EXTRA_TTL_S = 3600.0  # a message outlives its timeout, so that this module and not Flower decides who was late

R = TypeVar("R", Reply, Scores, Answer)
log = logging.getLogger(__name__)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all remaining rounds; an error that users can fix is written to ``error.txt`` for the parent process."""
    settings = json.loads(Path(str(context.run_config["settings"])).read_text())
    handler = logging.FileHandler(Path(settings["exp_dir"]) / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("sase")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Flower's root handler would print every line a second time
    logger.addHandler(handler)
    try:
        _run(grid, settings)
    except (InputError, OSError) as error:
        write_text(Path(settings["home"]) / "error.txt", one_line(error, 1000) + "\n")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _run(grid: Grid, settings: dict[str, Any]) -> None:
    from sase.federated.rounds import run_rounds
    from sase.federated.secure.rounds import secure_exchange

    server = _make_server(settings)
    config = server.config
    status = Status(settings["home"])
    status.write("")
    silos = SiloGrid(grid, config.num_silos, settings["order"], settings["connect_s"], settings["poll_s"], status.write)

    def exchange(instruction: Instruction) -> tuple[list[Reply], list[str]]:
        silos.wait_for_silos(config.needed_silos)
        content, group_id = pack_instruction(instruction), str(instruction.round)
        return silos.send_and_receive(content, MessageType.TRAIN, config.round_timeout_s, group_id, unpack_reply)

    def carry(request: Request) -> tuple[list[Answer], list[str]]:
        if request.phase == KEYS:
            silos.wait_for_silos(config.needed_silos)
        content, group_id = pack_request(request), str(request.instruction.round)
        return silos.send_and_receive(content, MESSAGE, config.round_timeout_s, group_id, unpack_answer)

    if not server.finished:
        (server.exp_dir / SCORES_FILE).unlink(missing_ok=True)  # of a training that is extended
    if config.secure_aggregation:
        run_rounds(server, secure_exchange(carry, Roster.load(settings["roster"]), server.exp_dir))
    else:
        run_rounds(server, exchange)
    if config.norm == "local" and not (server.exp_dir / SCORES_FILE).exists():
        _score_personal_norms(server, silos)
    if not settings["simulated"]:
        content = RecordDict({"config": ConfigRecord({"experiment": str(settings["exp_dir"])})})
        silos.announce(content, FINISH, _FINISH_TIMEOUT_S, "finish")


def _make_server(settings: dict[str, Any]) -> "Server":
    import torch

    from sase.federated.config import FederatedConfig
    from sase.federated.server import Server
    from sase.training.config import TrainConfig

    torch.set_num_threads(settings["server_threads"])
    train = from_mapping(TrainConfig, settings["train"])
    federated = from_mapping(FederatedConfig, settings["federated"])
    return Server(train, federated, settings["dev_set"], settings["exp_dir"], settings["device"])


def _score_personal_norms(server: "Server", silos: "SiloGrid") -> None:
    """Have every silo score the best model on its own test set with its personal norms; write the scores."""
    silos.wait_for_silos(server.config.num_silos)
    content, timeout_s = pack_instruction(server.best_instruction()), server.config.round_timeout_s
    scores, failures = silos.send_and_receive(content, MessageType.EVALUATE, timeout_s, "test", unpack_scores)
    for failure in failures:
        log.warning("test of the personal norms: %s", failure)
    scores.sort(key=lambda reply: reply.silo)
    text = json.dumps({str(reply.silo): reply.values for reply in scores}, indent=1)
    write_text(server.exp_dir / SCORES_FILE, text + "\n")


class SiloGrid:
    """A Flower grid addressed by silo: maps nodes to silos and exchanges one message with all of them.

    Args:
        grid: Flower's.
        count: the number of silos.
        order: the silos of simulated nodes, in the order in which Flower created the nodes; None for real nodes, which
            are identified by the name with which their key is registered (``silo2``) or, without keys, by their reply.
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

    def wait_for_silos(self, needed: int) -> None:
        """Wait for silos to connect: the first time for all of them, later for the ``needed`` ones of a round.

        Returns when they are connected or ``connect_s`` has passed; a round with too few silos then fails.
        """
        wanted, deadline = needed if self._waited else self.count, time.monotonic() + self.connect_s
        self._waited = True
        while len(nodes := self._connected()) < wanted and time.monotonic() < deadline:
            absent = ", ".join(map(str, self._absent(nodes)))
            missing = f", missing: {absent}" if absent else ""
            self.report(f"silos to connect: {len(nodes)} of {wanted} are connected{missing}")
            time.sleep(self.poll_s)
        self.report("")

    def send_and_receive(
        self, content: RecordDict, message_type: str, timeout_s: float, group_id: str, unpack: Callable[[RecordDict], R]
    ) -> tuple[list[R], list[str]]:
        """Send one message to every connected silo and collect the replies.

        Args:
            content: of the message.
            message_type: Flower's.
            timeout_s: a silo that has not replied by then has failed.
            group_id: names the message in Flower's log.
            unpack: called with the content of a reply.

        Returns:
            (list of what ``unpack`` returned, list of str: which silo failed and why).
        """
        nodes, started, max_bytes = self._connected(), time.monotonic(), _max_reply_bytes(content)
        replies: list[R] = []
        failures = [f"silo {silo}: not connected" for silo in self._absent(nodes)]
        pending = self._push(content, message_type, timeout_s + _EXTRA_TTL_S, group_id, nodes, failures)
        activations, checked_at = self._activations(), time.monotonic()
        while pending and time.monotonic() - started < timeout_s:
            labels = ", ".join(sorted(_label(node, nodes[node]) for node in pending.values()))
            self.report(f"replies of {labels} ({f'round {group_id}' if group_id.isdecimal() else group_id})")
            for message_id, node in list(pending.items()):
                left_s = max(_LEAST_PULL_S, started + timeout_s - time.monotonic())
                with bounded_pull(max_bytes, left_s):
                    message = self._pull(message_id, _label(node, nodes[node]), failures)
                if message is not None:
                    del pending[message_id]
                if isinstance(message, Message):
                    self._receive(message, node, nodes[node], unpack, replies, failures)
            if time.monotonic() - checked_at > _RESTART_CHECK_S:
                checked_at = time.monotonic()
                self._drop_restarted(pending, nodes, activations, failures)
            if pending:
                time.sleep(self.poll_s)
        self.report("")
        failures += [f"{_label(node, nodes[node])}: no reply within {timeout_s:.0f} s" for node in pending.values()]
        return replies, failures

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
        pending = {}
        for node, silo in sorted(nodes.items(), key=lambda item: self._send_order(item[1])):
            message = Message(content, node, message_type, ttl=ttl, group_id=group_id)
            message_id = next(iter(self.grid.push_messages([message])), None)
            if message_id is None:
                failures.append(f"{_label(node, silo)}: Flower did not accept the message")
            else:
                pending[message_id] = node
        return pending

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
        unpack: Callable[[RecordDict], R],
        replies: list[R],
        failures: list[str],
    ) -> None:
        label = _label(node, silo)
        if message.has_error():
            reason = one_line(message.error.reason or "")
            failures.append(f"{label}: {reason or f'error {message.error.code}'}")
            return
        try:
            reply = unpack(message.content)
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

    def _connected(self) -> dict[int, int | None]:
        """Return connected node to silo, None for a node that is not identified yet."""
        infos = list(self.grid.get_nodes())
        if self.order is not None:
            infos.sort(key=lambda info: info.registered_at)
            return {info.node_id: silo for info, silo in zip(infos, self.order)}
        return {info.node_id: self._identify(info.name, info.node_id) for info in infos}

    def _identify(self, name: str, node: int) -> int | None:
        number = name.removeprefix("silo")
        return int(number) if name.startswith("silo") and number.isdecimal() else self._claimed.get(node)

    def _absent(self, nodes: dict[int, int | None]) -> list[int]:
        known = set(nodes.values())
        if None in known:  # it may be any of them
            return []
        return [silo for silo in range(self.count) if silo not in known]

    def _send_order(self, silo: int | None) -> tuple[bool, int]:
        if silo is None:
            return True, 0
        return False, self.order.index(silo) if self.order is not None else silo


def _max_reply_bytes(content: RecordDict) -> int:
    """Return the largest size of a reply's arrays: weights and control variates in float32, and some to spare."""
    arrays = [array for record in content.array_records.values() for array in record.values()]
    return _MAX_REPLY_RATIO * sum(len(array.data) for array in arrays) + _LEAST_REPLY_BYTES


def _label(node: int, silo: int | None) -> str:
    return f"node {node}" if silo is None else f"silo {silo}"

"""The Flower ServerApp around :class:`sase.federated.server.Server`: the same in the simulation and for real silos."""

import json
import logging
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

from sase.atomic import write_text
from sase.config import from_mapping
from sase.errors import InputError
from sase.federated.flower.app import SCORES
from sase.federated.flower.messages import pack_instruction, unpack_reply, unpack_scores
from sase.federated.flower.processes import die_with_parent

FINISH = "query.finish"
_SAY_EVERY_S = 30.0
_LOOK_S = 5.0  # between two looks for silos that were started anew
_FINISH_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)
app = ServerApp()


@app.main()
def main(grid, context):
    """Run all rounds that are left; what a user can mend goes to ``error.txt``, for whoever started the run."""
    settings = json.loads(Path(context.run_config["settings"]).read_text())
    die_with_parent()
    handler = logging.FileHandler(Path(settings["exp_dir"]) / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    ours = logging.getLogger("sase")
    ours.setLevel(logging.INFO)
    ours.propagate = False  # Flower would tell it all again
    ours.addHandler(handler)
    try:
        _run(grid, settings)
    except (InputError, OSError) as error:
        write_text(Path(settings["home"]) / "error.txt", " ".join(str(error).split()) + "\n")
        raise
    finally:
        ours.removeHandler(handler)
        handler.close()


def _run(grid, settings):
    import torch

    from sase.federated.config import FederatedConfig
    from sase.federated.server import Server, run_rounds
    from sase.training.config import TrainConfig

    torch.set_num_threads(settings["server_threads"])
    train = from_mapping(TrainConfig, settings["train"])
    federated = from_mapping(FederatedConfig, settings["federated"])
    server = Server(train, federated, settings["dev_set"], settings["exp_dir"], settings["device"])
    silos = Silos(grid, federated.num_silos, settings["order"], settings["connect_s"], settings["poll_s"])

    def exchange(instruction):
        silos.wait_for(federated.needed_silos)
        content = pack_instruction(instruction)
        return silos.ask(content, MessageType.TRAIN, federated.round_timeout_s, str(instruction.round), unpack_reply)

    run_rounds(server, exchange)
    scores_path = server.exp_dir / SCORES
    if federated.norm == "local" and not scores_path.exists():
        silos.wait_for(federated.num_silos)
        content = pack_instruction(server.best_instruction())
        scores, failures = silos.ask(content, MessageType.EVALUATE, federated.round_timeout_s, "test", unpack_scores)
        for failure in failures:
            log.warning("test of the silos' own norms: %s", failure)
        scores.sort(key=lambda answer: answer.silo)
        write_text(scores_path, json.dumps({str(answer.silo): answer.values for answer in scores}, indent=1) + "\n")
    if not settings["simulated"]:
        experiment = ConfigRecord({"experiment": str(settings["exp_dir"])})
        silos.ask(RecordDict({"config": experiment}), FINISH, _FINISH_TIMEOUT_S, "finish", unpack_scores)


class Silos:
    """The nodes of a Flower grid, by the silos that they are.

    Args:
        grid: Flower's.
        count: how many silos there are.
        order: simulated nodes, in the order in which Flower made them, are these silos; None where nodes are real:
            those are known by the name, ``silo2``, under which their key was registered, or else by what they reply.
        connect_s: how long to wait for silos that are not connected, the first time.
        poll_s: between two looks for replies.
    """

    def __init__(self, grid, count, order, connect_s, poll_s):
        self.grid, self.count, self.order = grid, count, order
        self.connect_s, self.poll_s = connect_s, poll_s
        self.learned = {}  # node to the silo that it called itself, where keys do not tell
        self.waited = False

    def wait_for(self, needed):
        """Wait for silos to connect: the first time for all of them, later for as many as a round needs.

        Returns when they are there or ``connect_s`` has passed; a round that still lacks silos fails by itself.
        """
        wanted, said = needed if self.waited else self.count, time.monotonic()
        deadline = time.monotonic() + self.connect_s
        self.waited = True
        while len(nodes := self._online()) < wanted and time.monotonic() < deadline:
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                log.info("waiting for silos: %d of %d are connected%s", len(nodes), wanted, self._missing(nodes))
            time.sleep(self.poll_s)

    def ask(self, content, kind, timeout_s, group, read):
        """Send one message to every silo that is connected and collect what they answer.

        Args:
            content: RecordDict.
            kind: Flower's message type.
            timeout_s: who has not answered by then has failed.
            group: what Flower's log is to call it.
            read: called with a reply's content; returns what is collected, which has an attribute ``silo``.

        Returns:
            (list of what ``read`` returned, list of lines of who failed and why).
        """
        nodes = self._online()
        failures = [f"silo {silo}: not connected" for silo in self._absent(nodes)]
        began, sent = time.monotonic(), {}
        for node, silo in sorted(nodes.items(), key=lambda item: self._place(item[1])):
            message = Message(content, node, kind, ttl=timeout_s + 3600.0, group_id=group)
            (message_id,) = self.grid.push_messages([message]) or [None]
            if message_id is None:
                failures.append(f"{self._name(node, silo)}: Flower did not take the message")
            else:
                sent[message_id] = node
        activations = {info.node_id: info.last_activated_at for info in self.grid.get_nodes()}
        answers, looked = [], time.monotonic()
        while sent and time.monotonic() - began < timeout_s:
            for message in self.grid.pull_messages(list(sent)):
                node = sent.pop(message.metadata.reply_to_message_id, None)
                if node is not None:
                    self._take(message, node, nodes[node], read, answers, failures)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                self._drop_restarted(sent, nodes, activations, failures)
            if sent:
                time.sleep(self.poll_s)
        failures += [f"{self._name(node, nodes[node])}: no answer in {timeout_s:.0f} s" for node in sent.values()]
        return answers, failures

    def _take(self, message, node, silo, read, answers, failures):
        name = self._name(node, silo)
        if message.has_error():
            failures.append(f"{name}: {' '.join(message.error.reason.split()) or f'error {message.error.code}'}")
            return
        try:
            answer = read(message.content)
        except (ValueError, KeyError, TypeError) as error:
            failures.append(f"{name}: its reply cannot be read ({' '.join(str(error).split())})")
            return
        if silo is not None and answer.silo != silo:
            failures.append(f"{name}: it calls itself silo {answer.silo}")
        elif answer.silo not in range(self.count) or answer.silo in [other.silo for other in answers]:
            failures.append(f"{name}: it calls itself silo {answer.silo}, of which there is one already, or none to be")
        else:
            self.learned[node] = answer.silo
            answers.append(answer)

    def _drop_restarted(self, sent, nodes, activations, failures):
        """Wait no longer for silos that were started anew since they were asked: they know nothing of it."""
        now = {info.node_id: info.last_activated_at for info in self.grid.get_nodes()}
        for message_id, node in list(sent.items()):
            if node in now and now[node] != activations.get(node):
                failures.append(f"{self._name(node, nodes[node])}: was started anew during the round")
                del sent[message_id]

    def _online(self):
        """Return node to silo, None for a node that has not told yet, of all that are connected."""
        infos = list(self.grid.get_nodes())
        if self.order is not None:
            infos.sort(key=lambda info: info.registered_at)
            return {info.node_id: silo for info, silo in zip(infos, self.order)}
        return {info.node_id: self._registered(info.name, info.node_id) for info in infos}

    def _registered(self, name, node):
        number = name.removeprefix("silo")
        return int(number) if name.startswith("silo") and number.isdecimal() else self.learned.get(node)

    def _absent(self, nodes):
        known = set(nodes.values())
        if None in known:  # it may be any of them
            return []
        return [silo for silo in range(self.count) if silo not in known]

    def _missing(self, nodes):
        absent = self._absent(nodes)
        return f", missing: {', '.join(map(str, absent))}" if absent else ""

    def _place(self, silo):
        return (silo is None, self.order.index(silo) if self.order is not None else silo or 0)

    def _name(self, node, silo):
        return f"node {node}" if silo is None else f"silo {silo}"

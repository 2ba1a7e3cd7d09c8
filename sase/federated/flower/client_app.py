"""The Flower ClientApp around :class:`sase.federated.silo.Silo`: the same in the simulation and on real silos.

In a deployment the silo's index and folders come from its own ``--node-config``; no message from the server can name a
folder. In the simulation they come from the experiment's settings.
"""

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from sase.atomic import write_text
from sase.errors import InputError, one_line
from sase.federated.flower.messages import Scores, pack_reply, pack_scores, unpack_instruction
from sase.federated.flower.packing import packing_mod
from sase.federated.flower.patches import CLIENT_APP_ERROR
from sase.federated.flower.secure import ACTION, answer_request
from sase.federated.flower.silo_process import FINISHED_FILE
from sase.federated.secure.state import FOLDER, SecureState

if TYPE_CHECKING:
    from sase.federated.budget import PrivacyBudget
    from sase.federated.exchange import Instruction
    from sase.federated.silo import Silo


log = logging.getLogger(__name__)
app = ClientApp(mods=[packing_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round."""
    masks_only = bool(context.node_config.get("require-masks"))
    return _reply(message, context, lambda silo, message: _train(silo, message, _budget(silo, context), masks_only))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the global model on the silo's own test set, and once more with the silo's personal norms if it has any."""
    return _reply(message, context, _evaluate)


@app.query(ACTION)
def secure(message: Message, context: Context) -> Message:
    """Answer one message of a secure sum."""
    simulated = "silo" not in context.node_config
    settings = _settings(str(context.run_config["settings"])) if simulated else {}

    def answer(silo: "Silo", message: Message) -> RecordDict:
        return answer_request(silo, message.content, context.node_config, settings, _budget(silo, context))

    return _reply(message, context, answer)


@app.query("finish")
def finish(message: Message, context: Context) -> Message:
    """Record that training is over."""
    return _reply(message, context, _finish)


def _train(silo: "Silo", message: Message, budget: "PrivacyBudget | None", masks_only: bool) -> RecordDict:
    instruction = unpack_instruction(message.content)
    federated = instruction.config["federated"]
    _require_plain(silo, instruction, masks_only)
    if budget is not None:
        budget.require(federated)
    reply = silo.run(instruction)
    if budget is not None:
        budget.charge(federated)
    return pack_reply(reply)


def _require_plain(silo: "Silo", instruction: "Instruction", masks_only: bool) -> None:
    """Raise InputError if an update that is to be masked would be sent as it is.

    Training is deterministic: a server that asks once more for what was masked would see that very update.
    """
    from sase.federated.secure.session import model_fingerprint

    if masks_only or instruction.config["federated"].get("secure_aggregation"):
        why = "--require-masks" if masks_only else "the config has secure_aggregation"
        raise InputError(f"silo {silo.index}: refuses to send an update that is not masked ({why})")
    SecureState(silo.personal.folder / FOLDER).require_new(model_fingerprint(instruction.model), None)


def _evaluate(silo: "Silo", message: Message) -> RecordDict:
    from sase.federated.silo_tests import scores_of

    return pack_scores(Scores(silo.index, scores_of(silo, unpack_instruction(message.content))))


def _finish(silo: "Silo", message: Message) -> RecordDict:
    experiment = str(message.content.config_records["config"]["experiment"])
    SecureState(silo.personal.folder / FOLDER).forget_secrets()
    write_text(silo.personal.folder / FINISHED_FILE, experiment + "\n")
    return pack_scores(Scores(silo.index, {}))


def _reply(message: Message, context: Context, handle: "Callable[[Silo, Message], RecordDict]") -> Message:
    """Reply with the content that ``handle`` returns, or with one line about an error that users can fix."""
    try:
        content = handle(_local_silo(context), message)
    except (InputError, OSError, FloatingPointError) as error:
        log.warning("%s", one_line(error))  # in the silo's own log as well
        return Message(Error(CLIENT_APP_ERROR, one_line(error)), reply_to=message)
    return Message(content, reply_to=message)


def _budget(silo: "Silo", context: Context) -> "PrivacyBudget | None":
    """Return what a real silo has sent, with its own limits; None in the simulation, where no data are foreign."""
    from sase.federated.budget import PrivacyBudget
    from sase.federated.limits import PrivacyLimits

    node = context.node_config
    if "silo" not in node:
        return None
    given = {name: float(node[f"dp-{name}"]) for name in PrivacyLimits.names() if f"dp-{name}" in node}
    return PrivacyBudget(silo.index, silo.personal.folder, PrivacyLimits(**given))


def _local_silo(context: Context) -> "Silo":
    node = context.node_config
    if "silo" in node:
        return _silo(int(node["silo"]), str(node["data-dir"]), str(node["state-dir"]), str(node["device"]))
    settings = _settings(str(context.run_config["settings"]))
    index = settings["order"][int(node["partition-id"])]
    data_dir, state_dir = Path(settings["silos_dir"]) / f"silo{index}", Path(settings["state_dir"]) / f"silo{index}"
    return _silo(index, str(data_dir), str(state_dir), settings["device"])


@functools.cache  # the process of a simulated silo lives as long as the run and loads its data once
def _silo(index: int, data_dir: str, state_dir: str, device: str) -> "Silo":
    from sase.allocator import keep_freed_memory
    from sase.federated.silo import Silo

    keep_freed_memory()
    return Silo(index, data_dir, state_dir, device)


@functools.cache
def _settings(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())

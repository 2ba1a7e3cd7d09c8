"""The Flower ClientApp around :class:`sase.federated.silo.Silo`: the same in the simulation and on real silos.

In a deployment everything about a silo is told by whoever starts it (``--node-config``); nothing that the server sends
can name a folder. In the simulation there is nobody else, and the experiment's own settings say where the silos lie.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
from flwr.app import Error, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.common.constant import ErrorCode

from sase.atomic import write_text
from sase.errors import InputError
from sase.federated.flower.messages import Scores, pack_reply, pack_scores, unpack_instruction
from sase.federated.flower.processes import die_with_parent
from sase.federated.flower.silo_process import FINISHED


def privacy(message, context, call_next):
    """Flower mod: clip a silo's update, and give it noise, by Flower's own mods, where the configuration says so."""
    if message.metadata.message_type != MessageType.TRAIN:
        return call_next(message, context)
    federated = unpack_instruction(message.content).config["federated"]
    clip, noise = federated["dp_clip_norm"], federated["dp_noise_multiplier"]
    if not clip:
        return call_next(message, context)
    if not noise:
        return fixedclipping_mod(message, context, call_next)

    def trained(message, context):
        reply = call_next(message, context)
        np.random.seed()  # Flower draws its noise from here, and nobody may know it beforehand
        return reply

    # Flower's noise has the standard deviation sensitivity · √(2 ln(1.25/δ)) / ε; this ε makes that noise · clip.
    delta = federated["dp_delta"]
    return LocalDpMod(clip, clip, math.sqrt(2.0 * math.log(1.25 / delta)) / noise, delta)(message, context, trained)


app = ClientApp(mods=[privacy])


@app.train()
def train(message, context):
    """Train one round."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message, context):
    """Score the global model on the silo's own test part, with its own norm layers as well where it has some."""
    return _answer(message, context, _evaluate)


@app.query("finish")
def finish(message, context):
    """Note that training is over."""
    return _answer(message, context, _finish)


def _train(silo, message):
    instruction = unpack_instruction(message.content)
    order = list(instruction.arrays) if instruction.config["federated"]["dp_clip_norm"] else None
    return pack_reply(silo.run(instruction), order)


def _evaluate(silo, message):
    instruction = unpack_instruction(message.content)
    scores = {}
    if (silo.data_dir / "tt").is_dir():
        kinds = [("global", False)]
        if instruction.config["federated"]["norm"] == "local":
            kinds.append(("own", True))
        for kind, personal in kinds:
            scores.update({f"{kind}/{name}": value for name, value in silo.evaluate(instruction, personal).items()})
    return pack_scores(Scores(silo.index, scores))


def _finish(silo, message):
    write_text(silo.personal.folder / FINISHED, message.content["config"]["experiment"] + "\n")
    return pack_scores(Scores(silo.index, {}))


def _answer(message, context, act):
    """Reply with what ``act(silo, message)`` returns; what a user can mend becomes an error reply of one line."""
    try:
        content = act(_silo_here(context), message)
    except (InputError, OSError, FloatingPointError) as error:
        reason = " ".join(str(error).split())
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
    return Message(content, reply_to=message)


def _silo_here(context):
    node = context.node_config
    if "silo" in node:
        die_with_parent()
        return _silo(int(node["silo"]), str(node["data-dir"]), str(node["state-dir"]), str(node["device"]))
    settings = _settings(context.run_config["settings"])
    index = settings["order"][int(node["partition-id"])]
    data_dir, state_dir = Path(settings["silos_dir"]) / f"silo{index}", Path(settings["state_dir"]) / f"silo{index}"
    return _silo(index, str(data_dir), str(state_dir), settings["device"])


@functools.cache  # a simulated silo's process lives for the whole run, and loads its data once
def _silo(index, data_dir, state_dir, device):
    from sase.federated.silo import Silo
    from sase.training.performance import keep_freed_memory

    keep_freed_memory()
    return Silo(index, data_dir, state_dir, device)


@functools.cache
def _settings(path):
    return json.loads(Path(path).read_text())

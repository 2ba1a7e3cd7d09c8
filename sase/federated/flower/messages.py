"""What server and silos say to each other, as Flower's records: arrays, one line of JSON, and numbers."""

import json
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

from sase.federated.silo import Instruction, Reply


def pack_instruction(instruction):
    """Return the content (RecordDict) of the message that carries an :class:`sase.federated.silo.Instruction`."""
    settings = {"json": json.dumps({"round": instruction.round, "config": instruction.config})}
    if clip := instruction.config["federated"]["dp_clip_norm"]:
        settings[KEY_CLIPPING_NORM] = float(clip)  # where Flower's clipping looks for it
    return RecordDict({"arrays": _record(instruction.arrays), "config": ConfigRecord(settings)})


def unpack_instruction(content):
    """Return the :class:`sase.federated.silo.Instruction` of a message's content."""
    settings = json.loads(content["config"]["json"])
    return Instruction(round=settings["round"], arrays=_arrays(content["arrays"]), config=settings["config"])


def pack_reply(reply, order=None):
    """Return the content (RecordDict) of the message that carries a :class:`sase.federated.silo.Reply`.

    Args:
        order: names in the order in which the arrays are to stand, where Flower's mods want the server's.
    """
    arrays = reply.arrays if order is None else {name: reply.arrays[name] for name in order}
    metrics = {name: float(value) for name, value in reply.metrics.items()}
    about = ConfigRecord({"silo": reply.silo, "round": reply.round})
    return RecordDict({"arrays": _record(arrays), "metrics": MetricRecord(metrics), "about": about})


def unpack_reply(content):
    """Return the :class:`sase.federated.silo.Reply` of a message's content.

    Raises:
        ValueError, KeyError, TypeError: the content is not a reply.
    """
    about, metrics = content["about"], dict(content["metrics"])
    return Reply(silo=int(about["silo"]), round=int(about["round"]), arrays=_arrays(content["arrays"]), metrics=metrics)


@dataclass(frozen=True)
class Scores:
    """What a silo answers when it is asked for something else than training: numbers by name."""

    silo: int
    values: dict[str, float]


def pack_scores(scores):
    """Return the content (RecordDict) of the message that carries :class:`Scores`."""
    values = {name: float(value) for name, value in scores.values.items()}
    return RecordDict({"about": ConfigRecord({"silo": scores.silo}), "metrics": MetricRecord(values)})


def unpack_scores(content):
    """Return the :class:`Scores` of a message's content; raises as :func:`unpack_reply`."""
    return Scores(silo=int(content["about"]["silo"]), values=dict(content["metrics"]))


def _record(arrays):
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _arrays(record):
    return {name: array.numpy() for name, array in record.items()}

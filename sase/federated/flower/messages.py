"""The messages between server and silos as Flower records: arrays, one line of JSON, and numbers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, MetricRecord, MetricRecordValues, RecordDict

from sase.federated.exchange import Instruction, Reply
from sase.federated.flower.patches import CLIPPING_NORM


def pack_instruction(instruction: Instruction) -> RecordDict:
    """Return the content of the message that carries an :class:`sase.federated.exchange.Instruction`."""
    values: dict[str, ConfigRecordValues] = {
        "json": json.dumps({"round": instruction.round, "config": instruction.config})
    }
    if clip := instruction.config["federated"]["dp_clip_norm"]:
        values[CLIPPING_NORM] = float(clip)
    return RecordDict({"arrays": _array_record(instruction.arrays), "config": ConfigRecord(values)})


def unpack_instruction(content: RecordDict) -> Instruction:
    """Return the :class:`sase.federated.exchange.Instruction` of a message's content."""
    values = json.loads(str(content.config_records["config"]["json"]))
    return Instruction(round=values["round"], arrays=_arrays(content), config=values["config"])


def pack_reply(reply: Reply, order: Iterable[str] | None = None) -> RecordDict:
    """Return the content of the message that carries a :class:`sase.federated.exchange.Reply`.

    Args:
        reply: what the silo returned.
        order: names of the arrays in the order of the server's, which Flower's mods require; the reply's own when None.
    """
    arrays = reply.arrays if order is None else {name: reply.arrays[name] for name in order}
    about = ConfigRecord({"silo": reply.silo, "round": reply.round})
    return RecordDict({"arrays": _array_record(arrays), "metrics": _metric_record(reply.metrics), "about": about})


def unpack_reply(content: RecordDict) -> Reply:
    """Return the :class:`sase.federated.exchange.Reply` of a message's content.

    Raises:
        ValueError, KeyError, TypeError: the content is not a reply.
    """
    about = content.config_records["about"]
    return Reply(
        silo=_int(about["silo"]), round=_int(about["round"]), arrays=_arrays(content), metrics=_metrics(content)
    )


@dataclass(frozen=True)
class Scores:
    """A silo's reply to every message except training: its index, and numbers by name."""

    silo: int
    values: dict[str, float]


def pack_scores(scores: Scores) -> RecordDict:
    """Return the content of the message that carries :class:`Scores`."""
    return RecordDict({"about": ConfigRecord({"silo": scores.silo}), "metrics": _metric_record(scores.values)})


def unpack_scores(content: RecordDict) -> Scores:
    """Return the :class:`Scores` of a message's content; raises as :func:`unpack_reply`."""
    return Scores(silo=_int(content.config_records["about"]["silo"]), values=_metrics(content))


def _array_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _arrays(content: RecordDict) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in content.array_records["arrays"].items()}


def _metric_record(metrics: Mapping[str, float]) -> MetricRecord:
    values: dict[str, MetricRecordValues] = {name: float(value) for name, value in metrics.items()}
    return MetricRecord(values)


def _metrics(content: RecordDict) -> dict[str, float]:
    return dict(content.metric_records["metrics"])  # type: ignore[arg-type]  # lists are checked with the other values


def _int(value: ConfigRecordValues) -> int:
    return int(value)  # type: ignore[arg-type]  # a list raises TypeError

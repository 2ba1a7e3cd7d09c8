"""The messages between server and silos as Flower records: arrays, one line of JSON, and numbers.

What arrives from a silo is not trusted: sizes are those of the data that are there, never those that are declared.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, MetricRecord, MetricRecordValues, RecordDict

from sase.federated.exchange import Instruction, Reply
from sase.federated.flower.patches import CLIPPING_NORM

_MAX_SCORES = 100  # numbers in a reply
_MAX_NAME = 100  # characters
_NUMPY = "numpy.ndarray"  # Flower's name of the only serialisation in use
_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def pack_instruction(instruction: Instruction) -> RecordDict:
    """Return the content of the message that carries an :class:`sase.federated.exchange.Instruction`."""
    values: dict[str, ConfigRecordValues] = {
        "json": json.dumps({"round": instruction.round, "config": instruction.config})
    }
    if clip := instruction.config["federated"]["dp_clip_norm"]:
        values[CLIPPING_NORM] = float(clip)  # for silos of earlier versions
    return RecordDict({"arrays": _array_record(instruction.arrays), "config": ConfigRecord(values)})


def unpack_instruction(content: RecordDict) -> Instruction:
    """Return the :class:`sase.federated.exchange.Instruction` of a message's content."""
    values = json.loads(str(content.config_records["config"]["json"]))
    return Instruction(round=values["round"], arrays=_arrays(content), config=values["config"])


def pack_reply(reply: Reply) -> RecordDict:
    """Return the content of the message that carries a :class:`sase.federated.exchange.Reply`."""
    about = ConfigRecord({"silo": reply.silo, "round": reply.round})
    return RecordDict({"arrays": _array_record(reply.arrays), "metrics": _metric_record(reply.metrics), "about": about})


def unpack_reply(content: RecordDict) -> Reply:
    """Return the :class:`sase.federated.exchange.Reply` of a message's content.

    Raises:
        ValueError, KeyError, TypeError: the content is not a reply.
    """
    about = content.config_records["about"]
    return Reply(
        silo=_int(about["silo"]), round=_int(about["round"]), arrays=_arrays(content), metrics=_numbers(content)
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
    return Scores(silo=_int(content.config_records["about"]["silo"]), values=_numbers(content))


def _array_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _arrays(content: RecordDict) -> dict[str, np.ndarray]:
    return {name: _array(name, array) for name, array in content.array_records["arrays"].items()}


def _array(name: str, array: Array) -> np.ndarray:
    """Return an array after checking that its data are what its header declares, before memory is taken for it."""
    if array.stype != _NUMPY:
        raise ValueError(f"array {name}: serialised as {array.stype}, expected {_NUMPY}")
    file = io.BytesIO(array.data)
    version = np.lib.format.read_magic(file)
    if version not in _VERSIONS:
        raise ValueError(f"array {name}: unknown version {version} of the npy format")
    shape, fortran_order, dtype = _VERSIONS[version](file)
    size, count = len(array.data) - file.tell(), math.prod(shape)
    if dtype.kind not in "fiu" or min(shape, default=0) < 0 or count * dtype.itemsize != size:
        raise ValueError(f"array {name}: declares {dtype} {shape} and holds {size} bytes")
    values = np.frombuffer(array.data, dtype, count, file.tell()) if count else np.zeros(0, dtype)
    return values.reshape(shape, order="F" if fortran_order else "C").copy()


def _metric_record(metrics: Mapping[str, float]) -> MetricRecord:
    values: dict[str, MetricRecordValues] = {name: float(value) for name, value in metrics.items()}
    return MetricRecord(values)


def _numbers(content: RecordDict) -> dict[str, float]:
    """Return the numbers of a reply.

    Raises:
        ValueError: too many, a list instead of a number, or a name that is not one short line.
    """
    metrics = content.metric_records["metrics"]
    if len(metrics) > _MAX_SCORES:
        raise ValueError(f"it reports {len(metrics)} numbers, at most {_MAX_SCORES} are expected")
    for name, value in metrics.items():
        if len(name) > _MAX_NAME or not name.isprintable():
            raise ValueError(f"it reports a number with an invalid name ({len(name)} characters)")
        if not isinstance(value, int | float):
            raise ValueError(f"it reports a list as {name}, not a number")
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _int(value: ConfigRecordValues) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("its number of the silo or of the round is not an integer")
    return value

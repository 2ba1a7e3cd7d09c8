"""All arrays of a message joined in one, which silos and servers do with each other once both have shown that they can.

Flower transfers every array with requests of its own, at each hop between ServerApp, SuperLink, SuperNode and
ClientApp: a network of a few kilobytes in 59 arrays takes a thousand requests a round of 4 silos. Installations before
this one know plain messages alone. So the server offers to read joined arrays with a value that they ignore, a silo
answers such a message with joined arrays, and from then on gets them.
"""

import json
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from sase.federated.flower.quota import MAX_OBJECTS

_PACKED = "packed"  # the record with the one array, and its serialisation
_OFFER, _VERSION = "reads-packed", 1
_CONFIG = "config"  # the record of every message from the server


def pack(content: RecordDict) -> RecordDict:
    """Return records whose array records are joined: one line of JSON about all arrays, then their data as they are."""
    records = content.array_records
    if not records:
        return content
    about = {
        name: [[key, array.dtype, array.shape, array.stype, len(array.data)] for key, array in record.items()]
        for name, record in records.items()
    }
    data = [array.data for record in records.values() for array in record.values()]
    joined = b"".join([json.dumps(about).encode(), b"\n", *data])
    array = Array(dtype="uint8", shape=(len(joined),), stype=_PACKED, data=joined)
    others = {name: record for name, record in content.items() if name not in records}
    return RecordDict({_PACKED: ArrayRecord({_PACKED: array}), **others})


def is_packed(content: RecordDict) -> bool:
    """Return whether :func:`pack` joined the arrays of these records."""
    return _PACKED in content.array_records


def unpack(content: RecordDict) -> RecordDict:
    """Return the records before :func:`pack`; those that are not packed as they are.

    Raises:
        ValueError, TypeError, KeyError: what is said about the arrays is malformed or not about these data.
    """
    if not is_packed(content):
        return content
    data = content.array_records[_PACKED][_PACKED].data
    start = data.index(b"\n") + 1
    about = json.loads(data[:start])
    if sum(map(len, about.values())) > MAX_OBJECTS:
        raise ValueError(f"more than {MAX_OBJECTS} arrays")
    arrays: dict[str, ArrayRecord] = {}
    for name, entries in about.items():
        record = {}
        for key, dtype, shape, stype, size in entries:
            end = start + size
            if not start <= end <= len(data):
                raise ValueError(f"array {key}: declares {size} bytes, {len(data) - start} are left")
            record[key] = Array(dtype=dtype, shape=tuple(shape), stype=stype, data=data[start:end])
            start = end
        arrays[name] = ArrayRecord(record)
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes belong to no array")
    return RecordDict({**arrays, **{name: record for name, record in content.items() if name != _PACKED}})


def offer(content: RecordDict) -> RecordDict:
    """Return the records of a message to a silo, which may answer with joined arrays."""
    config = ConfigRecord({**content.config_records.get(_CONFIG, {}), _OFFER: _VERSION})
    return RecordDict({**content, _CONFIG: config})


def is_offered(content: RecordDict) -> bool:
    """Return whether the server that sent these records reads joined arrays."""
    return _OFFER in content.config_records.get(_CONFIG, {})


def packing_mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Flower mod, the first one: the others and the app get plain records; joins the arrays of the reply if offered."""
    offered = is_offered(message.content)
    message.content = unpack(message.content)
    reply = call_next(message, context)
    if offered and not reply.has_error():
        reply.content = pack(reply.content)
    return reply

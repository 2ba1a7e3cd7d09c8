"""Secure sums over Flower's messages: the five requests and their answers as records, on both sides."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, RecordDict

from sase.errors import InputError
from sase.federated.exchange import Reply
from sase.federated.flower.messages import pack_instruction, pack_reply, unpack_instruction, unpack_reply
from sase.federated.secure.identity import KEYS_FOLDER
from sase.federated.secure.messages import KEYS, MASKED, Answer, Request
from sase.federated.secure.state import FOLDER

if TYPE_CHECKING:
    from sase.federated.budget import PrivacyBudget
    from sase.federated.silo import Silo

ACTION = "secure"  # of the ClientApp
MESSAGE = f"query.{ACTION}"  # Flower's type of the messages
_RECORD = "secure"


def pack_request(request: Request) -> RecordDict:
    """Return the content of the message that carries a :class:`sase.federated.secure.messages.Request`."""
    return _with_record(pack_instruction(request.instruction), {"phase": request.phase, "content": request.content})


def unpack_request(content: RecordDict) -> Request:
    """Return the :class:`sase.federated.secure.messages.Request` of a message's content."""
    record = _record(content)
    return Request(str(record["phase"]), unpack_instruction(content), dict(record["content"]))


def pack_answer(answer: Answer, round_number: int) -> RecordDict:
    """Return the content of the message that carries a :class:`sase.federated.secure.messages.Answer`."""
    return _with_record(pack_reply(Reply(answer.silo, round_number, answer.arrays)), {"content": answer.content})


def unpack_answer(content: RecordDict) -> Answer:
    """Return the :class:`sase.federated.secure.messages.Answer` of a message's content.

    Raises:
        ValueError, KeyError, TypeError: the content is not an answer.
    """
    reply = unpack_reply(content)
    return Answer(reply.silo, _record(content)["content"], reply.arrays)


def answer_request(
    silo: "Silo",
    content: RecordDict,
    node: Mapping[str, Any],
    settings: Mapping[str, Any],
    budget: "PrivacyBudget | None" = None,
) -> RecordDict:
    """Return a silo's answer to a request, packed.

    Args:
        silo: trains.
        content: of the message.
        node: the node's config; in a deployment with ``state-dir`` and ``certificates``, the folder of the silo's key.
        settings: of the experiment, in the simulation: with ``state_dir``.
        budget: counts what a real silo sends; masked updates too, since masks depend on what the other silos do.

    Raises:
        InputError: the silo refuses, has no key, or its training failed.
    """
    from sase.federated.secure.local import KEY_FILE, local_participant
    from sase.federated.secure.participant import Participant
    from sase.federated.secure.silo import SecureSilo

    request = unpack_request(content)
    if "silo" not in node:
        participant = local_participant(silo, Path(settings["state_dir"]))
    elif "certificates" not in node:
        raise InputError(f"silo {silo.index}: has no key, which secure aggregation needs; it runs with --insecure")
    else:
        keys = Path(str(node["certificates"]))
        state = Path(str(node["state-dir"])) / FOLDER
        participant = Participant(silo, SecureSilo.load(silo.index, keys / KEY_FILE, keys / KEYS_FOLDER, state))
    federated = request.instruction.config["federated"]
    if budget is not None and request.phase in (KEYS, MASKED):
        budget.require(federated)
    answer = participant.answer(request)
    if budget is not None and request.phase == MASKED:
        budget.charge(federated)
    return pack_answer(answer, request.instruction.round)


def _with_record(content: RecordDict, value: Mapping[str, Any]) -> RecordDict:
    content[_RECORD] = ConfigRecord({"json": json.dumps(value)})
    return content


def _record(content: RecordDict) -> Mapping[str, Any]:
    value = json.loads(str(content.config_records[_RECORD]["json"]))
    if not isinstance(value, dict):
        raise ValueError("its record of a secure sum is not a mapping")
    return value

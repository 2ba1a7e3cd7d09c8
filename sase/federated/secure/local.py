"""Silos that share a machine with the server: keys for them, and messages in this process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sase.errors import one_line
from sase.federated.certificates import make_silo_key
from sase.federated.exchange import Keep, Reply, in_memory
from sase.federated.secure.identity import Roster
from sase.federated.secure.messages import Answer, Carrier, Request
from sase.federated.secure.participant import Participant
from sase.federated.secure.silo import SecureSilo
from sase.federated.secure.state import FOLDER, SecureState
from sase.federated.silo import Silo

KEY_FILE, ROSTER = "silo.key", "roster"

log = logging.getLogger(__name__)


def make_local_keys(folder: Path, count: int) -> Roster:
    """Make the missing key pairs of silos whose state folders are ``silo0`` ... in a folder; return their roster."""
    (folder / ROSTER).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        silo = folder / f"silo{index}"
        if not (silo / KEY_FILE).exists():
            make_silo_key(silo)
        shutil.copyfile(silo / "silo.pub", folder / ROSTER / f"silo{index}.pub")
    return Roster.load(folder / ROSTER)


def local_participant(silo: Silo, folder: Path) -> Participant:
    """Return a silo with its key of :func:`make_local_keys`."""
    state = folder / f"silo{silo.index}"
    return Participant(silo, SecureSilo.load(silo.index, state / KEY_FILE, folder / ROSTER, state / FOLDER))


def local_carrier(participants: Sequence[Participant], keep: Keep = in_memory) -> Carrier:
    """Return the function that carries messages to these silos, which answer one after another.

    Args:
        participants: all of them.
        keep: called with every masked update on its arrival.
    """

    def carry(request: Request) -> tuple[list[Answer], list[str]]:
        answers, failures = [], []
        for participant in [p for p in participants if request.instruction.asks(p.silo.index)]:
            index = participant.silo.index
            try:
                answers.append(kept(participant.answer(request), request.instruction.round, keep))
            except Exception as error:  # as in the exchange without secure sums: the other silos continue
                log.debug("silo %d", index, exc_info=True)
                failures.append(f"silo {index} failed: {one_line(error)}")
        return answers, failures

    return carry


def kept(answer: Answer, round_number: int, keep: Keep) -> Answer:
    """Return an answer with its arrays where ``keep`` has put them."""
    if not answer.arrays:
        return answer
    return replace(answer, arrays=keep(Reply(answer.silo, round_number, answer.arrays)).arrays)


def forget_secrets(folder: Path) -> None:
    """Delete what silos in a folder keep of their last secure sum, but not for which models they have masked."""
    for state in sorted(folder.glob(f"silo*/{FOLDER}")):
        SecureState(state).forget_secrets()

"""A round with a secure sum: five exchanges of messages with the silos instead of one."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sase import jsonfile
from sase.config import from_mapping
from sase.errors import InputError, one_line
from sase.federated.config import FederatedConfig
from sase.federated.exchange import Exchange, Instruction, Reply
from sase.federated.layout import Layout
from sase.federated.payload import num_bytes
from sase.federated.secure.identity import Roster
from sase.federated.secure.messages import (
    AGREE,
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    Answer,
    Carrier,
    Request,
    by_silo,
    without_model,
)
from sase.federated.secure.participant import format_of
from sase.federated.secure.server import SecureSum
from sase.federated.secure.session import Terms, Weights, model_fingerprint
from sase.federated.secure.update import STATISTICS, WEIGHTS, Format
from sase.federated.statistics import check_statistics

STATE_FILE = "secure_sum.json"  # in the experiment folder: the sum of the present round, for a server that is restarted

log = logging.getLogger(__name__)


def secure_exchange(carrier: Carrier, roster: Roster, exp_dir: str | Path) -> Exchange:
    """Return the function for :func:`sase.federated.rounds.run_rounds` that sums updates securely.

    Its replies hold, for every silo in the sum alike, the mean model and the mean losses: of a single silo the server
    knows its number of examples, nothing else.

    Args:
        carrier: sends a request to all silos.
        roster: the silos' registered keys.
        exp_dir: the experiment folder.
    """

    def exchange(instruction: Instruction) -> tuple[Sequence[Reply], Sequence[str]]:
        run = _Round(instruction, carrier, roster, Path(exp_dir) / STATE_FILE)
        try:
            replies: Sequence[Reply] = run.replies()
        except InputError as error:
            replies, run.failures = [], [*run.failures, one_line(error)]
        return replies, run.failures

    return exchange


@dataclass
class _Round:
    """An attempt at a round; what it has settled is on disk, and a later attempt continues from there.

    A silo masks once per global model, so that a new sum for the same one is not possible once the first silo has.
    """

    instruction: Instruction
    carrier: Carrier
    roster: Roster
    state_path: Path
    failures: list[str] = field(default_factory=list)
    bytes: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = from_mapping(FederatedConfig, self.instruction.config["federated"])
        self.model = model_fingerprint(self.instruction.model)
        self.terms = Terms.of(self.instruction, self.model)
        self.sum = SecureSum(self.terms, self.roster, self.config.needed_silos)

    def replies(self) -> list[Reply]:
        """Return one reply per silo in the sum.

        Raises:
            InputError: there are too few silos.
        """
        if not self._resume():
            self.sum.settle(self._contents(KEYS, {"model": self.model}))
            listed = [self.sum.announcements[silo] for silo in sorted(self.sum.announcements)]
            self._weights(self.sum.collect_shares(self._contents(SHARES, {"announcements": listed})))
            self._save()
        silos = sorted(self.sum.shares)
        number = format_of(self.instruction, self.config, len(silos))
        answers = self._ask(MASKED, {"shares": {str(silo): self.sum.shares[silo] for silo in silos}})
        masked = {silo: answer for silo, answer in answers.items() if silo in silos and self._fits(answer, number)}
        survivors = self.sum.close(masked)
        self._save()
        if absent := [silo for silo in survivors if silo not in masked]:
            raise InputError(f"secure aggregation: silo {absent[0]} is in the sum that the silos signed, and is absent")
        if dropped := [silo for silo in silos if silo not in survivors]:
            log.info("round %d: recovering the sum without silo %s", self.terms.round, ", ".join(map(str, dropped)))
        signatures = self.sum.signatures(self._contents(AGREE, {"survivors": survivors}))
        shares = self._contents(UNMASK, {"signatures": signatures})
        totals = self.sum.total({silo: masked[silo].arrays for silo in survivors}, shares, list(number.sizes))
        return self._mean(number, totals, {silo: masked[silo] for silo in survivors})

    def _mean(self, number: Format, totals: Mapping[str, np.ndarray], masked: Mapping[int, Answer]) -> list[Reply]:
        session, survivors = self.sum.session, sorted(masked)
        weights = self._weights(sorted(self.sum.shares))
        alphas, common, others = weights.of_survivors(survivors)
        arrays, losses = number.arrays(number.decode(totals, common, others))
        for name in number.layout.counters:
            arrays[name] = np.max([masked[silo].arrays[name] for silo in survivors], axis=0)
        replies = []
        for silo in survivors:
            examples = float(session.announcements[silo].examples)
            metrics = {"examples": examples, "steps": float(weights.steps[silo]), "alpha": alphas[silo], **losses}
            metrics |= {"bytes": float(self.bytes[silo])}
            metrics |= {
                name: _number(masked[silo].content, name) for name in ("seconds", "train_began", "train_seconds")
            }
            replies.append(Reply(silo, self.instruction.round, arrays, metrics))
        return replies

    def _weights(self, silos: Sequence[int]) -> Weights:
        batch_size = int(self.instruction.config["train"]["data"]["batch_size"])
        return Weights.settle(self.sum.session, silos, self.config, batch_size)

    def _fits(self, answer: Answer, number: Format) -> bool:
        """Return whether a masked update has the right vectors; name the silo as failed otherwise."""
        try:
            expected = {WEIGHTS: number.weights.dtype, STATISTICS: number.statistics.dtype}
            for name, dtype in expected.items():
                _check(answer.arrays, name, (number.sizes[name],), np.dtype(dtype))
            for name in number.layout.counters:
                _check(answer.arrays, name, number.reference[name].shape, number.reference[name].dtype)
            check_statistics(answer.arrays, Layout((), (), number.layout.counters, frozenset()))
        except ValueError as error:
            self._fail([f"silo {answer.silo}: {error}"])
            return False
        return True

    def _contents(self, phase: str, content: dict[str, Any]) -> dict[int, Any]:
        return {silo: answer.content for silo, answer in self._ask(phase, content).items()}

    def _ask(self, phase: str, content: dict[str, Any]) -> Mapping[int, Answer]:
        # Once silos have announced keys, no other ones can take part; a later attempt may ask for others.
        silos = tuple(sorted(self.sum.announcements)) or self.instruction.silos
        instruction = replace(self.instruction, silos=silos)
        if phase != MASKED:
            instruction = without_model(instruction)
        self._fail([f"silo {silo}: {reason}" for silo, reason in self.sum.refused.items()])
        answers, failures = self.carrier(Request(phase, instruction, content))
        self._fail(failures)
        for answer in answers:
            size = len(json.dumps(answer.content)) + num_bytes(answer.arrays)
            self.bytes[answer.silo] = self.bytes.get(answer.silo, 0) + size
        return by_silo(answers)

    def _fail(self, failures: Sequence[str]) -> None:
        """Note failures, the first one of each silo: one that was absent at first also is later."""
        for failure in failures:
            known = {other.split(":")[0] for other in self.failures}
            if failure.split(":")[0] not in known:
                self.failures.append(failure)

    def _resume(self) -> bool:
        """Continue the sum of an earlier attempt at this round; return whether there is one."""
        if not self.state_path.exists():
            return False
        state = jsonfile.read(self.state_path)
        if state.get("terms") != self.terms.mapping():
            return False
        self.sum.resume(state)
        return True

    def _save(self) -> None:
        jsonfile.write(self.state_path, {"terms": self.terms.mapping(), **self.sum.mapping()})


def _check(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    value = arrays.get(name)
    if value is None or value.shape != shape or value.dtype != dtype:
        found = "nothing" if value is None else f"{value.dtype} {value.shape}"
        raise ValueError(f"its masked {name} are {found}, expected {dtype} {shape}")


def _number(content: Any, name: str) -> float:
    """Return a time that a silo reports, for the record only; 0 for what is none."""
    value = content.get(name) if isinstance(content, Mapping) else None
    try:
        number = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else 0.0

"""A silo that takes part in secure sums with the model that it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sase.config import from_mapping
from sase.errors import InputError
from sase.federated.clipping import WITHIN, released
from sase.federated.config import FederatedConfig
from sase.federated.exchange import Instruction
from sase.federated.secure.messages import AGREE, KEYS, MASKED, PHASES, SHARES, Answer, Request
from sase.federated.secure.session import Session, Terms, Weights, model_fingerprint
from sase.federated.secure.silo import SecureSilo
from sase.federated.secure.update import LOSSES, Format, Update

if TYPE_CHECKING:
    from sase.federated.silo import Silo


@dataclass(frozen=True)
class Participant:
    """One silo.

    Attributes:
        silo: trains.
        secure: masks.
    """

    silo: Silo
    secure: SecureSilo

    def answer(self, request: Request) -> Answer:
        """Answer one message of the server.

        Raises:
            InputError: the silo refuses, or its training failed.
        """
        instruction, content = request.instruction, request.content
        config = from_mapping(FederatedConfig, instruction.config["federated"])
        if not config.secure_aggregation:
            raise InputError(f"silo {self.silo.index}: this federation does not use secure aggregation")
        if request.phase == KEYS:
            terms = Terms.of(instruction, str(content.get("model")))
            examples = self.silo.examples(instruction)
            return Answer(self.silo.index, self.secure.keys(terms, examples, config.needed_silos))
        if request.phase == MASKED:
            return self._masked(instruction, content, config)
        if request.phase not in PHASES:
            raise InputError(f"silo {self.silo.index}: unknown message {request.phase}")
        function = {SHARES: self._shares, AGREE: self._agree}.get(request.phase, self._unmask)
        return Answer(self.silo.index, function(content))

    def _shares(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return self.secure.shares(content["announcements"])

    def _agree(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return self.secure.agree(content["survivors"])

    def _unmask(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return self.secure.unmask(content["signatures"])

    def _masked(self, instruction: Instruction, content: Mapping[str, Any], config: FederatedConfig) -> Answer:
        started = time.monotonic()
        terms = Terms.of(instruction, model_fingerprint(instruction.model))
        times: dict[str, float] = {}

        def encode(session: Session, silos: list[int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            reply = self.silo.run(instruction)
            times.update({name: reply.metrics[name] for name in ("train_began", "train_seconds")})
            batch_size = int(instruction.config["train"]["data"]["batch_size"])
            weights = Weights.settle(session, silos, config, batch_size)
            number = format_of(instruction, config, len(silos))
            tensors = {name: instruction.model[name].size for name in number.layout.weights}
            update = limited(number.update(reply.arrays, {WITHIN: 0.0, **reply.metrics}), config, tensors)
            index = self.silo.index
            try:
                values = number.encode(update, weights.alphas[index], weights.shares[index])
            except ValueError as error:
                raise InputError(f"silo {index}: {error}") from None
            return values, {name: reply.arrays[name] for name in number.layout.counters}

        arrays = self.secure.masked(terms, content["shares"], encode, complete=config.dp_noise_multiplier > 0.0)
        return Answer(self.silo.index, {**times, "seconds": time.monotonic() - started}, arrays)


def format_of(instruction: Instruction, config: FederatedConfig, addends: int) -> Format:
    """Return how updates of an instruction's network become integers, the same for the server and all silos."""
    from sase.federated.layout import layout_of
    from sase.model import build_model, model_config

    layout = layout_of(build_model(model_config(instruction.config["train"]["model"])))
    numbers = (*LOSSES, WITHIN) if config.dp_clip_quantile else LOSSES
    return Format(instruction.model, layout, config.secure_range, addends, config.norm == "local", numbers)


def limited(
    update: Update,
    config: FederatedConfig,
    tensors: Mapping[str, int] | None = None,
    generator: np.random.Generator | None = None,
) -> Update:
    """Return an update clipped and with noise as the config says: the silo does it, since no one else sees the update.

    Args:
        update: of the silo; with ``dp_clip_norm``, without norm statistics.
        config: of the federation.
        tensors: name to size of the tensors of the update, in their order, for ``dp_clip_per``; None: one.
        generator: see :func:`sase.federated.clipping.released`.

    Returns:
        The update; with ``dp_clip_quantile``, the last number of its statistics is the bit.
    """
    if not config.dp_clip_norm:
        return update
    if config.dp_clip_per == "model" or tensors is None:
        tensors = {"": len(update.weights)}
    ends = np.cumsum(list(tensors.values()))[:-1]
    changes, numbers = released(np.split(update.weights, ends), list(tensors), config, generator)
    statistics = np.concatenate([update.statistics[: len(update.statistics) - len(numbers)], list(numbers.values())])
    return Update(np.concatenate(changes), statistics)

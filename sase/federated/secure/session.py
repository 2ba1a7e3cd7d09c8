"""What all silos of a round must agree on: the model, the participants, their keys and their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from sase.errors import InputError
from sase.federated.aggregation import nova_factors, silo_weights
from sase.federated.config import OPERATIONAL, SECURE_LEAST, SECURE_MAX_WEIGHT, FederatedConfig
from sase.federated.exchange import Instruction
from sase.federated.reported import steps_per_round
from sase.federated.secure.identity import Roster, Signer, canonical

_ANNOUNCEMENT = "sase secure aggregation: keys"
_KEY_BYTES = 32
_MAX_EXAMPLES = 2**40


def model_fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the fingerprint of a global model: equal for equal names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(canonical([name, value.dtype.str, list(value.shape)]))
        digest.update(value.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Terms:
    """What a silo takes part in: signed by every silo together with its keys, so that all train on the same terms.

    Attributes:
        experiment: an identifier.
        round: from 1.
        model: the fingerprint of the global model.
        config: the fingerprint of the instruction's configs.
    """

    experiment: str
    round: int
    model: str
    config: str

    @classmethod
    def of(cls, instruction: Instruction, model: str) -> Terms:
        """Return the terms of an instruction whose global model has this fingerprint.

        Timeouts and the like are none of them: a server that was restarted with others resumes the same round.
        """
        federated = {k: v for k, v in instruction.config["federated"].items() if k not in OPERATIONAL}
        config = hashlib.sha256(canonical({**instruction.config, "federated": federated})).hexdigest()
        return cls(str(instruction.config["experiment"]), instruction.round, model, config)

    def mapping(self) -> dict[str, Any]:
        """Return plain types, for what is signed."""
        return {"experiment": self.experiment, "round": self.round, "model": self.model, "config": self.config}


@dataclass(frozen=True)
class Announcement:
    """A silo's public keys of one round and the number by which it is weighted, signed with its registered key.

    Attributes:
        silo: its index.
        cipher_key: X25519, for the shares that other silos send it.
        mask_key: X25519, for the masks that it has in common with other silos.
        examples: number of segments in an epoch.
        signature: of the above and the terms.
    """

    silo: int
    cipher_key: bytes
    mask_key: bytes
    examples: int
    signature: bytes

    @classmethod
    def signed(
        cls, silo: int, cipher_key: bytes, mask_key: bytes, examples: int, terms: Terms, signer: Signer
    ) -> Announcement:
        """Return an announcement with its signature."""
        unsigned = cls(silo, cipher_key, mask_key, examples, b"")
        return cls(silo, cipher_key, mask_key, examples, signer.sign(_ANNOUNCEMENT, unsigned._statement(terms)))

    def verify(self, terms: Terms, roster: Roster) -> None:
        """Check the signature and that keys can be agreed on with these.

        Raises:
            ValueError: as :meth:`sase.federated.secure.identity.Roster.verify`; or a key is none.
        """
        roster.verify(self.silo, _ANNOUNCEMENT, self._statement(terms), self.signature)
        for key in (self.cipher_key, self.mask_key):
            try:
                X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
            except ValueError:  # a point of low order: everybody would know the common secret
                raise ValueError(f"a key of silo {self.silo} is not a valid one") from None

    def mapping(self) -> dict[str, Any]:
        """Return plain types, for messages."""
        keys = {"cipher_key": self.cipher_key.hex(), "mask_key": self.mask_key.hex()}
        return {"silo": self.silo, **keys, "examples": self.examples, "signature": self.signature.hex()}

    @classmethod
    def read(cls, value: Any) -> Announcement:
        """Return the announcement of :meth:`mapping`, possibly damaged.

        Raises:
            ValueError: a field is missing or not possible.
        """
        silo, examples = read_int(value, "silo"), read_int(value, "examples")
        if not 0 < examples <= _MAX_EXAMPLES:
            raise ValueError(f"{examples} examples are not possible")
        cipher_key, mask_key = (read_bytes(value, name, _KEY_BYTES) for name in ("cipher_key", "mask_key"))
        return cls(silo, cipher_key, mask_key, examples, read_bytes(value, "signature"))

    def _statement(self, terms: Terms) -> dict[str, Any]:
        return {**self.mapping(), "signature": "", "terms": terms.mapping()}


@dataclass(frozen=True)
class Session:
    """The silos that may take part in one secure sum.

    Attributes:
        terms: of the round.
        announcements: silo to announcement.
    """

    terms: Terms
    announcements: Mapping[int, Announcement]

    @classmethod
    def of(cls, terms: Terms, announcements: Iterable[Announcement], least: int = SECURE_LEAST) -> Session:
        """Return a session.

        Args:
            terms: of the round.
            announcements: of the participants.
            least: number of silos.

        Raises:
            ValueError: there are too few silos, or one is listed twice.
        """
        listed = list(announcements)
        silos = {announcement.silo: announcement for announcement in listed}
        if len(silos) < len(listed):
            raise ValueError("a silo is in the list of participants twice")
        if len(silos) < max(least, SECURE_LEAST):
            raise ValueError(f"{len(silos)} participants, at least {max(least, SECURE_LEAST)} are needed")
        return cls(terms, silos)

    @property
    def threshold(self) -> int:
        """Number of silos whose shares give a secret, and that must send their updates: more than two thirds."""
        return max(SECURE_LEAST, 2 * len(self.announcements) // 3 + 1)

    @cached_property
    def id(self) -> str:
        """The fingerprint of terms and announcements: other silos, keys or numbers of examples give another one."""
        listed = [self.announcements[silo].mapping() for silo in sorted(self.announcements)]
        return hashlib.sha256(canonical([self.terms.mapping(), listed])).hexdigest()

    def require(self, silos: Sequence[int], among: Iterable[int]) -> list[int]:
        """Return silos in order, after checking that they are at least ``threshold`` different ones among others.

        Raises:
            ValueError: they are not.
        """
        if unknown := sorted(set(silos) - set(among)):
            raise ValueError(f"silo {unknown[0]} does not take part")
        if len(set(silos)) < len(silos):
            raise ValueError("a silo is listed twice")
        if len(silos) < self.threshold:
            raise ValueError(f"{len(silos)} silos are left, {self.threshold} of {len(self.announcements)} are needed")
        return sorted(silos)


@dataclass(frozen=True)
class Weights:
    """The weights of a sum, settled before any silo trains.

    Attributes:
        alphas: silo to α; the sum is 1.
        shares: silo to its share in the sum of the updates of trained weights; the sum is 1.
        factor: of that sum: 1, or with FedNova the ratio by which normalised steps change its length.
        steps: silo to number of optimiser steps.
        fednova: whether the shares normalise the updates by them.
    """

    alphas: dict[int, float]
    shares: dict[int, float]
    factor: float
    steps: dict[int, int]
    fednova: bool

    @classmethod
    def settle(cls, session: Session, silos: Sequence[int], config: FederatedConfig, batch_size: int) -> Weights:
        """Return the weights of a sum of these silos' updates.

        Args:
            session: with the signed numbers of examples, from which every silo computes all weights by itself.
            silos: that take part.
            config: of the federation; the strategy is ``examples`` or ``uniform``.
            batch_size: of local training.

        Raises:
            InputError: the sum is almost one silo's update.
        """
        examples = [session.announcements[silo].examples for silo in silos]
        steps = [steps_per_round(count // batch_size, config) for count in examples]
        if min(steps) < 1:
            raise InputError("secure aggregation: a silo has less than one batch of examples")
        alphas = silo_weights(config.strategy, examples, max_weight=config.max_weight)
        factors = alphas * nova_factors(alphas, steps) if config.fednova else alphas
        shares = factors / factors.sum()
        if max(alphas.max(), shares.max()) > SECURE_MAX_WEIGHT:
            raise InputError(
                f"secure aggregation: a silo has a weight of {max(alphas.max(), shares.max()):.3f} in the sum, "
                f"above the limit of {SECURE_MAX_WEIGHT} that keeps other updates hidden; use strategy: uniform"
            )
        return cls(
            dict(zip(silos, alphas.tolist())),
            dict(zip(silos, shares.tolist())),
            float(factors.sum()),
            dict(zip(silos, steps)),
            config.fednova,
        )

    def of_survivors(self, silos: Sequence[int]) -> tuple[dict[int, float], float, float]:
        """Return what turns a sum of these silos' updates, weighted for all, into their own weighted mean.

        Returns:
            (silo to α among them, factor of the sum of updates of trained weights, factor of all other sums)
        """
        total = sum(self.alphas[silo] for silo in silos)
        alphas = {silo: self.alphas[silo] / total for silo in silos}

        def length(of: Mapping[int, float]) -> float:  # FedNova's τ_eff
            return sum(of[silo] * self.steps[silo] for silo in of)

        nova = length(alphas) / length(self.alphas) if self.fednova else 1.0
        return alphas, self.factor * nova / total, 1.0 / total


def read_int(value: Any, name: str) -> int:
    """Return a field of a message; raise ValueError if it is not an integer."""
    number = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"{name} is missing or not an integer")
    return number


def read_bytes(value: Any, name: str, size: int | None = None) -> bytes:
    """Return a field of a message that holds hexadecimal digits; raise ValueError if it does not, or not ``size``."""
    text = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"{name} is missing or not text")
    found = bytes.fromhex(text)
    if size is not None and len(found) != size:
        raise ValueError(f"{name} has {len(found)} bytes, expected {size}")
    return found

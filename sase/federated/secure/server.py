"""The server's side of a secure sum: it forwards keys and shares, adds masked updates, and removes the masks.

All methods take what silos answered, {silo: answer}, drop unsound answers and name them in :attr:`SecureSum.refused`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from sase.errors import InputError, one_line
from sase.federated.secure.identity import Roster
from sase.federated.secure.session import Announcement, Session, Terms, read_bytes
from sase.federated.secure.shamir import SHARE_BYTES, combine
from sase.federated.secure.silo import (
    SURVIVORS,
    pair_mask_key,
    public_of,
    self_mask_key,
    survivors_statement,
)
from sase.federated.secure.streams import add_stream


@dataclass
class SecureSum:
    """One secure sum.

    Attributes:
        terms: of the round.
        roster: the registered keys, to tell a silo that forges from those that refuse.
        least: number of updates in the sum, if more than the threshold.
        announcements: silo to announcement, plain types, after :meth:`settle`.
        shares: silo to its encrypted shares, after :meth:`collect_shares`; these silos are to be in the sum.
        commitments: silo to the SHA-256 of its self mask's seed, in hexadecimal digits.
        survivors: the silos in the sum, after :meth:`close`; it is fixed by then.
        refused: silo to reason.
    """

    terms: Terms
    roster: Roster
    least: int
    announcements: dict[int, Any] = field(default_factory=dict)
    shares: dict[int, dict[str, str]] = field(default_factory=dict)
    commitments: dict[int, str] = field(default_factory=dict)
    survivors: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)

    def mapping(self) -> dict[str, Any]:
        """Return plain types from which :meth:`resume` makes this sum again; there is no secret among them."""
        return {name: getattr(self, name) for name in ("announcements", "shares", "commitments", "survivors")}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue a sum from :meth:`mapping`, which has been through JSON."""
        for name in ("announcements", "shares", "commitments"):
            setattr(self, name, {int(silo): value for silo, value in state[name].items()})
        self.survivors = list(state["survivors"])

    @property
    def session(self) -> Session:
        """The session of the announcements.

        Raises:
            InputError: there are too few.
        """
        try:
            return Session.of(self.terms, map(Announcement.read, self.announcements.values()), self.least)
        except ValueError as error:
            raise InputError(f"secure aggregation: {error}") from None

    def settle(self, answers: Mapping[int, Any]) -> Session:
        """Take the announcements; return the session of those that are sound.

        Raises:
            InputError: there are too few.
        """
        for silo, answer in sorted(answers.items()):
            with _refusal(self.refused, silo):
                announcement = Announcement.read(answer)
                if announcement.silo != silo:
                    raise ValueError(f"its announcement claims to be of silo {announcement.silo}")
                announcement.verify(self.terms, self.roster)
                self.announcements[silo] = announcement.mapping()
        return self.session

    def collect_shares(self, answers: Mapping[int, Any]) -> list[int]:
        """Take the encrypted shares; return the silos that are to be in the sum.

        Raises:
            InputError: there are too few.
        """
        session = self.session
        for silo, answer in sorted(answers.items()):
            with _refusal(self.refused, silo):
                others = [other for other in session.announcements if other != silo]
                parts = {str(other): read_bytes(answer["shares"], str(other)).hex() for other in others}
                self.commitments[silo] = read_bytes(answer, "commitment", 32).hex()
                self.shares[silo] = parts
        return self._require(session, list(self.shares), session.announcements)

    def close(self, masked: Iterable[int]) -> list[int]:
        """Fix the silos in the sum, those whose masked updates are there; return them.

        Raises:
            InputError: there are too few; the sum may be closed later, with more.
        """
        if not self.survivors:
            silos = self._require(self.session, list(masked), self.shares)
            if len(silos) < self.least:
                raise InputError(f"secure aggregation: {len(silos)} masked updates, {self.least} required")
            self.survivors = silos
        return self.survivors

    def signatures(self, answers: Mapping[int, Any]) -> dict[str, str]:
        """Return the valid signatures of the list of survivors, {silo: signature}.

        Raises:
            InputError: there are too few.
        """
        session = self.session
        statement = survivors_statement(session.id, sorted(self.shares), self.survivors)
        valid = {}
        for silo, answer in sorted(answers.items()):
            with _refusal(self.refused, silo):
                signature = read_bytes(answer, "signature")
                self.roster.verify(silo, SURVIVORS, statement, signature)
                valid[str(silo)] = signature.hex()
        self._require(session, [int(silo) for silo in valid], self.survivors)
        return valid

    def total(
        self, masked: Mapping[int, Mapping[str, np.ndarray]], answers: Mapping[int, Any], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return the sums of the survivors' updates without masks, name to unsigned integers.

        Args:
            masked: silo to masked update, of the survivors; one array is read at a time.
            answers: of the silos to the request for shares, silo to answer.
            names: of the vectors.

        Raises:
            InputError: there are too few shares, or they are not those of the masks.
        """
        session = self.session
        sums: dict[str, np.ndarray] = {}
        for silo in self.survivors:
            for name in names:
                values = masked[silo][name]
                if name in sums:
                    sums[name] += values
                else:
                    sums[name] = np.array(values)
        seeds, keys = self._secrets(session, answers)
        for name, value in sums.items():
            for seed in seeds.values():
                add_stream(value, self_mask_key(seed, name, session.id), subtract=True)
            for silo, private in keys.items():
                for other in self.survivors:
                    key = pair_mask_key(private, session.announcements[other].mask_key, name, session.id)
                    add_stream(value, key, subtract=other < silo)
        return sums

    def _secrets(self, session: Session, answers: Mapping[int, Any]) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Return the survivors' seeds and the private mask keys of the silos that dropped out, by silo."""
        dropped = [silo for silo in sorted(self.shares) if silo not in self.survivors]
        given: dict[int, dict[tuple[str, int], bytes]] = {}
        for silo, answer in sorted(answers.items()):
            with _refusal(self.refused, silo):
                parts = {("self", of): read_bytes(answer["self"], str(of), SHARE_BYTES) for of in self.survivors}
                parts |= {("key", of): read_bytes(answer["key"], str(of), SHARE_BYTES) for of in dropped}
                given[silo] = parts
        silos = self._require(session, list(given), self.survivors)[: session.threshold]
        wanted = [*(("self", of) for of in self.survivors), *(("key", of) for of in dropped)]
        shares = [{silo + 1: given[silo][which] for silo in silos} for which in wanted]
        try:
            found = dict(zip(wanted, combine(shares, [silo + 1 for silo in silos])))
        except ValueError as error:
            raise InputError(f"secure aggregation: {error}") from None
        for (kind, of), secret in found.items():
            if kind == "self":
                genuine = sha256(secret).hexdigest() == self.commitments[of]
            else:
                genuine = public_of(secret) == session.announcements[of].mask_key
            if not genuine:
                raise InputError(f"secure aggregation: the shares of the mask of silo {of} do not give it")
        return {of: found["self", of] for of in self.survivors}, {of: found["key", of] for of in dropped}

    def _require(self, session: Session, silos: Sequence[int], among: Iterable[int]) -> list[int]:
        try:
            return session.require(silos, among)
        except ValueError as error:
            reasons = "; ".join(f"silo {silo}: {reason}" for silo, reason in sorted(self.refused.items()))
            raise InputError(f"secure aggregation: {error}" + (f" ({reasons})" if reasons else "")) from None


@contextmanager
def _refusal(refused: dict[int, str], silo: int) -> Iterator[None]:
    """Note why the answer of a silo is not used, instead of raising it."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        refused[silo] = one_line(error) or type(error).__name__

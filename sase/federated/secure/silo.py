"""A silo's side of a secure sum: what it answers to each of the server's five messages, and what it refuses.

1. ``keys``: the silo announces two fresh X25519 keys and its number of examples, signed with its registered key.
2. ``shares``: it gets all announcements, checks the signatures, and sends every other silo, encrypted, a Shamir share
   of its self mask's seed and of its private mask key.
3. ``masked``: it trains and sends its weighted update plus its self mask plus the masks that it has in common with the
   other silos, which cancel in the sum.
4. ``agree``: it signs the list of the silos whose updates the server has. It signs one list only.
5. ``unmask``: it gets the signatures of at least ``threshold`` silos on that list, and sends its shares: of the self
   masks of silos on the list, and of the mask keys of the others, never both of one silo.

A server that shows different lists to silos, falsely reports a drop-out, repeats a round or invents silos gets no sum
of fewer than ``threshold`` updates, and no two sums for one global model.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sase.errors import InputError
from sase.federated.config import SECURE_LEAST
from sase.federated.secure.identity import Roster, Signer
from sase.federated.secure.session import Announcement, Session, Terms, read_bytes
from sase.federated.secure.shamir import SHARE_BYTES, split
from sase.federated.secure.state import SecureState
from sase.federated.secure.streams import KEY_BYTES, add_stream, derive_key

SURVIVORS = "sase secure aggregation: survivors"
_SELF, _KEY = "self", "key"  # the two secrets of a silo that the others hold shares of
_NONCE_BYTES = 12  # of AES-GCM
_INCOMPLETE = "a silo is missing, and a sum of fewer updates has less noise than is accounted for"


def new_key() -> tuple[bytes, bytes]:
    """Return an X25519 key pair: private, public."""
    key = X25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return private, key.public_key().public_bytes_raw()


def agree_key(private: bytes, public: bytes, purpose: str, session: str) -> bytes:
    """Return the key that two silos have in common for one purpose in one session.

    Args:
        private: X25519 key of one of them.
        public: of the other.
        purpose: names the use.
        session: its id.

    Raises:
        ValueError: the public key is not one.
    """
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return derive_key(shared, f"sase {purpose} {session}".encode())


def public_of(private: bytes) -> bytes:
    """Return the public X25519 key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def self_mask_key(seed: bytes, vector: str, session: str) -> bytes:
    """Return the key of a silo's self mask of one vector."""
    return derive_key(seed, f"sase self mask of {vector} {session}".encode())


def pair_mask_key(private: bytes, public: bytes, vector: str, session: str) -> bytes:
    """Return the key of the mask that a pair of silos has in common for one vector."""
    return agree_key(private, public, f"mask of {vector}", session)


def survivors_statement(session: str, masked: Sequence[int], survivors: Sequence[int]) -> dict[str, Any]:
    """Return what silos sign before they reveal shares: who was to be in the sum, and who is."""
    return {"session": session, "masked": list(masked), "survivors": list(survivors)}


@dataclass(frozen=True)
class SecureSilo:
    """One silo in secure sums, with all state on its disk, so that it may be restarted between any two messages.

    Attributes:
        index: of the silo.
        signer: its registered key.
        roster: the registered keys of all silos, which it does not have from the server.
        disk: its folder.
    """

    index: int
    signer: Signer
    roster: Roster
    disk: SecureState

    @classmethod
    def load(cls, index: int, key: str | Path, roster: str | Path, state_dir: str | Path) -> SecureSilo:
        """Return the silo with its key and roster from files.

        Args:
            index: of the silo.
            key: ``silo.key``.
            roster: folder with ``silo0.pub`` ...
            state_dir: for what it keeps, such as ``secure`` in the silo's state folder.

        Raises:
            InputError: a file is missing or damaged.
        """
        return cls(index, Signer.load(key), Roster.load(roster), SecureState(state_dir))

    def keys(self, terms: Terms, examples: int, least: int = SECURE_LEAST) -> dict[str, Any]:
        """Return this silo's announcement; begin a session, in place of an earlier one.

        Args:
            terms: of the round, as the server states them.
            examples: number of segments in an epoch.
            least: number of participants; with fewer, this silo does not take part.

        Raises:
            InputError: this silo has masked an update for this global model.
        """
        self.disk.require_new(terms.model, None)
        cipher_private, cipher_public = new_key()
        mask_private, mask_public = new_key()
        own = Announcement.signed(self.index, cipher_public, mask_public, examples, terms, self.signer)
        state = {"terms": terms.mapping(), "own": own.mapping(), "cipher": cipher_private.hex(), "least": least}
        self.disk.write_secrets({**state, "mask": mask_private.hex(), "seed": secrets.token_hex(KEY_BYTES)})
        return own.mapping()

    def shares(self, announcements: Sequence[Any]) -> dict[str, Any]:
        """Return encrypted shares of this silo's secrets for all other participants, and a commitment to its seed.

        Args:
            announcements: of all participants, from the server.

        Raises:
            InputError: there are too few, a signature is not that of the registered key, or this silo's keys are not
                its own.
        """
        state = self._state()
        with _refusing(self.index):
            session = self._session(state, announcements)
            if state.get("session", session.id) != session.id:
                raise ValueError("has sent shares to other participants in this round, and does so once only")
        if "sent" in state:  # a repeated message gets the same answer: a key encrypts one message only
            return state["sent"]
        with _refusing(self.index):
            answer, kept = self._sealed(state, session)
        listed = [session.announcements[silo].mapping() for silo in sorted(session.announcements)]
        joined = {"session": session.id, "announcements": listed, "held": kept, "sent": answer}
        self.disk.write_secrets({**state, **joined})
        return answer

    def masked(
        self,
        terms: Terms,
        shares: Mapping[str, Any],
        encode: Callable[[Session, list[int]], tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
        complete: bool = False,
    ) -> dict[str, np.ndarray]:
        """Return this silo's masked update; the same one when the same message is repeated.

        Args:
            terms: of the round, with the fingerprint of the global model that the server sent.
            shares: for each silo that is to be in the sum, {silo: encrypted share} for the others.
            encode: called with session and silos; trains, and returns the weighted update, name to unsigned integers,
                and what is sent beside it as it is.
            complete: every silo that announced keys must be in the sum; else ``threshold`` of them.

        Raises:
            InputError: the global model or the configs are not those that all silos signed, too few silos are left, a
                share is damaged, or this silo has masked an update for this global model in another session.
        """
        state = self._state()
        with _refusing(self.index):
            session = self._joined(state)
            if terms != session.terms:
                raise ValueError("the global model or the configs are not those that the silos agreed on")
            silos = session.require([_index(silo) for silo in shares], session.announcements)
            if self.index not in silos:
                raise ValueError(f"silo {self.index} does not take part")
            if complete and len(silos) < len(session.announcements):
                raise ValueError(_INCOMPLETE)
            if state.get("masked", silos) != silos:
                raise ValueError("another list of silos was masked for in this session; one list only")
            opened = {str(s): self._open(state, session, s, shares) for s in silos if s != self.index}
        self.disk.record(session.terms.model, session.id)
        held = {**state["held"], **opened}
        self.disk.write_secrets({**state, "masked": silos, "complete": complete, "held": held})
        if (before := self.disk.reply(session.id)) is not None:
            return before
        values, clear = encode(session, silos)
        masked = {name: self._add_masks(state, session, silos, name, value) for name, value in values.items()}
        result = {**masked, **clear}
        self.disk.write_reply(session.id, result)
        return result

    def agree(self, survivors: Sequence[Any]) -> dict[str, Any]:
        """Return this silo's signature of the list of silos whose updates the server has.

        Args:
            survivors: the list, from the server.

        Raises:
            InputError: too few silos are left, or this silo has signed another list in this session.
        """
        state = self._state()
        with _refusing(self.index):
            session, silos = self._survivors(state, survivors)
            if self.index not in silos:
                raise ValueError("is not in the sum, so it signs nothing")
        if state.get("survivors", silos) != silos:
            raise InputError(
                f"silo {self.index}: already signed another list of silos for this round; it signs only one"
            )
        self.disk.write_secrets({**state, "survivors": silos})
        statement = survivors_statement(session.id, state["masked"], silos)
        return {"silo": self.index, "signature": self.signer.sign(SURVIVORS, statement).hex()}

    def unmask(self, signatures: Mapping[str, Any]) -> dict[str, Any]:
        """Return this silo's shares: of the self masks of the silos in the sum, of the mask keys of those that are not.

        Args:
            signatures: silo to signature, of :meth:`agree`.

        Raises:
            InputError: fewer than ``threshold`` silos have signed the list that this silo has signed.
        """
        state = self._state()
        if "survivors" not in state:
            raise InputError(f"silo {self.index}: has not signed which silos are in the sum")
        with _refusing(self.index):
            session, survivors = self._survivors(state, state["survivors"])
            statement = survivors_statement(session.id, state["masked"], survivors)
            signers = session.require([_index(silo) for silo in signatures], survivors)
            for silo in signers:
                self.roster.verify(silo, SURVIVORS, statement, read_bytes(signatures, str(silo)))
        held = {silo: bytes.fromhex(state["held"][str(silo)]) for silo in state["masked"]}
        return {
            "silo": self.index,
            _SELF: {str(silo): part[:SHARE_BYTES].hex() for silo, part in held.items() if silo in survivors},
            _KEY: {str(silo): part[SHARE_BYTES:].hex() for silo, part in held.items() if silo not in survivors},
        }

    def _sealed(self, state: Mapping[str, Any], session: Session) -> tuple[dict[str, Any], dict[str, str]]:
        """Return encrypted shares for all others with a commitment, and this silo's own shares."""
        silos = sorted(session.announcements)
        secret = {_SELF: bytes.fromhex(state["seed"]), _KEY: bytes.fromhex(state["mask"])}
        parts = {name: split(value, [silo + 1 for silo in silos], session.threshold) for name, value in secret.items()}
        kept, sent = {}, {}
        for silo in silos:
            both = parts[_SELF][silo + 1] + parts[_KEY][silo + 1]
            if silo == self.index:
                kept[str(silo)] = both.hex()
            else:
                key = self._cipher_key(state, session, silo)
                sent[str(silo)] = AESGCM(key).encrypt(_nonce(self.index, silo), both, session.id.encode()).hex()
        return {"silo": self.index, "shares": sent, "commitment": sha256(secret[_SELF]).hexdigest()}, kept

    def _state(self) -> dict[str, Any]:
        state = self.disk.secrets()
        if not state:
            raise InputError(f"silo {self.index}: has no keys of this round; it was absent when the round began")
        return state

    def _session(self, state: Mapping[str, Any], announcements: Sequence[Any]) -> Session:
        """Return the session of these announcements, after checking every signature."""
        terms = Terms(**state["terms"])
        session = Session.of(terms, map(Announcement.read, announcements), state["least"])
        if session.announcements.get(self.index) != Announcement.read(state["own"]):
            raise ValueError(f"the keys of silo {self.index} in the list are not its own")
        for announcement in session.announcements.values():
            announcement.verify(terms, self.roster)
        return session

    def _joined(self, state: Mapping[str, Any]) -> Session:
        """Return the session that this silo has sent shares for; its signatures were checked then."""
        if "announcements" not in state:
            raise ValueError("has sent no shares in this round")
        listed = map(Announcement.read, state["announcements"])
        return Session.of(Terms(**state["terms"]), listed, state["least"])

    def _survivors(self, state: Mapping[str, Any], survivors: Sequence[Any]) -> tuple[Session, list[int]]:
        session = self._joined(state)
        if "masked" not in state:
            raise ValueError("has masked nothing in this round")
        silos = session.require([_index(silo) for silo in survivors], state["masked"])
        if state.get("complete") and silos != state["masked"]:
            raise ValueError(_INCOMPLETE)
        return session, silos

    def _cipher_key(self, state: Mapping[str, Any], session: Session, silo: int) -> bytes:
        public = session.announcements[silo].cipher_key
        return agree_key(bytes.fromhex(state["cipher"]), public, "shares", session.id)

    def _open(self, state: Mapping[str, Any], session: Session, silo: int, shares: Mapping[str, Any]) -> str:
        """Return, in hexadecimal digits, the two shares that another silo has encrypted for this one."""
        content = read_bytes(shares[str(silo)], str(self.index))
        key = self._cipher_key(state, session, silo)
        try:
            both = AESGCM(key).decrypt(_nonce(silo, self.index), content, session.id.encode())
        except InvalidTag:
            raise ValueError(f"the shares of silo {silo} are damaged, or not of this session") from None
        if len(both) != 2 * SHARE_BYTES:
            raise ValueError(f"the shares of silo {silo} have {len(both)} bytes, expected {2 * SHARE_BYTES}")
        return both.hex()

    def _add_masks(
        self, state: Mapping[str, Any], session: Session, silos: Sequence[int], name: str, values: np.ndarray
    ) -> np.ndarray:
        """Return values plus self mask plus the masks of all pairs; unsigned integers wrap around."""
        private, total = bytes.fromhex(state["mask"]), np.array(values)
        add_stream(total, self_mask_key(bytes.fromhex(state["seed"]), name, session.id))
        for silo in silos:
            if silo != self.index:
                key = pair_mask_key(private, session.announcements[silo].mask_key, name, session.id)
                add_stream(total, key, subtract=self.index > silo)
        return total


@contextmanager
def _refusing(silo: int) -> Iterator[None]:
    """Turn a ValueError about a message into this silo's refusal in one line."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"silo {silo}: refuses to take part in a secure sum: {error}") from None


def _nonce(sender: int, receiver: int) -> bytes:
    """Return the nonce of a message from one silo to another: a key encrypts one message in each direction."""
    return sender.to_bytes(_NONCE_BYTES // 2, "big") + receiver.to_bytes(_NONCE_BYTES // 2, "big")


def _index(silo: Any) -> int:
    if isinstance(silo, str) and silo.isdecimal():
        return int(silo)
    if isinstance(silo, bool) or not isinstance(silo, int):
        raise ValueError("the index of a silo is not a number")
    return silo

"""What a silo keeps on its disk of secure sums: for which global models it has masked an update, and its secrets.

A silo that forgets it in a restart could be made to mask a second update for the same global model. Training is
deterministic, so the difference of two sums, one of them without this silo, would be its update.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sase import jsonfile
from sase.atomic import atomic_path
from sase.errors import InputError
from sase.private import private_files
from sase.processes import folder_lock

FOLDER = "secure"  # in a silo's state folder
_MASKED, _SECRETS, _REPLY = "masked.json", "session.json", "masked.npz"


class SecureState:
    """A silo's folder for secure sums, 0700 with files of mode 0600.

    Args:
        folder: created with the first file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def require_new(self, model: str, session: str | None) -> None:
        """Check that this silo has not masked an update for a global model, except in this session.

        Args:
            model: fingerprint of the global model.
            session: the id of a session; None for one that has no id yet.

        Raises:
            InputError: it has, or the record is damaged.
        """
        masked = self._masked()
        if model in masked and masked[model] != session:
            raise InputError(
                "already masked an update for this global model in another session, and a second sum could reveal it; "
                f"start with other weights or another seed, or have the silo's owner delete {self.path}"
            )

    def record(self, model: str, session: str) -> None:
        """Record that an update for a global model is masked in a session: on disk before this returns.

        Raises:
            InputError: see :meth:`require_new`; or another task of this silo records at this moment.
        """
        with private_files(), folder_lock(self.folder):
            self.require_new(model, session)
            self._write(_MASKED, {**self._masked(), model: session})

    @property
    def path(self) -> Path:
        """The record of the global models."""
        return self.folder / _MASKED

    def secrets(self) -> dict[str, Any]:
        """Return the state of the present session; empty if there is none."""
        path = self.folder / _SECRETS
        if not path.exists():
            return {}
        state = jsonfile.read(path)
        if not isinstance(state, dict):
            raise InputError(f"{path}: damaged; delete it, and this silo is absent until the next round")
        return state

    def write_secrets(self, state: Mapping[str, Any]) -> None:
        """Replace the state of the present session, plain types."""
        self._write(_SECRETS, state)

    def reply(self, session: str) -> dict[str, np.ndarray] | None:
        """Return the masked update of a session, name to array; None if there is none."""
        path = self.folder / _REPLY
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays if arrays.pop("session").tobytes().hex() == session else None

    def write_reply(self, session: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the masked update, so that a message that is repeated gets the same answer."""
        with private_files(), atomic_path(self.folder / _REPLY) as partial, open(partial, "wb") as file:
            content = {**arrays, "session": np.frombuffer(bytes.fromhex(session), np.uint8)}
            np.savez(file, allow_pickle=False, **content)

    def forget_secrets(self) -> None:
        """Delete the state and the masked update of the last session; the record of the global models stays."""
        for name in (_SECRETS, _REPLY):
            (self.folder / name).unlink(missing_ok=True)

    def _masked(self) -> dict[str, str]:
        """Return fingerprint of a global model to session."""
        if not self.path.exists():
            return {}
        try:
            masked = json.loads(self.path.read_bytes())
        except ValueError:
            masked = None
        if not isinstance(masked, dict) or not all(isinstance(value, str) for value in masked.values()):
            raise InputError(
                f"{self.path}: damaged; it records for which global models this silo has masked an update, so this "
                "silo masks no more until its owner restores or deletes it"
            )
        return masked

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        with private_files():
            jsonfile.write(self.folder / name, dict(value))
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the new name of the file as well, before anything is sent
        finally:
            os.close(descriptor)

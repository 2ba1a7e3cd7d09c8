"""``rounds.jsonl``: the records of the completed rounds, one line each, appended and never rewritten."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sase.errors import InputError
from sase.jsonfile import read_jsonl, write_jsonl
from sase.training.checkpoint import check_fields

Record = dict[str, Any]


class Ledger:
    """The records of an experiment; bit-identical for the same seed.

    The server's state decides which rounds are completed. It has the last record itself and the size of the file before
    it, so a server that is killed between the two writes leaves a file that :meth:`restore` repairs.

    Args:
        exp_dir: the experiment folder.
    """

    def __init__(self, exp_dir: str | Path) -> None:
        self.path = Path(exp_dir) / "rounds.jsonl"
        self._bytes = 0  # of the lines of all completed rounds

    def state(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the server's state holds of the records once ``record`` is the last one."""
        return {"bytes": self._bytes, "last": record}

    def append(self, record: Mapping[str, Any]) -> None:
        """Append the record of a round, after the server's state has been saved."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.exists() else "xb") as file:
            file.seek(self._bytes)
            file.truncate()
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._bytes = file.tell()

    def read(self, state: Mapping[str, Any]) -> list[Record]:
        """Return the records of all completed rounds.

        Args:
            state: the server's; that of an earlier version has all records in ``history``.

        Raises:
            InputError: the state or the file is damaged, or lacks records.
        """
        if "records" not in state:
            check_fields(state, {"history": list})
            return list(state["history"])
        check_fields(state, {"records": dict})
        check_fields(state["records"], {"bytes": int, "last": dict})
        size = state["records"]["bytes"]
        found = self.path.stat().st_size if self.path.exists() else 0
        if size < 0 or found < size:
            raise InputError(
                f"{self.path}: has {found} bytes, expected {size} for the completed rounds; restore this file, or "
                "start over with --restart"
            )
        return [*read_jsonl(self.path, size), state["records"]["last"]]

    def restore(self, state: Mapping[str, Any], history: list[Record]) -> None:
        """Make the file hold the records of the completed rounds and nothing else.

        Args:
            state: the server's.
            history: what :meth:`read` returned.
        """
        if "records" in state:
            self._bytes = state["records"]["bytes"]
            self.append(history[-1])
        else:
            write_jsonl(self.path, history)
            self._bytes = self.path.stat().st_size

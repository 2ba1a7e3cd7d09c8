"""Test utterances that cannot be used: an error that names them all, or left out on request and marked in the results.

The folder of a test set has the table ``left_out``, utterance to reason; stages 1 and 2 add to it, stage 5 reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sase.data.datadir import read_table, write_table
from sase.errors import InputError

TABLE = "left_out"


def require_none(where: str | Path, bad: Mapping[str, str], skip: bool, log: Callable[[str], object]) -> None:
    """Log the bad utterances of a test set, or raise InputError, which names them, unless they are to be skipped.

    Args:
        where: file or folder, for the messages.
        bad: utterance to reason.
        skip: whether they are left out.
        log: called with a line for each.
    """
    if bad and not skip:
        raise InputError(
            f"{where}: {len(bad)} bad utterances in the test set: {describe(bad)}; repair them, or leave them out with "
            "--skip-bad-test, which marks the results"
        )
    for utt, reason in bad.items():
        log(f"{utt}: left out of the test set: {reason}")


def describe(bad: Mapping[str, str], limit: int = 20) -> str:
    """Return the first bad utterances and their reasons in one line."""
    rest = f"; and {len(bad) - limit} more" if len(bad) > limit else ""
    return "; ".join(f"{utt} ({reason})" for utt, reason in list(bad.items())[:limit]) + rest


def read(folder: str | Path) -> dict[str, str]:
    """Return utterance to reason; empty if nothing was left out."""
    path = Path(folder) / TABLE
    return read_table(path) if path.is_file() else {}


def write(folder: str | Path, bad: Mapping[str, str]) -> None:
    """Write the table, or delete it if nothing was left out."""
    if bad:
        write_table(Path(folder) / TABLE, bad)
    else:
        (Path(folder) / TABLE).unlink(missing_ok=True)

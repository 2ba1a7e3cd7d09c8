"""What the operator asks of a running federation: to pause or to stop after the present round.

A file in the experiment folder carries it, which the server reads between two rounds. No work is lost, unlike with
Ctrl-C, which has the present round repeated. The silos stay connected.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from sase.atomic import write_text
from sase.errors import InputError
from sase.processes import folder_lock

FILE = "request"  # in the experiment folder, while there is one
PAUSE, STOP, CONTINUE = "pause", "stop", "continue"
_POLL_S = 1.0

log = logging.getLogger(__name__)


class StoppedError(KeyboardInterrupt):
    """The training was stopped by request, after a completed round; by default, commands end as after Ctrl-C."""


def ask(exp_dir: str | Path, request: str) -> None:
    """Ask the federation that runs in a folder to pause, to continue or to stop.

    Raises:
        InputError: none runs there.
    """
    folder = Path(exp_dir)
    if not folder.is_dir() or not _is_running(folder):
        raise InputError(f"{folder}: no federation is running there; to resume one, run its command again")
    if request == CONTINUE:
        clear(folder)
    else:
        write_text(folder / FILE, f"{request}\n")


def clear(exp_dir: str | Path) -> None:
    """Forget what was asked."""
    (Path(exp_dir) / FILE).unlink(missing_ok=True)


def obey(exp_dir: str | Path, done: int, total: int) -> None:
    """Do what is asked between two rounds: return now, or when a pause has ended.

    Args:
        exp_dir: the experiment folder.
        done: number of completed rounds.
        total: of all rounds.

    Raises:
        StoppedError: it is to stop.
    """
    if _read(exp_dir) == PAUSE:
        log.info("paused after round %d of %d, until 'sase federate --exp %s --continue'", done, total, exp_dir)
        while _read(exp_dir) == PAUSE:
            time.sleep(_POLL_S)
        if _read(exp_dir) != STOP:
            log.info("continuing after round %d", done)
    raise_if_stopped(exp_dir, done, total)


def raise_if_stopped(exp_dir: str | Path, done: int, total: int) -> None:
    """Raise StoppedError if it is to stop."""
    if _read(exp_dir) == STOP:
        log.info("stopped after round %d of %d, as requested; run the same command to resume", done, total)
        raise StoppedError


def _read(exp_dir: str | Path) -> str:
    try:
        return (Path(exp_dir) / FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _is_running(folder: Path) -> bool:
    try:
        with folder_lock(folder):
            return False
    except InputError:
        return True

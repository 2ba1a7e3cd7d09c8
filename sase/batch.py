"""Batches: an item that fails is named and counted, and the others are done."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sase.errors import DiskFullError, InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

debug_log = logging.getLogger(__name__)


class Failures:
    """The failed items of a batch.

    Args:
        log: called with a line for each failure.

    Attributes:
        reasons: item to reason, in one line.
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self.reasons: dict[str, str] = {}
        self._log = log

    def __len__(self) -> int:
        return len(self.reasons)

    @contextmanager
    def of(self, item: str) -> Iterator[None]:
        """Let an exception in the block be the failure of this item, unless all following items would fail too.

        Raises:
            OSError: the disk is full.
            ModuleNotFoundError: a package is missing.
        """
        try:
            yield
        except Exception as error:
            if ends_batch(error):
                raise
            debug_log.debug("%s", item, exc_info=True)
            self.reasons[item] = reason_of(error).removeprefix(f"{item}: ")
            self._log(f"{item}: {self.reasons[item]}")


def reason_of(error: Exception) -> str:
    """Return an exception's message in one line, with the name of its type where that is unexpected."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (InputError, OSError)) else f"{type(error).__name__}: {text}".rstrip(": ")


def ends_batch(error: Exception) -> bool:
    """Return whether an exception would meet every following item too: a full disk or a missing package."""
    if isinstance(error, OSError):
        return isinstance(error, DiskFullError) or error.errno in _FULL
    return isinstance(error, ModuleNotFoundError)

"""What a check found, and what to do about it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sase.errors import InputError, one_line

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked, such as ``disk``.
        status: ``ok``, ``warning`` (a silo can take part) or ``failed`` (it cannot).
        message: what was found.
        remedy: what to do about it; empty if nothing has to be done.
    """

    check: str
    status: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.status:<8} {self.check}: {self.message}{remedy}"


def guarded(check: str, remedy: str, run: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of ``run``; an error that it raises is a failure.

    Args:
        check: name of the failed check.
        remedy: what to do if the error does not say it, after a semicolon.
        run: the check.
    """
    try:
        yield from run()
    except (InputError, OSError) as error:
        message, separator, advice = one_line(error).rpartition("; ")
        yield Finding(check, FAILED, *((message, advice) if separator else (advice, remedy)))


def validity(check: str, what: str, until: datetime.datetime, remedy: str, warn_days: int = 30) -> Finding:
    """Return the finding about something that is valid until a time, with a warning some days before."""
    left = until - datetime.datetime.now(datetime.UTC)
    message = f"{what} {'expired' if left.total_seconds() < 0 else 'is valid until'} {until:%Y-%m-%d %H:%M} UTC"
    if left.total_seconds() < 0:
        return Finding(check, FAILED, message, remedy)
    if left.days < warn_days:
        return Finding(check, WARNING, message, remedy)
    return Finding(check, OK, message)

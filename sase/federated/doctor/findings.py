"""What a check found, and what to do about it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from sase.errors import InputError, one_line

Result = TypeVar("Result")

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


def guarded(
    check: str, remedy: str, run: Callable[[], Generator[Finding, None, Result]]
) -> Generator[Finding, None, Result | None]:
    """Yield the findings of ``run`` and return what it returns; an error that it raises is a failure, and returns None.

    Args:
        check: name of the failed check.
        remedy: what to do if the error does not say it, after a semicolon.
        run: the check.
    """
    try:
        return (yield from run())
    except PermissionError as error:
        yield Finding(check, FAILED, one_line(error), "give this user access to it, with chown or chmod")
    except (InputError, OSError) as error:
        message, separator, advice = one_line(error).rpartition("; ")
        yield Finding(check, FAILED, *((message, advice) if separator else (advice, remedy)))
    return None


def validity(check: str, what: str, certificate: x509.Certificate, remedy: str, warn_days: int = 30) -> Finding:
    """Return the finding about the time in which a certificate is valid, with a warning some days before its end."""
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    if now < since:
        clock = f"set this machine's clock, which says {now:%Y-%m-%d %H:%M} UTC: timedatectl set-ntp true"
        return Finding(check, FAILED, f"{what} is not valid before {since:%Y-%m-%d %H:%M} UTC", clock)
    left = until - now
    message = f"{what} {'expired' if left.total_seconds() < 0 else 'is valid until'} {until:%Y-%m-%d %H:%M} UTC"
    if left.total_seconds() < 0:
        return Finding(check, FAILED, message, remedy)
    if left.days < warn_days:
        return Finding(check, WARNING, message, remedy)
    return Finding(check, OK, message)

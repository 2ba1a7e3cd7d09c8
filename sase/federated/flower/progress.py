"""What a running federation waits for: the ServerApp records it, its parent process reports it and gives up in the end.

Several processes wait for each other here, and each of Flower's retries for ever. One of them, which depends on none,
watches all of them: the one that the user started.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sase.atomic import write_text
from sase.errors import InputError
from sase.processes import last_line
from sase.waiting import Waiting

OPTIONS = ("start_s", "stall_s")  # of both engines
_START_S = 600.0
_EXTRA_S = 600.0  # beyond the timeouts of the ServerApp, which fail with a better reason
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Status:
    """The file in a federation's folder that says what the ServerApp waits for; empty while it computes."""

    def __init__(self, home: str | Path) -> None:
        self.path = Path(home) / "waiting_for"

    def clear(self) -> None:
        """Remove the file: the ServerApp has not started."""
        self.path.unlink(missing_ok=True)

    def write(self, waiting_for: str) -> None:
        """Record what the ServerApp waits for from now on, such as ``replies of silo 2``, if that has changed."""
        if self.read() != waiting_for:
            write_text(self.path, waiting_for)

    def read(self) -> str | None:
        """Return what the ServerApp waits for; None before it has started."""
        return self.path.read_text(encoding="utf-8") if self.path.exists() else None


@dataclass(frozen=True)
class Patience:
    """How long a federation may make no progress.

    Attributes:
        start_s: until the ServerApp has started, seconds.
        stall_s: later, while it waits for others, seconds.
    """

    start_s: float
    stall_s: float

    @classmethod
    def read(cls, options: Mapping[str, str], longest_timeout_s: float) -> "Patience":
        """Return the patience that an engine's options ``start_s`` and ``stall_s`` ask for.

        Args:
            options: of the engine.
            longest_timeout_s: the longest timeout of the ServerApp; by default, ``stall_s`` is 10 minutes more.

        Raises:
            InputError: an option is not a positive number.
        """
        start_s = seconds(options, "start_s", _START_S)
        return cls(start_s, seconds(options, "stall_s", longest_timeout_s + _EXTRA_S))


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """Return an engine's option in seconds.

    Raises:
        InputError: it is not a positive number.
    """
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--engine-option {name}={options[name]}: must be a positive number of seconds")
    return value


class Watch:
    """Reports what a federation waits for, and gives up after a time without any change.

    Args:
        home: the federation's folder.
        patience: after which time it gives up.
        logs: whose last line tells why Flower has not started the ServerApp.
    """

    def __init__(self, home: Path, patience: Patience, logs: tuple[Path, ...]) -> None:
        self.status, self.patience, self.logs = Status(home), patience, logs
        self.status.clear()
        self._seen: str | None = None
        self._waiting = Waiting()

    def check(self) -> None:
        """Report or give up if it is time to; call it periodically.

        Raises:
            InputError: no progress for too long; says what is waited for.
        """
        status = self.status.read()
        if status != self._seen:
            self._seen = status
            self._waiting.restart()
        if status == "":  # the server computes
            return
        name, limit_s = ("start_s", self.patience.start_s) if status is None else ("stall_s", self.patience.stall_s)
        if self._waiting.seconds > limit_s:
            raise InputError(
                f"no progress for {self._waiting.seconds:.0f} s, waiting for {self._reason(status)}; "
                f"run the same command to resume, with --engine-option {name}=N to wait longer"
            )
        self._waiting.report(lambda: self._reason(status), limit_s)

    def _reason(self, status: str | None) -> str:
        if status is not None:
            return status
        lines = {path.name: " ".join(_COLOUR.sub("", last_line(path)).split()) for path in self.logs}
        said = "; ".join(f"{name}: {line}" for name, line in lines.items() if line)
        return f"Flower to start the server ({said or 'its logs are empty'})"

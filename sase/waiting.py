"""What a command waits for, said to the user: from half a minute on, and less and less often."""

import sys
import time
from collections.abc import Callable

FIRST_REPORT_S = 30.0
MAX_INTERVAL_S = 600.0


class Waiting:
    """Measures how long a command has waited, and reports to standard error what for.

    Nothing is written to the log, which records what happened.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to wait now."""
        self._since, self._report_after_s = time.monotonic(), FIRST_REPORT_S

    @property
    def seconds(self) -> float:
        """How long the wait has lasted."""
        return time.monotonic() - self._since

    def report(self, what: Callable[[], str], limit_s: float) -> None:
        """Report if it is time to; call it periodically.

        Args:
            what: returns what is waited for.
            limit_s: after how many seconds the caller gives up.
        """
        if self.seconds <= self._report_after_s:
            return
        self._report_after_s += min(self._report_after_s, MAX_INTERVAL_S)
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        sys.stderr.write(f"{when} waiting for {what()} ({self.seconds:.0f} of {limit_s:.0f} s)\n")
        sys.stderr.flush()

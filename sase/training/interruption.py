"""Ctrl-C and SIGTERM during training: deferred until there is a state to save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Interruption:
    """Defers the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.

    ::

        with interruption.deferred():
            for batch in batches:
                step(batch)
                if interruption.received:
                    save()
                    interruption.stop()

    Attributes:
        received: the number of the signal; 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._deferring = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Handle the signals in the block, unless they are ignored; only the main thread can."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
            before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within :meth:`deferred`: let a signal end the block, also one that was received before it.

        Raises:
            KeyboardInterrupt, SystemExit: as :meth:`stop`.
        """
        self._deferring = False
        try:
            if self.received:
                self.stop()
            yield
        finally:
            self._deferring = True

    def stop(self) -> NoReturn:
        """Raise what ends the process: KeyboardInterrupt for SIGINT, else SystemExit with 128 + the signal's number."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received, number
        if again or not self._deferring:
            self.stop()

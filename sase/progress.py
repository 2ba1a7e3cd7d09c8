"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_INTERVAL_S = 30.0  # between lines


def progress_bar(
    desc: str,
    total: int | None,
    unit: str,
    log: Callable[[str], Any],
    line: str = "{desc}: {n_fmt}/{total_fmt} {unit}",
    **options: Any,
) -> tqdm:
    """Return a tqdm bar if standard error is a terminal; otherwise one that logs a line every 30 s.

    Args:
        desc: what is being done.
        total: number of units; None: unknown.
        unit: what is counted; ``B`` is scaled to kB, MB, GB.
        log: called with each line.
        line: format of the lines, in tqdm's ``bar_format``.
        options: further arguments of tqdm.
    """
    from tqdm import tqdm

    if unit == "B":
        options |= {"unit_scale": True, "unit_divisor": 1000}
    if not sys.stderr.isatty():
        options |= {"file": _Lines(log), "mininterval": _INTERVAL_S, "delay": _INTERVAL_S, "miniters": 1}
        options["bar_format"] = line
    return tqdm(desc=desc, total=total, unit=unit, **options)


def write_line(text: str) -> None:
    """Print a line to standard error, above the bar if one is drawn."""
    if "tqdm" not in sys.modules:
        print(text, file=sys.stderr)
        return
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


class _Lines:
    """A stream for tqdm that passes each line on."""

    def __init__(self, log: Callable[[str], Any]) -> None:
        self._log = log

    def write(self, text: str) -> None:
        if text.strip():
            self._log(text.strip())

    def flush(self) -> None:
        """Do nothing: lines are passed on at once."""

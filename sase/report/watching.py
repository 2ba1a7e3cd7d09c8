"""The page of experiments that are still training, written again whenever their folders have changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

_FILES = ("*.yaml", "*.jsonl", "enhanced_*/spk1.scp", "enhanced_*/scoring/scores.csv")


def watch(folders: Sequence[str | Path], write: Callable[[], object], interval_s: float) -> None:
    """Call ``write`` now and whenever what a page shows of these folders has changed, until interrupted.

    Args:
        folders: of the experiments.
        write: writes the page.
        interval_s: between two looks at the folders.
    """
    seen: object = None
    while True:
        if (now := state_of(folders)) != seen:
            seen = now
            write()
        time.sleep(interval_s)


def state_of(folders: Sequence[str | Path]) -> list[tuple[str, int, int]]:
    """Return path, size and time of change (ns) of the files that a page shows; files may vanish meanwhile."""
    found = []
    for path in sorted(path for folder in folders for pattern in _FILES for path in Path(folder).glob(pattern)):
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return found

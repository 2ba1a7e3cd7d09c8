"""Locks of stages 2, 4 and 5: jobs of one stage run side by side, everything else excludes each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sase.processes import folder_lock


@contextmanager
def output_lock(out: str | Path, job: int | None = None, within: int = 1) -> Iterator[None]:
    """Lock the output of a stage; meanwhile nothing trains in its experiment folder, if it has one.

    Args:
        out: the folder that is written to, below an experiment folder or anywhere else.
        job: the number of a shard, which shares the folder with other shards; None: nothing else may write to it.
        within: number of folders above ``out`` that are locked too, shared, if they are an experiment's or have a lock.

    Raises:
        InputError: another process has locked one of them.
    """
    out = Path(out)
    with ExitStack() as locks:
        for folder in list(out.resolve().parents)[:within]:
            if (folder / "lock").is_file() or (folder / "config.yaml").is_file():
                locks.enter_context(folder_lock(folder, shared=True))
        locks.enter_context(folder_lock(out, shared=job is not None))
        if job is not None:
            locks.enter_context(folder_lock(out, name=f"lock.{job}"))
        yield

"""Items in worker processes, one at a time each; a worker that is killed costs its item only."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from sase.batch import reason_of
from sase.errors import InputError
from sase.processes import kill_with_parent, terminated_as_exit

Item = TypeVar("Item")
Result = TypeVar("Result")
_END_S = 5.0  # that a worker has to clean up


class WorkerKilledError(InputError):
    """The process that worked on an item ended without an answer."""


def run(
    work: Callable[[Item, Callable[[Any], None]], Result],
    items: Sequence[Item],
    num_workers: int,
    on_report: Callable[[int, Any], None],
) -> Generator[tuple[int, Result | Exception], None, None]:
    """Yield the index of each item and its result, or the exception that it raised, in the order of completion.

    Workers are forks of this process: what it has loaded is theirs too. They end with it, and when the iterator is
    closed; they then clean up as on SIGTERM, and leave Ctrl-C to this process.

    Args:
        work: ``work(item, report)`` returns the result; ``report(value)`` may be called at any time.
        items: what to work on.
        num_workers: number of processes; with one, all work is done in this process.
        on_report: called with the index of an item and a reported value.
    """
    if num_workers == 1:
        for index, item in enumerate(items):
            try:
                yield index, work(item, lambda value, index=index: on_report(index, value))  # type: ignore[misc]
            except Exception as error:
                yield index, error
        return
    waiting = iter(range(len(items)))
    workers: list[_Worker] = []
    try:
        for index in (next(waiting) for _ in range(min(num_workers, len(items)))):
            workers.append(_Worker(work, items, index))
        while workers:
            for worker in _wait_for(workers):
                kind, value = worker.receive()
                if kind == "report":
                    on_report(worker.index, value)
                    continue
                yield worker.index, value
                following = next(waiting, None)
                if kind == "lost" or following is None:
                    worker.end()
                    workers.remove(worker)
                    if kind == "lost" and following is not None:
                        workers.append(_Worker(work, items, following))
                else:
                    worker.begin(following)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()


class _Worker:
    """A process and its end of the connection.

    Args:
        work, items: as for :func:`run`.
        index: of its first item.
    """

    def __init__(self, work: Callable[..., Any], items: Sequence[Any], index: int) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process: ForkProcess = context.Process(target=_serve, args=(theirs, work, items), daemon=True)
        self.process.start()
        theirs.close()
        self.begin(index)

    def begin(self, index: int) -> None:
        self.index = index
        with suppress(OSError):  # it has ended, which receive() finds out
            self.connection.send(index)

    def receive(self) -> tuple[str, Any]:
        """Return ``report``, ``done`` or ``lost`` and what belongs to it."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            status = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            return "lost", WorkerKilledError(f"its process {how}; is there enough memory?")

    def end(self) -> None:
        with suppress(OSError):
            self.connection.send(None)  # closing would not end it: later forks have copies of the connection
        self.connection.close()
        self.process.join(_END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _wait_for(workers: Sequence[_Worker]) -> list[_Worker]:
    """Return the workers that have something to say, at least one."""
    ready = set(wait([worker.connection for worker in workers]))
    return [worker for worker in workers if worker.connection in ready]


def _serve(connection: Connection, work: Callable[..., Any], items: Sequence[Any]) -> None:
    kill_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the parent handles in its own way
    with terminated_as_exit():
        while True:
            try:
                index = connection.recv()
            except (EOFError, OSError):
                return
            if index is None:
                return
            try:
                answer = work(items[index], lambda value: connection.send(("report", value)))
            except Exception as error:
                answer = _portable(error)
            connection.send(("done", answer))


def _portable(error: Exception) -> Exception:
    """Return an exception that another process can receive."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(reason_of(error))

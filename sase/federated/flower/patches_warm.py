"""A silo's ClientApp in one process for all rounds, which keeps torch imported and the silo's data loaded.

Flower starts a process for every task: 4 s of CPU time for imports in every round of every silo. Its SuperExec here
hands tasks to a process that it has started before, over a socket. That process is a new one, not a fork of the
SuperExec: a fork has the locks that other threads held at that moment, of logging, imports or connections, and nobody
to release them; on a starved machine such children never reply.
"""

import importlib
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any, NoReturn

from sase.federated.flower.patches_busy import replace
from sase.processes import kill_with_parent

COLD_VARIABLE = "SASE_COLD_CLIENT"  # in the environment of a silo: start a process for every task, as Flower does
_DONE = b"."
_COMMAND = (sys.executable, "-m", "sase.federated.flower.warm_client")


class WarmClient:
    """The process, from the side of the SuperExec, which starts it with the first task and again when it has exited."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._busy = False

    def launch(self, token: str) -> bool:
        """Hand over a task unless the process is busy with another one.

        Args:
            token: of the task.

        Returns:
            Whether the process has taken the task; if not, it needs a process of its own.
        """
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._socket is not None
            with suppress(BlockingIOError):
                self._busy = not self._socket.recv(1 << 10, socket.MSG_DONTWAIT) and self._busy
            if self._busy:
                return False
            try:
                self._socket.sendall(token.encode() + b"\n")
            except OSError:  # it exits just now
                assert self._process is not None
                self._process.wait()
                continue
            self._busy = True
            return True
        return False

    def _start(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, theirs = socket.socketpair()
        command = [*_COMMAND, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], preexec_fn=kill_with_parent)
        theirs.close()
        self._busy = False


class _TaskOver(BaseException):
    """Raised where Flower would exit after a task."""


def serve_tasks(connection: socket.socket, address: str) -> None:
    """Run the tasks whose tokens arrive on a connection, one after another, until it is closed.

    Args:
        connection: to the SuperExec.
        address: of the Runtime API, for which Flower's clients use a socket.
    """
    task = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    replace(task, "flwr_exit", _end_task)
    with connection.makefile("r") as tokens:
        for token in tokens:
            with suppress(_TaskOver):
                task.run_clientapp(address, token.strip(), insecure=True, runtime_dependency_install=False)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # instead of the handlers of the task
            connection.sendall(_DONE)


def _end_task(code: int, *_: object, **__: object) -> NoReturn:
    """End a task as Flower does, except for the process, which Flower would also kill 5 s later."""
    from flwr.supercore.exit.exit_handler import trigger_exit_handlers

    for before in (True, False):
        trigger_exit_handlers(run_before_force_exit=before)
    raise _TaskOver(code)


def wants_warm_client(spec: Any) -> bool:
    """Whether a task, as Flower's SuperExec describes it, is that of a deployed silo and not to start cold."""
    from flwr.supercore.constant import TaskType

    return spec.task_type == TaskType.CLIENT_APP and not os.environ.get(COLD_VARIABLE)

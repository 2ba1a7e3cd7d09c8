"""Distributed training: torchrun starts the processes on every machine and restarts them when one is lost."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sase.endpoints import free_port, is_endpoint, publish_endpoint, resolve_endpoint
from sase.errors import InputError
from sase.processes import child_environment
from sase.training.distributed import local_environment

MAX_RESTARTS = 3
_JOIN_TIMEOUT_S = 3600  # machines wait this long for each other: a scheduler may not start them together
_ABORT = signal.SIGUSR1  # sent to torchrun: end without restart


def under_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def processes_per_node(ngpu: int, processes: int | None = None) -> int:
    """Return the number of processes on each machine: ``processes``, or by default one per GPU, or one.

    Raises:
        InputError: more GPUs than this machine has, or a number of processes that does not fit.
    """
    if ngpu > (available := torch.cuda.device_count()):
        raise InputError(f"--ngpu {ngpu}: {available} GPUs available on this machine; use --ngpu 0 for the CPU")
    count = max(1, ngpu) if processes is None else processes
    if count < 1 or (ngpu and count != ngpu):
        raise InputError(f"--processes {count}: must be 1 or more, and equal to --ngpu where that is given")
    return count


def threads_per_process(processes: int) -> int:
    """Return the number of CPU threads per process: ``OMP_NUM_THREADS``, or an equal share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // processes))


def launch(
    processes: int, threads: int, num_nodes: int = 1, node_rank: int = 0, rendezvous: str | Path | None = None
) -> None:
    """Run ``sase train`` with this process's arguments under torchrun; return when training has finished.

    When a process is lost, torchrun restarts all of them, up to :data:`MAX_RESTARTS` times, and they resume from the
    last checkpoint. All machines must share the experiment folder.

    Args:
        processes: per machine.
        threads: CPU threads per process.
        num_nodes: number of machines; call this on each of them.
        node_rank: of this machine; node 0 hosts the rendezvous.
        rendezvous: HOST:PORT of node 0, or a file on a shared disk to which it writes them; not needed for one
            machine. The file must not exist before the first machine is started.

    Raises:
        InputError: training failed, or the machines did not find each other.
    """
    # Otherwise a machine that rejoins waits for an address that was sent to the machines of the previous round only.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    options = [f"--nnodes={num_nodes}", f"--nproc-per-node={processes}", f"--max-restarts={MAX_RESTARTS}"]
    folder = tempfile.TemporaryDirectory(prefix="sase_")  # of mode 0700
    options += ["--rdzv-backend=c10d", "--rdzv-id=sase"]
    if num_nodes == 1:
        options += [f"--rdzv-endpoint={folder.name}/rendezvous", "--rdzv-conf=store_type=file"]
        os.environ.update(local_environment(folder.name))
    else:
        endpoint = _rendezvous_endpoint(node_rank, rendezvous)
        conf = f"join_timeout={_JOIN_TIMEOUT_S},is_host={int(node_rank == 0)}"
        options += [f"--rdzv-endpoint={endpoint}", f"--rdzv-conf={conf}"]
    options += [f"--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,{_ABORT.name}"]
    os.environ.update(child_environment(threads))
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.ERROR)  # each logger has its own level
    try:
        with folder:
            run(parse_args([*options, "-m", "sase.bin.train", *sys.argv[1:]]))
    except ChildFailedError as error:
        rank, code = min((failure.timestamp, rank, failure.exitcode) for rank, failure in error.failures.items())[1:]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        raise InputError(f"rank {rank} {how} after {MAX_RESTARTS} restarts; see its output above") from None
    except SignalException as error:
        sys.exit(1 if error.sigval == _ABORT else 128 + error.sigval)
    except (RendezvousError, torch.distributed.DistError) as error:
        raise InputError(f"the {num_nodes} machines did not find or lost each other ({error})") from None


@contextmanager
def abort_launcher_on_error() -> Iterator[None]:
    """Let an InputError in the block, which a restart cannot fix, end torchrun without restarts."""
    try:
        yield
    except InputError as error:
        if under_torchrun():
            # All processes print it at the same time: one write each keeps the lines whole.
            sys.stderr.write(f"sase train: {' '.join(str(error).split())}\n")
            sys.stderr.flush()
            os.kill(os.getppid(), _ABORT)
            time.sleep(60)  # until torchrun ends this process
        raise


def _rendezvous_endpoint(node_rank: int, rendezvous: str | Path | None) -> str:
    """Return HOST:PORT of node 0."""
    if not rendezvous:
        raise InputError("--num-nodes needs --rendezvous: HOST:PORT of node 0, or a file on a shared disk")
    if node_rank == 0 and not is_endpoint(rendezvous):
        return publish_endpoint(rendezvous, free_port())
    return resolve_endpoint(rendezvous, _JOIN_TIMEOUT_S)

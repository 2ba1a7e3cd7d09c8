"""Several training processes, on this machine and on others: started by torchrun, started anew when one is lost."""

import logging
import os
import signal
import sys
import time
from contextlib import contextmanager

import torch

from sase.endpoints import free_port, is_endpoint, publish_endpoint, resolve_endpoint
from sase.errors import InputError
from sase.processes import child_environment

MAX_RESTARTS = 3
_JOIN_S = 3600  # how long machines wait for each other: a scheduler may give them one after the other
_IN_VAIN = signal.SIGUSR1  # to torchrun: do not start anything anew


def under_torchrun():
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def processes_per_node(ngpu, processes=None):
    """Return how many processes each machine has: ``processes`` or, where that is None, one a GPU, or one.

    Raises:
        InputError: for what this machine does not have.
    """
    if ngpu > (there := torch.cuda.device_count()):
        raise InputError(f"--ngpu {ngpu}: this machine shows {there}; use --ngpu 0 for the CPU")
    count = max(1, ngpu) if processes is None else processes
    if count < 1 or (ngpu and count != ngpu):
        raise InputError(f"--processes {count}: must be 1 or more, and as many as --ngpu says, if it does")
    return count


def threads_per_process(processes):
    """Return how many threads each process of this machine has: ``OMP_NUM_THREADS``, or a share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // processes))


def launch(processes, threads, num_nodes=1, node_rank=0, rendezvous=None):
    """Run ``sase train`` with this process's arguments in several ones; return when training is over.

    Torchrun starts all of them anew when one is lost, up to :data:`MAX_RESTARTS` times, and they go on from the last
    checkpoint. All machines must see the experiment's folder.

    Args:
        processes: on each machine.
        threads: CPU threads of each.
        num_nodes: machines; on each of them this is called.
        node_rank: which one this is; that with 0 lets the others find it.
        rendezvous: HOST:PORT of machine 0, or a file that all machines see, into which it writes where it is; not
            needed for one machine. The file must not be there yet when the first of them is started.

    Raises:
        InputError: training has failed, or the other machines are not there.
    """
    # Else a machine that comes back waits for an address that the first has told the machines of before.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    words = [f"--nnodes={num_nodes}", f"--nproc-per-node={processes}", f"--max-restarts={MAX_RESTARTS}"]
    if num_nodes == 1:
        words += ["--standalone"]
    else:
        endpoint, conf = (
            _rendezvous_endpoint(node_rank, rendezvous),
            f"join_timeout={_JOIN_S},is_host={int(node_rank == 0)}",
        )
        words += ["--rdzv-backend=c10d", "--rdzv-id=sase", f"--rdzv-endpoint={endpoint}", f"--rdzv-conf={conf}"]
    words += [f"--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,{_IN_VAIN.name}"]
    os.environ.update(child_environment(threads))
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.ERROR)  # each has a level of its own
    try:
        run(parse_args([*words, "-m", "sase.bin.train", *sys.argv[1:]]))
    except ChildFailedError as error:
        rank, code = min((failure.timestamp, rank, failure.exitcode) for rank, failure in error.failures.items())[1:]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise InputError(f"process {rank} {how}, after {MAX_RESTARTS} new starts; what it said is above") from None
    except SignalException as error:
        sys.exit(1 if error.sigval == _IN_VAIN else 128 + error.sigval)
    except (RendezvousError, torch.distributed.DistError) as error:
        raise InputError(f"the {num_nodes} machines did not find each other, or lost each other ({error})") from None


@contextmanager
def abort_launcher_on_error():
    """Have an error that starting anew cannot mend, an InputError in the block, end torchrun as well."""
    try:
        yield
    except InputError as error:
        if under_torchrun():
            # All processes say it at one time: each in one write, for lines to stay whole.
            sys.stderr.write(f"sase train: {' '.join(str(error).split())}\n")
            sys.stderr.flush()
            os.kill(os.getppid(), _IN_VAIN)
            time.sleep(60)  # it ends this process
        raise


def _rendezvous_endpoint(node_rank, rendezvous):
    """Return HOST:PORT of machine 0, where all machines meet."""
    if not rendezvous:
        raise InputError("--num-nodes needs --rendezvous: HOST:PORT of the first machine, or a file that all see")
    if node_rank == 0 and not is_endpoint(rendezvous):
        return publish_endpoint(rendezvous, free_port())
    return resolve_endpoint(rendezvous, _JOIN_S)

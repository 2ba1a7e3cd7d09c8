"""The few facts that several training processes, started by torchrun, must share."""

import os
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sase.processes import kill_with_parent

# Others wait for the one that validates: longer than PyTorch's own ten minutes. Who is killed is noticed at once.
_PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Workers:
    """This process among all: its rank, how many there are, its device, and what they can leave each other word in."""

    rank: int
    count: int
    device: torch.device
    store: dist.Store | None = None

    @property
    def is_main(self):
        """Whether this is the process that validates, writes and reports."""
        return self.rank == 0

    def barrier(self):
        """Wait for all."""
        if self.count > 1:
            dist.barrier()

    def total(self, values):
        """Return a list of numbers, each summed over all processes."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def broadcast(self, function):
        """Return what ``function()`` returns in the process that leads: plain types and tensors of the CPU.

        So all go on from one state, even where a shared disk shows some of them an older file.
        """
        if self.count == 1:
            return function()
        box = [function() if self.is_main else None]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def shut_down(self):
        """End what :func:`init_workers` began; the leader is the last, since the others hang on it.

        Were it to leave while another still closes its connections, that one could fail, and be started anew by a
        launcher that would wait in vain for the leader's to join.
        """
        if self.count == 1:
            return
        if self.is_main:
            self.store.wait([f"left/{rank}" for rank in range(1, self.count)], _PATIENCE)
        dist.destroy_process_group()
        if not self.is_main:
            self.store.set(f"left/{self.rank}", "")


def init_workers(use_gpu):
    """Return the :class:`Workers` of the environment that torchrun sets; one worker where it sets none.

    A process that torchrun started dies with it: else it would train on, and write where its successor writes.

    Args:
        use_gpu: one GPU a process (NCCL); else the CPU (Gloo).
    """
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        kill_with_parent()
    store = None
    if count > 1:
        store = next(rendezvous("env://", rank, count, timeout=_PATIENCE))[0]  # anew for each start of torchrun
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of weights with a dimension of one
        backend = "nccl" if use_gpu else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE, store=store, rank=rank, world_size=count)
    return Workers(rank, count, device, store)

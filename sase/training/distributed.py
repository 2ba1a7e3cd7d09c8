"""The few facts that several training processes, started by torchrun, must share."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Workers:
    """This process among all: its rank, how many there are, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self):
        """Whether this is the process that validates, writes and reports."""
        return self.rank == 0

    def barrier(self):
        """Wait for all."""
        if self.count > 1:
            dist.barrier()

    def leave(self):
        """End what :func:`join_workers` began."""
        if self.count > 1:
            dist.destroy_process_group()


def join_workers(use_gpu):
    """Return the :class:`Workers` of the environment that torchrun sets; one worker where it sets none.

    Args:
        use_gpu: one GPU a process (NCCL); else the CPU (Gloo).
    """
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if count > 1:
        dist.init_process_group("nccl" if use_gpu else "gloo")
    return Workers(rank, count, device)

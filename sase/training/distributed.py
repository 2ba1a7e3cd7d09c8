"""Rank, world size, device and collectives of data-parallel training under torchrun."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sase.processes import kill_with_parent

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

# Other ranks wait while rank 0 validates, which may exceed PyTorch's 10 minutes. A killed rank is noticed at once.
_TIMEOUT = timedelta(hours=4)
_STORE_VARIABLE = "SASE_STORE"  # names the folder of the store of processes on one machine


@dataclass(frozen=True)
class Workers:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: of this process.
        world_size: number of processes.
        device: of this process.
        store: the process group's key-value store; None for a single process.
    """

    rank: int
    world_size: int
    device: torch.device
    store: Store | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which validates, writes files and logs."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all ranks get here."""
        if self.world_size > 1:
            dist.barrier()

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Return the element-wise sum of ``values`` over all ranks."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def broadcast(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` on rank 0 only and return its result, plain types and CPU tensors, on all ranks.

        All ranks thus use the same state, even where a shared disk still shows some of them an older file.
        """
        if self.world_size == 1:
            return function()
        box = [function() if self.is_main else None]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def shut_down(self) -> None:
        """Destroy the process group, rank 0 last, because it hosts the store.

        If rank 0 left first, another rank could fail while closing its connections, and torchrun would restart that
        rank, which would then wait for rank 0 until the timeout.
        """
        if self.store is None:
            return
        if self.is_main:
            self.store.wait([f"left/{rank}" for rank in range(1, self.world_size)], _TIMEOUT)
        dist.destroy_process_group()
        if not self.is_main:
            self.store.set(f"left/{self.rank}", "")


def local_environment(folder: str) -> dict[str, str]:
    """Return environment variables for processes on one machine: nothing of them can be reached over the network.

    PyTorch's stores listen on every interface, ask nobody for a password, and torchrun unpickles what it finds in them,
    so anyone who can connect to them can run code. Processes on one machine share files in a private folder instead.

    Args:
        folder: of mode 0700.
    """
    return {_STORE_VARIABLE: folder, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def _new_store(rank: int, world_size: int) -> Store:
    """Return the store of the process group, which is new for each restart by torchrun."""
    if folder := os.environ.get(_STORE_VARIABLE):
        from torch._C._distributed_c10d import FileStore

        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = FileStore(os.path.join(folder, f"store{restart}"), world_size)
        store.set_timeout(_TIMEOUT)
        return store
    return next(rendezvous("env://", rank, world_size, timeout=_TIMEOUT))[0]


def init_workers(use_gpu: bool) -> Workers:
    """Initialise the process group from torchrun's environment variables; without them, there is one process.

    A process started by torchrun is killed when torchrun ends; otherwise it would keep training and write to the same
    files as its replacement.

    Args:
        use_gpu: one GPU per process (NCCL), otherwise the CPU (Gloo).
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        kill_with_parent()
    store = None
    if world_size > 1:
        store = _new_store(rank, world_size)
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of weights with a dimension of size one
        backend = "nccl" if use_gpu else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=rank, world_size=world_size)
    return Workers(rank, world_size, device, store)

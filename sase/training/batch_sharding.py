"""Gradients of one batch, sharded over ranks and accumulated over micro-batches, equal to those of the whole batch."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch

from sase.errors import InputError
from sase.losses.loss import BatchTotals
from sase.training.loop import Autocast, Backward, Criterion, backward

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

    from sase.data.remix import Batch
    from sase.training.distributed import Workers


def split(rows: int, parts: int) -> list[tuple[int, int]]:
    """Return the bounds ``(first, last + 1)`` of ``parts`` contiguous ranges of ``rows`` rows, as equal as possible."""
    edges = [rows * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def batch_backward(workers: Workers, batch_size: int, micro_batch_size: int = 0) -> Backward:
    """Return the backward pass of this rank: :func:`sase.training.loop.backward` where it takes the batch in one piece.

    Args:
        workers, batch_size, micro_batch_size: as for :class:`ShardedBackward`.
    """
    sharded = ShardedBackward(workers, batch_size, micro_batch_size)
    return backward if workers.world_size == 1 and len(sharded.micro_batches) == 1 else sharded


class ShardedBackward:
    """A backward pass in which each rank takes its own rows of every batch, in one or more micro-batches.

    The loss of each micro-batch is weighted by its contribution to the loss of the whole batch, so that gradients and
    losses add up to those of a single process, however many silent references a micro-batch has and however unequal
    the shards are.

    Args:
        workers: rank and world size.
        batch_size: rows of the whole batch.
        micro_batch_size: the most rows in one forward pass; 0 for all rows of this rank.

    Raises:
        InputError: more ranks than rows.
    """

    def __init__(self, workers: Workers, batch_size: int, micro_batch_size: int = 0) -> None:
        if batch_size < workers.world_size:
            raise InputError(
                f"data.batch_size is {batch_size}, too small for {workers.world_size} processes; "
                "use fewer processes or larger batches"
            )
        self.workers = workers
        first, last = split(batch_size, workers.world_size)[workers.rank]
        count = -(-(last - first) // micro_batch_size) if micro_batch_size else 1
        self.micro_batches = [(first + a, first + b) for a, b in split(last - first, count)]

    def __call__(
        self, model: torch.nn.Module, batch: Batch, criterion: Criterion, autocast: Autocast
    ) -> dict[str, float]:
        """Do as :func:`sase.training.loop.backward`; with several ranks, ``model`` averages gradients over them."""
        totals = BatchTotals.of(batch.clean, batch.lengths)
        sums: dict[str, float] = {}
        for number, rows in enumerate(self.micro_batches, 1):
            part = batch.rows(*rows)
            # Ranks exchange gradients once per batch, with the last micro-batch.
            local = number < len(self.micro_batches) and self.workers.world_size > 1
            with cast("DistributedDataParallel", model).no_sync() if local else nullcontext():
                with autocast():
                    enhanced = model(part.noisy, part.lengths)
                loss, terms = criterion(enhanced.float(), part.clean, part.lengths, totals)
                (self.workers.world_size * loss).backward()
            for name, value in {"loss": loss.detach(), **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return dict(zip(sums, self.workers.all_reduce_sum(list(sums.values()))))

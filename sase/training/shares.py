"""The gradients of a batch that several processes share, or that one takes in parts: those of the whole batch."""

import itertools
from contextlib import nullcontext

from sase.errors import InputError
from sase.losses.objectives import BatchTotals


def split(rows, parts):
    """Return the bounds of ``parts`` runs of ``rows`` rows, as equal as can be: ``[(first, last), ...]``."""
    edges = [rows * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


class ShardedBackward:
    """Stands for :func:`sase.training.loop.backward` where a batch is shared out.

    Every process is given the whole batch, and takes rows of its own through the network, maybe in several parts. Each
    part's loss counts for what it is of the whole batch's, so that gradients, and losses, add up to those that one
    process would find: however many silent references a part has, and where the rows cannot be shared equally.

    Args:
        workers: a :class:`sase.training.distributed.Workers`.
        batch_size: rows of a batch.
        micro_batch_size: the most rows of a part; 0: all that the process has.

    Raises:
        InputError: more processes than rows.
    """

    def __init__(self, workers, batch_size, micro_batch_size=0):
        if batch_size < workers.count:
            raise InputError(
                f"data.batch_size is {batch_size}, and {workers.count} processes are to share each batch; use fewer "
                "processes, or larger batches"
            )
        self.workers = workers
        first, last = split(batch_size, workers.count)[workers.rank]
        parts = -(-(last - first) // micro_batch_size) if micro_batch_size else 1
        self.parts = [(first + a, first + b) for a, b in split(last - first, parts)]

    @property
    def whole(self):
        """Whether this process takes the whole batch at once, and there is nothing to share."""
        return self.workers.count == 1 and len(self.parts) == 1

    def backward(self, model, batch, criterion, autocast):
        """As :func:`sase.training.loop.backward`; ``model`` averages gradients over processes, if there are several."""
        whole, sums = BatchTotals.of(batch.clean, batch.lengths), {}
        for number, rows in enumerate(self.parts, 1):
            part = batch.rows(*rows)
            # Processes exchange gradients once, with the last part's.
            alone = number < len(self.parts) and self.workers.count > 1
            with model.no_sync() if alone else nullcontext():
                with autocast() if autocast else nullcontext():
                    enhanced = model(part.noisy, part.lengths)
                loss, terms = criterion(enhanced.float(), part.clean, part.lengths, whole)
                (self.workers.count * loss).backward()
            for name, value in {"loss": loss.detach(), **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return dict(zip(sums, self.workers.total(list(sums.values()))))

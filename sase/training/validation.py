"""Validation: enhance and score the development set, or a subset of it, to select an epoch or a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from sase import metrics
from sase.losses.objectives import si_snr
from sase.metrics.measures import pesq_wb
from sase.training.selection import SI_SNR

if TYPE_CHECKING:
    from sase.data.dataset import PairSet

T = TypeVar("T")

_PESQ_UTTERANCES = 50  # evenly spaced over the set: enough to select by


class PairSubset:
    """A subset of a :class:`sase.data.dataset.PairSet` for :func:`validate`.

    Args:
        pairs: the whole set.
        seconds: approximate amount of speech, in utterances evenly spaced over the set; 0 for all.
        utts: select these utterances instead; the set's order is kept.
    """

    def __init__(self, pairs: PairSet, seconds: float = 0.0, utts: Iterable[str] | None = None) -> None:
        count = len(pairs)
        if seconds:
            count = min(count, int(np.ceil(seconds / (pairs.duration_s / count))))
        chosen = np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))
        if utts is not None:
            wanted = set(utts)
            chosen = np.array([index for index, utt in enumerate(pairs.utts) if utt in wanted], dtype=int)
        self._pairs = pairs
        self._index = torch.as_tensor(chosen, device=pairs.device)
        self.utts, self.lengths = [pairs.utts[i] for i in chosen], pairs.lengths[self._index]
        self.sample_rate, self.device = pairs.sample_rate, pairs.device

    def __len__(self) -> int:
        return len(self.utts)

    def segments(
        self, utt: torch.Tensor, first: torch.Tensor, num_samples: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cut segments, as :meth:`sase.data.dataset.PairSet.segments` does."""
        return self._pairs.segments(self._index[utt], first, num_samples)


def development_scores(model: torch.nn.Module, pairs: PairSet | PairSubset, select_by: str) -> dict[str, float]:
    """Return a model's ``dev_SI_SNR`` (dB) on a set and, when selecting by it, ``dev_PESQ_WB``.

    Args:
        model, pairs: as for :func:`validate`.
        select_by: ``SI_SNR`` or ``PESQ_WB``.

    Returns:
        name to score; NaN if the network's output is not finite, so that
        :func:`sase.training.selection.is_best` never selects it.
    """
    if select_by != "PESQ_WB":
        return {SI_SNR: round(validate(model, pairs)[0], 4)}
    chosen = range(0, len(pairs), -(-len(pairs) // _PESQ_UTTERANCES))

    def pesq_of_chosen(index: int, clean: np.ndarray, enhanced: np.ndarray) -> float | None:
        if not np.isfinite(enhanced).all():
            return math.inf
        return pesq_wb(clean, enhanced, pairs.sample_rate) if index in chosen else None

    ratio, found = validate(model, pairs, pesq_of_chosen)
    values = [value for value in found if value is not None]
    pesq = math.nan if math.inf in values else round(float(np.nanmean(values)), 4)
    return {SI_SNR: round(ratio, 4), "dev_PESQ_WB": pesq}


def measure_set(model: torch.nn.Module, pairs: PairSet | PairSubset, measures: Sequence[str]) -> list[dict[str, float]]:
    """Return {measure: value} of a model's output for every utterance, in the set's order.

    Args:
        model, pairs: as for :func:`validate`.
        measures: names from :data:`sase.metrics.measures.METRICS`.
    """

    def evaluate(index: int, clean: np.ndarray, enhanced: np.ndarray) -> dict[str, float]:
        return metrics.evaluate(clean, enhanced, pairs.sample_rate, measures)

    return validate(model, pairs, evaluate)[1]


def nothing(index: int, clean: np.ndarray, enhanced: np.ndarray) -> None:
    """Measure nothing: for :func:`validate`, which then returns the mean SI-SNR alone."""


@torch.no_grad()
def validate(
    model: torch.nn.Module,
    pairs: PairSet | PairSubset,
    measure: Callable[[int, np.ndarray, np.ndarray], T] = nothing,  # type: ignore[assignment]  # T is None then
    max_batch_s: float = 60.0,
) -> tuple[float, list[T]]:
    """Enhance every utterance of a set in eval mode; the model's mode is restored afterwards.

    Memory does not grow with the set: a batch is held at a time, mostly as activations of the network. For batches of
    60 s these are about 100 MB for ``tiny``, 150 MB for ``small`` and 1.1 GB for ``paper``. Smaller batches need less
    and take up to four times as long, and the last bits of the output depend on what is batched together.

    Args:
        model: noisy waveform to enhanced waveform.
        pairs: the set.
        measure: called with the index, clean and enhanced signal (time,) of each utterance, in any order.
        max_batch_s: seconds of padded audio in a batch; utterances of similar length are batched together.

    Returns:
        The mean SI-SNR in dB over utterances whose reference is not silent, and what ``measure`` returned for each
        utterance, in the set's order.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(pairs)), key=lambda i: int(pairs.lengths[i]))
    limit, ratios = max_batch_s * pairs.sample_rate, []
    results: dict[int, T] = {}
    try:
        while order:
            batch = [order.pop()]
            longest = int(pairs.lengths[batch[0]])
            while order and (len(batch) + 1) * longest <= limit:
                batch.append(order.pop())
            index = torch.tensor(batch, device=pairs.device)
            noisy, clean, lengths = pairs.segments(index, torch.zeros_like(index), longest)
            enhanced = model(noisy, lengths).float()
            for row, utt in enumerate(batch):
                count = int(lengths[row])
                reference, estimate = clean[row : row + 1, :count], enhanced[row : row + 1, :count]
                if reference.abs().max() > 0:
                    ratios.append(float(si_snr(estimate, reference)))
                results[utt] = measure(utt, reference[0].cpu().numpy(), estimate[0].cpu().numpy())
    finally:
        model.train(was_training)
    return sum(ratios) / max(1, len(ratios)), [results[utt] for utt in range(len(pairs))]

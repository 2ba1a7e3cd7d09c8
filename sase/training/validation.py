"""Validation: enhance and score the development set, or a subset of it, to select an epoch or a round."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from sase.losses.objectives import si_snr
from sase.metrics.measures import pesq_wb

if TYPE_CHECKING:
    from sase.data.dataset import PairSet

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


def is_best(score: float, earlier: Iterable[float]) -> bool:
    """Return whether a score exceeds all earlier ones. Scores that are not finite never count, on either side."""
    return math.isfinite(score) and score > max(filter(math.isfinite, earlier), default=-math.inf)


def development_scores(model: torch.nn.Module, pairs: PairSet | PairSubset, select_by: str) -> dict[str, float]:
    """Return a model's ``dev_SI_SNR`` (dB) on a set and, when selecting by it, ``dev_PESQ_WB``.

    Args:
        model, pairs: as for :func:`validate`.
        select_by: ``SI_SNR`` or ``PESQ_WB``.

    Returns:
        name to score; NaN if the network's output is not finite, so that :func:`is_best` never selects it.
    """
    ratio, results = validate(model, pairs)
    values = {"dev_SI_SNR": round(ratio, 4)}
    if select_by == "PESQ_WB":
        values["dev_PESQ_WB"] = math.nan
        if all(np.isfinite(enhanced).all() for _, enhanced in results):
            chosen = results[:: -(-len(results) // _PESQ_UTTERANCES)]
            values["dev_PESQ_WB"] = round(float(np.nanmean([pesq_wb(c, e, pairs.sample_rate) for c, e in chosen])), 4)
    return values


@torch.no_grad()
def validate(
    model: torch.nn.Module, pairs: PairSet | PairSubset, max_batch_s: float = 60.0
) -> tuple[float, list[tuple[np.ndarray, np.ndarray]]]:
    """Enhance every utterance of a set in eval mode; the model's mode is restored afterwards.

    Args:
        model: noisy waveform to enhanced waveform.
        pairs: the set.
        max_batch_s: seconds of padded audio in a batch; utterances of similar length are batched together.

    Returns:
        The mean SI-SNR in dB over utterances whose reference is not silent, and (clean, enhanced) of each utterance,
        (time,) each, in the set's order.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(pairs)), key=lambda i: int(pairs.lengths[i]))
    limit, ratios = max_batch_s * pairs.sample_rate, []
    results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
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
            results[utt] = reference[0].cpu().numpy(), estimate[0].cpu().numpy()
    model.train(was_training)
    return sum(ratios) / max(1, len(ratios)), [results[utt] for utt in range(len(pairs))]

"""The development set: what enhances and scores it, all of it or a part, to choose an epoch or a round by."""

import numpy as np
import torch

from sase.losses.objectives import si_snr
from sase.metrics.measures import pesq_wb

_PESQ_UTTERANCES = 50  # evenly spread: enough to choose by


class PairSubset:
    """Some utterances of a :class:`sase.data.dataset.PairSet`, as :func:`validate` takes it.

    Args:
        pairs: the whole.
        seconds: of speech, about, in utterances spread evenly over the set; 0 for all.
        utts: names of utterances, in the set's order, instead.
    """

    def __init__(self, pairs, seconds=0.0, utts=None):
        count = len(pairs)
        if seconds:
            count = min(count, int(np.ceil(seconds / (pairs.duration_s / count))))
        chosen = np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))
        if utts is not None:
            wanted = set(utts)
            chosen = np.array([place for place, utt in enumerate(pairs.utts) if utt in wanted], dtype=int)
        self._pairs = pairs
        self._index = torch.as_tensor(chosen, device=pairs.device)
        self.utts, self.lengths = [pairs.utts[i] for i in chosen], pairs.lengths[self._index]
        self.sample_rate, self.device = pairs.sample_rate, pairs.device

    def __len__(self):
        return len(self.utts)

    def segments(self, utt, first, num_samples):
        """Cut segments, as :meth:`sase.data.dataset.PairSet.segments` does."""
        return self._pairs.segments(self._index[utt], first, num_samples)


def development_scores(model, pairs, select_by):
    """Return ``dev_SI_SNR`` (dB) of a model on a set and, where one chooses by it, ``dev_PESQ_WB``.

    Args:
        model, pairs: as for :func:`validate`.
        select_by: ``SI_SNR`` or ``PESQ_WB``.
    """
    ratio, results = validate(model, pairs)
    values = {"dev_SI_SNR": round(ratio, 4)}
    if select_by == "PESQ_WB":
        chosen = results[:: -(-len(results) // _PESQ_UTTERANCES)]
        values["dev_PESQ_WB"] = round(float(np.nanmean([pesq_wb(c, e, pairs.sample_rate) for c, e in chosen])), 4)
    return values


@torch.no_grad()
def validate(model, pairs, max_batch_s=60.0):
    """Enhance every utterance of a set and return both signals of each.

    Args:
        model: in any mode; it is evaluated in eval mode and left as it was.
        pairs: a :class:`sase.data.dataset.PairSet`.
        max_batch_s: seconds of padded audio a batch; utterances of like length go together.

    Returns:
        The mean SI-SNR in dB (silent references left out), and a list of (clean, enhanced) numpy arrays in the set's
        order.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(pairs)), key=lambda i: int(pairs.lengths[i]))
    limit, results, ratios = max_batch_s * pairs.sample_rate, [None] * len(pairs), []
    while order:
        batch = [order.pop()]
        longest = int(pairs.lengths[batch[0]])
        while order and (len(batch) + 1) * longest <= limit:
            batch.append(order.pop())
        index = torch.tensor(batch, device=pairs.device)
        noisy, clean, lengths = pairs.segments(index, torch.zeros_like(index), longest)
        enhanced = model(noisy, lengths).float()
        for row, place in enumerate(batch):
            count = int(lengths[row])
            reference, estimate = clean[row : row + 1, :count], enhanced[row : row + 1, :count]
            if reference.abs().max() > 0:
                ratios.append(float(si_snr(estimate, reference)))
            results[place] = reference[0].cpu().numpy(), estimate[0].cpu().numpy()
    model.train(was_training)
    return sum(ratios) / max(1, len(ratios)), results

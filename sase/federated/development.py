"""The server's development set: what scores each round, and on what the ``sase`` strategy judges updates."""

import numpy as np
import torch

from sase.metrics import pesq_wb
from sase.training.loop import validate

_PESQ_UTTERANCES = 50  # evenly spread: enough to choose a round by


class PairSubset:
    """Some utterances of a :class:`sase.dataset.PairSet`, as :func:`sase.training.loop.validate` takes it.

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
        """Cut segments, as :meth:`sase.dataset.PairSet.segments` does."""
        return self._pairs.segments(self._index[utt], first, num_samples)


def scores(model, pairs, select_by):
    """Return ``dev_SI_SNR`` (dB) of a model on a set and, where rounds are chosen by it, ``dev_PESQ_WB``."""
    ratio, results = validate(model, pairs)
    values = {"dev_SI_SNR": round(ratio, 4)}
    if select_by == "PESQ_WB":
        chosen = results[:: -(-len(results) // _PESQ_UTTERANCES)]
        values["dev_PESQ_WB"] = round(float(np.nanmean([pesq_wb(c, e, pairs.sample_rate) for c, e in chosen])), 4)
    return values

"""Scores of global models, and of single updates, on the server's development set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from sase.data.dataset import PairSet
from sase.federated.admission import Admitted
from sase.federated.config import FederatedConfig
from sase.federated.global_model import GlobalModel
from sase.federated.layout import load_arrays
from sase.training.selection import SI_SNR
from sase.training.validation import PairSubset, development_scores, validate


class Development:
    """Scores models on the development set, or on the common set, a smaller part of it.

    Args:
        network: receives the weights that are scored, and keeps them.
        pairs: the whole development set.
        config: of the federation.
        select_by: the score that selects the best round, as in the training config.
    """

    def __init__(self, network: nn.Module, pairs: PairSet, config: FederatedConfig, select_by: str) -> None:
        self.network, self.select_by, self.max_drop_db = network, select_by, config.max_drop_db
        self.pairs = pairs
        self._dev, self._common = PairSubset(pairs, config.dev_s), PairSubset(pairs, config.common_dev_s)

    def scores(self, model: GlobalModel) -> dict[str, float]:
        """Return the scores of a model for the record of its round; the SI-SNR is NaN if the output is not finite."""
        if self.select_by == "PESQ_WB" and not math.isfinite(self.quick_db(model)):
            return {SI_SNR: math.nan}
        load_arrays(self.network, model.averaged)
        return development_scores(self.network, self._dev, self.select_by)

    def quick_db(self, model: GlobalModel) -> float:
        """Return the SI-SNR (dB) of a model on the common set."""
        return self._common_db(model.averaged)

    def lowest_db(self, history: Sequence[Mapping[str, Any]], initial_db: float) -> float:
        """Return the SI-SNR (dB) below which a round has collapsed: ``max_drop_db`` below the best before it.

        Args:
            history: the records of the completed rounds; what precedes a collapse that was kept does not count.
            initial_db: the SI-SNR of the model before the first round; −inf if it was not trained.
        """
        kept = max((index for index, record in enumerate(history) if "collapsed" in record), default=-1)
        scores = [record[SI_SNR] for record in history[max(kept, 0) :]]
        best = max(filter(math.isfinite, scores if kept >= 0 else [initial_db, *scores]), default=-math.inf)
        return best - self.max_drop_db if self.max_drop_db else -math.inf

    def initial_db(self, present: GlobalModel, trained: bool) -> float:
        """Return the SI-SNR (dB) of the model before the first round; −inf if it was not trained."""
        if not trained or not self.max_drop_db:
            return -math.inf
        load_arrays(self.network, present.averaged)
        return validate(self.network, self._dev)[0]

    def measure_gains(self, present: GlobalModel, replies: Sequence[Admitted]) -> None:
        """Set the gain in SI-SNR (dB) of each update alone on the common set; it stays None for non-finite output."""
        before = self._common_db(present.newest)
        for reply in replies:
            after = self._common_db(reply.arrays)
            if math.isfinite(after):
                reply.gain_db = after - before

    def _common_db(self, arrays: Mapping[str, np.ndarray]) -> float:
        load_arrays(self.network, arrays)
        return validate(self.network, self._common)[0]

"""A silo's update as vectors of integers that can be masked and added, and the mean update that their sum gives.

Two vectors: the changes of trained weights in 32 bits each, as many bytes as float32; and in 64 bits each the norm
statistics, whose range is not known beforehand, and the losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sase.federated.secure.fixed_point import FixedPoint

if TYPE_CHECKING:
    from sase.federated.layout import Layout

WEIGHTS, STATISTICS = "weights", "statistics"  # names of the two vectors
LOSSES = ("loss", "last_loss")
_STATISTICS_LIMIT = 2.0**36


@dataclass(frozen=True)
class Update:
    """The vectors of an update, or the mean of several.

    Attributes:
        weights: changes of the trained weights, float64 (n,), in the order of the layout.
        statistics: float64 (m,): for each norm layer with statistics the change of its means and the second moments
            about the old means; then the losses.
    """

    weights: np.ndarray
    statistics: np.ndarray


@dataclass(frozen=True)
class Format:
    """How updates of a network become vectors.

    Attributes:
        reference: the global model, name to array.
        layout: of the network.
        limit: the largest change of a weight in a round.
        addends: number of silos in a sum.
        local_norms: whether norm layers stay with the silos (FedBN), so that their weights are plainly averaged.
        numbers: names of what else is averaged, at the end of the statistics.
    """

    reference: Mapping[str, np.ndarray]
    layout: Layout
    limit: float
    addends: int
    local_norms: bool = False
    numbers: tuple[str, ...] = LOSSES

    @property
    def weights(self) -> FixedPoint:
        """The format of the changes of weights."""
        return FixedPoint("uint32", self.limit, self.addends)

    @property
    def statistics(self) -> FixedPoint:
        """The format of norm statistics and losses."""
        return FixedPoint("uint64", _STATISTICS_LIMIT, self.addends)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values in each vector."""
        weights = sum(self.reference[name].size for name in self.layout.weights)
        moments = sum(self.reference[name].size for pair in self.layout.moments for name in pair)
        return {WEIGHTS: weights, STATISTICS: moments + len(self.numbers)}

    def update(self, arrays: Mapping[str, np.ndarray], losses: Mapping[str, float]) -> Update:
        """Return the update of a trained model.

        Args:
            arrays: of the model, name to array.
            losses: with all of :attr:`numbers`.
        """
        changes = np.empty(self.sizes[WEIGHTS])
        for name, part in self._split(changes, self.layout.weights):
            np.subtract(arrays[name], self.reference[name], out=part, dtype=np.float64)
        moments = []
        for mean, second in self.layout.moments:
            offset = _float(arrays[mean]) - self.reference[mean]
            moments += [offset, (_float(arrays[second]) + _products(offset, arrays[second])).ravel()]
        numbers = np.array([losses[name] for name in self.numbers], dtype=np.float64)
        return Update(changes, np.concatenate([*moments, numbers]))

    def encode(self, update: Update, alpha: float, share: float) -> dict[str, np.ndarray]:
        """Return the weighted update as integers: ``weights`` uint32 (n,), ``statistics`` uint64 (m,).

        Args:
            update: of the silo.
            alpha: its weight.
            share: its share in the sum of the changes of weights that all silos have in common.

        Raises:
            ValueError: a value is beyond the fixed-point range.
        """
        try:
            weights = self.weights.encode(update.weights, self._per_value(share, alpha))
        except ValueError as error:
            raise ValueError(
                f"the update of the weights: {error}; raise secure_range or train less per round"
            ) from None
        try:
            return {WEIGHTS: weights, STATISTICS: self.statistics.encode(update.statistics, alpha)}
        except ValueError as error:
            raise ValueError(f"norm statistics and losses: {error}") from None

    def decode(self, totals: Mapping[str, np.ndarray], weight_factor: float, factor: float) -> Update:
        """Return the mean update from the sums of what :meth:`encode` returned.

        Args:
            totals: name to sum.
            weight_factor: of changes of weights that all silos have in common.
            factor: of all others.
        """
        weights = self.weights.decode(totals[WEIGHTS]) * self._per_value(weight_factor, factor)
        return Update(weights, self.statistics.decode(totals[STATISTICS]) * factor)

    def arrays(self, mean: Update) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return the model that a mean update makes of the reference, without counters, and the mean losses.

        Returns:
            (name to float64 array, :attr:`numbers` by name)
        """
        result = {
            name: change + self.reference[name] for name, change in self._split(mean.weights, self.layout.weights)
        }
        names = [name for pair in self.layout.moments for name in pair]
        values = dict(self._split(mean.statistics, names))
        for first, second in self.layout.moments:
            result[first] = values[first] + self.reference[first]
            result[second] = _possible(values[second] - _products(values[first], values[second]))
        numbers = mean.statistics[len(mean.statistics) - len(self.numbers) :]
        return result, {name: float(value) for name, value in zip(self.numbers, numbers)}

    def _per_value(self, common: float, others: float) -> np.ndarray | float:
        """Return a number for each change of a weight: one for those that all silos have in common, one for others."""
        if not self.local_norms:
            return common
        shared = set(self.layout.shared_weights(self.local_norms))
        sizes = [self.reference[name].size for name in self.layout.weights]
        return np.repeat([common if name in shared else others for name in self.layout.weights], sizes)

    def _split(self, vector: np.ndarray, names: tuple[str, ...] | list[str]) -> Iterator[tuple[str, np.ndarray]]:
        start = 0
        for name in names:
            shape = self.reference[name].shape
            size = self.reference[name].size
            yield name, vector[start : start + size].reshape(shape)
            start += size


def _float(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def _products(offset: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return what the change of a mean adds to second moments: variances (n,), or (3, n / 2) of complex channels."""
    if np.ndim(like) == 1:
        return offset**2
    real, imag = np.split(offset, 2)
    return np.stack([real**2, imag**2, real * imag])


def _possible(second: np.ndarray) -> np.ndarray:
    """Return second moments without what rounding adds beyond possible ones: none is negative or above its bound."""
    if second.ndim == 1:
        return np.maximum(second, 0.0)
    variances = np.maximum(second[:2], 0.0)
    largest = np.sqrt(variances[0] * variances[1])
    return np.stack([*variances, np.clip(second[2], -largest, largest)])

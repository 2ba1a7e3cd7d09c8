"""Real numbers as integers modulo a power of two, so that masks cancel exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MAX_BITS = 63  # float64 holds no integer just below 2^63
_CHUNK = 1 << 13  # values at a time, which stay in a core's cache


@dataclass(frozen=True)
class FixedPoint:
    """A format for values of a weighted mean.

    Attributes:
        dtype: ``uint32`` or ``uint64``; sums are modulo 2^32 or 2^64.
        limit: the largest magnitude of a value.
        addends: the number of values in a sum; their weights must have the sum 1.
    """

    dtype: str
    limit: float
    addends: int

    @property
    def scale(self) -> float:
        """Integers per unit: a sum of rounded values within the limit stays within the signed range."""
        bits = min(8 * np.dtype(self.dtype).itemsize, _MAX_BITS)
        return float(2 ** (bits - 1) - 1 - self.addends) / self.limit

    @property
    def error(self) -> float:
        """The largest absolute error of a sum: half a step for each addend."""
        return 0.5 * self.addends / self.scale

    def encode(self, values: np.ndarray, weights: np.ndarray | float) -> np.ndarray:
        """Return ``weights · values`` as integers.

        Args:
            values: float (n,), within ±``limit``.
            weights: not negative, at most 1; one, or one per value.

        Raises:
            ValueError: a value is beyond the limit or not finite, or a weight is.
        """
        values, weights = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        if not (weights >= 0.0).all() or not (weights <= 1.0).all():
            raise ValueError("a weight is not between 0 and 1")
        integers = np.empty(values.shape, self.dtype)
        for start in range(0, values.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            if not _magnitude(values[part]) <= self.limit:  # NaN is not
                largest = _magnitude(values)
                raise ValueError(f"a value of magnitude {largest:.4g} exceeds the fixed-point range of ±{self.limit:g}")
            scaled = values[part] * ((weights[part] if weights.ndim else weights) * self.scale)
            integers[part] = np.rint(scaled, out=scaled).astype(np.int64)  # modulo 2^32 or 2^64
        return integers

    def decode(self, total: np.ndarray) -> np.ndarray:
        """Return the sum of encoded values, float64 (n,).

        Args:
            total: sum of what :meth:`encode` returned, (n,).
        """
        signed = np.ascontiguousarray(total, dtype=self.dtype).view(self.dtype.removeprefix("u"))
        return signed.astype(np.float64) / self.scale


def _magnitude(values: np.ndarray) -> float:
    return max(float(values.max()), -float(values.min()))

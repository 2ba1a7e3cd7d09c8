"""Measures of enhanced speech against clean speech."""

from sase.metrics.measures import METRICS, evaluate

__all__ = ["METRICS", "evaluate"]

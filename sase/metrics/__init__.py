"""Objective measures of enhanced speech against a clean reference."""

from sase.metrics.measures import METRICS, evaluate

__all__ = ["METRICS", "evaluate"]

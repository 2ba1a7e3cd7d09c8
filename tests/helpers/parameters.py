"""Parameters of which the quick tests take some only."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], count: int = 1, several: bool = False) -> list[Any]:
    """Return values for ``pytest.mark.parametrize``, of which all but the first ``count`` are for the whole run only.

    Args:
        values: one for each test.
        count: of values for the quick tests.
        several: each value is a tuple, for several arguments.
    """
    return [
        value if index < count else pytest.param(*(value if several else (value,)), marks=pytest.mark.recipe)
        for index, value in enumerate(values)
    ]

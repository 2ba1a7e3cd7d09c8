"""What stays float32 where a network runs in reduced precision: statistics, sums over many terms, spectra, losses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def float32(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in at least float32: half precision is converted, float32, float64 and integers are not."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if half else x


def outside_autocast(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorate a function so that :class:`torch.autocast` neither rounds its products nor its input.

    Under autocast it runs with autocast disabled, and its positional tensors arrive in at least float32. Otherwise it
    is called as it is.
    """

    @functools.wraps(function)
    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        device = next(value.device.type for value in arguments if isinstance(value, torch.Tensor))
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return function(*arguments, **options)
        converted = (float32(value) if isinstance(value, torch.Tensor) else value for value in arguments)
        with torch.autocast(device, enabled=False):
            return function(*converted, **options)  # type: ignore[arg-type]  # the same arguments, converted

    return run

"""Checkpoints: everything needed to resume training, in one file that is replaced atomically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sase.atomic import atomic_path
from sase.errors import InputError
from sase.model import FORMAT, read_checkpoint


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors and plain types only); a killed process leaves the old file or the new one."""
    with atomic_path(path) as partial:
        torch.save({"format": FORMAT, **state}, partial)


def load_checkpoint(
    path: str | Path,
    config: Mapping[str, Any],
    resume_key: Callable[[Any], Mapping[str, Any]] = lambda config: config,
) -> dict[str, Any]:
    """Return the state in a checkpoint of the same configuration.

    Args:
        path: the checkpoint.
        config: the experiment's configuration as a mapping.
        resume_key: maps a configuration to the part of it that must match on resume.

    Raises:
        InputError: a corrupt file, a saved model without optimiser state, or a checkpoint of another configuration.
    """
    state = read_checkpoint(path)
    if "optimizer" not in state:
        raise InputError(f"{path}: a saved model, not a training checkpoint; cannot resume from it")
    if difference := first_difference(resume_key(state["config"]), resume_key(config)):
        raise InputError(
            f"{path}: the configuration has changed since this checkpoint ({difference}); "
            "use another --tag or delete the folder"
        )
    return state


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> str:
    """Return the first key in which two nested mappings differ, as ``a.b is 1, was 2``; an empty string if none."""
    for key in sorted(set(old) | set(new)):
        a, b, name = old.get(key), new.get(key), f"{where}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            if inner := first_difference(a, b, f"{name}."):
                return inner
        elif a != b:
            return f"{name} is {b}, was {a}"
    return ""

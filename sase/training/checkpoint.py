"""Checkpoints: everything needed to resume training, in one file that is replaced atomically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sase.errors import InputError
from sase.model import read_checkpoint, write_tensors
from sase.weightfile import FORMAT


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors and plain types only); a killed process leaves the old file or the new one."""
    write_tensors(path, {"format": FORMAT, **state})


def load_checkpoint(
    path: str | Path,
    config: Mapping[str, Any],
    resume_key: Callable[[Any], Mapping[str, Any]] = lambda config: config,
    length: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Return the state in a checkpoint of the same configuration, or of one that has finished and is extended.

    Args:
        path: the checkpoint.
        config: the experiment's configuration as a mapping.
        resume_key: maps a configuration to the part of it that must match on resume.
        length: section and name, in that part, of the number of entries that the state's ``history`` will have. Once
            it has them, the number may be larger than that of the checkpoint.

    Raises:
        InputError: a corrupt file, a saved model without optimiser state, or a checkpoint of another configuration.
    """
    state = read_checkpoint(path)
    if "optimizer" not in state:
        raise InputError(f"{path}: a saved model, not a training checkpoint; cannot resume from it")
    old, new = resume_key(state["config"]), resume_key(config)
    if length and len(state["history"]) >= _number(old, length):
        old = with_number(old, length, max(_number(old, length), _number(new, length)))
    if difference := first_difference(old, new):
        hint = ""
        if length and not first_difference(with_number(old, length, _number(new, length)), new):
            hint = f", of which {len(state['history'])} are done; only a finished training can be extended"
        raise InputError(
            f"{path}: the configuration has changed since this checkpoint ({difference}{hint}); "
            "use another --tag or delete the folder"
        )
    return state


def with_number(config: Mapping[str, Any], place: tuple[str, str], number: int) -> dict[str, Any]:
    """Return a configuration with another value at ``place``, a section and a name in it."""
    section, name = place
    return {**config, section: {**config[section], name: number}}


def _number(config: Mapping[str, Any], place: tuple[str, str]) -> int:
    section, name = place
    return config[section][name]


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

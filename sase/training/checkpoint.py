"""Checkpoints: everything needed to resume training, in one file that is replaced atomically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sase.config import naming
from sase.errors import InputError, one_line
from sase.model import check_weights, read_checkpoint, write_tensors
from sase.weightfile import FORMAT

_NOT_COMPARED = ("params", "lr", "initial_lr", "fused", "foreach")  # reset at every step, or by the device


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors and plain types only); a killed process leaves the old file or the new one."""
    write_tensors(path, {"format": FORMAT, **state})


def check_fields(state: Any, fields: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise InputError, with the field, for a state that is no mapping or lacks a field of one of these types."""
    if not isinstance(state, Mapping):
        raise InputError(f"damaged: holds a {type(state).__name__} instead of a state")
    for name, types in fields.items():
        value = state.get(name)
        if name not in state:
            raise InputError(f"damaged: {name} is missing")
        if not isinstance(value, types) or (isinstance(value, bool) and types is int):
            raise InputError(f"damaged: {name} is a {type(value).__name__}")


def check_tensors(tensors: Any, shapes: Mapping[str, tuple[int, ...]], what: str, all_names: bool = True) -> None:
    """Raise InputError, with the name, for tensors that are damaged or do not fit a network.

    Args:
        tensors: name to tensor, from a file.
        shapes: name to expected shape.
        what: they are, for messages.
        all_names: whether all of ``shapes`` must be there, not just some.
    """
    if not isinstance(tensors, Mapping):
        raise InputError(f"damaged: {what} is a {type(tensors).__name__}")
    missing = set(shapes) - set(tensors) if all_names else set()
    if strange := sorted(missing | (set(tensors) - set(shapes)), key=str):
        raise InputError(f"damaged: {what}: {strange[0]} is {'missing' if strange[0] in missing else 'unknown'}")
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor) or value.is_complex():
            raise InputError(f"damaged: {what}: {name} is not a tensor of real numbers")
        if tuple(value.shape) != tuple(shapes[name]):
            raise InputError(f"damaged: {what}: {name} has shape {tuple(value.shape)}, expected {tuple(shapes[name])}")
        if not bool(value.isfinite().all()):
            raise InputError(f"damaged: {what}: {name} contains NaN or infinity")


def load_weights(model: nn.Module, weights: Any) -> None:
    """Load weights from a file into a network; raise InputError if they are damaged or those of another network."""
    check_weights(weights, model.state_dict())
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights do not match the config ({one_line(error, 200)})") from None


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load an optimiser's state from a file; raise InputError if it is damaged or that of another optimiser."""
    check_fields(state, {"state": dict, "param_groups": list})
    before = [dict(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except Exception as error:  # torch checks little, and fails where it happens to
        raise InputError(f"damaged: the optimiser's state does not fit the network ({one_line(error, 200)})") from None
    for old, new in zip(before, optimizer.param_groups):
        for name in set(old) - set(_NOT_COMPARED):
            if new.get(name) != old[name]:
                raise InputError(f"damaged: the optimiser's {name} is not that of the config")
    parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter, values in optimizer.state.items():
        if id(parameter) not in parameters or not isinstance(values, Mapping):
            raise InputError("damaged: the optimiser's state does not fit the network")
        shapes = {name: () if name == "step" else tuple(parameter.shape) for name in values}
        check_tensors(values, shapes, "the optimiser's state")


def load_checkpoint(
    path: str | Path,
    config: Mapping[str, Any],
    resume_key: Callable[[Any], Mapping[str, Any]] = lambda config: config,
    length: tuple[str, str] | None = None,
    read_history: Callable[[Mapping[str, Any]], object] = lambda state: state.get("history"),
) -> dict[str, Any]:
    """Return the state in a checkpoint of the same configuration, or of one that has finished and is extended.

    Args:
        path: the checkpoint.
        config: the experiment's configuration as a mapping.
        resume_key: maps a configuration to the part of it that must match on resume.
        length: section and name, in that part, of the number of entries that the state's ``history`` will have. Once
            it has them, the number may be larger than that of the checkpoint.
        read_history: returns the ``history`` of a state that keeps it elsewhere.

    Raises:
        InputError: a corrupt file, a saved model without optimiser state, or a checkpoint of another configuration.
    """
    state = read_checkpoint(path)
    if "optimizer" not in state:
        raise InputError(f"{path}: a saved model, not a training checkpoint; cannot resume from it")
    with naming(path):
        state = {**state, "history": read_history(state)}
        check_fields(state, {"config": dict, "model": dict, "optimizer": dict, "history": list})
        for number, entry in enumerate(state["history"], 1):
            check_fields(entry, {})
            if entry.get("epoch", entry.get("round")) != number:
                raise InputError(f"damaged: entry {number} of the history has another number")
        try:
            old = resume_key(state["config"])
        except (KeyError, TypeError) as error:
            raise InputError(f"damaged: no configuration of this kind of training ({one_line(error)})") from None
    new = resume_key(config)
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

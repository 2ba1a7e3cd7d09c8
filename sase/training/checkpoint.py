"""Everything that training needs to go on, in one file that is whole or not there."""

import torch

from sase.atomic import atomic_path
from sase.errors import InputError
from sase.model import FORMAT, read_checkpoint


def save_checkpoint(path, state):
    """Write ``state`` (tensors and plain types only) so that a killed job leaves the old file or the new one."""
    with atomic_path(path) as partial:
        torch.save({"format": FORMAT, **state}, partial)


def load_checkpoint(path, config, resume_key=lambda config: config):
    """Return the state of a checkpoint made under the same config.

    Args:
        path: of the checkpoint.
        config: the experiment's config as a mapping.
        decisive: called with a config, returns what of it must be the same.

    Raises:
        InputError: a corrupt file, a saved model that is no training checkpoint, or one of another config.
    """
    state = read_checkpoint(path)
    if "optimizer" not in state:
        raise InputError(f"{path}: holds a model but nothing to resume training from")
    if difference := first_difference(resume_key(state["config"]), resume_key(config)):
        raise InputError(f"{path}: was made with another config ({difference}); use another --tag or delete the folder")
    return state


def first_difference(old, new, where=""):
    """Return the first key in which two nested mappings differ, as ``a.b is 1, was 2``; an empty string if none."""
    for key in sorted(set(old) | set(new)):
        a, b, name = old.get(key), new.get(key), f"{where}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            if inner := first_difference(a, b, f"{name}."):
                return inner
        elif a != b:
            return f"{name} is {b}, was {a}"
    return ""

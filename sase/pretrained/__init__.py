"""The weights that come with the package, each with its model card: ``<name>.safetensors`` and ``<name>.md``."""

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch

from sase.atomic import atomic_path
from sase.config import from_mapping, to_mapping
from sase.errors import InputError
from sase.model import FORMAT, ModelConfig, build_model, load_model

FOLDER = Path(__file__).parent
DEFAULT = "small"


def available():
    """Return {name: path} of the weights that are there."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def card(name):
    """Return the model card of shipped weights, Markdown.

    Raises:
        InputError: no such name.
    """
    return _shipped(name).with_suffix(".md").read_text(encoding="utf-8")


def load(name_or_path, device="cpu"):
    """Return the network of saved weights, in eval mode.

    Args:
        name_or_path: a name of :func:`available`; a ``.safetensors`` file of :func:`save`; or a ``best.pt``, or an
            experiment folder that holds one. What is there as a file comes before a name.
        device: where to.

    Raises:
        InputError: no such model, a corrupt file, or the weights of another network.
    """
    path = Path(name_or_path)
    if not path.exists():
        looks_like_path = path.suffix or os.sep in str(name_or_path)
        if looks_like_path and str(name_or_path) not in available():
            raise InputError(f"{name_or_path}: no such model; {_known()}")
        path = _shipped(str(name_or_path))
    return _load_safetensors(path, device) if path.suffix == ".safetensors" else load_model(path, device)


def save(model, path):
    """Write a network's config and weights as safetensors, which cannot run code and is whole or not there."""
    metadata = {"format": FORMAT, "model_config": json.dumps(to_mapping(model.config))}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as partial:
        partial.write_bytes(safetensors.torch.save(state, metadata))


def _load_safetensors(path, device):
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: not weights of SASE")
    model = build_model(from_mapping(ModelConfig, json.loads(metadata["model_config"]), "model"))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not fit its config ({' '.join(str(error).split())[:200]})") from None
    return model.eval().to(device)


def _shipped(name):
    found = available()
    if name not in found:
        raise InputError(f"{name}: no such model; {_known()}")
    return found[name]


def _known():
    return f"give one of {', '.join(available()) or '(no weights came with this version)'}, or an experiment's best.pt"

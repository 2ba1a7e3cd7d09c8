"""The pretrained weights of the package: ``<name>.safetensors``, and made from it the card and the other formats.

``sase release`` writes ``<name>.md``, the model card; ``<name>.onnx`` and ``<name>.sase``, the same weights for other
engines; and ``<name>.json``, the record that ties them together.

Only :func:`load` and :func:`save` need torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sase import jsonfile, weightfile
from sase.atomic import atomic_path
from sase.errors import InputError

if TYPE_CHECKING:
    import torch

    from sase.model import SASE

FOLDER = Path(__file__).parent
DEFAULT = "small"
SUFFIXES = {"native": ".sase", "onnx": ".onnx", "torch": ".safetensors"}  # of the weights for each engine


def available() -> dict[str, Path]:
    """Return name to path of the pretrained weights."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def files(name: str) -> dict[str, Path]:
    """Return engine to file of pretrained weights, for the engines that can run them.

    Raises:
        InputError: an unknown name, or a file that was not made from the present ``<name>.safetensors``.
    """
    path, made = _resolve_name(name), record(name)["files"]
    found = {engine: path.with_suffix(suffix) for engine, suffix in SUFFIXES.items()}
    found = {engine: file for engine, file in found.items() if file == path or file.name in made}
    for file in found.values():
        if made and (not file.is_file() or fingerprint(file) != made.get(file.name)):
            again = f"sase release --refresh {name} makes the formats of these weights again"
            raise InputError(f"{file}: not the file that {path.with_suffix('.json').name} records; {again}")
    return found


def record(name: str) -> dict[str, Any]:
    """Return what was recorded with the release of pretrained weights.

    Returns:
        ``files``, file name to :func:`fingerprint`; ``cost``, as of :func:`sase.profiling.profile`; and ``config``, of
        the network. Without ``<name>.json``, no files and nothing else.

    Raises:
        InputError: an unknown name, or a damaged record.
    """
    path = _resolve_name(name).with_suffix(".json")
    if not path.is_file():
        return {"files": {}}
    recorded = jsonfile.read(path)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("files"), dict):
        raise InputError(f"{path}: not a record of released weights")
    return recorded


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card(name: str) -> str:
    """Return the model card of pretrained weights, in Markdown.

    Raises:
        InputError: for an unknown name.
    """
    return _resolve_name(name).with_suffix(".md").read_text(encoding="utf-8")


def load(name_or_path: str | Path, device: str | torch.device = "cpu") -> SASE:
    """Return a network with trained weights, in eval mode.

    Args:
        name_or_path: a name of :func:`available`; a ``.safetensors`` file of :func:`save`; or a ``best.pt``, or an
            experiment folder with a ``best.pt``. An existing file takes precedence over a name.
        device: where to load it.

    Raises:
        InputError: if the model is not found, corrupt, or of another network.
    """
    from sase.model import load_model

    path = Path(name_or_path)
    if not path.exists():
        path = _resolve_name(str(name_or_path))
    return _load_safetensors(path, device) if path.suffix == ".safetensors" else load_model(path, device)


def save(model: SASE, path: str | Path) -> None:
    """Save a network's config and weights as safetensors, which cannot execute code; the write is atomic."""
    import safetensors.torch

    from sase.config import to_mapping

    metadata = {"format": weightfile.FORMAT, "model_config": json.dumps(to_mapping(model.config))}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as partial:
        partial.write_bytes(safetensors.torch.save(state, metadata))


def _load_safetensors(path: Path, device: str | torch.device) -> SASE:
    import safetensors

    from sase.model import model_of

    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != weightfile.FORMAT:
        raise InputError(f"{path}: not weights of SASE")
    return model_of(path, weightfile.read_config(path, metadata), state).to(device)


def _resolve_name(name: str) -> Path:
    found = available()
    if name not in found:
        known = ", ".join(found) or "(this version has no pretrained weights)"
        raise InputError(f"{name}: model not found; give one of {known}, or an experiment's best.pt")
    return found[name]

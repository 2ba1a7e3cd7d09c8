"""Weights for the C core by name: shipped ones need no torch."""

from __future__ import annotations

from pathlib import Path

from sase import pretrained
from sase.native.weights import read_sealed


def core_weights(name_or_path: str | Path) -> bytes:
    """Return the contents of a file of weights for the C core.

    Args:
        name_or_path: shipped weights, or a ``.sase`` file; or anything else that :func:`sase.pretrained.load` takes,
            which is converted and needs torch.

    Raises:
        InputError: no such model, a corrupt file, or a network that the core does not support.
    """
    path = Path(name_or_path)
    if path.suffix == ".sase" and path.exists():
        return read_sealed(path)
    shipped = None if path.exists() else pretrained.files(str(name_or_path)).get("native")
    if shipped is not None:
        return read_sealed(shipped)
    from sase.export.native import native_weights

    return native_weights(pretrained.load(name_or_path))

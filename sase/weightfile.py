"""What a file of weights declares, against what it holds: judged before anything of that size is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sase.errors import InputError

if TYPE_CHECKING:
    import torch

    from sase.nn.config import ModelConfig

FORMAT = "sase-1"  # of checkpoints and of the metadata of other files
_MAX_METADATA = 1 << 16  # characters of a configuration in JSON


def check_records(path: Path) -> None:
    """Raise InputError if a checkpoint unpacks to more than the file has bytes; torch stores its records unpacked.

    Files that are no zip archives are left to torch.
    """
    import zipfile

    from sase.zipfiles import DAMAGES, is_zip_file

    if not is_zip_file(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(record.file_size for record in file.infolist())
    except DAMAGES as error:
        raise InputError(f"{path}: not a readable checkpoint ({' '.join(str(error).split())})") from None
    if unpacked > path.stat().st_size:
        raise InputError(f"{path}: not a readable checkpoint: {unpacked} bytes in a file of {path.stat().st_size}")


def read_config(path: Path, metadata: Mapping[str, str]) -> Any:
    """Return the configuration in the metadata of a safetensors file as plain values; raise InputError if bad."""
    text = metadata.get("model_config", "")
    try:
        if len(text) > _MAX_METADATA:
            raise ValueError(f"{len(text)} characters")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata holds no configuration of a network ({error})") from None


def check_size(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError if a configuration needs more weights than there are; files can declare networks of any size."""
    count = sum(tensor.numel() for tensor in state.values())
    # Lower bounds: each block has tensors, adjacent layers of channels a convolution, the LSTM a square matrix.
    needed = {
        "blocks": (config.blocks, len(state)),
        "channels": (sum(a * b for a, b in pairwise(config.channels)) + sum(config.channels), count),
        "recurrent": (config.recurrent**2, count),
        "bands": (config.bands, count),
    }
    for name, (least, there) in needed.items():
        if least > there:
            value = str(getattr(config, name))[:60]
            raise InputError(f"the weights do not match the config (too few for {name} = {value})")

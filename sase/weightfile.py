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
_DTYPES = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"}
_DTYPES |= {"complex64", "complex128"}  # refused where weights are expected, but like any other value
_MAX_PLACE = 200  # characters: in a file that nests deeply, the place of a value can be very long
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


def check_stored(content: Any) -> None:
    """Raise InputError, with the place, for a tensor in what a file holds that is not there as it declares.

    Such a tensor takes bytes that are not in the file as soon as something is computed from it, or has no operations.

    Args:
        content: nested mappings and sequences, of tensors of any shape and of other values, which are not judged.
    """
    pending, seen = [("", content)], set()
    while pending:  # no recursion: a file may nest deeply, or refer to itself
        place, value = pending.pop()
        if isinstance(value, (Mapping, list, tuple)):
            if id(value) not in seen:
                seen.add(id(value))
                items = value.items() if isinstance(value, Mapping) else enumerate(value)
                pending.extend((f"{place}.{name}".lstrip(".")[-_MAX_PLACE:], item) for name, item in items)
        elif hasattr(value, "untyped_storage"):
            _check_tensor(place, value)


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    dtype, layout = (str(kind).removeprefix("torch.") for kind in (tensor.dtype, tensor.layout))
    kinds = {
        "nested": tensor.is_nested,
        layout: layout != "strided",
        f"on the device {tensor.device.type}": tensor.device.type != "cpu",
        f"of type {dtype}": dtype not in _DTYPES,
    }
    for kind, strange in kinds.items():
        if strange:
            raise InputError(f"{name} is a tensor {kind}, which cannot be read; save it as a dense float32 tensor")
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise InputError(f"{name} declares {tensor.numel()} values and holds {stored}; save it as a contiguous tensor")


def check_size(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError if a configuration needs more weights than there are; files can declare networks of any size.

    Args:
        config: of the network.
        state: name to tensor of any shape, after :func:`check_stored`.
    """
    storages = [(tensor.untyped_storage(), tensor.element_size()) for tensor in state.values()]
    # What several tensors share is there once.
    count = sum({storage.data_ptr(): storage.nbytes() // size for storage, size in storages}.values())
    if config.blocks > len(state):  # each block has tensors
        raise _too_few(config, ("blocks",))
    for names, least in least_weights(config).items():
        if least > count:
            raise _too_few(config, names)


def least_weights(config: ModelConfig) -> dict[tuple[str, ...], int]:
    """Return, for each part of a network, the fields that its size depends on and a lower bound of its weights.

    Together the bounds are most of a large network. The buffers that the STFT computes are left out: the range of
    ``window`` bounds them to some ten megabytes.
    """
    general: dict[tuple[str, ...], int] = {("channels",): sum(config.channels), ("bands",): config.bands}
    general["recurrent",] = config.recurrent**2
    parts = {"band_recurrent": _least_band_recurrent, "encoder_decoder": _least_encoder_decoder}
    return {**general, **(parts[config.network](config) if config.network in parts else {})}


def _least_band_recurrent(config: ModelConfig) -> dict[tuple[str, ...], int]:
    channels, half = config.channels[0], config.recurrent // 2
    over_bands = config.frequency_attention * half * (8 * half + config.bands)
    return {
        ("bands", "fft"): 2 * config.bands * (config.fft // 8),
        ("channels", "recurrent"): 12 * channels**2 * (len(config.channels) - 1) + 8 * channels * half,
        ("recurrent", "blocks"): (7 * config.blocks + 4 * config.time_attention) * (2 * half) ** 2,
        ("bands", "recurrent", "blocks"): config.blocks * over_bands,
    }


def _least_encoder_decoder(config: ModelConfig) -> dict[tuple[str, ...], int]:
    half, num_freq, levels = config.recurrent // 2, config.fft // 2, len(config.channels)
    flat = 2 * config.channels[-1] * (num_freq >> levels)  # width of the input of the LSTM
    maps = [(channels, num_freq >> level) for level, channels in enumerate(config.channels, 1)]
    # Attention over frequency is in the smallest of the maps that are not too small.
    channels, size = next(((a, size) for a, size in reversed(maps) if size >= 16), (0, 0))
    return {
        ("channels",): 60 * sum(a * b for a, b in pairwise((1, *config.channels))),
        ("recurrent",): (8 + 4 * config.time_attention) * (2 * half) ** 2,
        ("channels", "recurrent", "fft"): 10 * half * flat,
        ("channels", "fft"): config.frequency_attention * channels * (8 * channels + size),
    }


def _too_few(config: ModelConfig, names: tuple[str, ...]) -> InputError:
    values = ", ".join(f"{name} = {str(getattr(config, name))[:60]}" for name in names)
    return InputError(f"the weights do not match the config (too few for {values})")

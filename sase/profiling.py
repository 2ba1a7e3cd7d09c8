"""What a network costs by count, not by clock: parameters, multiplications, latency."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sase import pretrained
from sase.config import to_mapping

if TYPE_CHECKING:
    import torch

    from sase.model import SASE

_FRAMES = 64  # a whole number of the chunks in which layers work along time


def describe(name_or_path: str | Path) -> dict[str, Any]:
    """Return what :func:`profile` does of trained weights, and ``config``; of shipped ones as recorded, without torch.

    Raises:
        InputError: as :func:`sase.pretrained.load`.
    """
    if not Path(name_or_path).exists() and name_or_path in pretrained.available():
        recorded = pretrained.record(str(name_or_path))
        if "cost" in recorded:
            return {**recorded["cost"], "config": recorded["config"]}
    return _describe(pretrained.load(name_or_path))


def describe_presets(name: str | None = None) -> dict[str, dict[str, Any]]:
    """Return name to description, as :func:`describe`, of one preset or all of them."""
    from sase.model import PRESETS, build_model

    return {preset: _describe(build_model(preset)) for preset in ([name] if name else PRESETS)}


def _describe(model: SASE) -> dict[str, Any]:
    return {**profile(model), "config": to_mapping(model.config)}


def profile(model: SASE) -> dict[str, Any]:
    """Return what a network is and costs, as plain values for a table or JSON.

    Args:
        model: a :class:`sase.model.SASE`.
    """
    return {
        "network": model.config.network,
        "causal": model.config.causal,
        "sample_rate": model.config.sample_rate,
        "parameters": count_parameters(model),
        "macs_per_s": macs_per_s(model),
        "latency_s": model.latency_s if math.isfinite(model.latency_s) else None,  # None: the whole signal
    }


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of trained values; fixed ones, such as random features and running statistics, do not count."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def macs_per_s(model: SASE) -> int:
    """Return the multiply-accumulates that one second of sound costs a :class:`sase.model.SASE`.

    It is the difference between two lengths, so what is done once a call (folding norms into convolutions) is left out.
    """
    import torch

    signals = (torch.zeros(1, times * _FRAMES * model.config.hop) for times in (2, 1))
    long, short = (count_macs(model, signal, method="forward_whole") for signal in signals)
    return round((long - short) * model.config.frames_per_s / _FRAMES)


def count_macs(module: torch.nn.Module, *inputs: torch.Tensor, method: str = "forward") -> int:
    """Return the multiply-accumulates of one call in eval mode: of convolutions, linear and recurrent layers, products.

    What works element by element (gates, activations, norms) and the Fourier transform are not counted.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # Tensors without values: nothing is computed, and recurrent layers fall apart into products that can be counted.
    module = copy.deepcopy(module).eval().to("meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        getattr(module, method)(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() // 2


def with_unit(count: float) -> str:
    """Return a count in three digits and a unit: 31.2 k, 84.1 M, 8.61 G, 1.15 T."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            digits = 2 - min(2, int(math.log10(1.0005 * count / size)))
            return f"{count / size:.{digits}f} {unit}"
    return str(count)

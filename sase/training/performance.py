"""Options that speed up training: reduced precision and compilation."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from sase.errors import InputError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def training_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Set PyTorch's internal float32 precision for a block of forward and backward passes.

    On a CPU, ``bfloat16`` rounds the operands of oneDNN's convolutions and matrix products, which accumulate in
    float32; tensors stay float32. On a GPU, ``tf32`` and ``bfloat16`` allow TF32 in float32 products; for bfloat16,
    the forward pass also runs under :func:`autocast`.

    Args:
        precision: ``train.precision`` of the configuration.
        device: the one that trains.
    """
    settings: Any = torch.backends  # has attributes that its type annotations lack
    if device.type == "cpu":
        backends, value = [settings.mkldnn.matmul, settings.mkldnn.conv], "bf16"
        reduced = precision == "bfloat16"
    else:
        backends, value = [settings.cuda.matmul, settings.cudnn.conv, settings.cudnn.rnn], "tf32"
        reduced = precision in ("tf32", "bfloat16")
    before = [backend.fp32_precision for backend in backends]
    if reduced:
        for backend in backends:
            backend.fp32_precision = value
    try:
        yield
    finally:
        for backend, old in zip(backends, before):
            backend.fp32_precision = old


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 autocast on a GPU for that ``precision``, otherwise disabled."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16" and device.type == "cuda")


def compile_network(network: torch.nn.Module, device: torch.device) -> None:
    """Compile forward and backward of a module in place with ``torch.compile``, for fixed shapes.

    A GPU trains the network as it is, since PyTorch's code for GPUs has no complex numbers.

    Args:
        network: to compile.
        device: the one that trains.

    Raises:
        InputError: no C++ compiler found, which compilation for a CPU needs.
    """
    if device.type != "cpu":
        log.info("train.compile is for CPUs only: the network is not compiled")
        return
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise InputError("train.compile needs a C++ compiler, none was found; install g++ or set train.compile=false")
    # Warnings about complex numbers and inductor's own deprecated names are of no use to the user.
    warnings.filterwarnings("ignore", module="torch._inductor")
    network.compile(dynamic=False)


def eager() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which a compiled network runs uncompiled: for input of many different lengths."""
    return torch.compiler.set_stance("force_eager")

"""How the arithmetic of training is done where it may be faster than the defaults: precision, compiling, memory."""

import contextlib
import ctypes
import os
import shutil
import sys
import warnings

import torch

from sase.errors import InputError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h
_KEPT_BYTES = 2**31 - 1
_POOL_STEP_BYTES = 2**28


def keep_freed_memory():
    """Tell glibc to keep freed memory for the next allocation; without glibc, do nothing.

    A training step frees and asks for the same hundreds of megabytes again. By default large blocks go back to the
    system each time, and the pages that come back must be made and cleared anew: a sixth of a step.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_TOP_PAD, _POOL_STEP_BYTES)):
            mallopt(option, value)


@contextlib.contextmanager
def training_precision(precision, device):
    """Within it, forward and backward work as ``precision`` (of :class:`OptimiserConfig`) says on ``device``.

    On a CPU, ``bfloat16`` rounds the factors within oneDNN's convolutions and matrix products, which then sum in
    float32; tensors stay float32. On a GPU, ``tf32`` and ``bfloat16`` let float32 products use TF32; for bfloat16 the
    forward pass runs in :func:`autocast` besides.
    """
    if device.type == "cpu":
        backends, value = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv), "bf16"
        wanted = precision == "bfloat16"
    else:
        backends, value = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn), "tf32"
        wanted = precision in ("tf32", "bfloat16")
    before = [backend.fp32_precision for backend in backends]
    if wanted:
        for backend in backends:
            backend.fp32_precision = value
    try:
        yield
    finally:
        for backend, old in zip(backends, before):
            backend.fp32_precision = old


def autocast(precision, device):
    """Return the context of a forward pass: bfloat16 on a GPU where ``precision`` is that, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16" and device.type == "cuda")


def compile_network(network):
    """Let ``torch.compile`` make the forward pass of a module and its backward, in place; fixed shapes are expected.

    Raises:
        InputError: there is no C++ compiler, which compiling for a CPU needs.
    """
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise InputError("train.compile needs a C++ compiler (Debian: g++), none is here; set train.compile to false")
    # What it says of complex numbers and of its own old names is of no use to who trains.
    warnings.filterwarnings("ignore", module="torch._inductor")
    network.compile(dynamic=False)


def eager():
    """Return a context in which a compiled network runs as it is written: for lengths that come once."""
    return torch.compiler.set_stance("force_eager")

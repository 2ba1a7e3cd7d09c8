"""Ways of running a trained network, with one interface: ``native`` (C), ``onnx`` (ONNX Runtime) and ``torch``.

:func:`load` returns an :class:`Engine`. An engine imports what it needs when it is chosen: only one needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sase import pretrained
from sase.engines.engine import Engine, EngineStream, EngineUnavailableError
from sase.errors import InputError

__all__ = ["ENGINES", "Engine", "EngineStream", "EngineUnavailableError", "load"]

ENGINES = ("native", "onnx", "torch")  # in the order of preference


def load(
    name_or_path: str | Path = pretrained.DEFAULT,
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
) -> Engine:
    """Return a trained network in an engine.

    Args:
        name_or_path: the name of shipped weights; a ``.sase`` or ``.onnx`` file of ``sase export``; a ``best.pt`` or
            ``.safetensors`` file; or an experiment folder. An existing file takes precedence over a name.
        engine: one of ``ENGINES``; or ``auto``, the first that is available here and has weights of this network.
        device: other than ``cpu``, such as ``cuda:1``, it needs the engine ``torch``.
        threads: for engines that can use several; None: one, or the present setting of torch.

    Raises:
        EngineUnavailableError: the engine, or with ``auto`` any that has weights of this network, is not installed.
        InputError: no such model, engine or device, no weights for the engine, or a corrupt or incompatible file.
    """
    if engine not in ("auto", *ENGINES):
        raise InputError(f"no such engine: {engine}; choose from auto, {', '.join(ENGINES)}")
    if device != "cpu" and engine not in ("auto", "torch"):
        raise InputError(f"the engine {engine} runs on the CPU only; device {device} needs the engine torch")
    files = _weights(name_or_path)
    if engine == "auto":
        wanted = [name for name in ENGINES if name in files and (device == "cpu" or name == "torch")] or ["torch"]
    else:
        wanted = [engine]
    reasons = []
    for name in wanted:
        if name not in files:
            raise InputError(_no_weights(name_or_path, name, files))
        try:
            return _open(name, files[name], device, threads)
        except EngineUnavailableError as error:
            reasons.append(f"engine {name}: {error}")
    raise EngineUnavailableError(f"{name_or_path}: {'; '.join(reasons)}")


def _weights(name_or_path: str | Path) -> Mapping[str, Path]:
    """Return the file for each engine that has one."""
    path = Path(name_or_path)
    if not path.exists():
        return pretrained.files(str(name_or_path))
    return {{".sase": "native", ".onnx": "onnx"}.get(path.suffix.lower(), "torch"): path}


def _no_weights(name_or_path: str | Path, engine: str, files: Mapping[str, Path]) -> str:
    if engine == "torch" or "torch" not in files:
        held = " and ".join(files)
        return f"{name_or_path}: holds weights for the engine {held}, not for {engine}; pass the network it was made of"
    command = f"sase export --model {name_or_path} --to {engine} -o {Path(name_or_path).stem}.{_SUFFIX[engine]}"
    return f"{name_or_path}: has no weights for the engine {engine}; make them with {command}"


_SUFFIX = {"native": "sase", "onnx": "onnx"}


def _open(engine: str, path: Path, device: str, threads: int | None) -> Engine:
    if engine == "native":
        from sase.engines.native import NativeEngine

        return NativeEngine(path)
    if engine == "onnx":
        from sase.engines.onnx import OnnxEngine

        return OnnxEngine(path, threads or 1)
    try:
        from sase.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sase"):
            raise
        from sase.extras import missing_package

        raise EngineUnavailableError(missing_package(error.name)) from None
    return TorchEngine.load(path, device, threads)

"""The engine ``torch``: every network, on every device; the only engine that imports torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sase import pretrained
from sase.engines.engine import Engine
from sase.errors import InputError
from sase.model import SASE
from sase.nn.frozen import frozen


class TorchEngine(Engine):
    """A network in torch.

    Args:
        model: is copied; later changes of it have no effect.

    Attributes:
        model: the copy, :func:`~sase.nn.frozen.frozen` for inference.
    """

    name = "torch"

    def __init__(self, model: SASE) -> None:
        self.model = frozen(model)
        self.sample_rate, self.causal = model.config.sample_rate, model.config.causal
        self.delay = model.stft.context if self.causal else 0
        self.latency_s = model.latency_s

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", threads: int | None = None) -> TorchEngine:
        """Return the engine for saved weights.

        Args:
            path: as for :func:`sase.pretrained.load`.
            device: torch device: ``cpu``, ``cuda``, ``cuda:1``.
            threads: that torch uses in this process; None leaves its setting as it is.

        Raises:
            InputError: a bad file, or a device that cannot be used.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(pretrained.load(path, _usable(device)))

    def stream(self) -> TorchStream:
        """Return a stream at the start of a signal; raise InputError if the network is not causal."""
        return TorchStream(self.model)

    def enhance(self, wav: np.ndarray) -> np.ndarray:
        """Return the enhanced signal, float32 (time,), of a whole one, float32 (time,), time ≥ 1."""
        with torch.inference_mode():
            return _numpy(self.model(_tensor(wav, self.model)))


class TorchStream:
    """A signal through the network block by block.

    Args:
        model: a causal network.
    """

    def __init__(self, model: SASE) -> None:
        self._model = model
        self.reset()

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Process the next samples, float32 (n,); return those that are ready, float32 (m,)."""
        with torch.inference_mode():
            return _numpy(self._stream.feed(_tensor(wav, self._model)))

    def flush(self) -> np.ndarray:
        """Return the remaining samples, float32 (rest,); ends the signal."""
        with torch.inference_mode():
            return _numpy(self._stream.flush())

    def reset(self) -> None:
        """Return to the start of a signal."""
        self._stream = self._model.stream()


def _usable(device: str) -> str:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown name, or torch built without this device
        raise InputError(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from None
    return device


def _tensor(wav: np.ndarray, model: SASE) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(wav)[None]).to(next(model.parameters()).device)


def _numpy(wav: torch.Tensor) -> np.ndarray:
    return wav[0].float().cpu().numpy()

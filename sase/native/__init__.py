"""The network in C, for inference with numpy alone: :class:`NativeModel` and its streams.

``sase export --to native`` writes the weights. ``docs/native.md`` describes the C interface, the build and the file.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from sase.errors import InputError
from sase.hops import HopStream
from sase.native import library


class NativeModel:
    """Trained weights for the C core.

    ::

        model = NativeModel("small.sase")
        enhanced = model.enhance(wav)  # float32 (time,) at model.sample_rate
        stream = model.stream()  # or block by block

    Args:
        weights: a file that ``sase export --to native`` has written, or its contents.
        core: the shared library; None for the one that was built with the package.

    Attributes:
        sample_rate: in Hz.
        hop: samples that the core processes at a time.
        delay: samples by which the output of the core lags behind its input.
        latency_s: the algorithmic latency in seconds: one window.

    Raises:
        InputError: no such file, contents that the core refuses, or a core that is not built.
    """

    def __init__(self, weights: str | Path | bytes, core: Path | None = None) -> None:
        self._library = library.load(core)
        self._name = "weights" if isinstance(weights, bytes) else str(weights)
        contents = weights if isinstance(weights, bytes) else _read(Path(weights))
        self._weights = np.frombuffer(contents, np.uint8).copy()  # aligned
        memory, stream = self._create()
        self.sample_rate: int = self._library.sase_sample_rate(stream)
        self.hop: int = self._library.sase_hop(stream)
        self.delay: int = self._library.sase_delay(stream)
        self.latency_s = (self.delay + self.hop) / self.sample_rate
        del memory  # not before its stream has been asked

    def stream(self) -> NativeStream:
        """Return a :class:`NativeStream` at the start of a signal."""
        return NativeStream(self)

    def enhance(self, wav: np.ndarray) -> np.ndarray:
        """Return the enhanced signal, float32 (time,), of one at ``sample_rate``.

        Args:
            wav: floats in [-1, 1], (time,), time ≥ 1.

        Raises:
            ValueError: as for :meth:`NativeStream.feed`.
        """
        stream = self.stream()
        return np.concatenate([stream.feed(wav), stream.flush()])

    def _create(self) -> tuple[np.ndarray, ctypes.c_void_p]:
        """Return the memory of a new stream, which must outlive it, and the stream."""
        weights = (self._weights.ctypes.data, self._weights.size)
        memory = np.empty(self._library.sase_size(*weights), np.uint8)
        stream = ctypes.c_void_p()
        status = self._library.sase_init(memory.ctypes.data, memory.size, *weights, ctypes.byref(stream))
        if status != library.OK:
            raise InputError(f"{self._name}: {self._library.sase_message(status).decode()}")
        return memory, stream


class NativeStream(HopStream):
    """Enhances a signal block by block.

    Streams of one model are independent of each other; one stream must not be used by two threads at the same time.

    Args:
        model: the weights.
    """

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._memory, self._stream = model._create()
        self._noisy, self._enhanced = (np.empty(model.hop, np.float32) for _ in range(2))
        self._hops = [ctypes.c_void_p(samples.ctypes.data) for samples in (self._noisy, self._enhanced)]
        super().__init__(model.hop, model.delay)

    def _reset(self) -> None:
        self._model._library.sase_reset(self._stream)

    def _process(self, samples: np.ndarray) -> np.ndarray:
        enhanced, process, hop = np.empty(len(samples), np.float32), self._model._library.sase_process, self._hop
        for start in range(0, len(samples), hop):
            self._noisy[:] = samples[start : start + hop]
            status = process(self._stream, *self._hops)
            assert status == library.OK, status  # the samples have been checked
            enhanced[start : start + hop] = self._enhanced
        return enhanced


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None

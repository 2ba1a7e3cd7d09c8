"""The network in C, for inference with numpy alone: :class:`NativeModel` and its streams.

``sase export --to native`` writes the weights. ``docs/native.md`` describes the C interface, the build and the file.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from sase.errors import InputError
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
        self._delay: int = self._library.sase_delay(stream)
        self.latency_s = (self._delay + self.hop) / self.sample_rate
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


class NativeStream:
    """Enhances a signal block by block: the concatenated output is aligned with the input and of the same length.

    Streams of one model are independent of each other; one stream must not be used by two threads at the same time.

    Args:
        model: the weights.
    """

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._memory, self._stream = model._create()
        self._start()

    def reset(self) -> None:
        """Return to the start of a signal."""
        self._model._library.sase_reset(self._stream)
        self._start()

    def feed(self, wav: np.ndarray) -> np.ndarray:
        """Process the next samples; return the enhanced samples available so far, float32 (m,), m ≥ 0.

        Args:
            wav: floats in [-1, 1], (n,), n ≥ 0.

        Raises:
            ValueError: another shape or type, samples that are NaN, infinite or beyond 1e12, or a stream that has been
                flushed; the state of the stream is unchanged.
        """
        wav = np.asarray(wav)
        if wav.ndim != 1 or not np.issubdtype(wav.dtype, np.floating):
            raise ValueError(f"feed needs floats (n,), got {wav.dtype} {wav.shape}")
        if self._flushed:
            raise ValueError("the stream has been flushed; reset it for the next signal")
        if not (np.abs(wav) <= _MAX_SAMPLE).all():
            raise ValueError(self._model._library.sase_message(library.BAD_SAMPLES).decode())
        self._num_fed += len(wav)
        return self._advance(wav.astype(np.float32, copy=False))

    def flush(self) -> np.ndarray:
        """Return the remaining samples, float32 (rest,): the output is then as long as the input. Ends the stream."""
        missing = max(0, self._num_fed - self._num_returned)
        self._flushed = True
        return self._advance(np.zeros(missing + self._to_drop + self._model.hop, np.float32))[:missing]

    def _start(self) -> None:
        self._pending = np.zeros(0, np.float32)
        self._num_fed = self._num_returned = 0
        self._to_drop = self._model._delay  # output samples that precede the signal
        self._flushed = False

    def _advance(self, wav: np.ndarray) -> np.ndarray:
        """Process the whole hops of the pending samples and these; return their output."""
        pending, hop = np.concatenate([self._pending, wav]), self._model.hop
        used = len(pending) // hop * hop
        enhanced, process, stream = np.empty(used, np.float32), self._model._library.sase_process, self._stream
        source, target = pending.ctypes.data, enhanced.ctypes.data
        for offset in range(0, 4 * used, 4 * hop):
            status = process(stream, source + offset, target + offset)
            assert status == library.OK, status  # the samples have been checked
        self._pending = pending[used:].copy()
        dropped = min(self._to_drop, used)
        self._to_drop -= dropped
        self._num_returned += used - dropped
        return enhanced[dropped:]


_MAX_SAMPLE = 1e12  # as in sase.c


def is_available() -> bool:
    """Return whether the C core has been built."""
    return library.find() is not None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None

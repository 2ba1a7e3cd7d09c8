"""The engine ``onnx``: a streaming graph in ONNX Runtime."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sase.engines.engine import Engine, EngineUnavailableError
from sase.errors import InputError
from sase.hops import HopStream
from sase.weightfile import FORMAT

if TYPE_CHECKING:
    import onnxruntime

_NOISY, _ENHANCED, _NEXT = "noisy", "enhanced", "next."  # names of inputs and outputs
_MAX_STATE = 1 << 26  # values: graphs can declare states of any size


class OnnxEngine(Engine):
    """A streaming graph that ``sase export --to onnx`` has written; it and its metadata say everything.

    Args:
        path: of the graph.
        threads: of ONNX Runtime.

    Attributes:
        metadata: of the graph, see :func:`sase.export.onnx.export_onnx`.
        hop: samples that the graph enhances at a time.

    Raises:
        EngineUnavailableError: ONNX Runtime is not installed.
        InputError: the file is missing, or not a streaming graph of SASE.
    """

    name = "onnx"

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self._session = _open(path, threads)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            if self.metadata["format"] != FORMAT:
                raise ValueError(f"its format is {self.metadata['format']!r}")
            self.sample_rate, self.hop, self.delay = (
                int(self.metadata[name]) for name in ("sample_rate", "hop", "delay")
            )
            self.latency_s = float(self.metadata["latency_s"])
            if not (self.sample_rate > 0 and self.hop > 0 and self.delay >= 0 and math.isfinite(self.latency_s)):
                raise ValueError("its metadata is out of range")
            self._states = _states(self._session, json.loads(self.metadata["states"]), self.hop)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a streaming graph of SASE ({error})") from None
        self._outputs = [_ENHANCED, *(_NEXT + name for name in self._states)]

    def stream(self) -> OnnxStream:
        """Return a stream at the start of a signal."""
        return OnnxStream(self)


class OnnxStream(HopStream):
    """A signal through the graph, hop by hop.

    Args:
        engine: the graph.
    """

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        self._reset()
        super().__init__(engine.hop, engine.delay)

    def _reset(self) -> None:
        self._values = {name: np.zeros(shape, np.float32) for name, shape in self._engine._states.items()}

    def _process(self, samples: np.ndarray) -> np.ndarray:
        engine, enhanced = self._engine, [samples[:0]]
        for noisy in samples.reshape(-1, 1, self._hop):
            output, *values = engine._session.run(engine._outputs, {_NOISY: noisy, **self._values})
            self._values = dict(zip(self._values, values))
            enhanced.append(output[0])
        return np.concatenate(enhanced)


def _open(path: str | Path, threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        from sase.extras import missing_package

        raise EngineUnavailableError(missing_package("onnxruntime")) from None
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of types that are in no public module
        raise InputError(f"{path}: not a graph that ONNX Runtime can load ({error})") from None


def _states(session: Any, names: list[str], hop: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each state; raise ValueError unless they are those of the graph's inputs and outputs."""
    shapes = {value.name: value.shape for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if shapes.keys() != {_NOISY, *names} or not outputs >= {_ENHANCED, *(_NEXT + name for name in names)}:
        raise ValueError("its inputs and outputs are not those of its metadata")
    if shapes[_NOISY] != [1, hop] or not all(isinstance(n, int) and n >= 0 for s in shapes.values() for n in s):
        raise ValueError("the shapes of its inputs")
    if sum(math.prod(shape) for shape in shapes.values()) > _MAX_STATE:
        raise ValueError("its states are too large")
    return {name: tuple(shapes[name]) for name in names}

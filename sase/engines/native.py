"""The engine ``native``: the C core."""

from __future__ import annotations

from pathlib import Path

from sase.engines.engine import Engine, EngineUnavailableError
from sase.errors import InputError
from sase.native import NativeModel, NativeStream, library


class NativeEngine(Engine):
    """Weights for the C core, which ``sase export --to native`` writes.

    Args:
        path: of the weights.

    Raises:
        EngineUnavailableError: the core is not built, or cannot be loaded.
        InputError: the core refuses the weights.
    """

    name = "native"

    def __init__(self, path: str | Path) -> None:
        try:
            library.load()
        except InputError as error:
            raise EngineUnavailableError(str(error)) from None
        self._model = NativeModel(path)
        self.sample_rate = self._model.sample_rate
        self.delay, self.latency_s = self._model.delay, self._model.latency_s

    def stream(self) -> NativeStream:
        """Return a stream at the start of a signal."""
        return self._model.stream()

"""Speed of the C core, hop by hop on one thread, in relation to torch and to ONNX Runtime in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sase.bench.stages import threads
from sase.engines.onnx import OnnxEngine
from sase.engines.torch import TorchEngine
from sase.errors import InputError
from sase.export.native import native_weights
from sase.model import SASE
from sase.native import NativeModel

_ROUNDS, _HOPS = 10, 50  # the engines take turns, so that other programs slow down all alike
_Step = Callable[[np.ndarray], object]


def bench_native(models: Mapping[str, SASE], graphs: Sequence[str | Path] = ()) -> list[dict[str, Any]]:
    """Measure the CPU time of one hop in the C core, in torch and, for graphs, in ONNX Runtime.

    Args:
        models: name to network.
        graphs: streaming graphs of ``sase export --to onnx``, one per network in the same order; or none.

    Returns:
        For each network: median and 99th percentile of a hop in the core, its real-time factor, and its median in
        relation to that of the other engines.

    Raises:
        InputError: another number of graphs, a network that the core does not support, or a core that is not built.
    """
    if graphs and len(graphs) != len(models):
        raise InputError(f"{len(models)} networks need as many graphs, got {len(graphs)}")
    rows = []
    with threads(1):
        for number, (name, model) in enumerate(models.items()):
            steps: dict[str, _Step] = {"native": NativeModel(native_weights(model)).stream().feed}
            steps["torch"] = TorchEngine(model).stream().feed
            if graphs:
                steps["onnxruntime"] = OnnxEngine(graphs[number]).stream().feed
            seconds = _measure(steps, model.config.hop)
            hop_s, own = model.config.hop / model.config.sample_rate, statistics.median(seconds["native"])
            row = {
                "model": name,
                "ms median": 1000 * own,
                "ms 99 %": 1000 * float(np.percentile(seconds["native"], 99)),
                "real-time factor": own / hop_s,
            }
            others = [engine for engine in steps if engine != "native"]
            row |= {f"native / {engine}": own / statistics.median(seconds[engine]) for engine in others}
            rows.append(row)
    return rows


def _measure(steps: Mapping[str, _Step], hop: int) -> dict[str, list[float]]:
    """Return the CPU time of each hop in seconds, by engine, after a round of warm-up."""
    generator = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {engine: [] for engine in steps}
    for round_number in range(_ROUNDS + 1):
        hops = 0.1 * generator.standard_normal((_HOPS, hop)).astype(np.float32)
        for engine, step in steps.items():
            for samples in hops:
                start = time.process_time()
                step(samples)
                if round_number > 0:
                    seconds[engine].append(time.process_time() - start)
    return seconds

"""How long a live stream takes to answer a hop, in real time: on an idle machine, and beside busy processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sase.enhancer import Enhancer

_WARM_UP_S = 0.5


def bench_stream(
    models: Sequence[str], engine: str = "auto", seconds: float = 10.0, rate: int | None = None
) -> list[dict[str, Any]]:
    """Measure hops that arrive in real time, as from a microphone.

    Args:
        models: names of shipped weights, or files.
        engine: as for :func:`sase.engines.load`.
        seconds: of signal for each measurement.
        rate: of the signal in Hz; None: that of the network, so that nothing is resampled.

    Returns:
        For each model: median and 99th percentile of the CPU time of a hop, and the 99th percentile of the wall time
        from when a hop is complete until its output is there, waiting for a core included: alone, and beside one busy
        process per core.

    Raises:
        InputError: no such model or engine.
    """
    rows = []
    for name in models:
        enhancer = Enhancer.from_pretrained(name, engine=engine)
        hz = rate or enhancer.sample_rate
        cpu, wall = _measure(enhancer, seconds, hz)
        with _busy_cores():
            _, wall_busy = _measure(enhancer, seconds, hz)
        rows.append(
            {
                "model": name,
                "engine": enhancer.engine.name,
                "Hz": hz,
                "CPU ms median": 1000 * float(np.median(cpu)),
                "CPU ms 99 %": 1000 * float(np.percentile(cpu, 99)),
                "wall ms 99 %": 1000 * float(np.percentile(wall, 99)),
                "wall ms 99 %, all cores busy": 1000 * float(np.percentile(wall_busy, 99)),
            }
        )
    return rows


def _measure(enhancer: Enhancer, seconds: float, rate: int) -> tuple[list[float], list[float]]:
    """Return the CPU time and the wall time of each hop of a signal in seconds, after a warm-up."""
    hop = round((enhancer.engine.latency_s - enhancer.engine.delay / enhancer.sample_rate) * rate)
    stream, generator = enhancer.stream(rate), np.random.default_rng(0)
    cpu, wall, started = [], [], time.perf_counter()
    for number in range(1, round((_WARM_UP_S + seconds) * rate / hop) + 1):
        samples = 0.1 * generator.standard_normal(hop).astype(np.float32)
        complete = started + number * hop / rate
        time.sleep(max(0.0, complete - time.perf_counter()))
        before = time.thread_time()
        stream.feed(samples)
        if number * hop > _WARM_UP_S * rate:
            cpu.append(time.thread_time() - before)
            wall.append(time.perf_counter() - complete)
    return cpu, wall


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Keep every core busy that this process may use, with one process each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()

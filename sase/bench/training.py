"""Speed of training: steps on synthetic speech, and what each part of them takes."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch

from sase.allocator import keep_freed_memory
from sase.bench.stages import make_dump
from sase.data.dataset import PairSet
from sase.data.remix import Mixtures
from sase.losses.loss import build_loss
from sase.model import build_model
from sase.profiling import macs_per_s, with_unit
from sase.training.config import build_optimizer
from sase.training.loop import EpochStats, GradientGuard, TrainingStep, train_epoch
from sase.training.performance import autocast, compile_network, training_precision

if TYPE_CHECKING:
    from sase.training.config import TrainConfig

P = ParamSpec("P")
R = TypeVar("R")

_WARM_UP = 2  # steps
_PARTS = ("draw", "forward", "loss", "update")  # the rest of a step is backward, with clipping


def bench_train(
    configs: Sequence[TrainConfig], switches: bool = False, steps: int = 10, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Measure training with given configs on a synthetic corpus and all cores: batches and steps, without validation.

    Args:
        configs: of one sample rate.
        switches: measure each in float32 first, on a CPU without kept memory; then with each of the other switches
            added in turn: on a CPU kept memory, bfloat16 and compilation, on a GPU TF32 and bfloat16.
        steps: number measured, after two of warm-up.
        device: ``cpu`` or a GPU.

    Returns:
        A row each: median and best speed relative to real time, in seconds of sound per second; median CPU time of a
        step, all threads together; the shares of its parts in wall-clock time; steps with gradients that are not
        finite, and the loss of the last step.
    """
    rate = configs[0].model.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        pairs = PairSet(make_dump(folder, 24, 5.0, rate), rate, device)
    if not switches:
        keep_freed_memory()
        return [_measure(c, pairs, "as configured", c.train.precision, c.train.compile, steps) for c in configs]
    if pairs.device.type != "cpu":
        return [
            _measure(c, pairs, name, name, False, steps) for name in ("float32", "tf32", "bfloat16") for c in configs
        ]
    rows = [_measure(config, pairs, "none", "float32", False, steps) for config in configs]
    keep_freed_memory()  # kept memory cannot be released, so what is without it comes first
    for name, precision, compiled in (
        ("kept memory", "float32", False),
        ("kept memory, bfloat16", "bfloat16", False),
        ("kept memory, bfloat16, compiled", "bfloat16", True),
    ):
        rows += [_measure(config, pairs, name, precision, compiled, steps) for config in configs]
    return rows


def _measure(
    config: TrainConfig, pairs: PairSet, switches: str, precision: str, compiled: bool, steps: int
) -> dict[str, Any]:
    model, train, parts = build_model(config.model).to(pairs.device), config.train, _Parts(pairs.device)
    if compiled:
        torch.compiler.reset()  # code compiled for another network would make this one's shapes dynamic
        compile_network(model.network, pairs.device)
    draw = parts.timed("draw", Mixtures(pairs, config.data, config.seed).batch)
    optimizer = build_optimizer(train, model.parameters(), pairs.device)
    step = TrainingStep(
        model,
        parts.timed("loss", build_loss(config.loss)),
        optimizer,
        GradientGuard(train.clip_norm, train.max_bad_steps),
        autocast=lambda: autocast(precision, pairs.device),
    )
    model.register_forward_pre_hook(lambda *_: parts.begin())
    model.register_forward_hook(lambda *_: parts.end("forward"))
    optimizer.register_step_pre_hook(lambda *_: parts.begin())
    optimizer.register_step_post_hook(lambda *_: parts.end("update"))
    seconds, processor, stats = list[float](), list[float](), list[EpochStats]()
    with training_precision(precision, pairs.device):
        for number in range(_WARM_UP + steps):
            if number == _WARM_UP:
                parts.seconds.clear()
            began, cpu_began = time.perf_counter(), time.process_time()
            stats.append(train_epoch(step, [draw(number)]))
            parts.synchronize()
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - cpu_began)
    del seconds[:_WARM_UP], processor[:_WARM_UP]
    batch_s = config.data.batch_size * config.data.segment_s
    return {
        "network": config.model.network,
        "MACs per second": with_unit(macs_per_s(build_model(config.model).eval())),
        "batch s": batch_s,
        "loss": " ".join(config.loss),
        "switches": switches,
        "threads": torch.get_num_threads(),
        "× real time, median": batch_s / statistics.median(seconds),
        "× real time, best": batch_s / min(seconds),
        "CPU s per step": statistics.median(processor),
        "draw, forward, loss, backward, update %": parts.shares(sum(seconds)),
        "bad steps": sum(each.bad_steps for each in stats),
        "last loss": stats[-1].means().get("loss", math.nan),
    }


class _Parts:
    """Seconds that the parts of training steps took; a GPU has finished a part before the next one begins."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def begin(self) -> None:
        """Start the clock; parts do not overlap."""
        self.synchronize()
        self._began = time.perf_counter()

    def end(self, part: str) -> None:
        """Add the time since the beginning."""
        self.synchronize()
        self.seconds[part] += time.perf_counter() - self._began

    def timed(self, part: str, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function that also counts its time."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            self.begin()
            result = function(*args, **kwargs)
            self.end(part)
            return result

        return call

    def shares(self, total: float) -> str:
        """Return the parts and the rest of ``total`` seconds in percent."""
        draw, forward, loss, update = (self.seconds[part] for part in _PARTS)
        parts = draw, forward, loss, total - draw - forward - loss - update, update
        return ", ".join(f"{100 * part / total:.0f}" for part in parts)

"""Cost estimates for a corpus of any size: speeds measured on this machine, and arithmetic."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from sase.bench import stages
from sase.bench.training import bench_train
from sase.data.dataset import MAX_CACHED_BYTES
from sase.errors import InputError
from sase.markdown import table_of_mappings
from sase.model import build_model
from sase.profiling import with_unit

if TYPE_CHECKING:
    from sase.training.config import TrainConfig

_RATE, _SAMPLE_BYTES, _FLOAT_BYTES = 16000, 2, 4
_EXCHANGES = 50
_MEANING = {  # of the fields of Speeds
    "dump_speed": "dumping: × real time on one core, noisy plus clean (48 kHz files)",
    "step_s": "training step of the whole batch on one device, s",
    "batch_s": "sound per batch as configured, s",
    "segments": "segments per batch as configured, divided among devices",
    "device": "device",
    "parameters": "network parameters",
    "exchange_speed": "gradient exchange (Gloo) between two processes: bytes per second sent by each",
    "decode_speed": "enhancement: × real time on one core",
    "score_speed": "scoring, all eight measures: × real time on one core",
}


@dataclass(frozen=True)
class Speeds:
    """Measured or given speeds, in seconds of sound or bytes per second, and properties of the training."""

    dump_speed: float
    step_s: float
    batch_s: float
    segments: int
    device: str
    parameters: int
    exchange_speed: float
    decode_speed: float
    score_speed: float


@dataclass(frozen=True)
class Cost:
    """Hours of each stage, and bytes of disk and memory, for one corpus size."""

    hours: float
    dump_h: float
    steps: int
    exchange_share: float
    train_h: float
    decode_h: float
    score_h: float
    dump_bytes: int
    enhanced_bytes: int
    memory_bytes: int


def predict(speeds: Speeds, hours: float, test_hours: float, epochs: int, cpus: int, devices: int) -> Cost:
    """Return the :class:`Cost` of one corpus size: arithmetic only.

    A step on N devices takes as long as the largest share of segments, plus the gradient exchange, in which each
    process sends 2 (N - 1) / N times the gradients' bytes (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009).
    The other stages scale with the number of cores.

    Args:
        speeds: a :class:`Speeds`.
        hours: of training sound, the length of noisy and of clean.
        test_hours: of sound to enhance and to score, unprocessed and enhanced.
        epochs: of training.
        cpus: cores of all machines together.
        devices: that train one network.

    Raises:
        InputError: a value that is not positive, or more devices than segments.
    """
    if min(hours, test_hours, epochs, cpus, devices) <= 0:
        raise InputError("hours, epochs, CPUs and devices must be more than 0")
    if devices > speeds.segments:
        raise InputError(f"a batch has {speeds.segments} segments, too few for {devices} devices; use fewer devices")
    steps = epochs * math.ceil(hours * 3600.0 / speeds.batch_s)
    sent = 2.0 * (devices - 1) / devices * speeds.parameters * _FLOAT_BYTES
    step_s = speeds.step_s * math.ceil(speeds.segments / devices) / speeds.segments
    exchange_s = sent / speeds.exchange_speed
    signal_bytes = round(3600 * _RATE * _SAMPLE_BYTES * hours)
    return Cost(
        hours=hours,
        dump_h=2.0 * hours / (speeds.dump_speed * cpus),
        steps=steps,
        exchange_share=exchange_s / (step_s + exchange_s),
        train_h=steps * (step_s + exchange_s) / 3600.0,
        decode_h=test_hours / (speeds.decode_speed * cpus),
        score_h=2.0 * test_hours / (speeds.score_speed * cpus),
        dump_bytes=2 * signal_bytes,
        enhanced_bytes=round(3600 * _RATE * _SAMPLE_BYTES * test_hours),
        memory_bytes=min(2 * signal_bytes, MAX_CACHED_BYTES),
    )


def measure(config: TrainConfig, use_gpu: bool = False, steps: int = 5, exchange_speed: float | None = None) -> Speeds:
    """Return the :class:`Speeds` of this machine, for the network, the batches and the loss of a config.

    CPU work is measured on one core, by CPU time, which other load hardly affects. A device is therefore a core, or a
    GPU, which is measured by wall-clock time.

    Args:
        config: the training config.
        use_gpu: train on a GPU instead of a core.
        steps: of training to measure.
        exchange_speed: bytes per second between machines; None measures two processes of this one.
    """
    model = build_model(config.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    batch_s = config.data.batch_size * config.data.segment_s
    [dump] = stages.bench_dump(10)
    with stages.threads(1):
        [train] = bench_train([config], steps=steps, device="cuda" if use_gpu else "cpu")
    step_s = batch_s / train["× real time, median"] if use_gpu else train["CPU s per step"]
    [decode] = stages.bench_enhance({"model": model.eval()}, durations_s=(4.0,), repeats=3)
    [score] = stages.bench_score(8, 1)
    return Speeds(
        dump_speed=dump["× real time, CPU time"],
        step_s=step_s,
        batch_s=batch_s,
        segments=config.data.batch_size,
        device=torch.cuda.get_device_name() if use_gpu else "a core",
        parameters=parameters,
        exchange_speed=exchange_speed or measure_exchange(parameters),
        decode_speed=1.0 / decode["RTF CPU time"],
        score_speed=1000.0 * stages.TEST_UTTERANCE_S / score["ms per utterance, CPU time"],
    )


def measure_exchange(count: int) -> float:
    """Return the bytes per second that each of two local processes sends in an all-reduce (Gloo).

    Args:
        count: number of floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_exchange, (folder, count), nprocs=2)
        with open(f"{folder}/seconds", encoding="utf-8") as file:
            seconds = float(file.read())
    return count * _FLOAT_BYTES / seconds  # two processes send 2 (2 - 1) / 2 = 1 times the bytes


def _exchange(rank: int, folder: str, count: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradient, seconds = torch.zeros(count), []
    for _ in range(_EXCHANGES + 1):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradient)
        seconds.append(time.perf_counter() - started)
    if rank == 0:
        with open(f"{folder}/seconds", "w", encoding="utf-8") as file:
            file.write(str(min(seconds[1:])))  # other load only makes it longer
    dist.destroy_process_group()


def page(
    speeds: Speeds, machine: str, sizes: Sequence[float], test_hours: float, epochs: int, cpus: int, devices: int
) -> str:
    """Return the Markdown page: measured speeds, estimates, and what these do not include.

    Args:
        speeds: measured ones.
        machine: description of where they were measured.
        sizes: of corpora, in hours; the rest as for :func:`predict`.
    """
    costs = [predict(speeds, hours, test_hours, epochs, cpus, devices) for hours in sizes]
    measured = [{"what": _MEANING[name], "value": _text(value)} for name, value in asdict(speeds).items()]
    rows = []
    for cost in map(asdict, costs):
        row = {"hours of sound": f"{cost['hours']:,.0f}"}
        row |= {f"{stage}, h": _hours(cost[f"{stage}_h"]) for stage in ("dump", "train", "decode", "score")}
        row |= {"steps": f"{cost['steps']:,}", "exchange, of training": f"{100 * cost['exchange_share']:.1f} %"}
        for name, key in (("dump", "dump"), ("enhanced", "enhanced"), ("training memory", "memory")):
            row[name] = with_unit(cost[f"{key}_bytes"]) + "B"
        rows.append(row)
    return "\n".join(
        (
            "# What a corpus costs",
            "",
            "Printed by `sase bench scale`; options set the number of cores, GPUs, hours and epochs.",
            "",
            "## Measured",
            "",
            f"On {machine}; a load above 0 comes from other programs.",
            "",
            *table_of_mappings(measured),
            "",
            "## Arithmetic",
            "",
            f"For {cpus} cores, {devices} training device{'s' if devices > 1 else ''}, {epochs} epochs, "
            f"and {test_hours:g} h of test sound. These are estimates, not measurements.",
            "",
            *table_of_mappings(rows),
            "",
            "- Dumping, enhancement, scoring: duration divided by speed and cores. Both signals of a pair are dumped,",
            "  and both the unprocessed and the enhanced test set are scored.",
            "- Training: a step on N devices takes as long as the largest share of segments on one, plus the gradient",
            "  exchange, 2 (N - 1) / N times 4 bytes per parameter. Validation is not included.",
            "- Disk: 16 kHz, 16 bit; twice the corpus for noisy and clean. The original corpus is not included.",
            f"- Training memory: the training set in each process; one above {with_unit(MAX_CACHED_BYTES)}B",
            "  stays on disk and is read segment by segment. Other stages keep the tables of a data directory and one",
            "  utterance in memory: utils/UTTERANCES.md lists what 100,000 utterances need.",
        )
    )


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"

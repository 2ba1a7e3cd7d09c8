"""What a corpus of any size will cost: measured parts of the work on this machine, and arithmetic from there."""

import math
import tempfile
import time
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing

from sase.bench import stages
from sase.data.dataset import MOST_HELD_BYTES
from sase.errors import InputError
from sase.markdown import table_of_mappings
from sase.model import build_model
from sase.profiling import with_unit

_RATE, _SAMPLE_BYTES, _FLOAT_BYTES = 16000, 2, 4
_EXCHANGES = 50
_MEANING = {  # of the fields of Parts
    "dump_speed": "seconds of sound, noisy and clean both counted, that a core dumps in one second (48 kHz files)",
    "step_s": "seconds of a training step of the whole batch on one device",
    "batch_s": "seconds of sound in a batch, of the configuration",
    "segments": "segments of a batch, likewise, which devices share",
    "device": "what a device is",
    "parameters": "parameters of the network",
    "exchange_speed": "bytes a second that each process sends while two of this machine exchange gradients (Gloo)",
    "decode_speed": "seconds of sound that a core enhances in one second",
    "score_speed": "seconds of sound that a core scores in one second, all eight measures",
}


@dataclass(frozen=True)
class Parts:
    """What was measured, or given instead; speeds are in seconds of sound, or bytes, a second."""

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
    """Hours of each stage, and bytes of disk and memory, for one size of corpus."""

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


def predict(parts, hours, test_hours, epochs, cpus, devices):
    """Return the :class:`Cost` of one size of corpus: arithmetic alone.

    A step on N devices takes what the largest share of the segments does, and the exchange of gradients besides: each
    process sends 2 (N - 1) / N times their bytes (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009). Jobs of
    the other stages share the cores and nothing else.

    Args:
        parts: a :class:`Parts`.
        hours: of training sound; noisy and clean are each as long.
        test_hours: of sound to enhance and to score, unprocessed and enhanced.
        epochs: times that training sees as much sound as there is.
        cpus: cores of all machines together.
        devices: that train together.

    Raises:
        InputError: nothing of something, or more devices than segments.
    """
    if min(hours, test_hours, epochs, cpus, devices) <= 0:
        raise InputError("hours, epochs, CPUs and devices must be more than 0")
    if devices > parts.segments:
        raise InputError(f"a batch has {parts.segments} segments, which {devices} devices cannot share; fewer devices?")
    steps = epochs * math.ceil(hours * 3600.0 / parts.batch_s)
    sent = 2.0 * (devices - 1) / devices * parts.parameters * _FLOAT_BYTES
    step_s = parts.step_s * math.ceil(parts.segments / devices) / parts.segments
    exchange_s = sent / parts.exchange_speed
    signal_bytes = round(3600 * _RATE * _SAMPLE_BYTES * hours)
    return Cost(
        hours=hours,
        dump_h=2.0 * hours / (parts.dump_speed * cpus),
        steps=steps,
        exchange_share=exchange_s / (step_s + exchange_s),
        train_h=steps * (step_s + exchange_s) / 3600.0,
        decode_h=test_hours / (parts.decode_speed * cpus),
        score_h=2.0 * test_hours / (parts.score_speed * cpus),
        dump_bytes=2 * signal_bytes,
        enhanced_bytes=round(3600 * _RATE * _SAMPLE_BYTES * test_hours),
        memory_bytes=min(2 * signal_bytes, MOST_HELD_BYTES),
    )


def measure(config, use_gpu=False, steps=5, exchange_speed=None):
    """Return the :class:`Parts` of this machine, for the network, the batches and the loss of a config.

    What runs on the processor is measured on one core, by the processor's time: what else the machine does changes it
    little. So a device is a core, unless it is a GPU, which is measured by the clock.

    Args:
        config: a :class:`sase.training.config.TrainConfig`.
        use_gpu: train on a GPU; else on a core.
        steps: of training that are measured.
        exchange_speed: bytes a second between machines, instead of those between two processes of this one.
    """
    model = build_model(config.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    batch_s = config.data.batch_size * config.data.segment_s
    [dump] = stages.bench_dump(10)
    with stages.threads(1):
        [train] = stages.bench_train([config], steps=steps, device="cuda" if use_gpu else "cpu")
    step_s = batch_s / train["hours an hour, median"] if use_gpu else train["processor s a step"]
    [decode] = stages.bench_enhance({"model": model.eval()}, durations_s=(4.0,), repeats=3)
    [score] = stages.bench_score(8, 1)
    return Parts(
        dump_speed=dump["× real time, processor"],
        step_s=step_s,
        batch_s=batch_s,
        segments=config.data.batch_size,
        device=torch.cuda.get_device_name() if use_gpu else "a core",
        parameters=parameters,
        exchange_speed=exchange_speed or measure_exchange(parameters),
        decode_speed=1.0 / decode["RTF processor"],
        score_speed=1000.0 * stages.TEST_UTTERANCE_S / score["ms an utterance, processor"],
    )


def measure_exchange(count):
    """Return the bytes a second that each of two processes of this machine sends in an all-reduce (Gloo) of floats.

    Args:
        count: how many floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_exchange, (folder, count), nprocs=2)
        with open(f"{folder}/seconds", encoding="utf-8") as file:
            seconds = float(file.read())
    return count * _FLOAT_BYTES / seconds  # two processes send 2 (2 - 1) / 2 = 1 times the bytes


def _exchange(rank, folder, count):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradient, seconds = torch.zeros(count), []
    for _ in range(_EXCHANGES + 1):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(gradient)
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        with open(f"{folder}/seconds", "w", encoding="utf-8") as file:
            file.write(str(min(seconds[1:])))  # the others waited for what else the machine does
    dist.destroy_process_group()


def page(parts, machine, sizes, test_hours, epochs, cpus, devices):
    """Return the Markdown page: what was measured, what was reckoned from it, and what is left out.

    Args:
        parts: :class:`Parts`.
        machine: on which they were measured, in words.
        sizes: of corpora, in hours; the rest as :func:`predict` has it.
    """
    costs = [predict(parts, hours, test_hours, epochs, cpus, devices) for hours in sizes]
    measured = [{"what": _MEANING[name], "value": _shown(value)} for name, value in asdict(parts).items()]
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
            "Printed by `sase bench scale`, whose options say how many cores, GPUs, hours and epochs.",
            "",
            "## Measured",
            "",
            f"On {machine}; a load above 0 is of other work beside.",
            "",
            *table_of_mappings(measured),
            "",
            "## Arithmetic",
            "",
            f"For {cpus} cores, {devices} device{'s' if devices > 1 else ''} to train on together, {epochs} epochs, "
            f"and {test_hours:g} h of test sound. Nothing in this table was measured.",
            "",
            *table_of_mappings(rows),
            "",
            "- Dumping, enhancing, scoring: the sound, divided by speed and cores. Both signals of a pair are dumped,",
            "  and the unprocessed test set is scored as well as the enhanced one.",
            "- Training: a step on N devices takes what the largest share of the segments does on one, and the",
            "  exchange of gradients besides, 2 (N - 1) / N times 4 bytes a parameter. Validation is left out.",
            "- Disk: 16 kHz, 16 bit; twice the corpus for noisy and clean. The corpus as it came is not counted.",
            "- Training memory: what the training set takes in each process. A larger one than this limit is left on",
            "  the disk, and read segment by segment. Other stages hold the tables of a data directory and one",
            "  utterance: utils/UTTERANCES.md has what 100,000 utterances need.",
        )
    )


def _hours(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _shown(value):
    return value if isinstance(value, str) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"

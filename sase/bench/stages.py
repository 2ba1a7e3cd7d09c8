"""How fast the package is on this machine: enhancing, training, dumping, scoring.

Every function returns rows for a table. Times are of the clock; where one thread works, that of the processor stands
beside it, since other programs on the machine cannot make it much longer.
"""

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sase import audio
from sase.data import dump
from sase.data.datadir import read_data_dir, write_data_dir
from sase.data.dataset import Mixtures, PairSet
from sase.enhancer import Enhancer
from sase.losses.objectives import build_loss
from sase.machine import cpu_name
from sase.model import build_model
from sase.profiling import macs_per_s, with_unit
from sase.training.loop import GradientGuard, TrainingStep, train_epoch
from sase.training.performance import compile_network, keep_freed_memory, training_precision

_REFERENCE_SIZE, _REFERENCE_COUNT = 512, 8  # matrices, and how many products of them: 1.07 GMAC
_TEST_UTTERANCES = 824  # of VoiceBank+DEMAND
TEST_UTTERANCE_S = 2.5  # their mean length


def machine():
    """Return the machine in one line: processor, cores, load, torch."""
    load = f"load {os.getloadavg()[0]:.1f} before, " if hasattr(os, "getloadavg") else ""
    return f"{cpu_name()}, {os.cpu_count()} cores, {load}torch {torch.__version__}"


def bench_enhance(models, durations_s=(4.0, 60.0), repeats=5):
    """Measure the real-time factor of :meth:`Enhancer.enhance`, from waveform to waveform at 16 kHz, on one thread.

    Args:
        models: mapping name to network.
        durations_s: lengths of the input.
        repeats: times that each is measured, after one that is not.

    Returns:
        For each network and length: median and best real-time factor by the clock, best by the processor's time, and
        ``GMAC``: the median as the work in matrix products that takes as long, measured in the same run.
    """
    rows = []
    with threads(1):
        for name, model in models.items():
            enhancer = Enhancer(model)
            for duration_s in durations_s:
                wav = 0.1 * np.random.default_rng(0).standard_normal(round(duration_s * enhancer.sample_rate))
                wav = wav.astype(np.float32)
                enhancer.enhance(wav, enhancer.sample_rate)
                clock, processor, reference = [], [], []
                for _ in range(repeats):
                    reference.append(_time(_reference)[0])
                    seconds = _time(enhancer.enhance, wav, enhancer.sample_rate)
                    clock.append(seconds[0] / duration_s)
                    processor.append(seconds[1] / duration_s)
                gmacs = 1e-9 * _REFERENCE_COUNT * _REFERENCE_SIZE**3
                rows.append(
                    {
                        "model": name,
                        "input s": duration_s,
                        "RTF median": statistics.median(clock),
                        "RTF best": min(clock),
                        "RTF processor": min(processor),
                        "GMAC": statistics.median(clock) / statistics.median(reference) * gmacs,
                    }
                )
    return rows


def bench_train(configs, switches=False, steps=10, device="cpu"):
    """Measure training as configs say, on a made-up corpus and all cores: batch, step, everything but validation.

    Args:
        configs: :class:`sase.training.config.TrainConfig` objects of one sample rate.
        switches: measure each without kept memory, bfloat16 and compiling as well, and with each added in turn.
        steps: how many are measured, after two that are not.
        device: the processor, or a GPU.

    Returns:
        A row each: median and best of the hours of sound that one hour trains on; median of the processor's time of a
        step, all threads together.
    """
    with tempfile.TemporaryDirectory() as folder:
        rate, dump_dir = configs[0].model.sample_rate, Path(folder) / "dump"
        _dump(make_corpus(folder, 24, 5.0, rate), dump_dir)
        pairs = PairSet(dump_dir, rate, device)
    rows = []
    if switches:  # kept memory cannot be given back, so what does without comes first
        rows += [_bench_train(config, pairs, "none", "float32", False, steps) for config in configs]
        keep_freed_memory()
        for name, precision, compiled in (
            ("kept memory", "float32", False),
            ("kept memory, bfloat16", "bfloat16", False),
            ("kept memory, bfloat16, compiled", "bfloat16", True),
        ):
            rows += [_bench_train(config, pairs, name, precision, compiled, steps) for config in configs]
        return rows
    keep_freed_memory()
    return [_bench_train(c, pairs, "of the config", c.train.precision, c.train.compile, steps) for c in configs]


def _bench_train(config, pairs, switches, precision, compiled, steps):
    mixtures = Mixtures(pairs, config.data, config.seed)
    model, train = build_model(config.model).to(pairs.device), config.train
    if compiled:
        torch.compiler.reset()  # what was compiled for another network makes this one's shapes dynamic
        compile_network(model.network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
    guard = GradientGuard(train.clip_norm, train.max_bad_steps)
    training_step, times = TrainingStep(model, build_loss(config.loss), optimizer, guard), []
    with training_precision(precision, pairs.device):
        for step in range(steps + 2):
            batches = (mixtures.batch(step) for _ in range(1))
            times.append(_time(train_epoch, training_step, batches))
    seconds, processor = zip(*times)
    batch_s = config.data.batch_size * config.data.segment_s
    return {
        "network": config.model.network,
        "MACs per second": with_unit(macs_per_s(build_model(config.model).eval())),
        "batch s": batch_s,
        "loss": " ".join(config.loss),
        "switches": switches,
        "threads": torch.get_num_threads(),
        "hours an hour, median": batch_s / statistics.median(seconds[2:]),
        "hours an hour, best": batch_s / min(seconds[2:]),
        "processor s a step": statistics.median(processor[2:]),
    }


def bench_dump(pairs=60, duration_s=5.0, sample_rate=48000):
    """Measure stage 2 on made-up WAV files, on one core.

    Returns:
        One row: seconds of sound (noisy and clean both counted) that a second dumps, by the clock and by the processor.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(folder, pairs, duration_s, sample_rate)
        clock, processor = _time(_dump, data, Path(folder) / "dump")
    sound_s = 2 * pairs * duration_s
    return [
        {
            "rate": f"{sample_rate} Hz",
            "sound s": sound_s,
            "× real time": sound_s / clock,
            "× real time, processor": sound_s / processor,
        }
    ]


def bench_score(utterances=60, workers=1):
    """Measure stage 5, every measure, on made-up utterances as long as VoiceBank+DEMAND's test utterances are.

    Returns:
        One row: time for the utterances, and what it comes to for the 824 of the test set.
    """
    from sase.evaluation import scoring

    with tempfile.TemporaryDirectory() as folder:
        dump_dir = Path(folder) / "dump"
        _dump(make_corpus(folder, utterances, TEST_UTTERANCE_S, 16000), dump_dir)
        pairs = scoring.data_pairs(read_data_dir(dump_dir), None)
        clock, processor = _time(scoring.score_pairs, pairs, workers)
    return [
        {
            "utterances": utterances,
            "processes": workers,
            "s": clock,
            "ms an utterance": 1000 * clock / utterances,
            **({"ms an utterance, processor": 1000 * processor / utterances} if workers == 1 else {}),
            f"s for {_TEST_UTTERANCES}": clock / utterances * _TEST_UTTERANCES,
        }
    ]


def make_corpus(folder, pairs, duration_s, sample_rate):
    """Write pairs of made-up speech, noisy and clean, as WAV files and a data directory; return its path."""
    generator = np.random.default_rng(0)
    noisy, clean = {}, {}
    for number in range(pairs):
        speech = _made_up_speech(generator, round(duration_s * sample_rate), sample_rate)
        utt = f"s{number % 8}_{number:04d}"
        signals = (clean, speech), (noisy, speech + 0.02 * generator.standard_normal(len(speech)))
        for kind, (table, wav) in zip(("clean", "noisy"), signals):
            table[utt] = str(Path(folder) / kind / f"{utt}.wav")
            audio.write(table[utt], wav, sample_rate)
    return write_data_dir(Path(folder) / "data", noisy, clean, {utt: utt.split("_")[0] for utt in noisy}).path


def _made_up_speech(generator, num_samples, sample_rate):
    """Harmonics of a gliding pitch in four syllables a second with pauses: enough for measures that look for speech."""
    time_s = np.arange(num_samples) / sample_rate
    pitch = generator.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s + generator.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 2.0 * time_s + generator.uniform(0, 6)), 0, None) ** 2
    return 0.15 * voice * syllables


def _dump(data_dir, dump_dir):
    dump.dump_set(data_dir, dump_dir, log=_silent)
    dump.finish(data_dir, dump_dir, log=_silent)


def _silent(line):
    pass


def _reference():
    matrix = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE)
    for _ in range(_REFERENCE_COUNT):
        matrix @ matrix


def _time(function, *args):
    """Call; return the seconds that it took by the clock, and those of this process on the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - clock, time.process_time() - processor


@contextlib.contextmanager
def threads(count):
    """Let torch have ``count`` threads while this is entered."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

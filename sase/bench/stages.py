"""Speed of enhancement, dumping and scoring on this machine.

Every function returns rows for a table. Times are wall-clock times; for single-threaded work CPU time is given as well,
which other programs on the machine hardly affect.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sase import audio
from sase.data import dump
from sase.data.datadir import Tables, read_data_dir, write_data_dir
from sase.enhancer import Enhancer
from sase.machine import cpu_name

if TYPE_CHECKING:
    from sase.model import SASE

_REFERENCE_SIZE, _REFERENCE_COUNT = 512, 8  # size of matrices and number of products: 1.07 GMAC
_TEST_UTTERANCES = 824  # of VoiceBank+DEMAND
TEST_UTTERANCE_S = 2.5  # their mean length


def machine() -> str:
    """Return a line that describes the machine: processor, cores, load, torch."""
    load = f"load {os.getloadavg()[0]:.1f} before, " if hasattr(os, "getloadavg") else ""
    return f"{cpu_name()}, {os.cpu_count()} cores, {load}torch {torch.__version__}"


def bench_enhance(
    models: Mapping[str, SASE], durations_s: Sequence[float] = (4.0, 60.0), repeats: int = 5
) -> list[dict[str, Any]]:
    """Measure the real-time factor of :meth:`Enhancer.enhance`, from waveform to waveform at 16 kHz, on one thread.

    Args:
        models: name to network.
        durations_s: lengths of the input.
        repeats: measurements of each, after one warm-up.

    Returns:
        For each network and length: median and best real-time factor by wall-clock time, best by CPU time, and
        ``GMAC``: the matrix products that take as long as the median, measured in the same run.
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
                        "RTF CPU time": min(processor),
                        "GMAC": statistics.median(clock) / statistics.median(reference) * gmacs,
                    }
                )
    return rows


def bench_dump(pairs: int = 60, duration_s: float = 5.0, sample_rate: int = 48000) -> list[dict[str, Any]]:
    """Measure stage 2 on synthetic WAV files, on one core.

    Returns:
        One row: seconds of sound (noisy plus clean) dumped per second, by wall-clock and by CPU time.
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
            "× real time, CPU time": sound_s / processor,
        }
    ]


def bench_score(utterances: int = 60, workers: int = 1) -> list[dict[str, Any]]:
    """Measure stage 5, every measure, on synthetic utterances as long as those of VoiceBank+DEMAND's test set.

    Returns:
        One row: time for the utterances, and extrapolated to the 824 of the test set.
    """
    from sase.evaluation import scoring

    with tempfile.TemporaryDirectory() as folder:
        dump_dir = make_dump(folder, utterances, TEST_UTTERANCE_S, 16000)
        pairs = scoring.data_pairs(read_data_dir(dump_dir), None)
        clock, processor = _time(scoring.score_pairs, pairs, workers)
    return [
        {
            "utterances": utterances,
            "processes": workers,
            "s": clock,
            "ms per utterance": 1000 * clock / utterances,
            **({"ms per utterance, CPU time": 1000 * processor / utterances} if workers == 1 else {}),
            f"s for {_TEST_UTTERANCES}": clock / utterances * _TEST_UTTERANCES,
        }
    ]


def make_corpus(folder: str | Path, pairs: int, duration_s: float, sample_rate: int) -> Path:
    """Write pairs of synthetic speech, noisy and clean, as WAV files and a data directory; return its path."""
    generator = np.random.default_rng(0)
    noisy: dict[str, str] = {}
    clean: dict[str, str] = {}
    for number in range(pairs):
        speech = _synthetic_speech(generator, round(duration_s * sample_rate), sample_rate)
        utt = f"s{number % 8}_{number:04d}"
        signals = (clean, speech), (noisy, speech + 0.02 * generator.standard_normal(len(speech)))
        for kind, (table, wav) in zip(("clean", "noisy"), signals):
            table[utt] = str(Path(folder) / kind / f"{utt}.wav")
            audio.write(table[utt], wav, sample_rate)
    return write_data_dir(Path(folder) / "data", Tables(noisy, clean, {utt: utt.split("_")[0] for utt in noisy})).path


def make_dump(folder: str | Path, pairs: int, duration_s: float, sample_rate: int) -> Path:
    """Dump a corpus of :func:`make_corpus`; return the dump directory."""
    _dump(make_corpus(folder, pairs, duration_s, sample_rate), Path(folder) / "dump")
    return Path(folder) / "dump"


def _synthetic_speech(generator: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Harmonics of a gliding pitch, four syllables per second with pauses: speech enough for the measures."""
    time_s = np.arange(num_samples) / sample_rate
    pitch = generator.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s + generator.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 2.0 * time_s + generator.uniform(0, 6)), 0, None) ** 2
    return 0.15 * voice * syllables


def _dump(data_dir: str | Path, dump_dir: Path) -> None:
    dump.dump_set(data_dir, dump_dir, log=_silent)
    dump.join_shards(data_dir, dump_dir, log=_silent)


def _silent(line: str) -> None:
    pass


def _reference() -> None:
    matrix = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE)
    for _ in range(_REFERENCE_COUNT):
        torch.mm(matrix, matrix)


def _time(function: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """Call a function; return the wall-clock time and the CPU time of this process, in seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - clock, time.process_time() - processor


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Limit torch to ``count`` threads in this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Score pairs of files, folders of them and lists, in one or several processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sase import audio
from sase.batch import ends_batch, reason_of
from sase.data import arks
from sase.data.datadir import DataDir, read_table
from sase.errors import InputError
from sase.evaluation.scores import MISSING, Scores, require_some, write_csv
from sase.metrics import dnsmos
from sase.metrics.measures import METRICS, WITHOUT_REFERENCE, evaluate

SAMPLE_RATE = 16000  # of all scoring, in Hz; other rates are resampled to it

Log = Callable[[str], object]


@dataclass(frozen=True)
class Pair:
    """One utterance and its two signals: sound files or ``path.ark:offset``.

    Attributes:
        utt: its name.
        clean: None if it is scored without a reference.
        enhanced: None if there is no enhanced file.
    """

    utt: str
    clean: str | None
    enhanced: str | None


@dataclass(frozen=True)
class Method:
    """How pairs are scored.

    Attributes:
        trim: the most samples, at the rate of the files, that are cut off the end of the longer signal of a pair.
        without_reference: also compute the measures that need no clean signal.
    """

    trim: int = 0
    without_reference: bool = False

    def measures(self, reference: bool = True) -> list[str]:
        """Return the names of the measures, for pairs with or without a clean signal."""
        return [*(METRICS if reference else ()), *(WITHOUT_REFERENCE if self.without_reference else ())]


@dataclass(frozen=True)
class PairScores:
    """{measure: value} of one pair, whether the enhanced signal is silent, and how many samples were trimmed."""

    values: dict[str, float]
    silent: bool = False
    trimmed: int = 0


PLAIN = Method()


def folder_pairs(clean_dir: str | Path, enhanced_dir: str | Path) -> tuple[list[Pair], list[str]]:
    """Return the :class:`Pair` of every file under ``clean_dir``, and the files under ``enhanced_dir`` without partner.

    Files are paired by their path below the folder without its suffix.
    """
    clean, enhanced = _sound_files(clean_dir), _sound_files(enhanced_dir)
    if not clean.keys() & enhanced.keys():
        raise InputError(f"{clean_dir} and {enhanced_dir}: no sound file has the same name in both")
    pairs = [Pair(utt, path, enhanced.get(utt)) for utt, path in sorted(clean.items())]
    return pairs, sorted(enhanced.keys() - clean.keys())


def data_pairs(data: DataDir, enhanced_dir: str | Path | None) -> list[Pair]:
    """Return the :class:`Pair` of every utterance of a data directory.

    Args:
        data: a :class:`~sase.data.datadir.DataDir`.
        enhanced_dir: a folder with ``spk1.scp``, or with sound files named after the utterances; None for the
            unprocessed input.
    """
    if enhanced_dir is None:
        return [Pair(utt, data.clean[utt], data.noisy[utt]) for utt in data.utts]
    enhanced = _enhanced_files(enhanced_dir)
    return [
        Pair(utt, data.clean[utt], enhanced.get(utt) or enhanced.get(unicodedata.normalize("NFC", utt)))
        for utt in data.utts
    ]


def score_pair(pair: Pair, method: Method = PLAIN) -> PairScores:
    """Return the :class:`PairScores` of one pair, at 16 kHz.

    Raises:
        InputError: the enhanced file is missing, a file is unreadable, the clean one is silent, or rates or lengths
            differ.
    """
    if pair.enhanced is None:
        raise InputError(MISSING)
    enhanced, rate = read(pair.enhanced)
    clean, trimmed = None, 0
    if pair.clean is not None:
        clean, clean_rate = read(pair.clean)
        if clean_rate != rate:
            raise InputError(f"clean has {clean_rate} Hz, enhanced {rate} Hz")
        trimmed = abs(len(clean) - len(enhanced))
        if trimmed > method.trim:
            raise InputError(f"clean has {len(clean)} samples, enhanced {len(enhanced)}")
        clean, enhanced = (wav[: min(len(clean), len(enhanced))] for wav in (clean, enhanced))
        if not clean.any():
            raise InputError(f"{pair.clean}: is silent")
        clean = audio.resample(clean, rate, SAMPLE_RATE)
    silent = bool((enhanced == enhanced[0]).all())
    values = evaluate(
        clean, audio.resample(enhanced, rate, SAMPLE_RATE), SAMPLE_RATE, method.measures(clean is not None)
    )
    return PairScores(values, silent, trimmed)


def score_pairs(pairs: Sequence[Pair], workers: int = 1, log: Log = print, method: Method = PLAIN) -> Scores:
    """Return the :class:`Scores` of many pairs; a bad pair is logged, counted and skipped.

    Args:
        pairs: list of :class:`Pair`.
        workers: number of processes.
        log: called with a line for each bad utterance.
        method: how to score.
    """
    if method.without_reference:
        dnsmos.require()
    started = time.monotonic()
    scored: dict[str, PairScores] = {}
    failed: dict[str, str] = {}
    workers = min(workers, len(pairs))
    try_pair = partial(_try_pair, method=method)
    if workers > 1:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the caller's threads
        with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
            outcomes = list(_progress(pool.map(try_pair, pairs, chunksize=4), len(pairs)))
    else:
        outcomes = list(_progress(map(try_pair, pairs), len(pairs)))
    for pair, (scores, reason) in zip(pairs, outcomes):
        if scores is None:
            failed[pair.utt] = reason
            log(f"{pair.utt}: {reason}")
        else:
            scored[pair.utt] = scores
    return Scores(
        {utt: each.values for utt, each in scored.items()},
        failed,
        time.monotonic() - started,
        [utt for utt, each in scored.items() if each.silent],
        {utt: each.trimmed for utt, each in scored.items() if each.trimmed},
    )


def score_folders(
    clean_dir: str | Path | None,
    enhanced_dir: str | Path,
    out: str | Path | None = None,
    workers: int = 1,
    log: Log = print,
    method: Method = PLAIN,
) -> Scores:
    """Return the :class:`Scores` of two folders, as :func:`folder_pairs` pairs them, or of one without a reference.

    Args:
        clean_dir, enhanced_dir: folders of sound files. Without a clean one, the enhanced one may have a ``spk1.scp``,
            and ``method`` must be without reference.
        out: CSV file, or a folder for scores.csv; None to write nothing.
        workers: number of processes.
        log: called with a line for each bad utterance.
        method: how to score.
    """
    if clean_dir is None:
        pairs = [Pair(utt, None, path) for utt, path in sorted(_enhanced_files(enhanced_dir).items())]
    else:
        pairs, surplus = folder_pairs(clean_dir, enhanced_dir)
        if surplus:
            names = " ".join(surplus[:5])
            log(f"{enhanced_dir}: {len(surplus)} files without a clean counterpart are not scored: {names} ...")
    scores = require_some(score_pairs(pairs, workers, log, method), str(enhanced_dir))
    if out is not None:
        write_csv(out if Path(out).suffix else Path(out) / "scores.csv", scores)
    return scores


def _enhanced_files(folder: str | Path) -> dict[str, str]:
    """Return {utt: path} of a folder with ``spk1.scp``, or with sound files named after the utterances."""
    table = Path(folder) / "spk1.scp"
    return read_table(table) if table.is_file() else _sound_files(folder)


def _sound_files(folder: str | Path) -> dict[str, str]:
    """Return relative path without suffix to path, of the sound files in a folder and its subfolders."""
    files: dict[str, str] = {}
    for path in audio.sound_files(folder):
        # The same name may be composed on one system and decomposed on another.
        utt = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if utt in files:
            raise InputError(f"{files[utt]} and {path} have the same name; remove one of them")
        files[utt] = str(path)
    return files


def is_ark(spec: str) -> bool:
    """Return whether a path is ``path.ark:offset``."""
    return re.fullmatch(r".+\.ark:\d+", spec) is not None


def read(spec: str) -> tuple[np.ndarray, int]:
    """Return float32 (time,) and the rate of a sound file or an ark entry."""
    if is_ark(spec):
        return arks.read_wav(spec), arks.read_entry(spec).sample_rate
    return audio.read_mono(spec)


def _try_pair(pair: Pair, method: Method) -> tuple[PairScores, None] | tuple[None, str]:
    """Return the scores of a pair and None, or None and the reason for the failure."""
    try:
        return score_pair(pair, method), None
    except Exception as error:
        if ends_batch(error):
            raise
        return None, reason_of(error)


def _progress(outcomes: Iterable[Any], total: int) -> Iterable[Any]:
    return tqdm(outcomes, total=total, unit="utt", disable=None, leave=False)  # None: only on a terminal


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes started meanwhile compute with one thread each, since they share the cores."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value

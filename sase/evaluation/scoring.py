"""Sets of files to scores per utterance, means and break-downs.

A folder of scores holds ``scores.csv``, one file ``MEASURE`` with ``utt value`` lines for each measure, ``failed`` with
``utt reason`` lines, and ``scores.json``, which says of what input all of it is; ``shards/`` holds what the jobs made.
The scores of the unprocessed input stand beside the data (``scoring_unprocessed``) and are made once.
"""

import csv
import hashlib
import io
import math
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sase import audio, jsonfile
from sase.atomic import remove_leftovers, write_text
from sase.data import dump
from sase.data.datadir import read_data_dir, read_table, shard, write_table
from sase.errors import InputError
from sase.metrics.measures import METRICS, evaluate

SAMPLE_RATE = 16000  # at which everything is scored; other rates are resampled to it
UNPROCESSED = "scoring_unprocessed"
MISSING = "no enhanced file"
LABELS = ("speaker", "noise", "snr")
_FORMAT = 1  # to be raised when a measure changes, so that kept scores are made again


@dataclass(frozen=True)
class Pair:
    """One utterance, and where its two signals are: sound files, or ``path.ark:offset``; no enhanced file is None."""

    utt: str
    clean: str
    enhanced: str | None


@dataclass(frozen=True)
class Scores:
    """What scoring gave: values per utterance, why others have none, and how long it took on the clock."""

    values: dict[str, dict[str, float]]
    failed: dict[str, str]
    seconds: float

    def summary(self, utts=None):
        """Return means, standard deviations and counts, over all utterances or the given ones, as plain dicts.

        Undefined values (NaN) are left out of means and counted in ``undefined``; ``without_speech`` is the number of
        utterances that have any. A mean over nothing is None.
        """
        rows = [self.values[utt] for utt in (self.values if utts is None else utts) if utt in self.values]
        columns = {name: np.array([row[name] for row in rows]) for name in METRICS}
        defined = {name: column[~np.isnan(column)] for name, column in columns.items()}
        return {
            "mean": {name: float(kept.mean()) if len(kept) else None for name, kept in defined.items()},
            "std": {name: float(kept.std()) if len(kept) else None for name, kept in defined.items()},
            "scored": len(rows),
            "failed": len(self.failed) if utts is None else sum(utt in self.failed for utt in utts),
            "missing": list(self.failed.values()).count(MISSING),
            "without_speech": sum(any(map(math.isnan, row.values())) for row in rows),
            "undefined": {name: len(rows) - len(kept) for name, kept in defined.items()},
        }


def folder_pairs(clean_dir, enhanced_dir):
    """Return the :class:`Pair` of every file under ``clean_dir``, and the files under ``enhanced_dir`` without partner.

    Files belong together by their path below the folder without its suffix.
    """
    clean, enhanced = _sound_files(clean_dir), _sound_files(enhanced_dir)
    if not clean.keys() & enhanced.keys():
        raise InputError(f"{clean_dir} and {enhanced_dir}: no sound file has the same name in both")
    pairs = [Pair(utt, path, enhanced.get(utt)) for utt, path in sorted(clean.items())]
    return pairs, sorted(enhanced.keys() - clean.keys())


def data_pairs(data, enhanced_dir):
    """Return the :class:`Pair` of every utterance of a data directory.

    Args:
        data: a :class:`~sase.data.datadir.DataDir`.
        enhanced_dir: a folder with ``spk1.scp``, or with sound files named after the utterances; None pairs the clean
            speech with the unprocessed input.
    """
    if enhanced_dir is None:
        return [Pair(utt, data.clean[utt], data.noisy[utt]) for utt in data.utts]
    table = Path(enhanced_dir) / "spk1.scp"
    enhanced = read_table(table) if table.is_file() else _sound_files(enhanced_dir)
    return [Pair(utt, data.clean[utt], enhanced.get(utt)) for utt in data.utts]


def score_pair(pair):
    """Return {measure: value} of one pair, at 16 kHz.

    Raises:
        InputError: there is no enhanced file, one cannot be read, is silent, or their rates or lengths differ.
    """
    if pair.enhanced is None:
        raise InputError(MISSING)
    (clean, clean_rate), (enhanced, rate) = read(pair.clean), read(pair.enhanced)
    if clean_rate != rate:
        raise InputError(f"clean has {clean_rate} Hz, enhanced {rate} Hz")
    if len(clean) != len(enhanced):
        raise InputError(f"clean has {len(clean)} samples, enhanced {len(enhanced)}")
    for wav, path in ((clean, pair.clean), (enhanced, pair.enhanced)):
        if not wav.any():
            raise InputError(f"{path}: is silent")
    return evaluate(*(audio.resample(wav, rate, SAMPLE_RATE) for wav in (clean, enhanced)), SAMPLE_RATE)


def score_pairs(pairs, workers=1, log=print):
    """Return the :class:`Scores` of many pairs; a bad one is told to ``log`` and counted, the rest goes on.

    Args:
        pairs: list of :class:`Pair`.
        workers: how many processes share the work.
        log: called with one line for each bad utterance.
    """
    began, values, failed = time.monotonic(), {}, {}
    workers = min(workers, len(pairs))
    if workers > 1:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the caller's threads
        with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
            outcomes = list(_bar(pool.map(_try_pair, pairs, chunksize=4), len(pairs)))
    else:
        outcomes = list(_bar(map(_try_pair, pairs), len(pairs)))
    for pair, (scored, reason) in zip(pairs, outcomes):
        if scored is None:
            failed[pair.utt] = reason
            log(f"{pair.utt}: {reason}")
        else:
            values[pair.utt] = scored
    return Scores(values, failed, time.monotonic() - began)


def score_folders(clean_dir, enhanced_dir, out=None, workers=1, log=print):
    """Return the :class:`Scores` of two folders, as :func:`folder_pairs` pairs them.

    Args:
        clean_dir, enhanced_dir: folders of sound files.
        out: CSV file, or a folder to write scores.csv in; nothing is written when None.
        workers: how many processes share the work.
        log: called with one line for each bad utterance.
    """
    pairs, surplus = folder_pairs(clean_dir, enhanced_dir)
    if surplus:
        log(f"{enhanced_dir}: {len(surplus)} files have no clean one, not scored: {' '.join(surplus[:5])} ...")
    scores = require_some(score_pairs(pairs, workers, log), str(enhanced_dir))
    if out is not None:
        write_csv(out if Path(out).suffix else Path(out) / "scores.csv", scores)
    return scores


def score_shard(data_dir, enhanced_dir, out, nj=1, job=1, workers=1, log=print):
    """Score shard ``job`` of ``nj`` of a set, and of the unprocessed input where that was not done before.

    A shard that is finished, and of the same input, is left as it is.

    Args:
        data_dir: the (dumped) data directory, with the clean speech.
        enhanced_dir: as in :func:`data_pairs`.
        out: the folder for the scores.
        nj, job: how many shards there are, and which this is, from 1.
        workers: how many processes share this shard.
        log: called with each line of the report.
    """
    for name, pairs, folder in _tasks(data_dir, enhanced_dir, out):
        if _read_record(folder / "scores.json", pairs) is not None:
            log(f"{name}: scored before, kept (to score again, delete {folder})")
            continue
        part, path = _shard(pairs, nj, job), _shard_path(folder, nj, job)
        if _read_record(path, part) is None:
            scores = score_pairs(part, workers, log)
            _write_record(path, part, scores)
            counts = f"{len(scores.values)} scored, {len(scores.failed)} failed"
            log(f"{name}, shard {job} of {nj}: {counts} in {scores.seconds:.1f} s")
        else:
            log(f"{name}, shard {job} of {nj}: scored before, kept")


def join_shards(data_dir, enhanced_dir, out, nj=1):
    """Join the shards of a set and of its unprocessed input, write both folders of scores, and return the two.

    Args: as :func:`score_shard`.

    Returns:
        The :class:`Scores` of the unprocessed input and of the enhanced speech.

    Raises:
        InputError: a shard is missing or of other input, or nothing could be scored.
    """
    labels, joined = labels_of(read_data_dir(data_dir)), []
    for name, pairs, folder in _tasks(data_dir, enhanced_dir, out):
        scores = _read_record(folder / "scores.json", pairs) or _join(name, pairs, folder, nj)
        write_scores(folder, scores, labels)
        _write_record(folder / "scores.json", pairs, scores)
        joined.append(require_some(scores, name))
    # Not those of the unprocessed input: another experiment on the same set may be writing there now.
    remove_leftovers(Path(out), Path(out) / "shards")
    return tuple(joined)


def require_some(scores, name):
    """Return ``scores``, or raise InputError when there is not one."""
    if not scores.values:
        utt, reason = next(iter(scores.failed.items()))
        raise InputError(f"{name}: none of {len(scores.failed)} utterances could be scored; the first, {utt}: {reason}")
    return scores


def labels_of(data):
    """Return {"speaker": {utt: name}, "noise": {utt: name}, "snr": {utt: dB}} of a data directory."""
    return dict(zip(LABELS, (data.utt2spk, data.utt2noise, data.utt2snr)))


def groups(labels):
    """Return {group: [utt, ...]} for one kind of label; numbers in their order, else by name."""
    members = {label: [] for label in sorted(set(labels.values()))}
    for utt, label in labels.items():
        members[label].append(utt)
    return members


def write_csv(path, scores, labels=None):
    """Write one row an utterance: its name, the measures (empty where undefined), and the labels that are known.

    Args:
        path: where to.
        scores: :class:`Scores`.
        labels: as :func:`labels_of` gives them.
    """
    known = {kind: table for kind, table in (labels or {}).items() if table}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["utt", *METRICS, *known])
    for utt, row in sorted(scores.values.items()):
        numbers = ["" if math.isnan(row[name]) else f"{row[name]:.6f}" for name in METRICS]
        tags = [table.get(utt, "") for table in known.values()]
        writer.writerow([utt, *numbers, *(f"{tag:g}" if isinstance(tag, float) else tag for tag in tags)])
    write_text(path, buffer.getvalue())


def write_scores(folder, scores, labels):
    """Write ``scores.csv``, a table ``utt value`` for each measure, and ``failed``, as Kaldi's tools read them."""
    for name in METRICS:
        write_table(folder / name, {utt: f"{row[name]:.6f}" for utt, row in scores.values.items()})
    write_table(folder / "failed", scores.failed)
    write_csv(folder / "scores.csv", scores, labels)


def _tasks(data_dir, enhanced_dir, out):
    """Yield what is to be scored: (name, pairs, folder of the scores)."""
    data = read_data_dir(data_dir)
    yield f"{data_dir} unprocessed", data_pairs(data, None), data.path / UNPROCESSED
    yield str(enhanced_dir), data_pairs(data, enhanced_dir), Path(out)


def _sound_files(folder):
    """Return {path below the folder, without suffix: path} of all sound files; hidden ones are passed over."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    files = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in audio.SUFFIXES and not path.name.startswith("."):
            utt = path.relative_to(folder).with_suffix("").as_posix()
            if utt in files:
                raise InputError(f"{files[utt]} and {path} have the same name: which of them is meant? Remove one")
            files[utt] = str(path)
    if not files:
        raise InputError(f"{folder}: holds no sound files ({' '.join(audio.SUFFIXES)})")
    return files


def _is_ark(spec):
    return re.fullmatch(r".+\.ark:\d+", spec) is not None


def read(spec):
    """Return float32 (time,) and the rate of a sound file or an ark entry."""
    if _is_ark(spec):
        return dump.read_wav(spec), dump.read_entry(spec).sample_rate
    return audio.read_mono(spec)


def _try_pair(pair):
    """Return the values of a pair and None, or None and why there are none."""
    try:
        return score_pair(pair), None
    except (InputError, OSError) as error:
        return None, " ".join(str(error).split())


def _bar(outcomes, total):
    return tqdm(outcomes, total=total, unit="utt", disable=None, leave=False)  # None: only on a terminal


@contextmanager
def _one_thread_each():
    """While this is entered, processes that start compute with one thread: several would fight for the same cores."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _shard(pairs, nj, job):
    return [pairs[index] for index in shard(range(len(pairs)), nj, job)]  # they are sorted by utterance


def _shard_path(folder, nj, job):
    return folder / "shards" / f"{job}of{nj}.json"


def _join(name, pairs, folder, nj):
    """Return the Scores of all shards together; the time is that of the longest."""
    shards = {job: _read_record(_shard_path(folder, nj, job), _shard(pairs, nj, job)) for job in range(1, nj + 1)}
    if missing := [str(job) for job, scores in shards.items() if scores is None]:
        raise InputError(f"{name}: shards {' '.join(missing)} of {nj} are missing or of other input; score them first")
    values = {utt: row for scores in shards.values() for utt, row in scores.values.items()}
    failed = {utt: reason for scores in shards.values() for utt, reason in scores.failed.items()}
    return Scores(values, failed, max(scores.seconds for scores in shards.values()))


def _input_key(pairs):
    """Return a hash of everything that the scores depend on: the files, and what they are measured with."""
    tools = [_FORMAT, audio.RESAMPLER, *METRICS, *map(version, ("pesq", "pystoi"))]
    key = hashlib.sha256(f"{tools}\n".encode())
    for pair in pairs:
        key.update(f"{pair.utt} {_stamp(pair.clean)} {_stamp(pair.enhanced)}\n".encode())
    return key.hexdigest()


def _stamp(spec):
    if spec is None:
        return "none"
    return f"{spec} {dump.file_fingerprint(spec.rpartition(':')[0] if _is_ark(spec) else spec)}"


def _write_record(path, pairs, scores):
    record = {"input": _input_key(pairs), "seconds": scores.seconds, "failed": scores.failed, "values": scores.values}
    jsonfile.write(path, record, indent=0)


def _read_record(path, pairs):
    """Return the Scores in a record when it is there and of the same input, else None."""
    if not path.is_file():
        return None
    record = jsonfile.read(path)
    if record["input"] != _input_key(pairs):
        return None
    return Scores(jsonfile.null_to_nan(record["values"]), record["failed"], record["seconds"])

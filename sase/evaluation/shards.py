"""Stage 5: score a set in shards, skip what has been scored, and join the shards.

A folder of scores has the tables of :mod:`sase.evaluation.scores` and the completion record ``scores.json``;
``shards/`` has a record of each job. The scores of the unprocessed input are stored in the data directory
(``scoring_unprocessed``) and computed once; if that is read-only, in the folder of scores, and on request elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from sase import audio, completion, jsonfile
from sase.atomic import remove_leftovers
from sase.data.datadir import DataDir, read_data_dir, shard
from sase.errors import InputError
from sase.evaluation.scores import Labels, Scores, labels_of, require_some, write_scores
from sase.evaluation.scoring import PLAIN, Log, Method, Pair, data_pairs, is_ark, score_pairs

UNPROCESSED = "scoring_unprocessed"
_FORMAT = 3  # raise it when a measure changes, so that existing scores are computed again


@dataclass(frozen=True)
class ScoredSet:
    """A data directory, its enhanced speech, and the scores of both, for the results page.

    Attributes:
        data: the data directory.
        pairs: {utt: :class:`Pair` of clean and enhanced speech}.
        labels: as :func:`labels_of` returns them.
        unprocessed, enhanced: the scores.
        unprocessed_dir: the folder of the former.
    """

    data: DataDir
    pairs: dict[str, Pair]
    labels: Labels
    unprocessed: Scores
    enhanced: Scores
    unprocessed_dir: Path


def score_shard(
    data_dir: str | Path,
    enhanced_dir: str | Path,
    out: str | Path,
    nj: int = 1,
    job: int = 1,
    workers: int = 1,
    log: Log = print,
    method: Method = PLAIN,
    unprocessed: str | Path | None = None,
) -> None:
    """Score shard ``job`` of ``nj`` of a set, and of its unprocessed input unless that has been scored.

    A finished shard of the same input is skipped.

    Args:
        data_dir: the (dumped) data directory, with the clean speech.
        enhanced_dir: as in :func:`data_pairs`.
        out: the folder for the scores.
        nj, job: the number of shards, and which of them to score, from 1.
        workers: number of processes.
        log: called with each line of the report.
        method: how to score.
        unprocessed: folder for the scores of the unprocessed input, instead of one in the data directory.
    """
    for name, pairs, folder in _tasks(read_data_dir(data_dir), data_dir, enhanced_dir, out, unprocessed):
        if _read_record(folder / "scores.json", pairs, method) is not None:
            log(f"{name}: already scored (to score again, delete {folder})")
            continue
        part, path = _shard(pairs, nj, job), _shard_path(folder, nj, job)
        if _read_record(path, part, method) is None:
            scores = score_pairs(part, workers, log, method)
            _write_record(path, part, scores, method)
            counts = f"{len(scores.values)} scored, {len(scores.failed)} failed"
            log(f"{name}, shard {job} of {nj}: {counts} in {scores.seconds:.1f} s")
        else:
            log(f"{name}, shard {job} of {nj}: already scored")


def join_shards(
    data_dir: str | Path,
    enhanced_dir: str | Path,
    out: str | Path,
    nj: int = 1,
    method: Method = PLAIN,
    unprocessed: str | Path | None = None,
) -> ScoredSet:
    """Join the shards of a set and of its unprocessed input, write both folders of scores, and return the set.

    Args: as :func:`score_shard`.

    Raises:
        InputError: a shard is missing or of other input, or nothing could be scored.
    """
    data = read_data_dir(data_dir)
    labels, joined, tasks = labels_of(data), [], _tasks(data, data_dir, enhanced_dir, out, unprocessed)
    for name, pairs, folder in tasks:
        scores = _read_record(folder / "scores.json", pairs, method) or _join(name, pairs, folder, nj, method)
        write_scores(folder, scores, labels)
        _write_record(folder / "scores.json", pairs, scores, method)
        joined.append(require_some(scores, name))
    # Not in the folder of the unprocessed input: another experiment on the same set may be writing there.
    remove_leftovers(Path(out), Path(out) / "shards")
    unprocessed_scores, enhanced_scores = joined
    enhanced_pairs = {pair.utt: pair for pair in tasks[-1][1]}
    return ScoredSet(data, enhanced_pairs, labels, unprocessed_scores, enhanced_scores, tasks[0][2])


def _tasks(
    data: DataDir, data_dir: str | Path, enhanced_dir: str | Path, out: str | Path, unprocessed: str | Path | None
) -> list[tuple[str, list[Pair], Path]]:
    """Return the two things to score, unprocessed and enhanced: (name, pairs, folder of the scores)."""
    kept = Path(unprocessed) if unprocessed else data.path / UNPROCESSED
    if unprocessed and kept.resolve() == Path(out).resolve():
        raise InputError(f"{kept}: the scores of the enhanced speech are there; use another folder for --unprocessed")
    if not unprocessed and not (kept / "scores.json").is_file() and not os.access(data.path, os.W_OK):
        kept = Path(out) / UNPROCESSED  # the data is read-only
    return [
        (f"{data_dir} unprocessed", data_pairs(data, None), kept),
        (str(enhanced_dir), data_pairs(data, enhanced_dir), Path(out)),
    ]


def _shard(pairs: Sequence[Pair], nj: int, job: int) -> list[Pair]:
    return [pairs[index] for index in shard(range(len(pairs)), nj, job)]  # they are sorted by utterance


def _shard_path(folder: Path, nj: int, job: int) -> Path:
    return folder / "shards" / f"{job}of{nj}.json"


def _join(name: str, pairs: Sequence[Pair], folder: Path, nj: int, method: Method) -> Scores:
    """Return the Scores of all shards together; the time is that of the slowest."""
    records = {
        job: _read_record(_shard_path(folder, nj, job), _shard(pairs, nj, job), method) for job in range(1, nj + 1)
    }
    if missing := [str(job) for job, scores in records.items() if scores is None]:
        raise InputError(f"{name}: shards {' '.join(missing)} of {nj} are missing or of other input; score them first")
    shards = [scores for scores in records.values() if scores is not None]
    return Scores(
        {utt: row for scores in shards for utt, row in scores.values.items()},
        {utt: reason for scores in shards for utt, reason in scores.failed.items()},
        max(scores.seconds for scores in shards),
        [utt for scores in shards for utt in scores.silent],
        {utt: samples for scores in shards for utt, samples in scores.trimmed.items()},
    )


def _input_fingerprint(pairs: Iterable[Pair], method: Method) -> str:
    """Return the fingerprint of everything the scores depend on: the files, the tools and the method."""
    packages = ["pesq", "pystoi", *(["speechmos"] if method.without_reference else [])]
    tools = [_FORMAT, audio.RESAMPLER, *method.measures(), method.trim, *map(version, packages)]
    lines = (f"{pair.utt} {_spec_fingerprint(pair.clean)} {_spec_fingerprint(pair.enhanced)}\n" for pair in pairs)
    return completion.fingerprint(chain([f"{tools}\n"], lines))


def _spec_fingerprint(spec: str | None) -> str:
    if spec is None:
        return "none"
    return f"{spec} {completion.file_fingerprint(spec.rpartition(':')[0] if is_ark(spec) else spec)}"


def _write_record(path: Path, pairs: Iterable[Pair], scores: Scores, method: Method = PLAIN) -> None:
    completion.write(path, _input_fingerprint(pairs, method), asdict(scores))


def _read_record(path: Path, pairs: Iterable[Pair], method: Method = PLAIN) -> Scores | None:
    """Return the Scores of a record, or None if it is missing or of other input or another method."""
    if not path.is_file():  # the fingerprint of the input takes a while
        return None
    record = completion.read_if_current(path, _input_fingerprint(pairs, method))
    if record is None:
        return None
    values = jsonfile.null_to_nan(record["values"])
    return Scores(values, record["failed"], record["seconds"], record["silent"], record["trimmed"])

"""Data directory to arks: 16-bit mono at one sample rate, a pair of arks per shard, written by ``nj`` jobs.

``dump/<set>`` holds ``wav.J.ark`` (noisy) and ``spk1.J.ark`` (clean) of every shard J, and tables whose values are
``path.ark:offset``, which kaldiio and :func:`sase.data.arks.read_wav` read. ``shards/J.json`` marks shard J as complete
and holds a hash of its input. Pairs are files (``wav.scp``, ``spk1.scp``) or are mixed here from ``mixtures.tsv``.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sase import audio, completion
from sase.atomic import remove_leftovers
from sase.batch import Failures
from sase.data import left_out
from sase.data.arks import ark_writer, to_int16
from sase.data.datadir import shard, validate_data_dir, write_data_dir, write_table
from sase.data.rooms import dump_rooms
from sase.data.sources import Source, read_source
from sase.errors import InputError

_KINDS = ("wav", "spk1")


def dump_set(
    data_dir: str | Path,
    dump_dir: str | Path,
    sample_rate: int = 16000,
    nj: int = 1,
    job: int = 1,
    keep_all: bool = False,
    log: Callable[[str], object] = print,
) -> None:
    """Write shard ``job`` of ``nj`` of a data directory; skip it if it is complete and its input is unchanged.

    A bad utterance (unreadable, silent, stereo, noisy and clean of different length or rate) is reported and skipped;
    with ``keep_all``, for test sets, it is an error after all others have been tried.

    Args:
        data_dir: with ``wav.scp`` (noisy) and ``spk1.scp`` (clean), or with ``mixtures.tsv``.
        dump_dir: where the arks are written.
        sample_rate: of the arks, in Hz.
        nj, job: number of shards, and index of this one, from 1.
        keep_all: raise an error instead of skipping utterances.
        log: called with each line of the report.
    """
    source, dump_dir = read_source(data_dir), Path(dump_dir)
    utts, key = _plan(source, dump_dir, sample_rate, nj, job, keep_all)
    if _read_record(dump_dir, job, key):
        log(f"shard {job} of {nj}: complete, skipped (delete {_record_path(dump_dir, job)} to write it again)")
        return
    started = time.monotonic()
    _invalidate(dump_dir, job)
    entries, bad, seconds = _write_arks(source, utts, dump_dir, sample_rate, job, log)
    if bad and keep_all:
        left_out.require_none(data_dir, bad, False, log)
    completion.write(_record_path(dump_dir, job), key, {"bad": bad, "entries": entries})
    wall = time.monotonic() - started
    log(f"shard {job} of {nj}: {len(entries)} utterances ({seconds:.0f} s of audio), {len(bad)} skipped, {wall:.1f} s")


def join_shards(
    data_dir: str | Path,
    dump_dir: str | Path,
    sample_rate: int = 16000,
    nj: int = 1,
    keep_all: bool = False,
    log: Callable[[str], object] = print,
    mark: bool = False,
) -> None:
    """Write the tables of ``dump_dir`` from its complete shards, and validate them.

    Args: as :func:`dump_set`, with the same values, and
        mark: for a test set whose bad utterances are skipped: list them in the table ``left_out``.

    Raises:
        InputError: a shard is missing, incomplete or of other input, or no utterance is left.
    """
    source, dump_dir = read_source(data_dir), Path(dump_dir)
    keys = {job: _plan(source, dump_dir, sample_rate, nj, job, keep_all)[1] for job in range(1, nj + 1)}
    found = {job: _read_record(dump_dir, job, key) for job, key in keys.items()}
    records = {job: record for job, record in found.items() if record is not None}
    if missing := [str(job) for job in found if job not in records]:
        raise InputError(f"{dump_dir}: shards {' '.join(missing)} of {nj} are missing or of other input; dump them")
    entries = {utt: entry for record in records.values() for utt, entry in record["entries"].items()}
    bad = {utt: reason for record in records.values() for utt, reason in record["bad"].items()}
    if not entries:
        raise InputError(f"{data_dir}: none of {len(bad)} utterances is usable; the first: {left_out.describe(bad, 1)}")
    arks = {_ark(dump_dir, kind, job) for kind in _KINDS for job in records}
    for path in [path for kind in _KINDS for path in dump_dir.glob(f"{kind}.*.ark")]:
        if path not in arks:
            path.unlink()  # of an earlier run with more jobs
    if count := dump_rooms(data_dir, dump_dir, sample_rate):
        log(f"{dump_dir}: {count} rooms")
    write_table(dump_dir / "utt2num_samples", {utt: str(count) for utt, (_, _, count) in entries.items()})
    noisy = {utt: spec for utt, (spec, _, _) in entries.items()}
    clean = {utt: spec for utt, (_, spec, _) in entries.items()}
    write_data_dir(dump_dir, replace(source.tables.select(entries), noisy=noisy, clean=clean))
    left_out.write(dump_dir, {**left_out.read(data_dir), **(bad if mark else {})})
    validate_data_dir(dump_dir)
    remove_leftovers(dump_dir, dump_dir / "shards")
    if bad:
        log(f"{dump_dir}: {len(bad)} of {len(bad) + len(entries)} utterances skipped: {left_out.describe(bad)}")
    hours = sum(count for _, _, count in entries.values()) / sample_rate / 3600
    log(f"{dump_dir}: {len(entries)} utterances, {hours:.2f} h at {sample_rate} Hz ({audio.RESAMPLER})")


def _plan(source: Source, dump_dir: Path, sample_rate: int, nj: int, job: int, keep_all: bool) -> tuple[list[str], str]:
    """Return the utterances of a shard, and a hash of everything that its arks depend on."""
    utts = shard(source.utts, nj, job)
    settings = f"1 {dump_dir} {sample_rate} {nj} {job} {keep_all} {audio.RESAMPLER}\n"
    files = (f"{utt} {what} {completion.file_fingerprint(path)}\n" for utt in utts for what, path in source.inputs(utt))
    return utts, completion.fingerprint(chain([settings], files))


def _ark(dump_dir: Path, kind: str, job: int) -> Path:
    return dump_dir / f"{kind}.{job}.ark"


def _record_path(dump_dir: Path, job: int) -> Path:
    """Return the path of a shard's record: hash of the input, entries and bad utterances; written last."""
    return dump_dir / "shards" / f"{job}.json"


def _read_record(dump_dir: Path, job: int, key: str) -> dict[str, Any] | None:
    """Return the record of a complete shard whose input has the hash ``key``, else None."""
    path = _record_path(dump_dir, job)
    if not path.is_file() or not all(_ark(dump_dir, kind, job).is_file() for kind in _KINDS):
        return None
    return completion.read_if_current(path, key)


def _invalidate(dump_dir: Path, job: int) -> None:
    """Delete the tables that point into a shard's arks, and what a killed run left of it, before it is replaced."""
    for name in (f"shards/{job}.json", "wav.scp", "spk1.scp", "utt2num_samples"):
        (dump_dir / name).unlink(missing_ok=True)
    for kind in _KINDS:
        for leftover in dump_dir.glob(f".{kind}.{job}.*.partial.ark"):
            leftover.unlink()


def _write_arks(
    source: Source,
    utts: list[str],
    dump_dir: Path,
    sample_rate: int,
    job: int,
    log: Callable[[str], object],
) -> tuple[dict[str, tuple[str, str, int]], dict[str, str], float]:
    """Write both arks of a shard.

    Returns:
        {utt: (noisy spec, clean spec, samples)}, {bad utt: reason}, and seconds of audio, noisy and clean.
    """
    entries, failures, seconds = {}, Failures(log), 0.0
    with (
        ark_writer(_ark(dump_dir, "wav", job), sample_rate) as write_noisy,
        ark_writer(_ark(dump_dir, "spk1", job), sample_rate) as write_clean,
    ):
        for utt in utts:
            pair = None
            with failures.of(utt):
                pair = _read_pair(source, utt, sample_rate)
            if pair is not None:
                noisy, clean = pair
                entries[utt] = (write_noisy(utt, noisy), write_clean(utt, clean), len(noisy))
                seconds += 2 * len(noisy) / sample_rate
    return entries, failures.reasons, seconds


def _read_pair(source: Source, utt: str, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy and clean as int16 (time,) of equal length, or raise InputError."""
    noisy, clean = map(to_int16, source.read(utt, sample_rate))
    if not len(noisy):
        raise InputError(f"{source.noisy_name(utt)}: has no samples left at {sample_rate} Hz")
    for name, wav in ((source.noisy_name(utt), noisy), (source.clean_name(utt), clean)):
        if not wav.any():
            raise InputError(f"{name}: silent")
    return noisy, clean

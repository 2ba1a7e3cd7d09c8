"""Data directory to arks: mono 16-bit sound at one rate, one pair of arks a shard, made by ``nj`` jobs.

``dump/<set>`` holds ``wav.J.ark`` (noisy) and ``spk1.J.ark`` (clean) of every shard J, and tables whose values are
``path.ark:offset``, which kaldiio and :func:`read_wav` read. ``shards/J.json`` says that shard J is finished, and of
what input. The pairs are files (``wav.scp``, ``spk1.scp``) or are mixed here, as ``mixtures.tsv`` says.
"""

import os
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from sase import audio, completion
from sase.atomic import atomic_path, remove_leftovers
from sase.data.datadir import shard, validate_data_dir, write_data_dir, write_table
from sase.data.sources import read_source
from sase.errors import InputError

FULL_SCALE = 32768.0  # a 16-bit sample of -32768 is -1.0
_KINDS = ("wav", "spk1")


@dataclass(frozen=True)
class Entry:
    """Where the samples of one ark entry stand, and how many there are."""

    path: str
    first_byte: int
    sample_rate: int
    num_samples: int

    def read(self, start, count):
        """Return ``count`` samples from ``start``, int16 (count,). Raises InputError when the file ends before."""
        wav = np.fromfile(self.path, dtype="<i2", count=count, offset=self.first_byte + 2 * start)
        if len(wav) < count:
            raise InputError(
                f"{self.path}: is cut short: {len(wav)} of {count} samples can be read at byte "
                f"{self.first_byte + 2 * start}; make it again with stage 2"
            )
        return wav


def read_entry(spec):
    """Return the :class:`Entry` of ``"path.ark:offset"``, from its header alone.

    Raises:
        InputError: the file is missing, or holds no 16-bit mono sound at that place.
    """
    path, colon, offset = spec.rpartition(":")
    if not colon or not offset.isdigit():
        raise InputError(f"{spec}: not a place in an ark, as in wav.1.ark:9; was the set dumped (stage 2)?")
    try:
        with open(path, "rb") as file:
            file.seek(int(offset))
            return _parse_header(file, spec, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it again with stage 2") from None


def read_int16(spec, start=0, num_samples=None):
    """Return samples of one ark entry; only the bytes asked for are read.

    Args:
        spec: ``"path.ark:offset"``.
        start: the first sample wanted.
        num_samples: how many; up to the end when None or beyond it.

    Returns:
        int16 (time,).
    """
    entry = read_entry(spec)
    start = min(start, entry.num_samples)
    count = entry.num_samples - start if num_samples is None else min(num_samples, entry.num_samples - start)
    return entry.read(start, count)


def read_wav(spec, start=0, num_samples=None):
    """Return samples of one ark entry as float32 (time,) in [-1, 1): the one place that scales 16 bit to float.

    Args: as :func:`read_int16`.
    """
    return to_float(read_int16(spec, start, num_samples))


def to_float(wav):
    """Return int16 samples of any shape as float32 in [-1, 1)."""
    return wav.astype(np.float32) / np.float32(FULL_SCALE)


def to_int16(wav):
    """Return float samples of any shape as int16, rounded and clipped; undoes :func:`to_float` exactly."""
    return np.clip(np.rint(np.asarray(wav) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def dump_set(data_dir, dump_dir, sample_rate=16000, nj=1, job=1, keep_all=False, log=print):
    """Write shard ``job`` of ``nj`` of a data directory; one that is finished and of the same input is left as it is.

    A bad utterance (unreadable, silent, noisy and clean of different length or rate) is named and left out; with
    ``keep_all``, for test sets, it is an error after all others have been tried, and a silent one is kept.

    Args:
        data_dir: with ``wav.scp`` (noisy) and ``spk1.scp`` (clean), or with ``mixtures.tsv``.
        dump_dir: where the arks go.
        sample_rate: of the arks, in Hz.
        nj, job: how many shards there are, and which this is, from 1.
        keep_all: refuse to leave utterances out.
        log: called with each line of the report.
    """
    data, dump_dir = read_source(data_dir), Path(dump_dir)
    utts, key = _plan(data, dump_dir, sample_rate, nj, job, keep_all)
    if _read_record(dump_dir, job, key):
        log(f"shard {job} of {nj}: finished before, left as it is (to make it again, delete {_record(dump_dir, job)})")
        return
    began = time.monotonic()
    _invalidate(dump_dir, job)
    entries, bad, seconds = _write_arks(data, utts, dump_dir, sample_rate, job, keep_all, log)
    if bad and keep_all:
        raise InputError(f"{data_dir}: no utterance may be left out here, and {len(bad)} are bad: {_tell(bad)}")
    completion.write(_record(dump_dir, job), key, {"bad": bad, "entries": entries})
    wall = time.monotonic() - began
    log(f"shard {job} of {nj}: {len(entries)} utterances ({seconds:.0f} s of sound), {len(bad)} left out, {wall:.1f} s")


def finish(data_dir, dump_dir, sample_rate=16000, nj=1, keep_all=False, log=print):
    """Join the shards: write the tables of ``dump_dir`` and validate them.

    Args: as :func:`dump_set`, with the same values.

    Raises:
        InputError: a shard is missing, unfinished or of other input, or no utterance is left.
    """
    data, dump_dir = read_source(data_dir), Path(dump_dir)
    plans = {job: _plan(data, dump_dir, sample_rate, nj, job, keep_all)[1] for job in range(1, nj + 1)}
    records = {job: _read_record(dump_dir, job, key) for job, key in plans.items()}
    if missing := [str(job) for job, record in records.items() if record is None]:
        raise InputError(f"{dump_dir}: shards {' '.join(missing)} of {nj} are missing or of other input; dump them")
    entries = {utt: entry for record in records.values() for utt, entry in record["entries"].items()}
    bad = {utt: reason for record in records.values() for utt, reason in record["bad"].items()}
    if not entries:
        raise InputError(f"{data_dir}: no utterance could be used, of {len(bad)}; the first: {_tell(bad, 1)}")
    arks = {_ark(dump_dir, kind, job) for kind in _KINDS for job in records}
    for path in [path for kind in _KINDS for path in dump_dir.glob(f"{kind}.*.ark")]:
        if path not in arks:
            path.unlink()  # of an earlier run with more jobs
    write_table(dump_dir / "utt2num_samples", {utt: str(count) for utt, (_, _, count) in entries.items()})
    noisy, clean = ({utt: specs[i] for utt, specs in entries.items()} for i in range(2))
    kept = [{utt: value for utt, value in table.items() if utt in entries} for table in data.tables]
    if kept[3]:
        write_table(dump_dir / "utt2silo", kept[3])
    else:
        (dump_dir / "utt2silo").unlink(missing_ok=True)
    write_data_dir(dump_dir, noisy, clean, *kept[:3])
    validate_data_dir(dump_dir)
    remove_leftovers(dump_dir, dump_dir / "shards")
    if bad:
        log(f"{dump_dir}: {len(bad)} of {len(bad) + len(entries)} utterances left out: {_tell(bad)}")
    hours = sum(count for _, _, count in entries.values()) / sample_rate / 3600
    log(f"{dump_dir}: {len(entries)} utterances, {hours:.2f} h at {sample_rate} Hz ({audio.RESAMPLER})")


def _parse_header(file, spec, path):
    """Return the Entry of a RIFF header that starts where ``file`` stands."""
    head, rate = file.read(12), None
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", header)
            if name == b"fmt ":
                body = file.read(size + size % 2)
                channels, rate = struct.unpack_from("<HI", body, 2)
                if channels != 1 or struct.unpack_from("<H", body, 14)[0] != 16:
                    raise InputError(f"{spec}: is not 16-bit mono; make it again with stage 2")
            elif name == b"data" and rate:
                return Entry(path, file.tell(), rate, size // 2)
            else:
                file.seek(size + size % 2, 1)
    raise InputError(f"{spec}: no sound begins here; is the table older than the ark? Make it again with stage 2")


def _plan(data, dump_dir, sample_rate, nj, job, keep_all):
    """Return the utterances of a shard, and a hash of everything that its arks depend on."""
    utts = shard(data.utts, nj, job)
    settings = f"1 {dump_dir} {sample_rate} {nj} {job} {keep_all} {audio.RESAMPLER}\n"
    files = (f"{utt} {what} {file_fingerprint(path)}\n" for utt in utts for what, path in data.inputs(utt))
    return utts, completion.fingerprint(chain([settings], files))


def file_fingerprint(path):
    """Return a word that changes when a file does: its size and time, or ``missing``."""
    try:
        stat = os.stat(path)
    except OSError:
        return "missing"  # told for what it is when the file is read
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _ark(dump_dir, kind, job):
    return dump_dir / f"{kind}.{job}.ark"


def _record(dump_dir, job):
    """The record of a finished shard, written last of all: its input, its entries and its bad utterances."""
    return dump_dir / "shards" / f"{job}.json"


def _read_record(dump_dir, job, key):
    """Return the record of a shard when it is finished and of the input that ``key`` stands for, else None."""
    path = _record(dump_dir, job)
    if not path.is_file() or not all(_ark(dump_dir, kind, job).is_file() for kind in _KINDS):
        return None
    return completion.read_if_current(path, key)


def _invalidate(dump_dir, job):
    """Before an ark is replaced: take away the tables that point into it, and what a killed run left of this shard."""
    for name in (f"shards/{job}.json", "wav.scp", "spk1.scp", "utt2num_samples"):
        (dump_dir / name).unlink(missing_ok=True)
    for kind in _KINDS:
        for leftover in dump_dir.glob(f".{kind}.{job}.*.partial.ark"):
            leftover.unlink()


def _write_arks(data, utts, dump_dir, sample_rate, job, keep_all, log):
    """Write both arks of a shard.

    Returns:
        {utt: (noisy spec, clean spec, samples)}, {bad utt: reason}, and the seconds of sound read, noisy and clean.
    """
    entries, bad, seconds = {}, {}, 0.0
    with _ark_writer(_ark(dump_dir, "wav", job), sample_rate) as put_noisy:
        with _ark_writer(_ark(dump_dir, "spk1", job), sample_rate) as put_clean:
            for utt in utts:
                try:
                    noisy, clean = _read_pair(data, utt, sample_rate, keep_all)
                except (InputError, OSError) as error:
                    bad[utt] = " ".join(str(error).split())
                    log(f"{utt}: {bad[utt]}")
                    continue
                entries[utt] = (put_noisy(utt, noisy), put_clean(utt, clean), len(noisy))
                seconds += 2 * len(noisy) / sample_rate
    return entries, bad, seconds


@contextmanager
def _ark_writer(path, sample_rate):
    """Yield ``put(utt, int16 wav) -> "path:offset"``; the ark appears when the block ends."""
    import kaldiio

    with atomic_path(path) as partial, open(partial, "wb") as file:

        def put(utt, wav):
            offset = file.tell() + len(utt.encode()) + 1
            kaldiio.save_ark(file, {utt: (sample_rate, wav)})
            return f"{path}:{offset}"

        yield put
        file.flush()


def _read_pair(source, utt, sample_rate, keep_silent):
    """Return noisy and clean as int16 (time,) of one length, or raise InputError."""
    noisy, clean = map(to_int16, source.read(utt, sample_rate))
    if not len(noisy):
        raise InputError(f"{source.noisy_name(utt)}: has no sample left at {sample_rate} Hz")
    for name, wav in ((source.noisy_name(utt), noisy), (source.clean_name(utt), clean)):
        if not keep_silent and not wav.any():
            raise InputError(f"{name}: is silent")
    return noisy, clean


def _tell(bad, limit=20):
    """Return the first bad utterances and their reasons in one line."""
    rest = f"; and {len(bad) - limit} more, named above" if len(bad) > limit else ""
    return "; ".join(f"{utt} ({reason})" for utt, reason in list(bad.items())[:limit]) + rest

"""Kaldi data directories: read, write, validate, fix, subset.

A data directory holds two-column text tables, one line an utterance, sorted as ``LC_ALL=C sort`` does, keys unique::

    wav.scp    p232_001 /corpora/noisy_testset_wav/p232_001.wav     noisy speech
    spk1.scp   p232_001 /corpora/clean_testset_wav/p232_001.wav     the same speech, clean
    utt2spk    p232_001 p232                                        the utterance's name begins with its speaker's
    spk2utt    p232 p232_001 p232_002                               follows from utt2spk
    utt2noise  p232_001 bus                                         optional, may know fewer utterances
    utt2snr    p232_001 17.5                                        optional, may know fewer utterances; dB
"""

import os
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sase import audio as sound
from sase.atomic import write_text
from sase.errors import InputError

REQUIRED = ("wav.scp", "spk1.scp", "utt2spk")
PARTIAL = ("utt2noise", "utt2snr")
BACKUP = ".backup"


@dataclass(frozen=True)
class DataDir:
    """The tables of one data directory; all keys are utterances, in sorted order."""

    path: Path
    noisy: dict[str, str]
    clean: dict[str, str]
    utt2spk: dict[str, str]
    utt2noise: dict[str, str]
    utt2snr: dict[str, float]

    def __len__(self):
        return len(self.noisy)

    @property
    def utts(self):
        """The utterances' names, sorted."""
        return list(self.noisy)

    @property
    def spk2utt(self):
        """Speaker to the list of its utterances, both sorted."""
        return _spk2utt(self.utt2spk)


def read_table(path):
    """Return a two-column table as dict; the first space of a line separates key and value.

    Raises:
        InputError: with the file and the first bad line, for a line without a value, a key that is there twice or out
            of order, Windows line ends, a missing newline at the end.
    """
    text = _read_text(path)
    if "\r" in text:
        raise InputError(f"{path}: has Windows line ends; {_fix_hint(path)}")
    if text and not text.endswith("\n"):
        raise InputError(f"{path}: the last line has no newline, the file may be cut short; {_fix_hint(path)}")
    lines = text.split("\n")[:-1]
    pairs = [line.split(" ", 1) for line in lines]
    for number, pair in enumerate(pairs, 1):
        if len(pair) < 2 or not pair[0] or not pair[1].strip() or "\t" in pair[0]:
            raise InputError(f"{path}:{number}: must be 'key value', is '{lines[number - 1]}'")
    for number, (before, after) in enumerate(pairwise(pair[0] for pair in pairs), 2):
        if before == after:
            raise InputError(f"{path}:{number}: {after} is there twice; {_fix_hint(path)}")
        if before > after:
            raise InputError(f"{path}:{number}: not sorted (LC_ALL=C): {after} after {before}; {_fix_hint(path)}")
    return dict(pairs)


def write_table(path, mapping):
    """Write a mapping as two columns, sorted by key, whole or not at all; floats as short as they are exact."""
    lines = []
    for key in sorted(mapping):
        value = mapping[key]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if not key or any(c.isspace() for c in key) or not text.strip() or "\n" in text or "\r" in text:
            raise InputError(f"{path}: cannot hold the key {key!r} with the value {text!r}")
        lines.append(f"{key} {text}\n")
    write_text(path, "".join(lines))


def read_data_dir(path):
    """Return the :class:`DataDir` in a folder; tables that do not fit each other are an InputError.

    Args:
        path: a folder with wav.scp, spk1.scp, utt2spk, and optionally utt2noise and utt2snr.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such data directory")
    noisy, clean, utt2spk = (read_table(path / name) for name in REQUIRED)
    if not noisy:
        raise InputError(f"{path}/wav.scp: holds no utterances")
    for name, table in zip(REQUIRED[1:], (clean, utt2spk)):
        _require_same_keys(path / REQUIRED[0], noisy, path / name, table)
    utt2noise, utt2snr = (read_table(path / name) if (path / name).exists() else {} for name in PARTIAL)
    for name, table in zip(PARTIAL, (utt2noise, utt2snr)):
        for utt in table:
            if utt not in noisy:
                raise InputError(f"{path / name}: {utt} is not in {path}/wav.scp; {_fix_hint(path / name)}")
    snrs_db = {utt: _to_db(path / "utt2snr", utt, text) for utt, text in utt2snr.items()}
    return DataDir(path, noisy, clean, utt2spk, utt2noise, snrs_db)


def write_data_dir(path, noisy, clean, utt2spk, utt2noise=None, utt2snr=None):
    """Write the tables of a data directory, each whole or not at all, wav.scp last; return the :class:`DataDir`.

    Args:
        path: the folder; made when it is not there. Other files in it are left alone.
        noisy, clean, utt2spk: dicts with the same utterances as keys.
        utt2noise, utt2snr: dicts whose utterances may be fewer; empty or None removes the file.
    """
    path = Path(path)
    if not noisy:
        raise InputError(f"{path}: no utterances to write")
    for name, table in zip(REQUIRED[1:], (clean, utt2spk)):
        _require_same_keys(path / REQUIRED[0], noisy, path / name, table)
    for name, table in zip(PARTIAL, (utt2noise, utt2snr)):
        if table:
            write_table(path / name, table)
        else:
            (path / name).unlink(missing_ok=True)
    write_table(path / "utt2spk", utt2spk)
    write_table(path / "spk2utt", {spk: " ".join(utts) for spk, utts in _spk2utt(utt2spk).items()})
    write_table(path / "spk1.scp", clean)
    write_table(path / "wav.scp", noisy)
    return read_data_dir(path)


def validate_data_dir(path, audio=False):
    """Return the :class:`DataDir` in a folder after checking everything that later stages rely on.

    Args:
        path: the folder.
        audio: also open every sound file: noisy and clean must be there, whole, and of one rate and length.

    Raises:
        InputError: names the file and the first difference.
    """
    data = read_data_dir(path)
    for utt, speaker in data.utt2spk.items():
        if not utt.startswith(speaker):
            raise InputError(f"{data.path}/utt2spk: {utt} does not begin with the name of its speaker {speaker}")
    spk2utt, expected = read_table(data.path / "spk2utt"), data.spk2utt
    for speaker in sorted(spk2utt.keys() | expected.keys()):
        if spk2utt.get(speaker) != " ".join(expected.get(speaker, [])):
            hint = _fix_hint(data.path / "spk2utt")
            raise InputError(f"{data.path}/spk2utt: {speaker} does not agree with utt2spk; {hint}")
    for name in _table_names(data.path):
        if name not in REQUIRED + PARTIAL:
            _require_same_keys(data.path / "wav.scp", data.noisy, data.path / name, read_table(data.path / name))
    for name, table in zip(REQUIRED[:2], (data.noisy, data.clean)):
        for utt, value in table.items():
            if value.startswith("~") or value.rstrip().endswith("|"):
                raise InputError(f"{data.path / name}: {utt}: must be a plain path, without '~' or a pipe: {value}")
    if audio:
        for utt in data.utts:
            check_pair(utt, data.noisy[utt], data.clean[utt])
    return data


def check_pair(utt, noisy, clean):
    """Raise InputError unless two sound files can be opened and have one rate, one channel and one length."""
    noisy_info, clean_info = sound.info(noisy), sound.info(clean)
    if noisy_info.num_samples == 0:
        raise InputError(f"{noisy}: holds no samples")
    for path, header in ((noisy, noisy_info), (clean, clean_info)):
        if header.num_channels != 1:
            raise InputError(f"{path}: has {header.num_channels} channels; one is needed")
    if noisy_info.sample_rate != clean_info.sample_rate:
        raise InputError(f"{utt}: {noisy} has {noisy_info.sample_rate} Hz, {clean} has {clean_info.sample_rate} Hz")
    if noisy_info.num_samples != clean_info.num_samples:
        raise InputError(
            f"{utt}: {noisy} has {noisy_info.num_samples} samples, {clean} has {clean_info.num_samples}; "
            "they must be of one length"
        )


def fix_data_dir(path):
    """Sort every table, keep the utterances that all of them have, write spk2utt anew; return (kept, total).

    Old files that change are kept in ``.backup/`` inside the folder. Of a key that is there twice the first line stays.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such data directory")
    tables = {name: _read_loosely(path / name) for name in sorted({*REQUIRED, *_table_names(path)})}
    full = [table.keys() for name, table in tables.items() if name not in PARTIAL]
    keep = set.intersection(*map(set, full))
    if not keep:
        raise InputError(f"{path}: no utterance is in all of {', '.join(n for n in tables if n not in PARTIAL)}")
    fixed = {name: {utt: text for utt, text in table.items() if utt in keep} for name, table in tables.items()}
    fixed["spk2utt"] = {spk: " ".join(utts) for spk, utts in _spk2utt(fixed["utt2spk"]).items()}
    for name, table in fixed.items():
        file = path / name
        old = file.read_bytes() if file.exists() else None
        if old == "".join(f"{key} {table[key]}\n" for key in sorted(table)).encode():
            continue
        if old is not None:
            (path / BACKUP).mkdir(exist_ok=True)
            shutil.copy2(file, path / BACKUP / name)
        write_table(file, table)
    return len(keep), len(set.union(*map(set, full)))


def subset_data_dir(source, target, utts):
    """Write the named utterances of one data directory to another; return the new :class:`DataDir`.

    Args:
        source: the folder to take from.
        target: the folder to write.
        utts: names of utterances, in any order; one that is not in ``source`` is an InputError.
    """
    data, keep = read_data_dir(source), sorted(set(utts))
    for utt in keep:
        if utt not in data.noisy:
            raise InputError(f"{source}/wav.scp: has no utterance {utt}")
    tables = (data.noisy, data.clean, data.utt2spk, data.utt2noise, data.utt2snr)
    return write_data_dir(target, *({utt: table[utt] for utt in keep if utt in table} for table in tables))


def shard(keys, nj, job):
    """Return job ``job`` of ``nj``'s (from 1) share of the keys: a contiguous slice of the sorted list.

    All slices together are the whole list, and their sizes differ by one at most.
    """
    if not 1 <= job <= nj:
        raise InputError(f"--job {job}: must be between 1 and --nj {nj}")
    keys = sorted(keys)
    return keys[len(keys) * (job - 1) // nj : len(keys) * job // nj]


def _table_names(path):
    """Return the names of the per-utterance tables in a folder."""
    names = (entry.name for entry in os.scandir(path) if entry.is_file())
    return sorted(n for n in names if n == "text" or ((n.startswith("utt2") or n.endswith(".scp")) and n[0] != "."))


def _spk2utt(utt2spk):
    grouped = {}
    for utt in sorted(utt2spk):
        grouped.setdefault(utt2spk[utt], []).append(utt)
    return dict(sorted(grouped.items()))


def _require_same_keys(first_path, first, second_path, second):
    # Dicts in the same order compare quickly; the search for the difference is for the message alone.
    if first.keys() != second.keys():
        utt = min(first.keys() ^ second.keys())
        there, missing = (first_path, second_path) if utt in first else (second_path, first_path)
        raise InputError(f"{missing}: {utt} is missing, it is in {there}; {_fix_hint(missing)}")


def _read_text(path):
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def _read_loosely(path):
    """Return a table whatever the order of its lines; the first of equal keys wins, a line without a value goes."""
    table = {}
    for line in _read_text(path).replace("\r", "\n").split("\n"):
        key, *value = line.split(maxsplit=1)[:2] or [""]
        if value:
            table.setdefault(key, value[0].rstrip())
    return table


def _to_db(path, utt, text):
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: {utt}: must be a number of dB, is '{text}'") from None


def _fix_hint(path):
    return f"'sase validate {Path(path).parent} --fix' may mend it"

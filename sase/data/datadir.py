"""Kaldi data directories: read, write, validate, fix, subset.

A data directory holds two-column text tables, one line per utterance, sorted as ``LC_ALL=C sort`` does, keys unique::

    wav.scp    p232_001 /corpora/noisy_testset_wav/p232_001.wav     noisy speech
    spk1.scp   p232_001 /corpora/clean_testset_wav/p232_001.wav     the same speech, clean
    utt2spk    p232_001 p232                                        the utterance ID starts with the speaker ID
    spk2utt    p232 p232_001 p232_002                               derived from utt2spk
    utt2noise  p232_001 bus                                         optional, may lack utterances
    utt2snr    p232_001 17.5                                        optional, may lack utterances; dB
    utt2silo   p232_001 0                                           optional; silo of federated training
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from sase import audio as sound
from sase.atomic import write_text
from sase.data.keys import check_key
from sase.errors import InputError

REQUIRED = ("wav.scp", "spk1.scp", "utt2spk")
OPTIONAL = ("utt2noise", "utt2snr", "utt2silo")
PARTIAL = ("utt2noise", "utt2snr")
BACKUP = ".backup"

T = TypeVar("T")
Key = TypeVar("Key", int, str)
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Tables:
    """Named tables of a set, each from utterance to value.

    Attributes:
        noisy, clean: ``wav.scp`` and ``spk1.scp``; empty for mixtures that are still to be made.
        utt2spk: speakers.
        utt2noise, utt2snr: noises and SNRs in dB; they may lack utterances.
        utt2silo: silos of federated training; empty where none are assigned.
    """

    noisy: dict[str, str]
    clean: dict[str, str]
    utt2spk: dict[str, str]
    utt2noise: dict[str, str] = field(default_factory=dict)
    utt2snr: dict[str, float] = field(default_factory=dict)
    utt2silo: dict[str, int] = field(default_factory=dict)

    def files(self) -> dict[str, dict[str, Any]]:
        """Return file name to table, of all tables."""
        return {
            "wav.scp": self.noisy,
            "spk1.scp": self.clean,
            "utt2spk": self.utt2spk,
            "utt2noise": self.utt2noise,
            "utt2snr": self.utt2snr,
            "utt2silo": self.utt2silo,
        }

    def select(self, utts: Iterable[str]) -> "Tables":
        """Return the tables of some utterances, in the same order."""
        keep = set(utts)
        return Tables(
            noisy=_select(self.noisy, keep),
            clean=_select(self.clean, keep),
            utt2spk=_select(self.utt2spk, keep),
            utt2noise=_select(self.utt2noise, keep),
            utt2snr=_select(self.utt2snr, keep),
            utt2silo=_select(self.utt2silo, keep),
        )


@dataclass(frozen=True)
class DataDir(Tables):
    """The tables of one data directory, sorted by utterance."""

    path: Path = field(kw_only=True)

    def __len__(self) -> int:
        return len(self.noisy)

    @property
    def utts(self) -> list[str]:
        """Utterances, sorted."""
        return list(self.noisy)

    @property
    def spk2utt(self) -> dict[str, list[str]]:
        """Speaker to the list of its utterances, both sorted."""
        return _spk2utt(self.utt2spk)


def read_table(path: str | Path) -> dict[str, str]:
    """Return a two-column table as a dict; the first space of a line separates key and value.

    Raises:
        InputError: with the file and the first bad line: a line without a value, a duplicate or unsorted key, Windows
            line endings, no newline at the end.
    """
    text = _read_text(path)
    if "\r" in text:
        raise InputError(f"{path}: has Windows line endings; {_fix_hint(path)}")
    if text and not text.endswith("\n"):
        raise InputError(f"{path}: the last line has no newline, the file may be truncated; {_fix_hint(path)}")
    lines = text.split("\n")[:-1]
    pairs = [line.split(" ", 1) for line in lines]
    for number, pair in enumerate(pairs, 1):
        if len(pair) < 2 or not pair[0] or not pair[1].strip() or "\t" in pair[0]:
            raise InputError(f"{path}:{number}: must be 'key value', is '{lines[number - 1]}'")
        check_key(f"{path}:{number}", pair[0])
    for number, (before, after) in enumerate(pairwise(pair[0] for pair in pairs), 2):
        if before == after:
            raise InputError(f"{path}:{number}: duplicate key {after}; {_fix_hint(path)}")
        if before > after:
            raise InputError(f"{path}:{number}: not sorted (LC_ALL=C): {after} after {before}; {_fix_hint(path)}")
    return {pair[0]: pair[1] for pair in pairs}


def write_table(path: str | Path, mapping: Mapping[str, Any]) -> None:
    """Write a mapping as two columns, sorted by key, atomically; floats with six significant digits."""
    lines = []
    for key in sorted(mapping):
        value = mapping[key]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if not key or any(c.isspace() for c in key) or not text.strip() or "\n" in text or "\r" in text:
            raise InputError(f"{path}: a table cannot hold key {key!r} with value {text!r}")
        check_key(path, key)
        lines.append(f"{key} {text}\n")
    write_text(path, "".join(lines))


def read_data_dir(path: str | Path) -> DataDir:
    """Return the :class:`DataDir` in a folder; raise InputError when its tables do not agree.

    Args:
        path: a folder with the required tables and any of the optional ones.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such data directory")
    noisy, clean, utt2spk = (read_table(path / name) for name in REQUIRED)
    if not noisy:
        raise InputError(f"{path}/wav.scp: has no utterances")
    utt2noise, utt2snr, utt2silo = (read_table(path / name) if (path / name).exists() else {} for name in OPTIONAL)
    snrs_db = {utt: _number(float, path / "utt2snr", utt, text, "a number of dB") for utt, text in utt2snr.items()}
    silos = {utt: _number(int, path / "utt2silo", utt, text, "an integer") for utt, text in utt2silo.items()}
    data = DataDir(noisy, clean, utt2spk, utt2noise, snrs_db, silos, path=path)
    _require_agreement(path, data)
    return data


def write_data_dir(path: str | Path, tables: Tables) -> DataDir:
    """Write the tables of a data directory, each atomically, wav.scp last; return the :class:`DataDir`.

    Args:
        path: the folder; created if missing. Other files in it are left alone.
        tables: an empty optional table removes its file.
    """
    path = Path(path)
    if not tables.noisy:
        raise InputError(f"{path}: no utterances to write")
    _require_agreement(path, tables)
    files = tables.files()
    for name in OPTIONAL:
        if files[name]:
            write_table(path / name, files[name])
        else:
            (path / name).unlink(missing_ok=True)
    write_table(path / "utt2spk", tables.utt2spk)
    write_table(path / "spk2utt", {spk: " ".join(utts) for spk, utts in _spk2utt(tables.utt2spk).items()})
    write_table(path / "spk1.scp", tables.clean)
    write_table(path / "wav.scp", tables.noisy)
    return read_data_dir(path)


def validate_data_dir(path: str | Path, audio: bool = False) -> DataDir:
    """Check everything that later stages rely on; return the :class:`DataDir`.

    Args:
        path: the folder.
        audio: also open every sound file: noisy and clean must exist, be complete, and agree in rate and length.

    Raises:
        InputError: names the file and the first fault.
    """
    data = read_data_dir(path)
    for utt, speaker in data.utt2spk.items():
        if not utt.startswith(speaker):
            raise InputError(f"{data.path}/utt2spk: {utt} does not start with its speaker ID {speaker}")
    spk2utt, expected = read_table(data.path / "spk2utt"), data.spk2utt
    for speaker in sorted(spk2utt.keys() | expected.keys()):
        if spk2utt.get(speaker) != " ".join(expected.get(speaker, [])):
            hint = _fix_hint(data.path / "spk2utt")
            raise InputError(f"{data.path}/spk2utt: {speaker} does not agree with utt2spk; {hint}")
    for name in _table_names(data.path):
        if name not in REQUIRED + PARTIAL:
            _require_same_keys(data.path / "wav.scp", data.noisy, data.path / name, read_table(data.path / name))
    for name, table in (("wav.scp", data.noisy), ("spk1.scp", data.clean)):
        for utt, value in table.items():
            if value.startswith("~") or value.rstrip().endswith("|"):
                raise InputError(f"{data.path / name}: {utt}: must be a plain path, without '~' or a pipe: {value}")
    if audio:
        for utt in data.utts:
            validate_pair(utt, data.noisy[utt], data.clean[utt])
    return data


def validate_pair(utt: str, noisy: str, clean: str) -> None:
    """Raise InputError unless both sound files can be opened, are mono, and agree in rate and length."""
    noisy_info, clean_info = sound.info(noisy), sound.info(clean)
    if noisy_info.num_samples == 0:
        raise InputError(f"{noisy}: has no samples")
    for path, header in ((noisy, noisy_info), (clean, clean_info)):
        if header.num_channels != 1:
            raise InputError(f"{path}: has {header.num_channels} channels, must be mono")
    if noisy_info.sample_rate != clean_info.sample_rate:
        raise InputError(f"{utt}: {noisy} has {noisy_info.sample_rate} Hz, {clean} has {clean_info.sample_rate} Hz")
    if noisy_info.num_samples != clean_info.num_samples:
        raise InputError(
            f"{utt}: {noisy} has {noisy_info.num_samples} samples, {clean} has {clean_info.num_samples}; "
            "they must have the same length"
        )


def fix_data_dir(path: str | Path) -> tuple[int, int]:
    """Sort every table, keep the utterances that all tables have, rewrite spk2utt; return (kept, total).

    Files that change are backed up in ``.backup/`` inside the folder. Of duplicate keys the first line is kept.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such data directory")
    tables = {name: _read_leniently(path / name) for name in sorted({*REQUIRED, *_table_names(path)})}
    full = [table.keys() for name, table in tables.items() if name not in PARTIAL]
    keep = set.intersection(*map(set, full))
    if not keep:
        raise InputError(f"{path}: no utterance is in all of {', '.join(n for n in tables if n not in PARTIAL)}")
    fixed = {name: _select(table, keep) for name, table in tables.items()}
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


def subset_data_dir(source: str | Path, target: str | Path, utts: Iterable[str]) -> DataDir:
    """Write some utterances of one data directory to another; return the new :class:`DataDir`.

    Args:
        source: the folder to read.
        target: the folder to write.
        utts: utterances in any order; one that is not in ``source`` is an InputError.
    """
    data, keep = read_data_dir(source), sorted(set(utts))
    for utt in keep:
        if utt not in data.noisy:
            raise InputError(f"{source}/wav.scp: has no utterance {utt}")
    return write_data_dir(target, data.select(keep))


def shard(keys: Iterable[Key], nj: int, job: int) -> list[Key]:
    """Return shard ``job`` (from 1) of ``nj``: a contiguous slice of the sorted keys.

    The shards together are the whole list; their sizes differ by at most one.
    """
    if not 1 <= job <= nj:
        raise InputError(f"--job {job}: must be between 1 and --nj {nj}")
    ordered = sorted(keys)
    return ordered[len(ordered) * (job - 1) // nj : len(ordered) * job // nj]


def _table_names(path: Path) -> list[str]:
    """Return the names of the per-utterance tables in a folder."""
    names = (entry.name for entry in os.scandir(path) if entry.is_file())
    return sorted(n for n in names if n == "text" or ((n.startswith("utt2") or n.endswith(".scp")) and n[0] != "."))


def _spk2utt(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for utt in sorted(utt2spk):
        grouped.setdefault(utt2spk[utt], []).append(utt)
    return dict(sorted(grouped.items()))


def _select(table: Mapping[str, T], keep: set[str]) -> dict[str, T]:
    return {utt: value for utt, value in table.items() if utt in keep}


def _require_agreement(path: Path, tables: Tables) -> None:
    """Raise InputError unless required tables have the same utterances, and optional ones no others."""
    files = tables.files()
    for name in REQUIRED[1:]:
        _require_same_keys(path / "wav.scp", tables.noisy, path / name, files[name])
    for name in OPTIONAL:
        for utt in files[name]:
            if utt not in tables.noisy:
                raise InputError(f"{path / name}: {utt} is not in {path}/wav.scp; {_fix_hint(path / name)}")


def _require_same_keys(first_path: Path, first: Mapping, second_path: Path, second: Mapping) -> None:
    # Comparing key views is quick; the difference is searched for the message only.
    if first.keys() != second.keys():
        utt = min(first.keys() ^ second.keys())
        present, missing = (first_path, second_path) if utt in first else (second_path, first_path)
        raise InputError(f"{missing}: {utt} is missing, it is in {present}; {_fix_hint(missing)}")


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _read_leniently(path: Path) -> dict[str, str]:
    """Return a table with lines in any order; the first of duplicate keys wins, lines without a value are dropped."""
    table: dict[str, str] = {}
    for line in _read_text(path).replace("\r", "\n").split("\n"):
        key, *value = line.split(maxsplit=1)[:2] or [""]
        if value:
            table.setdefault(key, value[0].rstrip())
    return table


def _number(kind: type[N], path: Path, utt: str, text: str, what: str) -> N:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{path}: {utt}: must be {what}, is '{text}'") from None


def _fix_hint(path: str | Path) -> str:
    return f"'sase validate {Path(path).parent} --fix' may repair it"

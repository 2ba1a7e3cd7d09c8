"""Impulse responses of rooms beside a set: files in a data directory, an ark in a dump.

The table ``rooms`` of a data directory names their files, one room a line; that of a dump holds ``path.ark:offset``.
They have no utterances, so the tables of a set do not mention them. Training puts speech and noise in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sase import audio, completion
from sase.data.arks import Entry, ark_writer, read_entry, to_float, to_int16
from sase.data.datadir import read_table, write_table
from sase.data.keys import check_key
from sase.errors import InputError

TABLE = "rooms"
_ARK, _RECORD = "rooms.ark", "rooms.json"
_DIRECT_DB = -6.0  # re the largest sample: the first one as loud is the direct sound, even before a strong reflection
_FADE_S = 0.02  # of the end, where a response is cut off
_LONGEST_S = 2.0  # what follows is 60 dB down in all but cathedrals


def list_rooms(folders: Iterable[str | Path], data_dir: str | Path) -> int:
    """Write the table ``rooms`` of a data directory from folders of impulse responses; return their number.

    Args:
        folders: searched for sound files; none removes the table.
        data_dir: the data directory.

    Raises:
        InputError: a folder has no sound files, or two files would have the same name.
    """
    table: dict[str, str] = {}
    for folder in folders:
        for path in audio.sound_files(os.path.abspath(folder)):
            name = f"{path.parent.name}_{path.stem}".replace(" ", "_")
            check_key(path, name)
            if name in table:
                raise InputError(f"{path} and {table[name]} would both be {name}; rename one")
            table[name] = str(path)
    if table:
        write_table(Path(data_dir) / TABLE, table)
    else:
        (Path(data_dir) / TABLE).unlink(missing_ok=True)
    return len(table)


def dump_rooms(data_dir: str | Path, dump_dir: str | Path, sample_rate: int) -> int:
    """Write the rooms of a data directory to a dump, aligned by :func:`aligned`, unless they are there.

    Args:
        data_dir: with or without a table ``rooms``.
        dump_dir: gets the table and ``rooms.ark``; loses them if the data directory has no rooms.
        sample_rate: of the ark, in Hz.

    Returns:
        The number of rooms.

    Raises:
        InputError: a file is not readable, or silent.
    """
    source, dump_dir = Path(data_dir) / TABLE, Path(dump_dir)
    target, ark, record = (dump_dir / name for name in (TABLE, _ARK, _RECORD))
    rooms = read_table(source) if source.exists() else {}
    settings = f"1 {dump_dir} {sample_rate} {audio.RESAMPLER}\n"
    key = completion.fingerprint(
        [settings, *(f"{name} {path} {completion.file_fingerprint(path)}\n" for name, path in rooms.items())]
    )
    if rooms and ark.exists() and target.exists() and completion.read_if_current(record, key):
        return len(rooms)
    for path in (record, target):
        path.unlink(missing_ok=True)
    if not rooms:
        ark.unlink(missing_ok=True)
        return 0
    with ark_writer(ark, sample_rate) as write:
        specs = {name: write(name, to_int16(_read_file(path, sample_rate))) for name, path in rooms.items()}
    write_table(target, specs)
    completion.write(record, key, {"rooms": len(specs)})
    return len(specs)


def read_rooms(dump_dir: str | Path, sample_rate: int) -> list[Entry]:
    """Return where the rooms of a dump are, sorted by name; none if it has no table.

    Raises:
        InputError: the table or the ark is damaged, or of another sample rate.
    """
    path = Path(dump_dir) / TABLE
    entries = [read_entry(spec) for spec in read_table(path).values()] if path.exists() else []
    for entry in entries:
        if entry.sample_rate != sample_rate:
            raise InputError(
                f"{path}: rooms at {entry.sample_rate} Hz, the network {sample_rate} Hz; run stage 2 at its rate"
            )
    return entries


def response(entry: Entry) -> np.ndarray:
    """Return an impulse response of a dump, float32 (time,); raise InputError if it is truncated."""
    return to_float(entry.read(0, entry.num_samples))


def aligned(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return an impulse response that begins with its direct sound and has its largest sample just below 1.

    Args:
        wav: float (time,), with any silence before the direct sound.
        sample_rate: in Hz.

    Returns:
        float64 (time,), of 2 s at most, faded out over the last 20 ms if it was cut.

    Raises:
        InputError: it is silent.
    """
    loudest = float(np.max(np.abs(wav), initial=0.0))
    if loudest == 0.0:
        raise InputError("silent")
    first = int(np.argmax(np.abs(wav) >= loudest * 10 ** (_DIRECT_DB / 20)))
    longest, whole = round(_LONGEST_S * sample_rate), np.asarray(wav[first:], dtype=np.float64) * (0.999 / loudest)
    kept = whole[:longest].copy()
    if len(whole) > longest:
        fade = round(_FADE_S * sample_rate)
        kept[-fade:] *= np.linspace(1.0, 0.0, fade)
    return kept


def _read_file(path: str, sample_rate: int) -> np.ndarray:
    """Return the first channel of a file as :func:`aligned` leaves it."""
    wav, rate = audio.read(path)
    try:
        return aligned(audio.resample(wav[0], rate, sample_rate), sample_rate)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

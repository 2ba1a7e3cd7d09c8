"""Partition of a dumped set into silos: a data directory for each, and a page that shows how heterogeneous they are.

A silo is a folder with ``tr/`` and, where the test set can be split in the same way, ``tt/``: data directories that
refer to the arks of stage 2 by absolute paths, so that they can be read from any working directory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sase import jsonfile
from sase.atomic import atomic_folder, write_text
from sase.completion import read_if_current
from sase.data.arks import read_entry
from sase.data.datadir import DataDir, read_data_dir, read_table, write_data_dir, write_table
from sase.data.splitting import split_proportionally
from sase.errors import InputError
from sase.federated import partition_page

METHODS = ("silo", "speaker", "noise", "snr", "dirichlet")
SUMMARY = "partition.json"
_MAX_DRAWS = 1000  # attempts to draw a Dirichlet partition in which no silo is too small
_LEAST_SHARE = 0.01  # of the audio, per silo


@dataclass(frozen=True)
class DumpedSet:
    """The tables of a dumped set.

    Attributes:
        data: its data directory.
        seconds: duration of each utterance.
        utt2silo: the silos that stage 1 assigned; empty if it assigned none.
    """

    data: DataDir
    seconds: dict[str, float]
    utt2silo: dict[str, int]


def partition(
    train_dir: str | Path,
    test_dir: str | Path | None,
    out: str | Path,
    method: str = "silo",
    num_silos: int = 4,
    alpha: float = 0.5,
    seed: int = 0,
    log: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Write the folders ``silo0`` ... of a partition, ``partition.json``, ``partition.md`` and ``partition.png``.

    An existing partition of the same sets and settings is kept; any other is replaced atomically.

    Args:
        train_dir: dumped training set.
        test_dir: dumped test set, or None. It is split if the method defines the silo of a test utterance: by
            ``silo``, by the noises of the silos, by ranges of SNR.
        out: output folder.
        method: ``silo``: as assigned by stage 1 (``utt2silo``); ``speaker``, ``noise``: each speaker or noise in one
            silo, silos of similar size; ``snr``: ranges of SNR, of similar size; ``dirichlet``: each noise is divided
            among the silos by a draw from a symmetric Dirichlet distribution (Hsu et al. 2019).
        num_silos: number of silos.
        alpha: of the Dirichlet distribution; the smaller, the more heterogeneous the silos.
        seed: of the Dirichlet distribution.
        log: called with messages.

    Returns:
        The content of partition.json.
    """
    train = read_dumped(train_dir)
    test = read_dumped(test_dir) if test_dir else None
    silos = assign_silos(train, method, num_silos, alpha, seed)
    test_silos = assign_test_silos(train, silos, test, method) if test else {}
    summary: dict[str, Any] = {
        "method": method,
        "num_silos": num_silos,
        "sets": [str(train_dir), str(test_dir)],
        **({"alpha": alpha, "seed": seed} if method == "dirichlet" else {}),
        "silos": [summarise(k, train, silos, test, test_silos) for k in range(num_silos)],
    }
    summary["input"] = _fingerprint(summary, train, silos, test, test_silos)
    out = Path(out)
    if read_if_current(out / SUMMARY, summary["input"]):
        log(f"{out}: up to date, kept; see {out}/partition.md")
        return summary
    with atomic_folder(out) as folder:
        for k in range(num_silos):
            _write_set(folder / f"silo{k}/tr", train, [utt for utt in silos if silos[utt] == k])
            test_utts = [utt for utt in test_silos if test_silos[utt] == k]
            if test and test_utts:
                _write_set(folder / f"silo{k}/tt", test, test_utts)
        jsonfile.write(folder / SUMMARY, summary, indent=1)
        write_text(folder / "partition.md", partition_page.text(summary))
        partition_page.draw(folder / "partition.png", summary, train.data.utt2snr, silos)
    log(partition_page.text(summary))
    return summary


def assign_silos(train: DumpedSet, method: str, num_silos: int, alpha: float = 0.5, seed: int = 0) -> Mapping[str, int]:
    """Return {utterance: silo} of a training set; no silo is empty. For the arguments see :func:`partition`.

    Raises:
        InputError: the set lacks the table that the method needs, or has too few utterances, speakers or noises.
    """
    path, data = train.data.path, train.data
    if method == "silo":
        return _prepared_silos(train, num_silos)
    if method == "speaker":
        return _silos_of_groups(train, data.utt2spk, num_silos, "speakers")
    if method == "noise":
        _require_complete(data, "utt2noise", data.utt2noise)
        return _silos_of_groups(train, data.utt2noise, num_silos, "noises")
    if method == "snr":
        snrs_db = data.utt2snr
        _require_complete(data, "utt2snr", snrs_db)
        ordered = sorted(snrs_db, key=lambda utt: (snrs_db[utt], utt))
        if len(ordered) < num_silos:
            raise InputError(f"{path}: {num_silos} silos need as many utterances, found {len(ordered)}")
        seconds = np.array([train.seconds[utt] for utt in ordered])
        middle = (np.cumsum(seconds) - seconds / 2) / seconds.sum()
        silos = {utt: int(num_silos * place) for utt, place in zip(ordered, middle)}
        return _require_all(dict(sorted(silos.items())), num_silos, path)
    if method == "dirichlet":
        _require_complete(data, "utt2noise", data.utt2noise)
        return _dirichlet(train, data.utt2noise, num_silos, alpha, seed)
    raise InputError(f"unknown partition {method}; choose from {', '.join(METHODS)}")


def assign_test_silos(train: DumpedSet, silos: Mapping[str, int], test: DumpedSet, method: str) -> Mapping[str, int]:
    """Return {test utterance: silo} for those that match the training data of a silo; empty if the method has no match.

    Args:
        train: training set.
        silos: of :func:`assign_silos`.
        test: test set.
        method: as for :func:`partition`.
    """
    if method == "silo":
        return test.utt2silo
    if method == "noise":
        owners = {train.data.utt2noise[utt]: silo for utt, silo in silos.items()}
        noises = test.data.utt2noise
        return {utt: owners[noises[utt]] for utt in test.data.utts if noises.get(utt) in owners}
    if method == "snr":
        snrs_db = train.data.utt2snr
        highest = [max(snrs_db[utt] for utt in silos if silos[utt] == k) for k in range(max(silos.values()) + 1)]
        last = len(highest) - 1
        return {utt: min(int(np.searchsorted(highest, snr)), last) for utt, snr in sorted(test.data.utt2snr.items())}
    return {}


def summarise(
    silo: int,
    train: DumpedSet,
    silos: Mapping[str, int],
    test: DumpedSet | None = None,
    test_silos: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return hours, utterances, speakers, noises (hours of each) and SNRs of one silo, as plain types."""
    utts, data = [utt for utt in silos if silos[utt] == silo], train.data
    noises: dict[str, float] = defaultdict(float)
    for utt in utts:
        if utt in data.utt2noise:
            noises[data.utt2noise[utt]] += train.seconds[utt] / 3600
    snrs_db = [data.utt2snr[utt] for utt in utts if utt in data.utt2snr]
    test_utts = [utt for utt, k in (test_silos or {}).items() if k == silo]
    return {
        "hours": round(sum(train.seconds[utt] for utt in utts) / 3600, 4),
        "utterances": len(utts),
        "speakers": sorted({data.utt2spk[utt] for utt in utts}),
        "noises": {noise: round(hours, 4) for noise, hours in sorted(noises.items())},
        "snr_db": [round(float(f(snrs_db)), 2) for f in (min, np.mean, max)] if snrs_db else None,
        "test_utterances": len(test_utts),
        "test_hours": round(sum(test.seconds[utt] for utt in test_utts) / 3600, 4) if test and test_utts else 0.0,
    }


def read_dumped(path: str | Path) -> DumpedSet:
    """Read a folder of stage 2."""
    data = read_data_dir(path)
    rate = read_entry(next(iter(data.clean.values()))).sample_rate
    samples = read_table(data.path / "utt2num_samples")
    utt2silo = read_table(data.path / "utt2silo") if (data.path / "utt2silo").is_file() else {}
    try:
        silos = {utt: int(utt2silo[utt]) for utt in data.utts} if utt2silo else {}
        return DumpedSet(data, {utt: int(samples[utt]) / rate for utt in data.utts}, silos)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: utt2num_samples or utt2silo does not match ({error}); run stage 2 again") from None


def _prepared_silos(train: DumpedSet, num_silos: int) -> Mapping[str, int]:
    path = train.data.path
    if not train.utt2silo:
        others = ", ".join(METHODS[1:])
        raise InputError(f"{path}: has no utt2silo (stage 1 assigned no silos); choose another partition: {others}")
    prepared = 1 + max(train.utt2silo.values())
    if prepared != num_silos:
        raise InputError(f"{path}: was prepared for {prepared} silos, not {num_silos}; run stages 1 and 2 again")
    return _require_all(train.utt2silo, num_silos, path)


def _silos_of_groups(train: DumpedSet, utt2group: Mapping[str, str], num_silos: int, kind: str) -> dict[str, int]:
    """Return {utterance: silo} with each group in one silo, and silos of similar size."""
    seconds: dict[str, float] = defaultdict(float)
    for utt, group in utt2group.items():
        seconds[group] += train.seconds[utt]
    if len(seconds) < num_silos:
        raise InputError(f"{train.data.path}: {num_silos} silos need as many {kind}, found {len(seconds)}")
    owners = split_proportionally(seconds, [1] * num_silos)
    return {utt: owners[group] for utt, group in utt2group.items()}


def _dirichlet(
    train: DumpedSet, utt2noise: Mapping[str, str], num_silos: int, alpha: float, seed: int
) -> dict[str, int]:
    if not alpha > 0:
        raise InputError(f"--alpha {alpha}: must be above 0")
    generator, total = np.random.default_rng(seed), sum(train.seconds.values())
    for _ in range(_MAX_DRAWS):
        silos: dict[str, int] = {}
        for noise in sorted(set(utt2noise.values())):
            utts = [utt for utt in utt2noise if utt2noise[utt] == noise]
            ends = np.cumsum(generator.dirichlet(np.full(num_silos, alpha)))
            places = (np.arange(len(utts)) + 0.5) / len(utts)
            drawn = np.minimum(np.searchsorted(ends, places), num_silos - 1)
            silos.update(zip([utts[i] for i in generator.permutation(len(utts))], map(int, drawn)))
        sizes = np.bincount(list(silos.values()), [train.seconds[utt] for utt in silos], num_silos)
        if sizes.min() >= _LEAST_SHARE * total:
            return dict(sorted(silos.items()))
    raise InputError(
        f"{train.data.path}: with alpha {alpha:g} none of {_MAX_DRAWS} draws gives each of {num_silos} silos "
        f"{100 * _LEAST_SHARE:g} % of the audio; use a larger alpha or fewer silos"
    )


def _require_complete(data: DataDir, table: str, values: Mapping[str, Any]) -> None:
    if len(values) < len(data):
        raise InputError(
            f"{data.path}/{table}: missing or incomplete ({len(values)} of {len(data)} utterances); "
            "choose another partition"
        )


def _require_all(silos: Mapping[str, int], num_silos: int, path: Path) -> Mapping[str, int]:
    if missing := sorted(set(range(num_silos)) - set(silos.values())):
        raise InputError(f"{path}: silo {missing[0]} would be empty; use fewer silos")
    return silos


def _write_set(folder: Path, dumped: DumpedSet, utts: Iterable[str]) -> None:
    utts = list(utts)
    data = dumped.data
    tables = data.select(utts)
    noisy, clean = ({utt: _absolute(spec) for utt, spec in specs.items()} for specs in (tables.noisy, tables.clean))
    samples = read_table(data.path / "utt2num_samples")
    folder.mkdir(parents=True)
    write_table(folder / "utt2num_samples", {utt: samples[utt] for utt in utts})
    write_data_dir(folder, replace(tables, noisy=noisy, clean=clean, utt2silo={}))


def _absolute(spec: str) -> str:
    path, colon, offset = spec.rpartition(":")
    return f"{os.path.abspath(path)}{colon}{offset}"


def _fingerprint(summary: Mapping[str, Any], *parts: Any) -> str:
    """Return a hash of everything that the files of a partition depend on."""
    key = hashlib.sha256(json.dumps(summary, sort_keys=True).encode())
    for part in parts:
        if isinstance(part, DumpedSet):
            tables = (part.data.noisy, part.data.clean, part.data.utt2spk, part.data.utt2noise, part.data.utt2snr)
            part = [os.getcwd(), *map(list, (table.items() for table in tables)), list(part.seconds.items())]
        key.update(json.dumps(part).encode())
    return key.hexdigest()

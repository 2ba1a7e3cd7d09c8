"""Which utterance belongs to which silo: a data directory for each, and a page that shows how unlike they are.

A silo is a folder with ``tr/`` and, where the test set can be split the same way, ``tt/``: data directories over the
arks of stage 2, with absolute paths, so that they can be read from anywhere.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sase.atomic import atomic_folder, write_text
from sase.data.datadir import read_data_dir, read_table, write_data_dir, write_table
from sase.data.dump import read_entry
from sase.data.splitting import split_proportionally
from sase.errors import InputError
from sase.federated import partition_page

METHODS = ("silo", "speaker", "noise", "snr", "dirichlet")
SUMMARY = "partition.json"
_MAX_DRAWS = 1000  # of a Dirichlet partition, until no silo is too small
_LEAST_SHARE = 0.01  # of the audio, for any silo


@dataclass(frozen=True)
class DumpedSet:
    """What a partition looks at: a dumped set's tables, and the seconds of each utterance."""

    data: object
    seconds: dict[str, float]
    utt2silo: dict[str, int]


def partition(train_dir, test_dir, out, method="silo", num_silos=4, alpha=0.5, seed=0, log=print):
    """Write the folders ``silo0`` ... of a partition, ``partition.json``, ``partition.md`` and ``partition.png``.

    One of the same sets and settings that is there is left as it is; any other is replaced, whole or not at all.

    Args:
        train_dir: dumped training set.
        test_dir: dumped test set; None for none. It is split too where the method says which silo a test utterance is
            like: by ``silo``, by noises that silos have, by ranges of SNR.
        out: where to.
        method: ``silo``: as stage 1 decided (``utt2silo``); ``speaker``, ``noise``: each of them to one silo, all silos
            alike in size; ``snr``: ranges of SNR, alike in size; ``dirichlet``: of every noise the silos get shares
            drawn from a symmetric Dirichlet distribution (Hsu et al. 2019).
        num_silos: how many.
        alpha: of the Dirichlet distribution: the smaller, the more unlike the silos.
        seed: of the same.
        log: called with what was done.

    Returns:
        What partition.json holds.
    """
    train = read_dumped(train_dir)
    test = read_dumped(test_dir) if test_dir else None
    silos = assign(train, method, num_silos, alpha, seed)
    test_silos = assign_test(train, silos, test, method) if test else {}
    summary = {
        "method": method,
        "num_silos": num_silos,
        "sets": [str(train_dir), str(test_dir)],
        **({"alpha": alpha, "seed": seed} if method == "dirichlet" else {}),
        "silos": [summarise(k, train, silos, test, test_silos) for k in range(num_silos)],
    }
    summary["input"] = _hash(summary, train, silos, test, test_silos)
    out = Path(out)
    if _input_of(out / SUMMARY) == summary["input"]:
        log(f"{out}: is there, left as it is: see {out}/partition.md")
        return summary
    with atomic_folder(out) as folder:
        for k in range(num_silos):
            _write(folder / f"silo{k}/tr", train, [utt for utt in silos if silos[utt] == k])
            if theirs := [utt for utt in test_silos if test_silos[utt] == k]:
                _write(folder / f"silo{k}/tt", test, theirs)
        write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
        write_text(folder / "partition.md", partition_page.text(summary))
        partition_page.draw(folder / "partition.png", summary, train.data.utt2snr, silos)
    log(partition_page.text(summary))
    return summary


def assign(train, method, num_silos, alpha=0.5, seed=0):
    """Return {utterance: silo} of a :class:`DumpedSet`; every silo gets something.

    Raises:
        InputError: the set does not know what the method asks for, or has too little of it.
    """
    path, data = train.data.path, train.data
    if method == "silo":
        return _decided(train, num_silos)
    if method == "speaker":
        return _whole_groups(train, data.utt2spk, num_silos, "speakers")
    if method == "noise":
        return _whole_groups(train, _known(path, "utt2noise", data.utt2noise, data), num_silos, "noises")
    if method == "snr":
        snrs_db = _known(path, "utt2snr", data.utt2snr, data)
        ordered = sorted(snrs_db, key=lambda utt: (snrs_db[utt], utt))
        if len(ordered) < num_silos:
            raise InputError(f"{path}: {num_silos} silos need as many utterances, there are {len(ordered)}")
        seconds = np.array([train.seconds[utt] for utt in ordered])
        middle = (np.cumsum(seconds) - seconds / 2) / seconds.sum()
        silos = {utt: int(num_silos * place) for utt, place in zip(ordered, middle)}
        return _require_all(dict(sorted(silos.items())), num_silos, path)
    if method == "dirichlet":
        return _dirichlet(train, _known(path, "utt2noise", data.utt2noise, data), num_silos, alpha, seed)
    raise InputError(f"no such partition: {method}; there are {', '.join(METHODS)}")


def assign_test(train, silos, test, method):
    """Return {test utterance: silo} for those that one silo's training data is like; empty where no such thing is."""
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


def summarise(silo, train, silos, test=None, test_silos=None):
    """Return hours, utterances, speakers, noises (hours of each) and SNRs of one silo, as plain types."""
    utts, data = [utt for utt in silos if silos[utt] == silo], train.data
    noises = Counter()
    for utt in utts:
        if utt in data.utt2noise:
            noises[data.utt2noise[utt]] += train.seconds[utt] / 3600
    snrs_db = [data.utt2snr[utt] for utt in utts if utt in data.utt2snr]
    theirs = [utt for utt, k in (test_silos or {}).items() if k == silo]
    return {
        "hours": round(sum(train.seconds[utt] for utt in utts) / 3600, 4),
        "utterances": len(utts),
        "speakers": sorted({data.utt2spk[utt] for utt in utts}),
        "noises": {noise: round(hours, 4) for noise, hours in sorted(noises.items())},
        "snr_db": [round(float(f(snrs_db)), 2) for f in (min, np.mean, max)] if snrs_db else None,
        "test_utterances": len(theirs),
        "test_hours": round(sum(test.seconds[utt] for utt in theirs) / 3600, 4) if theirs else 0.0,
    }


def read_dumped(path):
    """Return the :class:`DumpedSet` in a folder of stage 2."""
    data = read_data_dir(path)
    rate = read_entry(next(iter(data.clean.values()))).sample_rate
    samples = read_table(data.path / "utt2num_samples")
    utt2silo = read_table(data.path / "utt2silo") if (data.path / "utt2silo").is_file() else {}
    try:
        silos = {utt: int(utt2silo[utt]) for utt in data.utts} if utt2silo else {}
        return DumpedSet(data, {utt: int(samples[utt]) / rate for utt in data.utts}, silos)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: utt2num_samples or utt2silo does not fit ({error}); make stage 2 again") from None


def _decided(train, num_silos):
    path = train.data.path
    if not train.utt2silo:
        others = ", ".join(METHODS[1:])
        raise InputError(f"{path}: has no utt2silo, so stage 1 decided on no silos; choose another partition: {others}")
    there = 1 + max(train.utt2silo.values())
    if there != num_silos:
        raise InputError(f"{path}: was prepared for {there} silos, not {num_silos}; run stages 1 and 2 again for them")
    return _require_all(train.utt2silo, num_silos, path)


def _whole_groups(train, utt2group, num_silos, what):
    seconds = Counter()
    for utt, group in utt2group.items():
        seconds[group] += train.seconds[utt]
    if len(seconds) < num_silos:
        raise InputError(f"{train.data.path}: {num_silos} silos need as many {what}, there are {len(seconds)}")
    owners = split_proportionally(seconds, [1] * num_silos)
    return {utt: owners[group] for utt, group in utt2group.items()}


def _dirichlet(train, utt2noise, num_silos, alpha, seed):
    if not alpha > 0:
        raise InputError(f"alpha of a Dirichlet distribution must be above 0, is {alpha}")
    generator, total = np.random.default_rng(seed), sum(train.seconds.values())
    for _ in range(_MAX_DRAWS):
        silos = {}
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
        f"{train.data.path}: with alpha {alpha:g} none of {_MAX_DRAWS} draws leaves each of {num_silos} silos "
        f"{100 * _LEAST_SHARE:g} % of the audio; take a larger alpha or fewer silos"
    )


def _known(path, table, values, data):
    if len(values) < len(data):
        raise InputError(
            f"{path}/{table}: is missing, or knows {len(values)} of {len(data)} utterances; choose another partition"
        )
    return values


def _require_all(silos, num_silos, path):
    if missing := sorted(set(range(num_silos)) - set(silos.values())):
        raise InputError(f"{path}: nothing is left for silo {missing[0]}; take fewer silos")
    return silos


def _write(folder, dumped, utts):
    data = dumped.data
    specs = ({utt: _absolute(table[utt]) for utt in utts} for table in (data.noisy, data.clean))
    tables = ({utt: t[utt] for utt in utts if utt in t} for t in (data.utt2spk, data.utt2noise, data.utt2snr))
    samples = read_table(data.path / "utt2num_samples")
    folder.mkdir(parents=True)
    write_table(folder / "utt2num_samples", {utt: samples[utt] for utt in utts})
    write_data_dir(folder, *specs, *tables)


def _absolute(spec):
    path, colon, offset = spec.rpartition(":")
    return f"{os.path.abspath(path)}{colon}{offset}"


def _hash(summary, *parts):
    """Return a hash of everything that the files of a partition depend on."""
    key = hashlib.sha256(json.dumps(summary, sort_keys=True).encode())
    for part in parts:
        if isinstance(part, DumpedSet):
            tables = (part.data.noisy, part.data.clean, part.data.utt2spk, part.data.utt2noise, part.data.utt2snr)
            part = [os.getcwd(), *map(list, (table.items() for table in tables)), list(part.seconds.items())]
        key.update(json.dumps(part).encode())
    return key.hexdigest()


def _input_of(path):
    """Return the hash in a partition.json, None where there is no such file or none of ours."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("input")
    except (OSError, ValueError, AttributeError):
        return None

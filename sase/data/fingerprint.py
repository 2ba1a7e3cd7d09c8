"""Whether a training resumes with the data that it started with.

An experiment's ``data.json`` has two fingerprints of every set. That of the files (tables, sizes and modification times
of the arks) is quick, but also changes when a dump is copied or made again. Only then is the second one computed: that
of the content, which two dumps share if training cannot tell them apart. Of a set too large for memory it covers 0.25 s
from the middle of every utterance, since reading all of it would take minutes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sase import completion, jsonfile
from sase.errors import InputError

if TYPE_CHECKING:
    from sase.data.dataset import PairSet

RECORD = "data.json"
_SAMPLED_S = 0.25

log = logging.getLogger(__name__)


def fingerprint_of_files(pairs: PairSet) -> str:
    """Return a fingerprint of the tables of a set and of the sizes and modification times of its arks."""
    entries = [*pairs.noisy, *pairs.clean, *pairs.rooms]
    lines = [f"{utt}\n" for utt in pairs.utts]
    lines += [f"{entry.path} {entry.first_byte} {entry.num_samples}\n" for entry in entries]
    lines += [f"{path} {completion.file_fingerprint(path)}\n" for path in sorted({entry.path for entry in entries})]
    return completion.fingerprint(lines)


def fingerprint_of_content(pairs: PairSet, whole: bool = True) -> str:
    """Return a fingerprint of the utterances of a set and their samples, and of its rooms, wherever the arks are.

    Args:
        pairs: the set.
        whole: every sample; otherwise 0.25 s from the middle of each utterance.

    Raises:
        InputError: an ark is truncated.
    """
    digest = hashlib.sha256(f"{pairs.sample_rate} Hz, {'all' if whole else 'some'} samples\n".encode())
    for utt, *both in zip(pairs.utts, pairs.noisy, pairs.clean):
        digest.update(f"{utt} {both[0].num_samples}\n".encode())
        for entry in both:
            count = entry.num_samples if whole else min(entry.num_samples, round(_SAMPLED_S * pairs.sample_rate))
            digest.update(entry.read((entry.num_samples - count) // 2, count).tobytes())
    for room in pairs.rooms:
        digest.update(f"room {room.num_samples}\n".encode() + room.read(0, room.num_samples).tobytes())
    return digest.hexdigest()


def require_unchanged(
    path: str | Path,
    sets: Mapping[str, PairSet],
    resumes: bool,
    advice: str,
    owner: str = "",
    what: str = "training",
) -> None:
    """Compare the data of a training with its record, and write the record where there is none yet.

    Args:
        path: of the record.
        sets: what each set is for, such as ``training set``, and the set.
        resumes: whether anything has been trained yet; otherwise the record is replaced.
        advice: what to do if a set has changed, for the message.
        owner: of the record, such as an experiment; the record of another one is replaced.
        what: whose data it is, for messages.

    Raises:
        InputError: a set is not the one in the record.
    """
    path = Path(path)
    old = jsonfile.read(path) if resumes and path.exists() else {}
    old = old if old.get("owner", "") == owner else {}
    if resumes and not old:
        log.info("%s: the data was not recorded when this %s started; recording it now", path, what)
    new: dict[str, Any] = {name: _describe(pairs, old.get(name, {})) for name, pairs in sets.items()}
    for name, pairs in sets.items():
        before, now = old.get(name), new[name]
        if before and before["content"] != now["content"]:
            counts = [f"{record['utterances']} utterances of {record['samples']} samples" for record in (now, before)]
            change = "the same number, but other audio" if counts[0] == counts[1] else f"were {counts[1]}"
            raise InputError(
                f"{pairs.path}: the {name} has changed since this {what} started ({counts[0]}, {change}); {advice}"
            )
    if new | {"owner": owner} != old:
        jsonfile.write(path, {"owner": owner, **new}, indent=1)


def _describe(pairs: PairSet, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a set; the content's fingerprint is that of ``known`` if the files are the same."""
    files = fingerprint_of_files(pairs)
    whole = pairs.fits_memory
    same = known.get("files") == files
    return {
        "utterances": len(pairs),
        "samples": int(pairs.lengths.sum()),
        "files": files,
        "content": known["content"] if same else fingerprint_of_content(pairs, whole),
    }

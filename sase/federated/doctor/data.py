"""The silo's data: its tables, sample rate, hours, and whether there is speech to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from sase.data.datadir import read_data_dir, validate_data_dir
from sase.data.dataset import PairSet
from sase.federated.doctor.findings import FAILED, OK, WARNING, Finding
from sase.federated.speech import is_audible, utterances

_LISTENED = 200  # utterances, evenly spaced over the set
_FEW_HOURS = 0.25


def check_data(data_dir: Path, sample_rate: int) -> Iterator[Finding]:
    """Yield findings about ``tr/`` and ``tt/`` of a silo's data.

    Args:
        data_dir: of the silo.
        sample_rate: of the network, in Hz.

    Raises:
        InputError: the tables or the audio cannot be used.
    """
    if not (data_dir / "tr").is_dir():
        yield Finding("data", FAILED, f"{data_dir}: no folder tr in it", "make it with 'sase dump --out DIR/tr'")
        return
    data = validate_data_dir(data_dir / "tr")
    pairs = PairSet(data_dir / "tr", sample_rate, max_bytes=0)
    hours = pairs.duration_s / 3600
    message = f"{data_dir / 'tr'}: {len(pairs)} utterances of {len(data.spk2utt)} speakers, {sample_rate} Hz"
    yield Finding("data", OK, message)
    few = hours < _FEW_HOURS
    yield Finding("hours", WARNING if few else OK, f"{hours:.2f} h", "add recordings if there are more" if few else "")
    yield from _check_speech(pairs)
    yield from _check_test_set(data_dir, set(data.utts), sample_rate)


def _check_speech(pairs: PairSet) -> Iterator[Finding]:
    count = min(_LISTENED, len(pairs))
    indices = torch.linspace(0, len(pairs) - 1, count).round().long().tolist()
    silent, equal = [], []
    for index, (noisy, clean) in zip(indices, utterances(pairs, indices)):
        if not is_audible(clean):
            silent.append(pairs.utts[index])
        elif torch.equal(noisy, clean):
            equal.append(pairs.utts[index])
    for name, found, problem, remedy in (
        ("speech", silent, "silent clean audio", "check spk1.scp: it must name the clean speech"),
        ("noise", equal, "noisy audio equal to the clean", "check wav.scp: it must name the noisy speech"),
    ):
        if not found:
            yield Finding(name, OK, f"none of {count} utterances examined has {problem}")
        else:
            status = FAILED if len(found) == count else WARNING
            yield Finding(name, status, f"{len(found)} of {count} utterances have {problem}, first {found[0]}", remedy)


def _check_test_set(data_dir: Path, trained_on: set[str], sample_rate: int) -> Iterator[Finding]:
    folder = data_dir / "tt"
    if not folder.is_dir():
        yield Finding("test set", OK, f"no {folder}: this silo reports no scores of its own")
        return
    data = read_data_dir(folder)
    PairSet(folder, sample_rate, max_bytes=0)
    if both := sorted(trained_on & set(data.utts)):
        message = f"{len(both)} of {len(data)} utterances are in tr too, first {both[0]}"
        yield Finding("test set", WARNING, message, "remove them from tr, or its scores say nothing about new speech")
    else:
        yield Finding("test set", OK, f"{folder}: {len(data)} utterances, none of which is in tr")

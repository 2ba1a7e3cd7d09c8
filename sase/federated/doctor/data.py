"""The silo's data: its tables, sample rate, hours, and whether there is speech to learn from."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import torch

from sase.data.arks import read_entry
from sase.data.datadir import read_data_dir, validate_data_dir
from sase.data.dataset import PairSet
from sase.federated.doctor.findings import FAILED, OK, WARNING, Finding
from sase.federated.speech import is_audible, levels, utterances

_LISTENED = 200  # utterances, evenly spaced over the set
_FEW_HOURS = 0.25
_USUAL_RATE = 16000  # of an empty set, which is an error of its own
_STEADY_DB = 15.0  # from pauses to syllables; with less, it is hardly clean speech
_SWAPPED_DB = 3.0  # by which the pauses of clean speech are louder than the noisy ones, if it is the noisy speech


def check_data(data_dir: Path, sample_rate: int | None) -> Generator[Finding]:
    """Yield findings about ``tr/`` and ``tt/`` of a silo's data.

    Args:
        data_dir: of the silo.
        sample_rate: of the network, in Hz; None if it is not known, so that all data must agree with the first.

    Raises:
        InputError: the tables or the audio cannot be used.
    """
    if not (data_dir / "tr").is_dir():
        yield Finding("data", FAILED, f"{data_dir}: no folder tr in it", "make it with 'sase dump --out DIR/tr'")
        return
    data = validate_data_dir(data_dir / "tr")
    rate = sample_rate or next((read_entry(spec).sample_rate for spec in data.noisy.values()), _USUAL_RATE)
    pairs = PairSet(data_dir / "tr", rate, max_bytes=0)
    hours = pairs.duration_s / 3600
    message = f"{data_dir / 'tr'}: {len(pairs)} utterances of {len(data.spk2utt)} speakers, {rate} Hz"
    yield Finding("data", OK, message)
    if sample_rate is None:
        remedy = "start the server, or name the rate of its network with --sample-rate"
        yield Finding("sample rate", WARNING, f"{rate} Hz; neither server nor bundle says the network's", remedy)
    few = hours < _FEW_HOURS
    yield Finding("hours", WARNING if few else OK, f"{hours:.2f} h", "add recordings if there are more" if few else "")
    yield from _check_speech(pairs)
    yield from _check_test_set(data_dir, set(data.utts), rate)


def _check_speech(pairs: PairSet) -> Iterator[Finding]:
    count = min(_LISTENED, len(pairs))
    indices = torch.linspace(0, len(pairs) - 1, count).round().long().tolist()
    found: dict[str, list[str]] = {"silent": [], "steady": [], "equal": [], "swapped": []}
    for index, (noisy, clean) in zip(indices, utterances(pairs, indices)):
        if (fault := _fault(noisy, clean, pairs.sample_rate)) is not None:
            found[fault].append(pairs.utts[index])
    both = "check both tables: wav.scp must name the noisy speech, spk1.scp the clean"
    for name, fault, problem, remedy in (
        ("speech", "silent", "silent clean audio", "check spk1.scp: it must name the clean speech"),
        ("pauses", "steady", "clean audio as steady as noise", "check spk1.scp: it must name the clean speech"),
        ("noise", "equal", "noisy audio equal to the clean", "check wav.scp: it must name the noisy speech"),
        ("order", "swapped", "clean audio whose pauses are louder than those of the noisy", both),
    ):
        if not (utts := found[fault]):
            yield Finding(name, OK, f"none of {count} utterances examined has {problem}")
        else:
            fatal = fault in ("silent", "equal") and len(utts) == count  # levels are no proof
            message = f"{len(utts)} of {count} utterances have {problem}, first {utts[0]}"
            yield Finding(name, FAILED if fatal else WARNING, message, remedy)


def _fault(noisy: torch.Tensor, clean: torch.Tensor, sample_rate: int) -> str | None:
    """Return what is wrong with a pair, each (time,) in [-1, 1]; None if nothing is."""
    if not is_audible(clean):
        return "silent"
    if torch.equal(noisy, clean):
        return "equal"
    of_noisy, of_clean = levels(noisy, sample_rate), levels(clean, sample_rate)
    if of_noisy is None or of_clean is None:
        return None
    if of_clean[0] > of_noisy[0] + _SWAPPED_DB:
        return "swapped"
    return "steady" if of_clean[1] - of_clean[0] < _STEADY_DB else None


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

"""Which utterances a page has sound of, and the sound itself: Ogg Vorbis, with gains for equal loudness."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sase import audio
from sase.errors import InputError
from sase.evaluation.scoring import is_ark, read
from sase.report.experiment import Experiment, located
from sase.report.loudness import equal_gains_db

CLEAN, NOISY = "clean", "noisy"
_ROW_BYTES = 40  # of JSON around the signals of an utterance
_TAIL = 2048  # samples of silence behind the sound, of which browsers drop some; the page cuts off the rest
_MAX_MISSES = 3  # utterances that do not fit, until no more are tried: one long recording does not end it
Key = tuple[str, str]  # set and utterance


@dataclass
class Sounds:
    """Sound of some utterances.

    Attributes:
        signals: {(set, utt): [{"name", "experiment": index or None, "rate", "samples", "gain_db", "ogg"}, ...]}:
            noisy, enhanced by each experiment, clean; Ogg Vorbis in base64.
        left_out: number of utterances for which there was no room.
        unreadable: {"set utt": reason}.
    """

    signals: dict[Key, list[dict]]
    left_out: int
    unreadable: dict[str, str]


def widest_gaps(count: int) -> Iterator[int]:
    """Yield the numbers below ``count``, each in the middle of the widest gap: first, last, middle, quarters, ...

    Any beginning of the sequence is spread evenly.
    """
    yield from range(min(count, 1))
    if count > 1:
        yield count - 1
    gaps = [(0, count - 1)]
    while gaps:
        gaps.sort(key=lambda gap: gap[0] - gap[1])
        first, last = gaps.pop(0)
        if last - first > 1:
            middle = (first + last) // 2
            yield middle
            gaps += [(first, middle), (middle, last)]


def by_quality(keys: Iterable[Key], quality: Mapping[Key, float]) -> list[Key]:
    """Return utterances from the worst to the best, then those of unknown quality."""
    return sorted(keys, key=lambda key: (key not in quality, quality.get(key, 0.0), key))


def collect(
    experiments: list[Experiment], ordered: list[Key], limit_bytes: int, log: Callable[[str], object]
) -> Sounds:
    """Return the sound of as many utterances as fit, evenly over a list, always with its ends.

    Args:
        experiments: whose enhanced speech to include.
        ordered: utterances with sound, see :func:`by_quality`.
        limit_bytes: of all sound, as JSON.
        log: called with a line for each file that cannot be read.
    """
    found, room, misses = Sounds({}, 0, {}), limit_bytes, 0
    for number in widest_gaps(len(ordered)):
        key = ordered[number]
        if misses == _MAX_MISSES:
            found.left_out += 1
            continue
        try:
            signals = _signals(experiments, key)
        except (InputError, OSError, ValueError) as error:
            found.unreadable[" ".join(key)] = str(error)
            log(f"{' '.join(key)}: {error}")
            continue
        size = len(json.dumps(signals)) + _ROW_BYTES
        if size > room:
            found.left_out += 1
            misses += 1
            continue
        room -= size
        found.signals[key] = signals
    return found


def _signals(experiments: list[Experiment], key: Key) -> list[dict]:
    name, utt = key
    specs: list[tuple[str, int | None, str, Experiment]] = []
    for index, experiment in enumerate(experiments):
        if (one := experiment.sets.get(name)) and utt in one.enhanced:
            specs.append((experiment.name, index, one.enhanced[utt], experiment))
    for experiment in experiments:
        one = experiment.sets.get(name)
        if one and one.data and utt in one.data.noisy:
            specs = [
                (NOISY, None, one.data.noisy[utt], experiment),
                *specs,
                (CLEAN, None, one.data.clean[utt], experiment),
            ]
            break
    if not specs:
        raise InputError("no sound")
    decoded = [(title, index, *read(_located(spec, experiment))) for title, index, spec, experiment in specs]
    rate = decoded[0][3]
    waves = {str(number): audio.resample(wav, own, rate) for number, (*_, wav, own) in enumerate(decoded)}
    gains = equal_gains_db(waves, rate)
    return [
        {
            "name": title,
            "experiment": index,
            "rate": rate,
            "samples": len(waves[number]),
            "gain_db": round(gains[number], 2),
            "ogg": base64.b64encode(audio.encode_vorbis(np.pad(waves[number], (0, _TAIL)), rate)).decode(),
        }
        for number, (title, index, *_) in zip(waves, decoded)
    ]


def _located(spec: str, experiment: Experiment) -> str:
    """Return a sound file or ark entry whose path holds from here."""
    path, separator, offset = spec.rpartition(":") if is_ark(spec) else (spec, "", "")
    found = located(path, experiment.folder)
    if found is None:
        raise InputError(f"{path}: no such file")
    return f"{found}{separator}{offset}"


def has_sound(experiments: Iterable[Experiment], key: Key) -> bool:
    """Return whether there is noisy, clean or enhanced speech of an utterance."""
    name, utt = key
    sets = (experiment.sets[name] for experiment in experiments if name in experiment.sets)
    return any(utt in one.enhanced or (one.data is not None and utt in one.data.noisy) for one in sets)

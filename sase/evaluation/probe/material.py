"""What a probe plays: talkers and kinds of noise, synthetic or recorded, at one level and sample rate."""

import fnmatch
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sase import audio
from sase.errors import InputError
from sase.evaluation.probe.noises import NOISES
from sase.evaluation.probe.voice import talk

LEVEL_DB = -26.0  # RMS re full scale, of every stimulus
_SPEECH_S, _NOISE_S = 5.0, 4.0
_PITCHES_HZ = (105.0, 135.0, 200.0, 235.0)
_RECORDED_SPEECH, _RECORDED_PER_KIND = 12, 3


@dataclass(frozen=True)
class Material:
    """Stimuli at :data:`LEVEL_DB`, float32 (time,).

    Attributes:
        sample_rate: in Hz.
        speech: of talkers, one after the other.
        noises: kind to recordings; the synthetic kinds have one each.
        described: what they are, for the page.
    """

    sample_rate: int
    speech: list[np.ndarray]
    noises: dict[str, list[np.ndarray]]
    described: str


def material(
    sample_rate: int,
    speech_dir: str | Path | None = None,
    noise_dirs: Sequence[str | Path] = (),
    kinds: Sequence[str] = ("*",),
) -> Material:
    """Return the stimuli of a probe.

    Args:
        sample_rate: in Hz.
        speech_dir: a folder of clean speech, 12 files of which, evenly spaced, are used; None for synthetic talkers.
        noise_dirs: folders of recorded noises, besides the synthetic ones. ``siren_1`` and ``siren_2`` are two
            recordings of one kind, at most three of which are used.
        kinds: patterns of the kinds to use.

    Raises:
        InputError: a folder without sound files, or a pattern without a match.
    """
    if speech_dir is None:
        speech = [talk(_SPEECH_S, hz, sample_rate, seed) for seed, hz in enumerate(_PITCHES_HZ)]
        talkers = f"{len(speech)} synthetic talkers"
    else:
        paths = audio.sound_files(speech_dir)
        chosen = np.unique(np.linspace(0, len(paths) - 1, _RECORDED_SPEECH).round().astype(int))
        speech = [_excerpt(paths[index], sample_rate, _SPEECH_S) for index in chosen]
        speech = [wav for wav in speech if wav.any()]
        talkers = f"{len(speech)} recordings of speech"
    if not speech:
        raise InputError(f"{speech_dir}: all its recordings are silent")
    length = int(_NOISE_S * sample_rate)
    noises = {
        kind: [at_level(noise(length, sample_rate, np.random.default_rng(number)))]
        for number, (kind, noise) in enumerate(NOISES.items())
    }
    recorded = _recorded(noise_dirs, kinds, sample_rate) if noise_dirs else {}
    described = f"{talkers}; {len(noises)} kinds of synthetic noise"
    if recorded:
        described += f", {len(recorded)} kinds of recorded noise"
    return Material(sample_rate, [at_level(wav) for wav in speech], {**noises, **recorded}, described)


def at_level(wav: np.ndarray, level_db: float = LEVEL_DB) -> np.ndarray:
    """Return a signal (time,) that is not silent at an RMS level in dB re full scale, float32."""
    rms = np.sqrt(np.mean(np.square(wav, dtype=np.float64)))
    return (wav * (10 ** (level_db / 20) / rms)).astype(np.float32)


def _recorded(folders: Sequence[str | Path], patterns: Sequence[str], sample_rate: int) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in audio.sound_files(folder):
            head, mark, _ = path.stem.rpartition("_")
            found[head if mark and head else path.stem].append(path)
    kinds: dict[str, list[np.ndarray]] = {}
    for pattern in patterns:
        if not (names := fnmatch.filter(sorted(found), pattern)):
            raise InputError(f"--kinds: no noise named {pattern} in the given folders")
        for name in names:
            wavs = (_excerpt(path, sample_rate, _NOISE_S) for path in found[name][:_RECORDED_PER_KIND])
            if audible := [at_level(wav) for wav in wavs if wav.any()]:
                kinds[f"{name} (recorded)"] = audible
    return kinds


def _excerpt(path: Path, sample_rate: int, seconds: float) -> np.ndarray:
    """Return the first seconds of a sound file, repeated as often as it takes, float32 (time,)."""
    wav, _ = audio.read_mono(path, sample_rate)
    length = int(seconds * sample_rate)
    return np.resize(wav, length) if len(wav) else np.zeros(length, dtype=np.float32)

"""Any folders of clean speech and of noise, as lists of mixtures for training and development.

For training across corpora: only ``tr`` and ``cv``; the test set is another corpus. They share no speaker and no noise
file. Each utterance has one noise; training remixes with other noises and SNRs.
"""

import fnmatch
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import atomic_folder
from sase.batch import Failures
from sase.data import noises
from sase.data.corpora.commonvoice import Clip, read_clips
from sase.data.mixtures import FILE, Mixer, Mixture, write_mixtures
from sase.data.rooms import list_rooms
from sase.errors import InputError
from sase.filetree import files_below

SETS = ("tr", "cv")
SNRS_DB = (0.0, 5.0, 10.0, 15.0)
_GENERATED_S = 20.0  # duration of each generated noise file
_GENERATED_RATE = 16000
_DEV_SHARE = 0.1  # share of the files of a noise for cv, and maximum share of all speech of a speaker of cv
_MAX_DRAWS = 100


def prepare(
    speech_dirs: Sequence[str | Path],
    noise_dirs: Sequence[str | Path],
    data_dir: str | Path,
    generated: int = 0,
    dev_speakers: int = 8,
    dev_utterances: int = 64,
    seed: int = 0,
    log: Callable[[str], None] = print,
    held_out: Sequence[str] = (),
    room_dirs: Sequence[str | Path] = (),
) -> dict[str, dict[str, Mixture]]:
    """Write ``tr`` and ``cv``, each a folder with ``mixtures.tsv``, both or none.

    Args:
        speech_dirs: folders searched for sound files. The speaker is the part of the file name before the first ``_``;
            files without ``_`` belong to one speaker, named after their folder. A folder of Common Voice is read by its
            tables: the train split goes to ``tr``, the dev split to ``cv``, the test split is not used.
        noise_dirs: folders of noises. ``chainsaw_00`` and ``chainsaw_01`` are two files of one noise; a tenth of
            them goes to ``cv``, and a noise with a single file to ``tr``.
        data_dir: output; ``tr`` and ``cv`` in it are replaced, ``noise`` contains generated noises.
        generated: number of 20 s files per noise of :mod:`sase.data.noises`, and a tenth as many for ``cv``.
        dev_speakers: number of smaller speakers of the plain folders for ``cv``.
        dev_utterances: size of ``cv``, evenly spaced over all candidates.
        seed: same seed, same lists.
        log: called with one line for everything that was skipped.
        held_out: patterns (``*siren*``) of noises of ``noise_dirs`` that neither set may use.
        room_dirs: folders of impulse responses of rooms, for ``tr``.

    Returns:
        Set to utterance to mixture.

    Raises:
        InputError: a set without speech or noise, too few speakers, or a noise to be held out that does not exist.
    """
    data_dir = Path(os.path.abspath(data_dir))
    clips = _read_speech(speech_dirs, dev_speakers, np.random.default_rng([seed, 0]), log)
    files = _read_noises(noise_dirs, held_out)
    for name, kinds in _generate(data_dir / "noise", generated, seed).items():
        for kind, paths in kinds.items():
            files[name][kind] += paths
    for name in SETS:
        if not clips[name] or not files[name]:
            raise InputError(f"{name}: no {'noise' if clips[name] else 'speech'} for it in the given folders")
    keys = sorted(clips["cv"])
    step = max(1.0, len(keys) / dev_utterances)
    clips["cv"] = {keys[int(i * step)]: clips["cv"][keys[int(i * step)]] for i in range(int(len(keys) / step))}
    sets: dict[str, dict[str, Mixture]] = {}
    draw = partial(_draw, Mixer(_GENERATED_RATE))
    for number, name in enumerate(SETS, 1):
        generator = np.random.default_rng([seed, number])
        order = _balanced_order(files[name], len(clips[name]), generator)
        sets[name] = {utt: draw(clip, *next(order), generator) for utt, clip in clips[name].items()}
    with ExitStack() as stack:
        for name, mixtures in sets.items():
            folder = stack.enter_context(atomic_folder(data_dir / name))
            write_mixtures(folder / FILE, mixtures)
            if name == "tr":
                list_rooms(room_dirs, folder)
    return sets


def _read_speech(
    folders: Sequence[str | Path], dev_speakers: int, generator: np.random.Generator, log: Callable[[str], None]
) -> dict[str, dict[str, Clip]]:
    clips: dict[str, dict[str, Clip]] = {name: {} for name in SETS}
    plain: dict[str, Clip] = {}
    bad = Failures(lambda line: log(line.replace(": ", ": skipped: ", 1)))
    for folder in folders:
        if Path(folder).is_dir() and any(path.name == "train.tsv" for path in files_below(folder)):
            tables, _ = read_clips(folder, log)  # the test split is not used
            for name in SETS:
                clips[name] |= tables[name]
            continue
        for path in audio.sound_files(os.path.abspath(folder)):
            speaker, mark, _ = path.stem.partition("_")
            utt = path.stem if mark else f"{path.parent.name}_{path.stem}"
            if utt in plain:
                raise InputError(f"{path} and {plain[utt].path} would both be {utt}; rename one")
            with bad.of(utt):
                plain[utt] = Clip(speaker if mark else path.parent.name, str(path), audio.info(path).duration_s)
    seconds: dict[str, float] = defaultdict(float)
    for clip in plain.values():
        seconds[clip.speaker] += clip.duration_s
    small = sorted(speaker for speaker, s in seconds.items() if s <= _DEV_SHARE * sum(seconds.values()))
    if len(small) < dev_speakers:
        raise InputError(
            f"{dev_speakers} development speakers needed, {len(small)} have less than a tenth of the speech"
        )
    chosen = {small[i] for i in generator.permutation(len(small))[:dev_speakers]}
    for utt, clip in plain.items():
        clips["cv" if clip.speaker in chosen else "tr"][utt] = clip
    return {name: dict(sorted(part.items())) for name, part in clips.items()}


def _read_noises(folders: Sequence[str | Path], held_out: Sequence[str]) -> dict[str, dict[str, list[Path]]]:
    """Return set to kind of noise to files, without the noises that match a pattern."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in audio.sound_files(os.path.abspath(folder)):
            head, mark, _ = path.stem.rpartition("_")
            found[head if mark and head else path.stem].append(path)
    for pattern in held_out:
        if not (kinds := fnmatch.filter(found, pattern)):
            raise InputError(f"--held-out: no noise named {pattern} in the given folders")
        for kind in kinds:
            del found[kind]
    files: dict[str, dict[str, list[Path]]] = {name: defaultdict(list) for name in SETS}
    for kind, paths in found.items():
        count = max(1, round(_DEV_SHARE * len(paths))) if len(paths) > 1 else 0
        files["tr"][kind] = paths[: len(paths) - count]
        if count:
            files["cv"][kind] = paths[-count:]
    return files


def _generate(folder: Path, count: int, seed: int) -> dict[str, dict[str, list[Path]]]:
    """Write generated noises unless they exist; return set to kind of noise to files."""
    files: dict[str, dict[str, list[Path]]] = {name: {} for name in SETS}
    for number, (kind, make) in enumerate(sorted(noises.NOISES.items())):
        for name, many in (("tr", count), ("cv", -(-count // 10))):
            for i in range(many):
                path = folder / name / f"{kind}_{i:02d}.flac"
                if not path.is_file():
                    generator = np.random.default_rng([seed, SETS.index(name), number, i])
                    wav = make(int(_GENERATED_S * _GENERATED_RATE), _GENERATED_RATE, generator)
                    audio.write(path, wav, _GENERATED_RATE)
                files[name].setdefault(f"generated_{kind}", []).append(path)
    return files


def _balanced_order(
    kinds: Mapping[str, Sequence[Path]], count: int, generator: np.random.Generator
) -> Iterator[tuple[str, Path]]:
    """Yield at least ``count`` pairs of kind and file: kinds by random permutations, files of each in turn."""
    names = sorted(kinds)
    used: dict[str, int] = defaultdict(int)
    for _ in range(-(-count // len(names))):
        for i in generator.permutation(len(names)):
            kind = names[i]
            yield kind, kinds[kind][used[kind] % len(kinds[kind])]
            used[kind] += 1


def _draw(mixer: Mixer, clip: Clip, noise: str, path: Path, generator: np.random.Generator) -> Mixture:
    """Return the mixture of a clip and a noise, from a random offset in its file."""
    end_s = int(1000 * audio.info(path).duration_s) / 1000
    for _ in range(_MAX_DRAWS):
        offset_s = int(1000 * generator.uniform(0.0, end_s)) / 1000
        snr_db = float(generator.choice(SNRS_DB))
        mixture = Mixture(clip.speaker, clip.path, noise, str(path), 0.0, end_s, offset_s, snr_db)
        if mixer.excerpt(mixture, int(clip.duration_s * mixer.sample_rate)).any():
            return mixture
    raise InputError(f"{path}: almost entirely silent; remove it")

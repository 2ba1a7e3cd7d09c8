"""Whatever folders of clean speech and of noise there are, as lists of mixtures to train on and to choose by.

For training across corpora: ``tr`` and ``cv`` alone, the test set is another corpus. No speaker and no noise file is in
both. Under each utterance lies one noise; training draws others, at other SNRs, while it goes.
"""

import os
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import atomic_folder
from sase.data import noises
from sase.data.corpora.commonvoice import Clip, read_clips
from sase.data.mixtures import FILE, Mixer, Mixture, write_mixtures
from sase.errors import InputError

SETS = ("tr", "cv")
SNRS_DB = (0.0, 5.0, 10.0, 15.0)
_GENERATED_S = 20.0  # of each generated noise file
_GENERATED_RATE = 16000
_DEV_SHARE = 0.1  # of the files of a noise that go to cv, and the most of all speech that a speaker of cv may hold
_MAX_DRAWS = 100


def prepare(speech_dirs, noise_dirs, data_dir, generated=0, dev_speakers=8, dev_utterances=64, seed=0, log=print):
    """Write ``tr`` and ``cv``, each a folder with ``mixtures.tsv``, both whole or none.

    Args:
        speech_dirs: folders searched for sound files. A speaker is what stands before the first ``_`` of a file's name;
            files without one are of one speaker, named as their folder. A folder of Common Voice is read by its tables:
            its train split goes to ``tr``, its dev split to ``cv``, its test split nowhere.
        noise_dirs: folders of noises. ``chainsaw_00`` and ``chainsaw_01`` are two files of one noise; a tenth of them
            goes to ``cv``, and a noise of a single file to ``tr``.
        data_dir: where to; ``tr`` and ``cv`` in it are replaced, ``noise`` holds what is generated.
        generated: files of 20 s to generate of every noise of :mod:`sase.data.noises`, and a tenth as many for ``cv``.
        dev_speakers: how many of the smaller speakers of the plain folders go to ``cv``.
        dev_utterances: of ``cv``, spread evenly over all that it could have.
        seed: same seed, same lists.
        log: called with a line for everything that was left out.

    Returns:
        {set: {utterance: :class:`~sase.data.mixtures.Mixture`}}
    """
    data_dir = Path(os.path.abspath(data_dir))
    clips = _read_speech(speech_dirs, dev_speakers, np.random.default_rng([seed, 0]), log)
    files = _read_noises(noise_dirs)
    for name, kinds in _generate(data_dir / "noise", generated, seed).items():
        for kind, paths in kinds.items():
            files[name][kind] += paths
    for name in SETS:
        if not clips[name] or not files[name]:
            raise InputError(f"{name}: no {'noise' if clips[name] else 'speech'} for it in the folders given")
    keys = sorted(clips["cv"])
    step = max(1.0, len(keys) / dev_utterances)
    clips["cv"] = {keys[int(i * step)]: clips["cv"][keys[int(i * step)]] for i in range(int(len(keys) / step))}
    sets, draw = {}, partial(_draw, Mixer(_GENERATED_RATE))
    for number, name in enumerate(SETS, 1):
        generator = np.random.default_rng([seed, number])
        turns = _turns(files[name], len(clips[name]), generator)
        sets[name] = {utt: draw(clip, *next(turns), generator) for utt, clip in clips[name].items()}
    with ExitStack() as stack:
        for name, mixtures in sets.items():
            write_mixtures(stack.enter_context(atomic_folder(data_dir / name)) / FILE, mixtures)
    return sets


def _read_speech(folders, dev_speakers, generator, log):
    clips, plain = {name: {} for name in SETS}, {}
    for folder in folders:
        if Path(folder).is_dir() and any(Path(folder).glob("**/train.tsv")):
            tables = read_clips(folder, log)
            for name in SETS:
                clips[name] |= tables[name]
            continue
        for path in _sounds(folder):
            speaker, mark, _ = path.stem.partition("_")
            utt = path.stem if mark else f"{path.parent.name}_{path.stem}"
            if utt in plain:
                raise InputError(f"{path} and {plain[utt].path} would both be {utt}; rename one")
            try:
                plain[utt] = Clip(speaker if mark else path.parent.name, str(path), audio.info(path).duration_s)
            except InputError as error:
                log(f"{utt}: left out: {error}")
    seconds = defaultdict(float)
    for clip in plain.values():
        seconds[clip.speaker] += clip.duration_s
    small = sorted(speaker for speaker, s in seconds.items() if s <= _DEV_SHARE * sum(seconds.values()))
    if len(small) < dev_speakers:
        there = f"{len(small)} have less than a tenth of the speech"
        raise InputError(f"{dev_speakers} development speakers wanted; {there}")
    chosen = {small[i] for i in generator.permutation(len(small))[:dev_speakers]}
    for utt, clip in plain.items():
        clips["cv" if clip.speaker in chosen else "tr"][utt] = clip
    return {name: dict(sorted(part.items())) for name, part in clips.items()}


def _read_noises(folders):
    """Return {set: {kind: paths}}."""
    found = defaultdict(list)
    for folder in folders:
        for path in _sounds(folder):
            head, mark, _ = path.stem.rpartition("_")
            found[head if mark and head else path.stem].append(path)
    files = {name: defaultdict(list) for name in SETS}
    for kind, paths in found.items():
        count = max(1, round(_DEV_SHARE * len(paths))) if len(paths) > 1 else 0
        files["tr"][kind] = paths[: len(paths) - count]
        if count:
            files["cv"][kind] = paths[-count:]
    return files


def _generate(folder, count, seed):
    """Write noises that are not there yet; return {set: {kind: paths}}."""
    files = {name: {} for name in SETS}
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


def _turns(kinds, count, generator):
    """Yield ``count`` times (kind, path): kinds in turn, in random order, and the files of each in turn."""
    names, used = sorted(kinds), defaultdict(int)
    for _ in range(-(-count // len(names))):
        for i in generator.permutation(len(names)):
            kind = names[i]
            yield kind, kinds[kind][used[kind] % len(kinds[kind])]
            used[kind] += 1


def _draw(mixer, clip, noise, path, generator):
    """Return the mixture of a clip and a noise, from anywhere in its file."""
    end_s = int(1000 * audio.info(path).duration_s) / 1000
    for _ in range(_MAX_DRAWS):
        offset_s = int(1000 * generator.uniform(0.0, end_s)) / 1000
        snr_db = float(generator.choice(SNRS_DB))
        mixture = Mixture(clip.speaker, clip.path, noise, str(path), 0.0, end_s, offset_s, snr_db)
        if mixer.excerpt(mixture, int(clip.duration_s * mixer.sample_rate)).any():
            return mixture
    raise InputError(f"{path}: is silent nearly everywhere; leave it out")


def _sounds(folder):
    """Return the sound files of a folder and all below it, sorted."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(Path(os.path.abspath(folder)).rglob("*"))
    found = [file for file in files if file.suffix.lower() in audio.SUFFIXES and file.name[0] != "."]
    if not found:
        raise InputError(f"{folder}: holds no sound files ({' '.join(audio.SUFFIXES)})")
    return found

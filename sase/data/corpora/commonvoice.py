"""Common Voice in noise: the official splits of one language, each noise cut in time, a list of mixtures.

Ardila et al., "Common Voice: a massively-multilingual speech corpus", 2020. The folder of a language holds
``train.tsv``, ``dev.tsv``, ``test.tsv`` and ``clips/``, as published.

Every training utterance belongs to a silo of federated training: silos have their own speakers, their own noises (from
rumbling in the first to hissing in the last) and their own range of SNRs, and each is twice as large as the one before.
"""

import csv
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import atomic_folder
from sase.data.corpora import noisex92
from sase.data.mixtures import FILE, Mixer, Mixture, write_mixtures
from sase.data.splitting import split_proportionally
from sase.errors import InputError

SPLITS = {"tr": "train", "cv": "dev", "tt": "test"}
SNRS_DB = (-5.0, 0.0, 5.0, 10.0)  # of cv and tt; tr draws from the whole range
# Where in a noise each set finds its part, so that no sample of a test noise was ever heard.
NOISE_PARTS = {"tr": (0.0, 0.6), "cv": (0.6, 0.8), "tt": (0.8, 1.0)}
HOW_TO_GET = (
    "Common Voice wants an account: log in at https://commonvoice.mozilla.org, choose a language (the recipe: Chinese "
    "(China), zh-CN), accept the terms, download and unpack the archive, and name the folder with train.tsv and clips/"
)
_SPEAKER_LETTERS = 10  # of the 128 that name one
_CHECK_RATE = 16000  # Hz, at which noises are listened to for silence
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Clip:
    """One recording."""

    speaker: str
    path: str
    duration_s: float


def download(cv_dir):
    """Tell what a copy of Common Voice holds; it cannot be downloaded without an account.

    Raises:
        InputError: the folder or a part of it is missing; with the way to get it.
    """
    folder = find_language(cv_dir)
    rows = {name: len(_rows(folder / f"{split}.tsv")) for name, split in SPLITS.items()}
    print(f"{folder}: {', '.join(f'{SPLITS[name]} {count} clips' for name, count in rows.items())}", flush=True)


def prepare(cv_dir, noise_dir, data_dir, num_silos=4, seed=0, log=print):
    """Write ``tr``, ``cv`` and ``tt``, each a folder with ``mixtures.tsv``, all whole or none.

    Args:
        cv_dir: the folder of a language, or one above it.
        noise_dir: see :func:`sase.data.corpora.noisex92.prepare`.
        data_dir: where to; ``tr``, ``cv`` and ``tt`` in it are replaced, ``noise`` holds what was converted.
        num_silos: of federated training; as many speakers and noises are needed at least.
        seed: same seed, same lists.
        log: called with a line for everything that was left out.

    Returns:
        {set: {utterance: :class:`~sase.data.mixtures.Mixture`}}
    """
    data_dir = Path(os.path.abspath(data_dir))
    clips = read_clips(cv_dir, log)
    noises = noisex92.prepare(noise_dir, data_dir / "noise")
    noise_silos = _noise_silos(noises, num_silos, noise_dir)
    seconds = Counter()
    for clip in clips["tr"].values():
        seconds[clip.speaker] += clip.duration_s
    if len(seconds) < num_silos:
        there = f"there are {len(seconds)}"
        raise InputError(f"{cv_dir}: {num_silos} silos need as many training speakers, {there}; take fewer")
    speaker_silos = split_proportionally(seconds, [2**k for k in range(num_silos)])
    mixer, sets = Mixer(_CHECK_RATE), {}
    for number, name in enumerate(SPLITS):
        generator = np.random.default_rng([seed, number])
        draw = partial(_draw, NOISE_PARTS[name], mixer, generator)
        if name == "tr":
            sets[name] = {}
            for silo in range(num_silos):
                theirs = {utt: clip for utt, clip in clips[name].items() if speaker_silos[clip.speaker] == silo}
                own = [noise for noise in noises if noise_silos[noise.name] == silo]
                sets[name] |= _one_silo(theirs, own, silo, num_silos, generator, draw)
        else:
            sets[name] = _all_conditions(clips[name], noises, noise_silos, generator, draw)
    with ExitStack() as stack:
        for name, mixtures in sets.items():
            write_mixtures(stack.enter_context(atomic_folder(data_dir / name)) / FILE, mixtures)
    return sets


def find_language(cv_dir):
    """Return the folder with train.tsv, dev.tsv, test.tsv and clips/: the one given, or the only one below it."""
    cv_dir = Path(cv_dir)
    if not cv_dir.is_dir():
        raise InputError(f"{cv_dir}: no such folder. {HOW_TO_GET}")
    found = [p.parent for depth in ("", "*/", "*/*/") for p in sorted(cv_dir.glob(f"{depth}train.tsv"))]
    if not found:
        raise InputError(f"{cv_dir}: holds no train.tsv. {HOW_TO_GET}")
    if len(found) > 1:
        raise InputError(f"{cv_dir}: holds several languages, name one of {', '.join(map(str, found))}")
    for name in (*(f"{split}.tsv" for split in SPLITS.values()), "clips"):
        if not (found[0] / name).exists():
            raise InputError(f"{found[0]}: {name} is missing. {HOW_TO_GET}")
    return Path(os.path.abspath(found[0]))


def read_clips(cv_dir, log=print):
    """Return {set: {utterance: :class:`Clip`}} of the official splits.

    A clip that cannot be opened is named and left out of tr and cv, and an error in tt. Speakers of tt are left out of
    cv and tr, speakers of cv out of tr, if ever there are any.
    """
    folder = find_language(cv_dir)
    rows = {name: _rows(folder / f"{split}.tsv") for name, split in SPLITS.items()}
    names = _short_names({row["client_id"] for part in rows.values() for row in part})
    taken, sets = set(), {}
    for name in reversed(SPLITS):
        clips, strangers = {}, 0
        for row in rows[name]:
            speaker, path = names[row["client_id"]], folder / "clips" / row["path"]
            path = path if path.suffix else path.with_suffix(".mp3")  # as in the first releases
            if speaker in taken:
                strangers += 1
                continue
            utt = f"{speaker}_{path.stem.rpartition('_')[2]}"
            if utt in clips:
                raise InputError(f"{folder}/{SPLITS[name]}.tsv: {path.name} and {clips[utt].path} are both {utt}")
            try:
                clips[utt] = Clip(speaker, str(path), audio.info(path).duration_s)
            except InputError as error:
                if name == "tt":
                    raise InputError(f"{folder}/test.tsv: no test clip may be left out: {error}") from None
                log(f"{utt}: left out: {error}")
        if strangers:
            log(f"{folder}/{SPLITS[name]}.tsv: {strangers} clips left out: their speakers are in a later set too")
        if not clips:
            raise InputError(f"{folder}/{SPLITS[name]}.tsv: no clip can be used, of {len(rows[name])}")
        taken |= {clip.speaker for clip in clips.values()}
        sets[name] = dict(sorted(clips.items()))
    return dict(reversed(sets.items()))


def silo_snrs_db(silo, num_silos):
    """Return the range of SNRs of a silo's training mixtures: half as wide as all, the higher the larger the silo."""
    low, high = SNRS_DB[0], SNRS_DB[-1]
    if num_silos == 1:
        return low, high
    width = (high - low) / 2
    begin = low + width * silo / (num_silos - 1)
    return begin, begin + width


def _one_silo(clips, noises, silo, num_silos, generator, draw):
    """All clips of a silo in its noises, in turn; the SNR from anywhere in its range."""
    mixtures = {}
    for (utt, clip), i in zip(clips.items(), _turns(len(clips), len(noises), generator)):
        snr_db = round(float(generator.uniform(*silo_snrs_db(silo, num_silos))), 1)
        mixtures[utt] = draw(clip, noises[i], snr_db, silo)
    return mixtures


def _all_conditions(clips, noises, noise_silos, generator, draw):
    """Every noise at every SNR, equally often; the silo is the one that knows the noise."""
    used, mixtures = Counter(), {}
    for (utt, clip), i in zip(clips.items(), _turns(len(clips), len(noises), generator)):
        snr_db = SNRS_DB[(used[i] + i) % len(SNRS_DB)]
        used[i] += 1
        mixtures[utt] = draw(clip, noises[i], snr_db, noise_silos[noises[i].name])
    return mixtures


def _draw(shares, mixer, generator, clip, noise, snr_db, silo):
    """Return the mixture of a clip and a noise, from anywhere in the part of it that the set may use."""
    # To the millisecond, so that what the list says is what is used; downwards, not to pass the end of the file.
    begin_s, end_s = (int(1000 * share * noise.duration_s) / 1000 for share in shares)
    for _ in range(_MAX_DRAWS):
        offset_s = int(1000 * generator.uniform(begin_s, end_s)) / 1000
        mixture = Mixture(clip.speaker, clip.path, noise.name, noise.path, begin_s, end_s, offset_s, snr_db, silo)
        if mixer.excerpt(mixture, int(clip.duration_s * mixer.sample_rate)).any():
            return mixture
    raise InputError(f"{noise.path}: is silent nearly everywhere between {begin_s:g} and {end_s:g} s; leave it out")


def _turns(count, kinds, generator):
    """Return ``count`` numbers below ``kinds``: all equally often, in random order, each before one comes again."""
    return [int(i) for _ in range(-(-count // kinds)) for i in generator.permutation(kinds)][:count]


def _noise_silos(noises, num_silos, noise_dir):
    """Return {noise: silo}: noises in the order of their spectral centroids, as many to each silo as can be."""
    if len(noises) < num_silos:
        there = f"there {'is' if len(noises) == 1 else 'are'} {len(noises)}"
        wanted = f"{num_silos} silos with noises of their own need as many"
        raise InputError(f"{noise_dir}: {wanted}, {there}; take fewer (--num_clients)")
    ordered = sorted(noises, key=lambda noise: noise.centroid_hz)
    # What is left over goes to the last silos, which are the largest.
    return {noise.name: (num_silos * (place + 1) - 1) // len(ordered) for place, noise in enumerate(ordered)}


def _rows(path):
    """Return the lines of a .tsv file as dicts, with ``client_id`` and ``path`` at least."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not rows:
        raise InputError(f"{path}: lists no clips")
    for number, row in enumerate(rows, 2):
        if not row.get("client_id") or not row.get("path"):
            raise InputError(f"{path}:{number}: has no client_id or no path; is it a table of Common Voice?")
    return rows


def _short_names(client_ids):
    """Return {client_id: its first letters}, as many as keep all apart."""
    length = _SPEAKER_LETTERS
    while len({client_id[:length] for client_id in client_ids}) < len(client_ids):
        length += 1
    return {client_id: client_id[:length] for client_id in client_ids}

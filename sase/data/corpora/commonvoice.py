"""Common Voice with added noise: the official splits of one language, each noise split in time, as lists of mixtures.

Ardila et al., "Common Voice: a massively-multilingual speech corpus", 2020. The folder of a language contains
``train.tsv``, ``dev.tsv``, ``test.tsv`` and ``clips/``, as published.

Every training utterance belongs to a silo of federated training: silos have their own speakers, noises (from low to
high spectral centroids) and ranges of SNRs, and each is twice as large as the previous one.
"""

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import atomic_folder
from sase.data.corpora import noisex92
from sase.data.corpora.noisex92 import Noise
from sase.data.keys import check_key
from sase.data.mixtures import FILE, Mixer, Mixture, write_mixtures
from sase.data.splitting import split_proportionally
from sase.errors import InputError

SPLITS = {"tr": "train", "cv": "dev", "tt": "test"}
SNRS_DB = (-5.0, 0.0, 5.0, 10.0)  # of cv and tt; tr draws from the continuous range
# The part of each noise that a set uses: no test sample of a noise is seen in training.
NOISE_PARTS = {"tr": (0.0, 0.6), "cv": (0.6, 0.8), "tt": (0.8, 1.0)}
HOW_TO_GET = (
    "Common Voice requires an account: log in at https://commonvoice.mozilla.org, choose a language (the recipe: "
    "Chinese (China), zh-CN), accept the terms, download and unpack the archive, and pass the folder with train.tsv "
    "and clips/"
)
_SPEAKER_LETTERS = 10  # of the 128 of a client_id
_CHECK_RATE = 16000  # Hz, for the search for silence in noises
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Clip:
    """One recording."""

    speaker: str
    path: str
    duration_s: float


def download(cv_dir: str | Path) -> None:
    """Print the content of a copy of Common Voice, which cannot be downloaded without an account.

    Raises:
        InputError: the folder or a part of it is missing; explains how to get it.
    """
    folder = find_language(cv_dir)
    rows = {name: len(_rows(folder / f"{split}.tsv")) for name, split in SPLITS.items()}
    print(f"{folder}: {', '.join(f'{SPLITS[name]} {count} clips' for name, count in rows.items())}", flush=True)


def prepare(
    cv_dir: str | Path,
    noise_dir: str | Path,
    data_dir: str | Path,
    num_silos: int = 4,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, Mixture]]:
    """Write ``tr``, ``cv`` and ``tt``, each a folder with ``mixtures.tsv``, all or none.

    Args:
        cv_dir: the folder of a language, or a parent of it.
        noise_dir: see :func:`sase.data.corpora.noisex92.prepare`.
        data_dir: output; ``tr``, ``cv`` and ``tt`` in it are replaced, ``noise`` contains converted noises.
        num_silos: of federated training; at least as many speakers and noises are needed.
        seed: same seed, same lists.
        log: called with one line for everything that was skipped.

    Returns:
        Set to utterance to mixture.

    Raises:
        InputError: missing data, or too few speakers or noises.
    """
    data_dir = Path(os.path.abspath(data_dir))
    clips = read_clips(cv_dir, log)
    noises = noisex92.prepare(noise_dir, data_dir / "noise")
    noise_silos = _noise_silos(noises, num_silos, noise_dir)
    seconds: dict[str, float] = defaultdict(float)
    for clip in clips["tr"].values():
        seconds[clip.speaker] += clip.duration_s
    if len(seconds) < num_silos:
        raise InputError(f"{cv_dir}: {num_silos} silos need as many training speakers, found {len(seconds)}; use fewer")
    speaker_silos = split_proportionally(seconds, [2**k for k in range(num_silos)])
    mixer = Mixer(_CHECK_RATE)
    sets: dict[str, dict[str, Mixture]] = {}
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


def find_language(cv_dir: str | Path) -> Path:
    """Return the folder with train.tsv, dev.tsv, test.tsv and clips/: the given one, or the only one below it.

    Raises:
        InputError: none, several, or an incomplete one.
    """
    cv_dir = Path(cv_dir)
    if not cv_dir.is_dir():
        raise InputError(f"{cv_dir}: no such folder. {HOW_TO_GET}")
    found = [p.parent for depth in ("", "*/", "*/*/") for p in sorted(cv_dir.glob(f"{depth}train.tsv"))]
    if not found:
        raise InputError(f"{cv_dir}: contains no train.tsv. {HOW_TO_GET}")
    if len(found) > 1:
        raise InputError(f"{cv_dir}: contains several languages, pass one of {', '.join(map(str, found))}")
    for name in (*(f"{split}.tsv" for split in SPLITS.values()), "clips"):
        if not (found[0] / name).exists():
            raise InputError(f"{found[0]}: {name} not found. {HOW_TO_GET}")
    return Path(os.path.abspath(found[0]))


def read_clips(cv_dir: str | Path, log: Callable[[str], None] = print) -> dict[str, dict[str, Clip]]:
    """Return set to utterance to clip of the official splits.

    An unreadable clip is reported and skipped in tr and cv, and an error in tt. If speakers of tt occur in cv or tr, or
    speakers of cv in tr, their clips there are skipped.
    """
    folder = find_language(cv_dir)
    rows = {name: _rows(folder / f"{split}.tsv") for name, split in SPLITS.items()}
    names = _short_names({row["client_id"] for part in rows.values() for row in part})
    taken: set[str] = set()
    sets: dict[str, dict[str, Clip]] = {}
    for name in reversed(SPLITS):
        clips: dict[str, Clip] = {}
        overlapping = 0
        for row in rows[name]:
            speaker, path = names[row["client_id"]], folder / "clips" / row["path"]
            path = path if path.suffix else path.with_suffix(".mp3")  # as in the first releases
            if speaker in taken:
                overlapping += 1
                continue
            utt = f"{speaker}_{path.stem.rpartition('_')[2]}"
            if utt in clips:
                raise InputError(f"{folder}/{SPLITS[name]}.tsv: {path.name} and {clips[utt].path} are both {utt}")
            try:
                clips[utt] = Clip(speaker, str(path), audio.info(path).duration_s)
            except InputError as error:
                if name == "tt":
                    raise InputError(f"{folder}/test.tsv: no test clip may be skipped: {error}") from None
                log(f"{utt}: skipped: {error}")
        if overlapping:
            log(f"{folder}/{SPLITS[name]}.tsv: {overlapping} clips skipped: their speakers are also in a later set")
        if not clips:
            raise InputError(f"{folder}/{SPLITS[name]}.tsv: none of {len(rows[name])} clips can be used")
        taken |= {clip.speaker for clip in clips.values()}
        sets[name] = dict(sorted(clips.items()))
    return dict(reversed(sets.items()))


def silo_snrs_db(silo: int, num_silos: int) -> tuple[float, float]:
    """Return the range of SNRs of a silo's training mixtures: half the whole range, higher for larger silos."""
    low, high = SNRS_DB[0], SNRS_DB[-1]
    if num_silos == 1:
        return low, high
    width = (high - low) / 2
    begin = low + width * silo / (num_silos - 1)
    return begin, begin + width


def _one_silo(
    clips: Mapping[str, Clip],
    noises: Sequence[Noise],
    silo: int,
    num_silos: int,
    generator: np.random.Generator,
    draw: Callable[[Clip, Noise, float, int], Mixture],
) -> dict[str, Mixture]:
    """Mix the clips of a silo with its noises in turn, at random SNRs in its range."""
    mixtures = {}
    for (utt, clip), i in zip(clips.items(), _balanced_order(len(clips), len(noises), generator)):
        snr_db = round(float(generator.uniform(*silo_snrs_db(silo, num_silos))), 1)
        mixtures[utt] = draw(clip, noises[i], snr_db, silo)
    return mixtures


def _all_conditions(
    clips: Mapping[str, Clip],
    noises: Sequence[Noise],
    noise_silos: Mapping[str, int],
    generator: np.random.Generator,
    draw: Callable[[Clip, Noise, float, int], Mixture],
) -> dict[str, Mixture]:
    """Mix with every noise at every SNR, equally often; the silo is the one that has the noise."""
    used: Counter[int] = Counter()
    mixtures = {}
    for (utt, clip), i in zip(clips.items(), _balanced_order(len(clips), len(noises), generator)):
        snr_db = SNRS_DB[(used[i] + i) % len(SNRS_DB)]
        used[i] += 1
        mixtures[utt] = draw(clip, noises[i], snr_db, noise_silos[noises[i].name])
    return mixtures


def _draw(
    part: tuple[float, float],
    mixer: Mixer,
    generator: np.random.Generator,
    clip: Clip,
    noise: Noise,
    snr_db: float,
    silo: int,
) -> Mixture:
    """Return the mixture of a clip and a noise, from a random offset in the part that the set may use."""
    # Rounded down to milliseconds, so that the list is exact and does not exceed the file.
    begin_s, end_s = (int(1000 * share * noise.duration_s) / 1000 for share in part)
    for _ in range(_MAX_DRAWS):
        offset_s = int(1000 * generator.uniform(begin_s, end_s)) / 1000
        mixture = Mixture(clip.speaker, clip.path, noise.name, noise.path, begin_s, end_s, offset_s, snr_db, silo)
        if mixer.excerpt(mixture, int(clip.duration_s * mixer.sample_rate)).any():
            return mixture
    raise InputError(f"{noise.path}: almost entirely silent between {begin_s:g} and {end_s:g} s; remove it")


def _balanced_order(count: int, kinds: int, generator: np.random.Generator) -> list[int]:
    """Return ``count`` numbers below ``kinds``: concatenated random permutations."""
    return [int(i) for _ in range(-(-count // kinds)) for i in generator.permutation(kinds)][:count]


def _noise_silos(noises: Sequence[Noise], num_silos: int, noise_dir: str | Path) -> dict[str, int]:
    """Return noise to silo: noises in the order of their spectral centroids, evenly distributed."""
    if len(noises) < num_silos:
        raise InputError(f"{noise_dir}: {num_silos} silos need as many noises, found {len(noises)}; use fewer silos")
    ordered = sorted(noises, key=lambda noise: noise.centroid_hz)
    # The remainder goes to the last silos, which are the largest.
    return {noise.name: (num_silos * (place + 1) - 1) // len(ordered) for place, noise in enumerate(ordered)}


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of a .tsv file as dicts, with at least ``client_id`` and ``path``."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not rows:
        raise InputError(f"{path}: lists no clips")
    for number, row in enumerate(rows, 2):
        if not row.get("client_id") or not row.get("path"):
            raise InputError(f"{path}:{number}: no client_id or path; is this a table of Common Voice?")
        check_key(f"{path}:{number}", row["path"])
    return rows


def _short_names(client_ids: Iterable[str]) -> dict[str, str]:
    """Return client_id to its shortest unique prefix, with at least ten characters."""
    client_ids = list(client_ids)
    length = _SPEAKER_LETTERS
    while len({client_id[:length] for client_id in client_ids}) < len(client_ids):
        length += 1
    return {client_id: client_id[:length] for client_id in client_ids}

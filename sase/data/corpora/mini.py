"""A generated stand-in for VoiceBank+DEMAND: speech by eSpeak NG and computed noises in the official folder layout.

It serves to try and test the recipe offline; its scores say nothing about real speech. Speakers have names of the real
corpus, so that the recipe's defaults apply: p226 and p287 for development, p232 and p257 for the test. Test speakers,
sentences, noise realisations and the talkers in the test's babble do not occur in the training set.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import write_text
from sase.data import mixing, noises
from sase.data.corpora.espeak import Voice
from sase.data.corpora.sentences import ENGLISH
from sase.data.corpora.synthetic import SAMPLE_RATE, TALKERS, make_once, talk

KINDS = ("babble", "engine", "helicopter", "hum", "machinegun", "pink", "rain", "siren", "white", "wind")
SNRS_DB = {"trainset_28spk": (15.0, 10.0, 5.0, 0.0), "testset": (17.5, 12.5, 7.5, 2.5)}

TRAIN = {
    "p227": Voice("en+m1", pitch=45, speed=165),
    "p228": Voice("en-GB-x-rp+f1", pitch=55, speed=170),
    "p230": Voice("en-us+f2", pitch=50, range=60, speed=175),
    "p231": Voice("en-GB-scotland+Annie", pitch=40, speed=165),
    "p233": Voice("en-us+linda", pitch=45, speed=180),
    "p236": Voice("en-GB-x-gbclan+f5", pitch=55, speed=160),
    "p239": Voice("en-us+belinda", pitch=60, range=65, speed=170),
    "p243": Voice("en-us+m3", pitch=40, speed=175),
    "p244": Voice("en-029+shelby", pitch=50, speed=165),
    "p250": Voice("en+aunty", pitch=65, range=60, speed=170),
    "p254": Voice("en-GB-scotland+m2", pitch=55, speed=160),
    "p256": Voice("en-us+Michael", pitch=50, speed=170),
    "p258": Voice("en-GB-x-gbcwmd+max", pitch=60, speed=180),
    "p259": Voice("en-US-nyc+edward", pitch=35, speed=165),
    "p270": Voice("en-us+robert", pitch=30, range=40, speed=175),
    "p286": Voice("en-GB-x-rp+quincy", pitch=55, range=60, speed=170),
}
DEV = {
    "p226": Voice("en-us+m5", pitch=55, speed=170),
    "p287": Voice("en-GB-x-gbclan+f4", pitch=50, speed=165),
}
TEST = {
    "p232": Voice("en-us+travis", pitch=45, speed=170),
    "p257": Voice("en-GB-x-rp+f3", pitch=45, speed=170),
}
# These talk only in the babble of the test set.
BACKGROUND = {
    "b1": Voice("en-us+Alicia", pitch=45),
    "b2": Voice("en+rob", pitch=55),
    "b3": Voice("en-GB-scotland+grandma", pitch=45),
    "b4": Voice("en-us+Denis", pitch=50),
    "b5": Voice("en-029+adam", pitch=60),
    "b6": Voice("en-US-nyc+f2", pitch=70),
}
UTTERANCES_PER_SPEAKER = {**dict.fromkeys(TRAIN, 17), **dict.fromkeys(DEV, 10), **dict.fromkeys(TEST, 20)}


def download(target: str | Path, seed: int = 0) -> None:
    """Generate the corpus in a folder, atomically; skipped if it exists.

    Args:
        target: output folder, in the layout of VoiceBank+DEMAND: 48 kHz, 16 bit.
        seed: same seed, same bytes.
    """
    make_once(target, seed, __file__, _generate)


def _generate(folder: Path, seed: int) -> str:
    """Write both parts of the corpus to ``folder``; return a description of their size."""
    # Threads suffice: numpy, soxr and eSpeak's processes release the interpreter lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        voices = {**TRAIN, **DEV, **TEST, **BACKGROUND}
        speech, _ = talk(voices, UTTERANCES_PER_SPEAKER, ENGLISH, seed, pool)
        parts = {"trainset_28spk": ((TRAIN, TRAIN), (DEV, TRAIN)), "testset": ((TEST, BACKGROUND),)}
        counts = {}
        for number, (part, groups) in enumerate(parts.items()):
            generator, jobs = np.random.default_rng([seed, 2, number]), []
            for speakers, background in groups:
                utts = [(speaker, i) for speaker in speakers for i in range(len(speech[speaker]))]
                for (speaker, i), (kind, snr_db) in zip(utts, _conditions(len(utts), SNRS_DB[part], generator)):
                    others = [wav for name in background if name != speaker for wav in speech[name]]
                    utt = f"{speaker}_{i + 1:03d}"
                    jobs.append((utt, speech[speaker][i], kind, snr_db, others, generator.spawn(1)[0]))
            list(pool.map(partial(_write_pair, folder, part), *zip(*jobs)))
            lines = sorted(f"{utt} {kind} {snr_db:g}\n" for utt, _, kind, snr_db, _, _ in jobs)
            write_text(folder / f"log_{part}.txt", "".join(lines))
            counts[part] = len(jobs)
    return f"{counts['trainset_28spk']} training and {counts['testset']} test pairs"


def _conditions(count: int, snrs_db: Sequence[float], generator: np.random.Generator) -> list[tuple[str, float]]:
    """Return ``count`` pairs of noise and SNR: every ten cover all noises, every forty all combinations, shuffled."""
    conditions = []
    for block in range(-(-count // len(KINDS))):
        for i in generator.permutation(len(KINDS)):
            conditions.append((KINDS[i], snrs_db[(i + block) % len(snrs_db)]))
    return conditions[:count]


def _write_pair(
    folder: Path,
    part: str,
    utt: str,
    clean: np.ndarray,
    kind: str,
    snr_db: float,
    others: Sequence[np.ndarray],
    generator: np.random.Generator,
) -> None:
    if kind == "babble":
        noise = mixing.babble(others, TALKERS, generator, len(clean))
    else:
        noise = noises.NOISES[kind](len(clean), SAMPLE_RATE, generator)
    clean, noisy = mixing.mix_at_snr(clean, noise, snr_db)
    for name, wav in (("clean", clean), ("noisy", noisy)):
        audio.write(folder / f"{name}_{part}_wav" / f"{utt}.wav", wav, SAMPLE_RATE)

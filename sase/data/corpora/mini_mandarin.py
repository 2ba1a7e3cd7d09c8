"""A generated stand-in for Common Voice zh-CN and NOISEX-92: Mandarin by eSpeak NG, and computed noises.

``zh-CN/`` has the layout of Common Voice, ``noise/`` that of a folder of noises. It serves to try and test the recipe
offline; its scores say nothing about real speech. The three splits have different speakers and sentences, and the
talkers in the babble occur nowhere else.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import write_text
from sase.data import mixing, noises
from sase.data.corpora.espeak import Voice
from sase.data.corpora.sentences import MANDARIN
from sase.data.corpora.synthetic import SAMPLE_RATE, TALKERS, make_once, talk

NOISE_SAMPLE_RATE = 19980  # of NOISEX-92, in Hz
NOISE_DURATION_S = 40.0
KINDS = (
    "babble",
    "brown",
    "engine",
    "helicopter",
    "hum",
    "machinegun",
    "pink",
    "rain",
    "siren",
    "speech_shaped",
    "white",
    "wind",
)
# Fifteen speakers with about equally much speech, so that four silos can have the proportions 1 : 2 : 4 : 8.
TRAIN = {
    "zh01": Voice("cmn+m1", pitch=45, speed=165),
    "zh02": Voice("cmn+f1", pitch=55, speed=170),
    "zh03": Voice("cmn+f2", pitch=50, range=60, speed=175),
    "zh04": Voice("cmn+Annie", pitch=40, speed=165),
    "zh05": Voice("cmn+linda", pitch=45, speed=180),
    "zh06": Voice("cmn+f5", pitch=55, speed=160),
    "zh07": Voice("cmn+belinda", pitch=60, range=65, speed=170),
    "zh08": Voice("cmn+m3", pitch=40, speed=175),
    "zh09": Voice("cmn+shelby", pitch=50, speed=165),
    "zh10": Voice("cmn+m7", pitch=45, range=60, speed=170),
    "zh11": Voice("cmn+m2", pitch=55, speed=160),
    "zh12": Voice("cmn+Michael", pitch=50, speed=170),
    "zh13": Voice("cmn+max", pitch=60, speed=180),
    "zh14": Voice("cmn+edward", pitch=35, speed=165),
    "zh15": Voice("cmn+quincy", pitch=55, range=60, speed=170),
}
DEV = {
    "zh16": Voice("cmn+m5", pitch=55, speed=170),
    "zh17": Voice("cmn+f4", pitch=50, speed=165),
}
TEST = {
    "zh18": Voice("cmn+travis", pitch=45, speed=170),
    "zh19": Voice("cmn+f3", pitch=45, speed=170),
    "zh20": Voice("cmn+robert", pitch=30, range=40, speed=175),
    "zh21": Voice("cmn+anika", pitch=50, speed=165),
}
BACKGROUND = {
    "b1": Voice("cmn+Alicia", pitch=45),
    "b2": Voice("cmn+rob", pitch=55),
    "b3": Voice("cmn+grandma", pitch=45),
    "b4": Voice("cmn+Denis", pitch=50),
    "b5": Voice("cmn+adam", pitch=60),
    "b6": Voice("cmn+steph", pitch=60),
}
SPLITS = {"train": TRAIN, "dev": DEV, "test": TEST}
UTTERANCES_PER_SPEAKER = {**dict.fromkeys(TRAIN, 18), **dict.fromkeys(DEV, 12), **dict.fromkeys(TEST, 12)}
_COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")


def download(target: str | Path, seed: int = 0) -> None:
    """Generate the corpus in a folder, atomically; skipped if it exists.

    Args:
        target: output folder, with ``zh-CN/`` and ``noise/``.
        seed: same seed, same bytes.
    """
    make_once(target, seed, __file__, _generate)


def _generate(folder: Path, seed: int) -> str:
    """Write speech and noises to ``folder``; return a description of their size."""
    # Threads suffice: numpy, soxr and eSpeak's processes release the interpreter lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        voices = {**TRAIN, **DEV, **TEST, **BACKGROUND}
        speech, texts = talk(voices, UTTERANCES_PER_SPEAKER, MANDARIN, seed, pool)
        number = 10_000_000
        for split, speakers in SPLITS.items():
            lines, jobs = ["\t".join(_COLUMNS)], []
            for speaker in speakers:
                client_id = hashlib.sha512(speaker.encode()).hexdigest()
                for wav, text in zip(speech[speaker], texts[speaker]):
                    number += 1
                    name = f"common_voice_zh-CN_{number}.mp3"
                    lines.append("\t".join((client_id, name, text, "2", "0", "", "", "")))
                    jobs.append((folder / "zh-CN/clips" / name, wav, SAMPLE_RATE))
            write_text(folder / f"zh-CN/{split}.tsv", "\n".join(lines) + "\n")
            list(pool.map(lambda job: audio.write(*job), jobs))
        background = [wav for speaker in BACKGROUND for wav in speech[speaker]]
        draws = np.random.default_rng([seed, 2]).spawn(len(KINDS))
        list(pool.map(lambda job: _write_noise(folder, background, *job), zip(KINDS, draws)))
    return f"{sum(map(len, speech.values())) - len(background)} sentences and {len(KINDS)} noises"


def _write_noise(folder: Path, background: Sequence[np.ndarray], kind: str, generator: np.random.Generator) -> None:
    count = round(NOISE_DURATION_S * NOISE_SAMPLE_RATE)
    if kind == "babble":
        talking = [audio.resample(wav, SAMPLE_RATE, NOISE_SAMPLE_RATE) for wav in background]
        noise = mixing.babble(talking, TALKERS, generator, count)
    else:
        noise = noises.NOISES[kind](count, NOISE_SAMPLE_RATE, generator)
    audio.write(folder / "noise" / f"{kind}.wav", noise, NOISE_SAMPLE_RATE)

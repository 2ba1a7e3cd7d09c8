"""A generated stand-in for VoiceBank+DEMAND: eSpeak NG talks, computed noises sound, the folders are the official ones.

It serves to try the recipe without a network and to test it; its scores say nothing about real speech. Speakers have
names of the real corpus, so that the recipe's defaults hold: p226 and p287 for development, p232 and p257 for the test.
Test speakers, sentences, noise realisations and the talkers in the test's babble are not in the training set.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sase import audio, mixing, noises
from sase.atomic import atomic_folder, write_text
from sase.corpora import espeak, espeak_process, sentences
from sase.corpora.espeak import Voice
from sase.errors import InputError

SAMPLE_RATE = 48000
MARKER = ".done"
KINDS = ("babble", "engine", "helicopter", "hum", "machinegun", "pink", "rain", "siren", "white", "wind")
SNRS_DB = {"trainset_28spk": (15.0, 10.0, 5.0, 0.0), "testset": (17.5, 12.5, 7.5, 2.5)}
TALKERS = 6

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
# Never heard alone: they talk in the babble under the test sentences.
BACKGROUND = {
    "b1": Voice("en-us+Alicia", pitch=45),
    "b2": Voice("en+rob", pitch=55),
    "b3": Voice("en-GB-scotland+grandma", pitch=45),
    "b4": Voice("en-us+Denis", pitch=50),
    "b5": Voice("en-029+adam", pitch=60),
    "b6": Voice("en-US-nyc+f2", pitch=70),
}
UTTERANCES_PER_SPEAKER = {**dict.fromkeys(TRAIN, 17), **dict.fromkeys(DEV, 10), **dict.fromkeys(TEST, 20)}


def download(target, seed=0):
    """Generate the corpus in a folder, whole or not at all; nothing is done where it stands already.

    Args:
        target: the folder, afterwards in the layout of VoiceBank+DEMAND: 48 kHz, 16 bit. A corpus of another seed in it
            is replaced; any other folder with something in it is an InputError.
        seed: same seed, same bytes.
    """
    target = Path(target)
    inputs = f"mini corpus, seed {seed}, sources {_sources_hash()}\n"
    if (target / MARKER).exists():
        if (target / MARKER).read_text() == inputs:
            print(f"{target}: is there, made with seed {seed} (delete {target / MARKER} to make it anew)", flush=True)
            return
        print(f"{target}: was made with another seed or by another version, is made anew", flush=True)
    elif target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: holds something else than a generated corpus; choose another folder, or delete it")
    with atomic_folder(target) as folder:
        counts = _generate(folder, seed)
        write_text(folder / MARKER, inputs)
    print(f"{target}: {counts['trainset_28spk']} training and {counts['testset']} test pairs, generated", flush=True)


def _generate(folder, seed):
    """Write both parts of the corpus to ``folder``; return their numbers of utterances."""
    # Threads are enough: numpy, soxr and eSpeak's processes leave the interpreter alone while they work.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        voices = {**TRAIN, **DEV, **TEST, **BACKGROUND}
        texts = iter(sentences.sentences(20 * len(voices), np.random.default_rng([seed, 0])))
        requests = []
        for number, (speaker, voice) in enumerate(voices.items()):
            lines = [next(texts) for _ in range(UTTERANCES_PER_SPEAKER.get(speaker, 10))]
            requests.append((voice, lines, seed, np.random.default_rng([seed, 1, number])))
        speech = dict(zip(voices, pool.map(lambda request: _speak(*request), requests)))

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
            list(pool.map(lambda job: _write_pair(folder, part, *job), jobs))
            lines = sorted(f"{utt} {kind} {snr_db:g}\n" for utt, _, kind, snr_db, _, _ in jobs)
            write_text(folder / f"log_{part}.txt", "".join(lines))
            counts[part] = len(jobs)
    return counts


def _conditions(count, snrs_db, generator):
    """Return ``count`` pairs (noise, SNR): every ten have all noises, every forty all combinations, in random order."""
    conditions = []
    for block in range(-(-count // len(KINDS))):
        for i in generator.permutation(len(KINDS)):
            conditions.append((KINDS[i], snrs_db[(i + block) % len(snrs_db)]))
    return conditions[:count]


def _speak(voice, lines, seed, generator):
    """Return the lines spoken, at 48 kHz, with a breath before and after, in a quiet room; list of float32 (time,)."""
    wavs, rate = espeak.speak(voice, lines, seed)
    result = []
    for wav in wavs:
        wav = audio.resample(wav, rate, SAMPLE_RATE)
        before, after = (int(SAMPLE_RATE * generator.uniform(0.1, 0.3)) for _ in range(2))
        wav = np.pad(mixing.set_level(wav) * 10 ** (generator.uniform(-9, -3) / 20), (before, after))
        # 55 dB below the speech: a recording is never digitally silent, and measures stumble where it is.
        room = noises.pink(len(wav), SAMPLE_RATE, generator) * 10 ** (-61 / 20)
        result.append((wav + room).astype(np.float32))
    return result


def _write_pair(folder, part, utt, clean, kind, snr_db, others, generator):
    if kind == "babble":
        noise = mixing.babble(others, TALKERS, generator, len(clean))
    else:
        noise = noises.NOISES[kind](len(clean), SAMPLE_RATE, generator)
    clean, noisy = mixing.mix_at_snr(clean, noise, snr_db)
    for name, wav in (("clean", clean), ("noisy", noisy)):
        audio.write(folder / f"{name}_{part}_wav" / f"{utt}.wav", wav, SAMPLE_RATE)


def _sources_hash():
    """Return a hash of the code that shapes the corpus: another version of it makes the corpus anew."""
    digest = hashlib.sha256()
    for module in (mixing, noises, espeak, espeak_process, sentences):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]

"""What generated corpora have in common: eSpeak NG talks in a quiet room, and a folder is made once for a seed."""

import hashlib
from pathlib import Path

import numpy as np

from sase import audio
from sase.atomic import atomic_folder, write_text
from sase.data import mixing, noises
from sase.data.corpora import espeak, espeak_process, sentences
from sase.errors import InputError

SAMPLE_RATE = 48000
MARKER = ".done"
TALKERS = 6  # in babble


def make_once(target, seed, module_file, generate):
    """Generate a corpus in a folder, whole or not at all; nothing is done where it stands already.

    Args:
        target: the folder. A corpus of another seed or version in it is replaced; any other folder with something in it
            is an InputError.
        seed: same seed, same bytes.
        module_file: source file of the corpus: with another one the corpus is made anew.
        generate: called with an empty folder and the seed; writes the corpus and returns what to say of it.
    """
    target = Path(target)
    inputs = f"mini corpus, seed {seed}, sources {_sources_hash(module_file)}\n"
    if (target / MARKER).exists():
        if (target / MARKER).read_text() == inputs:
            print(f"{target}: is there, made with seed {seed} (delete {target / MARKER} to make it anew)", flush=True)
            return
        print(f"{target}: was made with another seed or by another version, is made anew", flush=True)
    elif target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: holds something else than a generated corpus; choose another folder, or delete it")
    with atomic_folder(target) as folder:
        made = generate(folder, seed)
        write_text(folder / MARKER, inputs)
    print(f"{target}: {made}, generated", flush=True)


def talk(voices, utterances, grammar, seed, pool):
    """Let every speaker say other sentences, at 48 kHz, in a quiet room.

    Args:
        voices: {speaker: :class:`~sase.data.corpora.espeak.Voice`}.
        utterances: {speaker: how many}; 10 for those that are not named.
        grammar: a :class:`~sase.data.corpora.sentences.Grammar`.
        seed: of everything.
        pool: a concurrent.futures executor of threads.

    Returns:
        {speaker: list of float32 (time,)} and {speaker: list of what is said}
    """
    sayings = iter(sentences.sentences(20 * len(voices), np.random.default_rng([seed, 0]), grammar))
    texts = {speaker: [next(sayings) for _ in range(utterances.get(speaker, 10))] for speaker in voices}
    requests = [
        (voice, texts[speaker], seed, np.random.default_rng([seed, 1, number]))
        for number, (speaker, voice) in enumerate(voices.items())
    ]
    return dict(zip(voices, pool.map(lambda request: _speak(*request), requests))), texts


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


def _sources_hash(module_file):
    """Return a hash of the code that shapes a corpus: another version of it makes the corpus anew."""
    digest = hashlib.sha256()
    for module in (mixing, noises, espeak, espeak_process, sentences):
        digest.update(Path(module.__file__).read_bytes())
    for path in (__file__, module_file):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]

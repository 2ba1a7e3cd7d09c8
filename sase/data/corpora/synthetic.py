"""What generated corpora share: speech by eSpeak NG in a quiet room, and folders that are generated once per seed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
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


def make_once(target: str | Path, seed: int, module_file: str | Path, generate: Callable[[Path, int], str]) -> None:
    """Generate a corpus in a folder, atomically; skipped if it exists.

    Args:
        target: output folder. A corpus of another seed or version is replaced.
        seed: same seed, same bytes.
        module_file: source file of the corpus; if it changes, the corpus is generated again.
        generate: called with an empty folder and the seed; writes the corpus and returns a description of it.

    Raises:
        InputError: the folder contains anything but a generated corpus.
    """
    target = Path(target)
    inputs = f"mini corpus, seed {seed}, sources {_sources_hash(module_file)}\n"
    if (target / MARKER).exists():
        if (target / MARKER).read_bytes() == inputs.encode():
            print(
                f"{target}: exists, generated with seed {seed} (delete {target / MARKER} to generate it again)",
                flush=True,
            )
            return
        print(f"{target}: generated with another seed or version, generating it again", flush=True)
    elif target.exists() and any(target.iterdir()):
        raise InputError(
            f"{target}: contains something other than a generated corpus; choose another folder, or delete it"
        )
    with atomic_folder(target) as folder:
        made = generate(folder, seed)
        write_text(folder / MARKER, inputs)
    print(f"{target}: {made}, generated", flush=True)


def talk(
    voices: Mapping[str, espeak.Voice],
    utterances: Mapping[str, int],
    grammar: sentences.Grammar,
    seed: int,
    pool: Executor,
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[str]]]:
    """Return different sentences of every speaker, at 48 kHz, in a quiet room.

    Args:
        voices: speaker to voice.
        utterances: speaker to number of utterances; default: 10.
        grammar: of the sentences.
        seed: of everything.
        pool: of threads.

    Returns:
        Speaker to list of float32 (time,), and speaker to list of texts.
    """
    sayings = iter(sentences.sentences(20 * len(voices), np.random.default_rng([seed, 0]), grammar))
    texts = {speaker: [next(sayings) for _ in range(utterances.get(speaker, 10))] for speaker in voices}
    requests = [
        (voice, texts[speaker], seed, np.random.default_rng([seed, 1, number]))
        for number, (speaker, voice) in enumerate(voices.items())
    ]
    return dict(zip(voices, pool.map(lambda request: _speak(*request), requests))), texts


def _speak(voice: espeak.Voice, lines: Sequence[str], seed: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Return the lines as speech at 48 kHz in a quiet room, with pauses before and after; list of float32 (time,)."""
    wavs, rate = espeak.speak(voice, lines, seed)
    result = []
    for wav in wavs:
        wav = audio.resample(wav, rate, SAMPLE_RATE)
        before, after = (int(SAMPLE_RATE * generator.uniform(0.1, 0.3)) for _ in range(2))
        wav = np.pad(mixing.set_level(wav) * 10 ** (generator.uniform(-9, -3) / 20), (before, after))
        # 55 dB below the speech: real recordings are never digitally silent, which would upset some measures.
        room = noises.pink(len(wav), SAMPLE_RATE, generator) * 10 ** (-61 / 20)
        result.append((wav + room).astype(np.float32))
    return result


def _sources_hash(module_file: str | Path) -> str:
    """Return a hash of the code that determines a corpus, which is generated again when the code changes."""
    digest = hashlib.sha256()
    for module in (mixing, noises, espeak, espeak_process, sentences):
        digest.update(Path(str(module.__file__)).read_bytes())
    for path in map(Path, (__file__, module_file)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]

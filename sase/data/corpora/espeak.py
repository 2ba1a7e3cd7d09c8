"""Speech by eSpeak NG, whose library and voices the wheel espeakng-loader brings along."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sase.errors import InputError

_PROCESS = Path(__file__).with_name("espeak_process.py")


@dataclass(frozen=True)
class Voice:
    """One speaker: an eSpeak NG voice ("accent+variant") and how it is used."""

    voice: str
    pitch: int = 50  # 0 to 99
    range: int = 50  # of the intonation, 0 (monotone) to 99
    speed: int = 170  # words a minute


def speak(voice, sentences, seed=0):
    """Return the sentences spoken, the same samples in every run.

    Args:
        voice: a :class:`Voice`.
        sentences: list of text in the language of the voice.
        seed: of the breath in the voice.

    Returns:
        list of float32 (time,) in [-1, 1], and their sample rate in Hz.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise InputError("generated speech needs the package espeakng-loader: tools/install.sh brings it") from None
    with tempfile.TemporaryDirectory() as folder:
        request = {
            **asdict(voice),
            "library": espeakng_loader.get_library_path(),
            "data": espeakng_loader.get_data_path(),
            "seed": seed,
            "sentences": list(sentences),
            "output": str(Path(folder) / "samples"),
        }
        # -I: neither the environment nor the working folder may bring other modules in.
        done = subprocess.run(
            [sys.executable, "-I", _PROCESS], input=json.dumps(request), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
            raise InputError(f"eSpeak NG failed for the voice {voice.voice}: {reason}")
        answer = json.loads(done.stdout)
        samples = np.fromfile(request["output"], dtype=np.int16).astype(np.float32) / 32768
    return np.split(samples, np.cumsum(answer["lengths"])[:-1]), answer["sample_rate"]

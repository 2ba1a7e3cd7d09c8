"""Speech by eSpeak NG, whose library and voices come with the package espeakng-loader."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sase import audio
from sase.errors import InputError

_PROCESS = Path(__file__).with_name("espeak_process.py")


@dataclass(frozen=True)
class Voice:
    """One speaker: an eSpeak NG voice ("accent+variant") and its parameters."""

    voice: str
    pitch: int = 50  # 0 to 99
    range: int = 50  # of the intonation, 0 (monotone) to 99
    speed: int = 170  # words per minute


def speak(voice: Voice, sentences: Sequence[str], seed: int = 0) -> tuple[list[np.ndarray], int]:
    """Return sentences as speech, with the same samples in every run.

    Args:
        voice: the speaker.
        sentences: texts in the language of the voice.
        seed: of the breath noise.

    Returns:
        List of float32 (time,) in [-1, 1], and their sample rate in Hz.

    Raises:
        InputError: eSpeak NG is not installed or failed.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise InputError("generated speech needs the package espeakng-loader; run tools/install.sh") from None
    with tempfile.TemporaryDirectory() as folder:
        request = {
            **asdict(voice),
            "library": espeakng_loader.get_library_path(),
            "data": espeakng_loader.get_data_path(),
            "seed": seed,
            "sentences": list(sentences),
            "output": str(Path(folder) / "samples"),
        }
        # -I: ignore modules from the environment and the working directory.
        done = subprocess.run(
            [sys.executable, "-I", _PROCESS], input=json.dumps(request), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise InputError(f"eSpeak NG failed for the voice {voice.voice}: {reason}")
        answer = json.loads(done.stdout)
        samples = np.fromfile(request["output"], dtype=np.int16).astype(np.float32) / 32768
    audio.check_limits(f"eSpeak NG with the voice {voice.voice}", answer["sample_rate"])
    if sum(answer["lengths"]) != len(samples):
        raise InputError(f"eSpeak NG wrote {len(samples)} of {sum(answer['lengths'])} samples; is the disk full?")
    return np.split(samples, np.cumsum(answer["lengths"])[:-1]), answer["sample_rate"]

"""NOISEX-92 (Varga and Steeneken 1993), 15 noises of four minutes, or any other folder of noises."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sase import audio
from sase.data.corpora import matfile
from sase.errors import InputError

NAMES = (
    "babble",
    "buccaneer1",
    "buccaneer2",
    "destroyerengine",
    "destroyerops",
    "f16",
    "factory1",
    "factory2",
    "hfchannel",
    "leopard",
    "m109",
    "machinegun",
    "pink",
    "volvo",
    "white",
)
MAT_SAMPLE_RATE = 19980  # Hz, of the .mat files, which do not contain it
MIN_DURATION_S = 2.0
HOW_TO_GET = (
    "NOISEX-92 has no official download: it was published on CD-ROMs, copies circulate. Put the noises that you have, "
    "as .wav or .mat files, into one folder (babble.wav, volvo.mat, ...) and pass it; any other folder of noises works "
    "too"
)


@dataclass(frozen=True)
class Noise:
    """A noise and its sound file."""

    name: str
    path: str
    duration_s: float
    centroid_hz: float  # spectral centroid: low for rumbling, high for hissing


def download(noise_dir: str | Path) -> None:
    """Print which noises a folder contains; they cannot be downloaded.

    Raises:
        InputError: no such folder, or no noise in it; explains how to get NOISEX-92.
    """
    names = list(_files(noise_dir))
    of_noisex = [name for name in NAMES if name in names]
    missing = [name for name in NAMES if name not in names]
    text = f"{noise_dir}: {len(names)} noises, {len(of_noisex)} of the {len(NAMES)} of NOISEX-92"
    print(f"{text}; missing: {' '.join(missing)}" if of_noisex and missing else text, flush=True)


def prepare(noise_dir: str | Path, wav_dir: str | Path) -> list[Noise]:
    """Return the noises of a folder, sorted by name.

    Args:
        noise_dir: with sound files or .mat files, at any depth; a noise is named after its file, in lower case.
        wav_dir: output folder for .mat files as WAV; absolute, since the returned paths refer to it.

    Raises:
        InputError: no noise, or one that is unreadable, silent or shorter than two seconds.
    """
    noises = []
    for name, path in _files(noise_dir).items():
        if path.suffix.lower() == ".mat":
            path = _convert(path, Path(wav_dir) / f"{name}.wav")
        wav, rate = audio.read(path)
        if len(wav[0]) < MIN_DURATION_S * rate:
            raise InputError(
                f"{path}: only {len(wav[0]) / rate:.2f} s long; a noise needs at least {MIN_DURATION_S:g} s"
            )
        if not wav[0].any():
            raise InputError(f"{path}: is silent")
        noises.append(Noise(name, str(path), wav.shape[1] / rate, _centroid_hz(wav[0], rate)))
    return noises


def _files(noise_dir: str | Path) -> dict[str, Path]:
    """Return name to absolute path of all noises in a folder and its subfolders, sorted by name."""
    folder = Path(noise_dir)
    try:
        paths = audio.sound_files(folder, (*audio.SUFFIXES, ".mat"))
    except InputError as error:
        raise InputError(f"{error}. {HOW_TO_GET}") from None
    # The same noise as .wav and as .mat is one noise; the .wav contains its sample rate.
    sounds = {p.with_suffix("") for p in paths if p.suffix.lower() != ".mat"}
    paths = [p for p in paths if p.suffix.lower() != ".mat" or p.with_suffix("") not in sounds]
    stems = Counter(p.stem.lower() for p in paths)
    named: dict[str, Path] = {}
    for path in paths:
        parts = path.relative_to(folder).with_suffix("").parts
        name = path.stem if stems[path.stem.lower()] == 1 else "_".join(parts)
        name = re.sub(r"\s+", "_", name.lower())
        if name in named:
            raise InputError(f"{named[name]} and {path}: both are the noise {name}; remove one")
        named[name] = path.absolute()
    return dict(sorted(named.items()))


def _convert(source: Path, target: Path) -> Path:
    """Write the audio of a .mat file as WAV and return its path."""
    samples = matfile.longest_vector(source)
    wav = samples.astype(np.float64)
    if not np.isfinite(wav).all():
        raise InputError(f"{source}: contains NaN or infinite samples")
    if samples.dtype.kind == "u":
        wav -= wav.mean()
    # Raw 16-bit numbers, stored as any type; only ratios matter in a mixture.
    audio.write(target, 0.9 * wav / max(np.abs(wav).max(), 1e-12), MAT_SAMPLE_RATE)
    return target


def _centroid_hz(wav: np.ndarray, rate: int) -> float:
    power = np.abs(np.fft.rfft(wav[: 60 * rate].astype(np.float64))) ** 2  # one minute suffices
    return float((power * np.linspace(0, rate / 2, len(power))).sum() / power.sum())

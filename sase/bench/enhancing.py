"""What enhancement is worth at other levels and above the network's band, and what long files cost."""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sase import audio
from sase.enhancer import Enhancer
from sase.errors import InputError
from sase.metrics.measures import zero_mean_si_sdr
from sase.processes import sase_command

_POLL_S = 0.05
_START_S = 0.5  # reported apart
_SNR_DB = (0.0, 5.0, 10.0)  # of the mixtures, in turn
_MIN_HIGHS_DB = -25.0  # energy above the network's band in relation to the whole, of files that are used


def bench_levels(
    models: Sequence[str], clean: str | Path, noisy: str | Path, gains_db: Sequence[float], limit: int
) -> list[dict[str, Any]]:
    """Measure SI-SDR of recordings that are scaled, with and without adapting to the level.

    Args:
        models: shipped weights or files.
        clean, noisy: folders with files of the same names, at the rate of the networks.
        gains_db: by which the noisy files are scaled, in float.
        limit: number of pairs, evenly over the folder.

    Returns:
        For each model and gain: mean SI-SDR in dB of the unprocessed files and of both outputs, after the first half
        second and within it.
    """
    files = audio.sound_files(clean)
    files = files[:: max(1, len(files) // limit)][:limit]
    pairs = [(audio.read_mono(file)[0], audio.read_mono(Path(noisy) / file.name)) for file in files]
    rows = []
    for name in models:
        adapting = Enhancer.from_pretrained(name)
        plain = Enhancer(adapting.engine, level=False)
        for gain_db in gains_db:
            gain, scores = np.float32(10 ** (gain_db / 20)), []
            for reference, (wav, rate) in pairs:
                start = round(_START_S * rate)
                outputs = [wav * gain, *(enhancer.enhance(wav * gain, rate) for enhancer in (plain, adapting))]
                parts = (slice(start, None), slice(0, start))
                scores.append([zero_mean_si_sdr(reference[part], out[part]) for part in parts for out in outputs])
            columns = [f"{what}{part}" for part in ("", ", first 0.5 s") for what in ("noisy", "as it is", "adapting")]
            means = np.nanmean(np.array(scores, dtype=float), axis=0)
            rows.append({"model": name, "gain dB": gain_db} | dict(zip(columns, map(float, means))))
    return rows


def bench_highs(models: Sequence[str], clean: str | Path, limit: int) -> list[dict[str, Any]]:
    """Measure the SNR of the whole band with the highs dropped and kept, for speech alone and in noise.

    Args:
        models: shipped weights or files.
        clean: a folder with speech at a rate above that of the networks.
        limit: number of files.

    Returns:
        For each model and noise (none, white, pink, at 0, 5 and 10 dB in turn): mean SNR in dB of both.

    Raises:
        InputError: no file has energy above the band.
    """
    rows = []
    for name in models:
        keeping = Enhancer.from_pretrained(name)
        dropping = Enhancer(keeping.engine, highs="drop")
        for row in whole_band_snr((dropping.enhance, keeping.enhance), clean, keeping.sample_rate, limit):
            dropped, kept = row.pop("SNR")
            rows.append({"model": name, **row, "SNR dropped": dropped, "SNR kept": kept, "gain": kept - dropped})
    return rows


def whole_band_snr(
    ways: Sequence[Callable[[np.ndarray, int], np.ndarray]], clean: str | Path, network_rate: int, limit: int
) -> list[dict[str, Any]]:
    """Measure the SNR of the whole band behind several ways to enhance speech that has highs, alone and in noise.

    Args:
        ways: each returns the enhanced signal, (time,), of one at some sample rate.
        clean: a folder with speech at a rate above ``network_rate``.
        network_rate: in Hz.
        limit: number of files.

    Returns:
        For each noise (none, white, pink, at 0, 5 and 10 dB in turn): the number of files, and the list ``SNR`` with
        the mean in dB of each way.

    Raises:
        InputError: no file has energy above the band.
    """
    rows, speech = [], _with_highs(Path(clean), network_rate, limit)
    for noise in ("none", "white", "pink"):
        generator, scores = np.random.default_rng(0), []
        for number, (wav, rate) in enumerate(speech):
            noisy = wav + _noise(noise, wav, _SNR_DB[number % len(_SNR_DB)], generator)
            scores.append([_snr_db(wav, enhance(noisy, rate)) for enhance in ways])
        rows.append({"files": len(speech), "noise": noise, "SNR": np.mean(scores, axis=0).tolist()})
    return rows


def bench_files(minutes: float, count: int, model: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measure ``sase enhance`` of stereo files of noise at 48 kHz, 16 bit, in a process of its own.

    Args:
        minutes: duration of each file.
        count: number of files.
        model: shipped weights or a file.
        options: further options of ``sase enhance``.

    Returns:
        One row: wall-clock time, CPU time of all processes, and the peak memory of the one that was started.
    """
    block = 0.1 * np.random.default_rng(0).standard_normal((2, 48000))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            with audio.open_writer(f"{folder}/in/{number}.wav", 48000, 2) as put:
                for start in np.arange(0.0, 60 * minutes, 1.0):
                    put(block[:, : round(48000 * min(1.0, 60 * minutes - start))])
        started, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = sase_command("enhance", f"{folder}/in", "-o", f"{folder}/out", "--model", model, *options)
        process, peak_mb = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0.0
        while process.poll() is None:
            peak_mb = max(peak_mb, _peak_mb(process.pid))
            time.sleep(_POLL_S)
        wall, total = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise InputError("sase enhance failed, as shown above")
    return [
        {
            "files": count,
            "minutes each": minutes,
            "wall s": wall,
            "CPU s": total.ru_utime + total.ru_stime - used.ru_utime - used.ru_stime,
            "peak MB": peak_mb,
        }
    ]


def _peak_mb(pid: int) -> float:
    """Return the peak memory of a process in MB, 0 if it has ended; its rusage would begin with what its parent had."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0.0)


def _with_highs(folder: Path, network_rate: int, limit: int) -> list[tuple[np.ndarray, int]]:
    """Return the first files, float32 (time,), that have enough energy above the network's band."""
    found = []
    for file in audio.sound_files(folder):
        wav, rate = audio.read_mono(file)
        power = np.square(np.abs(np.fft.rfft(wav)))
        above = power[int(len(power) * network_rate / rate) :].sum() if rate > network_rate else 0.0
        if above > 10 ** (_MIN_HIGHS_DB / 10) * power.sum():
            found.append((wav, rate))
        if len(found) == limit:
            break
    if not found:
        raise InputError(f"{folder}: no file has energy above {network_rate // 2} Hz")
    return found


def _noise(kind: str, wav: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """Return noise (time,) for a signal at an SNR."""
    if kind == "none":
        return np.zeros_like(wav)
    spectrum = np.fft.rfft(generator.standard_normal(len(wav)))
    if kind == "pink":
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, len(wav))
    noise *= np.sqrt(np.mean(np.square(wav)) / np.mean(np.square(noise)) / 10 ** (snr_db / 10))
    return noise.astype(np.float32)


def _snr_db(wav: np.ndarray, enhanced: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(np.square(wav)) / np.sum(np.square(wav - enhanced))))

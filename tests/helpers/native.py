"""The C core: its build, its weights, and signals and a comparison with the network in torch."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from helpers.audio import noise
from sase.export.native import export_native
from sase.pretrained import load
from sase.stages.level import Level

SHIPPED = ("tiny", "small")
TOLERANCE = 1e-5


def make(root, build, *arguments):
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no make or no C compiler here: the C core is not tested")
    command = ["make", "-s", "-C", str(root / "sase/native"), f"BUILD={build}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    return done.stdout


def write_weights(folder):
    """Write the shipped weights for the core; return {name: file}."""
    for name in SHIPPED:
        export_native(load(name), folder / f"{name}.sase")
    return {name: folder / f"{name}.sase" for name in SHIPPED}


def signals(num_samples=48000):
    """Noise whose level changes, a harmonic sound with pauses, silence, a click: one after the other, (time,)."""
    time = np.arange(num_samples) / 16000
    level = np.repeat(np.logspace(-4, 0, 8), -(-num_samples // 8))[:num_samples]
    voice = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20)) * np.clip(np.sin(9 * time), 0, None)
    silence = np.zeros(num_samples // 2)
    silence[len(silence) // 2] = 1.0
    voice = 0.2 * voice + 0.1 * noise(num_samples, seed=1)
    return np.concatenate([noise(num_samples) * level, voice, silence]).astype("f4")


def in_torch(model, wav):
    with torch.inference_mode():
        return model(torch.from_numpy(wav)[None])[0].numpy()


def assert_same(native, expected):
    assert native.shape == expected.shape
    assert np.abs(native - expected).max(initial=0) <= TOLERANCE * max(1.0, np.abs(expected).max(initial=0))


def with_level(model, wav):
    """What a model makes of a signal between the stages of sase.stages.level: numpy's side of level.h."""
    level = Level(model.sample_rate, model.hop, 1)
    scaled = np.concatenate([level.scale.feed(wav[None]), level.scale.flush()], axis=1)[0]
    return level.restore.feed(model.enhance(scaled)[None])[0]


class Live:
    """A stream of live.h at the rate of a host, through ctypes.

    Args:
        library: the C core's.
        weights: a file.
    """

    def __init__(self, library, weights, rate):
        self._library = ctypes.CDLL(str(library))
        self._library.sase_live_size.restype = ctypes.c_size_t
        contents = weights.read_bytes()
        self._weights = np.frombuffer(contents, np.uint8).copy()  # aligned
        given = (ctypes.c_void_p(self._weights.ctypes.data), ctypes.c_size_t(self._weights.size))
        size = self._library.sase_live_size(*given, rate)
        self._memory, self._stream = np.full(size, 0xAA, np.uint8), ctypes.c_void_p()
        memory = (ctypes.c_void_p(self._memory.ctypes.data), ctypes.c_size_t(size))
        self.status = self._library.sase_live_init(*memory, *given, rate, ctypes.byref(self._stream))
        self.delay = 0 if self.status else self._library.sase_live_delay(self._stream)

    def reset(self):
        self._library.sase_live_reset(self._stream)

    def feed(self, wav, limit=0.0):
        """The output for the next samples, as many."""
        wav = np.ascontiguousarray(wav, np.float32)
        enhanced = np.empty_like(wav)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (wav, enhanced)]
        self._library.sase_live_process(self._stream, *pointers, ctypes.c_size_t(len(wav)), ctypes.c_float(limit))
        return enhanced

    def enhance(self, wav, limit=0.0):
        """The enhanced signal, aligned with the input and as long."""
        return self.feed(np.pad(wav, (0, self.delay)), limit)[self.delay :]

"""The C core: its build, its weights, and signals and a comparison with the network in torch."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from helpers.audio import noise
from sase.export.native import export_native
from sase.pretrained import load

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

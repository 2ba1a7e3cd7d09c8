"""Sound files, good and bad."""

import numpy as np
import soundfile


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def bad_files(folder):
    """Write bad files; return {name: part of the expected error message}."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no sound\n" * 100)
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "none.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.0]), 16000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.0, np.inf, 0.0]), 16000, subtype="FLOAT")
    for name in ("cut.wav", "cut.flac"):
        soundfile.write(folder / name, noise(16000), 16000)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    return {
        "gone.wav": "no such file",
        "folder.wav": "no such file",
        "empty.wav": "not a readable",
        "text.wav": "not a readable",
        "none.wav": "no samples",
        "nan.wav": "NaN",
        "inf.wav": "NaN",
        "cut.wav": "truncated",
        "cut.flac": "cut.flac",
    }

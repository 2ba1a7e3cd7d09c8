"""A network as a LADSPA plugin, for PipeWire, Ardour and other hosts of audio plugins."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from sase.atomic import atomic_path
from sase.errors import InputError, one_line
from sase.native import library
from sase.native.weights import write_weights

_TIMEOUT_S = 300
_PLUGIN = "sase_ladspa.so"


def export_ladspa(weights: bytes, path: str | Path) -> None:
    """Compile a plugin with weights in it, for the processors of this machine; the write is atomic.

    Args:
        weights: for the C core, as of :func:`sase.export.core_weights.core_weights`.
        path: output file with the suffix ``.so``.

    Raises:
        InputError: the suffix is another, or there is no C compiler, no make or no ``ladspa.h``.
    """
    if Path(path).suffix != ".so":
        raise InputError(f"{path}: a LADSPA plugin is a shared library; end its name in .so")
    for program in ("make", "cc"):
        if shutil.which(program) is None:
            raise InputError(f"{program} not found; a plugin is compiled with make and a C compiler (Debian: make gcc)")
    with tempfile.TemporaryDirectory() as folder:
        write_weights(weights, Path(folder) / "weights.c")
        target = Path(folder) / _PLUGIN
        command = [
            "make",
            "-s",
            "-C",
            str(library.FOLDER),
            f"BUILD={folder}",
            f"WEIGHTS={folder}/weights.c",
            str(target),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise InputError(f"{path}: not written, the C compiler took more than {_TIMEOUT_S} s") from None
        if "ladspa.h" in done.stderr:
            raise InputError("ladspa.h not found; install the LADSPA SDK (Debian: ladspa-sdk, Fedora: ladspa-devel)")
        if done.returncode:
            raise InputError(f"{path}: not written, the C compiler failed: {one_line(done.stderr)}")
        with atomic_path(path) as partial:
            shutil.copyfile(target, partial)

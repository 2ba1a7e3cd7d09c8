"""The C core's shared library: where it is, and the signatures of its functions."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from sase.errors import InputError

FOLDER = Path(__file__).parent
OK = 0  # of sase_status in sase.h

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "sase_size": (_SIZE, [_POINTER, _SIZE]),
    "sase_init": (_INT, [_POINTER, _SIZE, _POINTER, _SIZE, _POINTER]),
    "sase_reset": (None, [_POINTER]),
    "sase_process": (_INT, [_POINTER, _POINTER, _POINTER]),
    "sase_sample_rate": (_INT, [_POINTER]),
    "sase_hop": (_INT, [_POINTER]),
    "sase_delay": (_INT, [_POINTER]),
    "sase_message": (ctypes.c_char_p, [_INT]),
}


def find() -> Path | None:
    """Return the library that ``pip install`` or ``make -C sase/native`` has built; None if there is none."""
    installed = [FOLDER / f"_core.c99{suffix}" for suffix in EXTENSION_SUFFIXES]
    return next((path for path in [*installed, FOLDER / "build" / "_core.so"] if path.is_file()), None)


@cache
def load(path: Path | None = None) -> ctypes.CDLL:
    """Return the library, its functions declared.

    Args:
        path: of the library; None for the one that :func:`find` returns.

    Raises:
        InputError: it has not been built, or cannot be loaded here.
    """
    path = path or find()
    if path is None:
        raise InputError(f"the C core is not built; run make -C {FOLDER}, which needs a C compiler")
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise InputError(f"{path}: not a C core that can be loaded here ({error})") from None
    return library

"""A network as one web page that enhances files and the microphone in a browser, without a server or a network."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import zlib
from pathlib import Path

from sase.atomic import atomic_path
from sase.errors import InputError
from sase.native import library

_SOURCES = Path(__file__).parent
_PAGE_SCRIPTS = ("engine.js", "sound.js", "spectrogram.js", "player.js", "recorder.js", "page.js")
_WORKLET_SCRIPTS = ("engine.js", "worklet.js")
_WASM = library.FOLDER / "sase.wasm"


def export_web(weights: bytes, path: str | Path, name: str = "") -> None:
    """Write the page; the write is atomic.

    Args:
        weights: for the C core, as of :func:`sase.export.core_weights.core_weights`.
        path: output file, such as ``page.html``.
        name: of the model, shown on the page.

    Raises:
        InputError: the package's WebAssembly is missing.
    """
    contents = web_page(weights, name).encode()
    with atomic_path(path) as partial:
        partial.write_bytes(contents)


def web_page(weights: bytes, name: str = "") -> str:
    """Return the page that :func:`export_web` writes: HTML with its style, scripts, WebAssembly and weights in it."""
    try:
        wasm = _WASM.read_bytes()
    except OSError as error:
        raise InputError(f"{_WASM}: cannot be read ({error.strerror}); install the package again") from None
    style, script = _source("page.css"), "".join(map(_source, _PAGE_SCRIPTS))
    values = {
        "STYLE": style,
        "STYLE_HASH": _csp_hash(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _csp_hash(script),
        "WORKLET": "".join(map(_source, _WORKLET_SCRIPTS)),
        "WASM": _packed(wasm),
        "WEIGHTS": _packed(weights),
        "ABOUT": html.escape(f"SASE{name and f', model {Path(name).name}'}: {len(weights) / 1000:.0f} kB of weights"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _source("page.html"))


def _source(name: str) -> str:
    return (_SOURCES / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Return the source expression of a Content Security Policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(contents: bytes) -> str:
    return base64.b64encode(zlib.compress(contents, 9)).decode()

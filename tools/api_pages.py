#!/usr/bin/env python3
"""Build the API pages from the docstrings, offline: tools/api_pages.py [FOLDER] (default: docs/api)."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

import jinja2
import pdoc

ROOT = Path(__file__).resolve().parent.parent
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([\w.]+)`")


@jinja2.pass_context
def to_markdown(context: jinja2.runtime.Context, docstring: str) -> str:
    """Turn Sphinx roles and literal blocks into Markdown; pdoc links the names in backticks."""
    docstring = re.sub(r"^( *)::$", r"\1", ROLE.sub(r"`\1`", docstring), flags=re.MULTILINE)
    return pdoc.render.to_markdown_with_context(context, re.sub(r"::$", ":", docstring, flags=re.MULTILINE))


def build(folder: Path) -> None:
    """Write a page per module into the folder."""
    sase = importlib.import_module("sase")
    sase.__dict__["Enhancer"] = importlib.import_module("sase.enhancer").Enhancer  # otherwise imported on first use
    for package in ["sase", *(module.name for module in pkgutil.walk_packages(sase.__path__, "sase.") if module.ispkg)]:
        public = vars(importlib.import_module(package)).get("__all__")
        if public is not None:  # pdoc shows only the modules named there
            public += [module.name for module in pkgutil.iter_modules(sys.modules[package].__path__)]
    pdoc.render.configure(docformat="google", search=True, show_source=False)
    pdoc.render.env.filters["to_markdown"] = to_markdown
    pdoc.pdoc("sase", output_directory=folder)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/api"
    build(out)
    print(out / "sase.html")

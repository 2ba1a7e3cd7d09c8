"""The API pages: built from the docstrings by one command, without broken links."""

import importlib
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import sase

pytestmark = pytest.mark.recipe
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([\w.]+)`")


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = {""}, set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])


def test_pages_have_no_broken_links(root, tmp_path):
    subprocess.run([sys.executable, root / "tools/api_pages.py", tmp_path], check=True, cwd=tmp_path)
    pages = {path: Page(path.read_text()) for path in tmp_path.rglob("*.html")}
    names = {module.name for module in pkgutil.walk_packages(sase.__path__, "sase.")} | {"sase"}
    written = {".".join(path.relative_to(tmp_path).with_suffix("").parts) for path in pages}
    assert written - {"index"} == names
    checked, broken = 0, []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            checked += 1
            if target not in pages or anchor not in pages[target].anchors:
                broken.append(f"{path.relative_to(tmp_path)}: {link}")
    assert not broken
    assert checked > 1000


def found(module, owner, name):
    """True if ``name`` is a module or something in one, absolute or as seen from a module or a class in it."""
    parts = name.split(".")
    if parts[0] == "sase":
        for length in range(len(parts), 0, -1):
            try:
                place = importlib.import_module(".".join(parts[:length]))
            except ImportError:
                continue
            return has(place, parts[length:])
        return False
    return has(module, parts) or (owner is not None and has(owner, parts))


def has(place, parts):
    """True if the attribute path exists; fields of a class count."""
    for part in parts:
        if not hasattr(place, part):
            return part in getattr(place, "__annotations__", {})
        place = getattr(place, part)
    return True


def documented(module):
    """Yield (class or None, docstring) of a module and its members."""
    yield None, module.__doc__
    for thing in list(vars(module).values()):
        if getattr(thing, "__module__", None) == module.__name__:
            yield thing, thing.__doc__
            if isinstance(thing, type):
                yield from ((thing, getattr(member, "__doc__", None)) for member in list(vars(thing).values()))


def test_every_cross_reference_of_a_docstring_exists():
    missing, checked = [], 0
    for info in pkgutil.walk_packages(sase.__path__, "sase."):
        module = importlib.import_module(info.name)
        for owner, text in documented(module):
            for name in ROLE.findall(text or ""):
                checked += 1
                if not found(module, owner, name):
                    missing.append(f"{info.name}: {name}")
    assert not missing
    assert checked > 100

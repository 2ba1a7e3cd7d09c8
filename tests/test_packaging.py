"""Packaging: wheel and sdist install in an empty environment, and all places name the same versions."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import pytest

import sase

SUFFIXES = (
    *(".py", ".typed", ".safetensors", ".onnx", ".sase", ".json", ".md"),
    *(".c", ".h", ".wasm", ".html", ".css", ".js"),
)
PROGRAMS = ("ruff", "mypy", "pdoc")  # other versions check or format differently


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    """(wheel, sdist) of a copy of the repository, built without a network."""
    copy, out = tmp_path_factory.mktemp("build") / "sase", tmp_path_factory.mktemp("dist")
    copy.mkdir()
    shutil.copytree(root / "sase", copy / "sase", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    calls = "from setuptools import build_meta as b; b.build_wheel({0!r}); b.build_sdist({0!r})".format(str(out))
    subprocess.run([sys.executable, "-c", calls], cwd=copy, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_wheel_and_sdist_hold_the_whole_package(root, built):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[-1] for name in archive.getnames()}
    source = {
        path.relative_to(root).as_posix()
        for path in (root / "sase").rglob("*")
        if (path.suffix in SUFFIXES or path.name == "Makefile") and "build" not in path.parts
    }
    assert "sase/py.typed" in source
    assert source - in_wheel == set()
    assert source - in_sdist == set()
    built_here = {name for name in in_wheel if name.startswith("sase/native/_core.")}  # if there is a C compiler
    assert {name for name in in_wheel if name.startswith("sase/")} - built_here == source
    assert not [name for name in in_wheel if name.startswith(("tests", "egs", "tools"))]


@pytest.mark.recipe
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_installs_in_an_empty_environment(built, tmp_path, kind):
    """The dependencies of this environment are visible through a .pth file; no network is used."""
    package = built[0] if kind == "wheel" else built[1]
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    if kind == "sdist":  # built by the setuptools of this environment
        (site / "others.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
        command += ["--no-build-isolation"]
    subprocess.run([*command, package], check=True, capture_output=True, cwd=tmp_path)
    (site / "others.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    script = "import sase, numpy, sys; from sase import Enhancer; print(sase.__file__)\n"
    script += "print(len(Enhancer.from_pretrained().enhance(numpy.zeros(1600, 'float32'), 16000)))"
    for command, answer in (
        ([python.with_name("sase"), "--version"], sase.__version__),
        ([python, "-c", script], f"{site / 'sase/__init__.py'}\n1600"),
    ):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == answer


def pins(path):
    """{package in lower case: version} of the lines ``package==version`` of a file."""
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", path.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_all_places_pin_the_same_versions(root):
    required, constraints = pins(root / "tools/requirements.txt"), pins(root / "tools/constraints.txt")
    assert len(required) > 20
    both = required.keys() & constraints.keys()
    assert {name: required[name] for name in both} == {name: constraints[name] for name in both}
    setup = dict(re.findall(r'"([\w.-]+)(?:\[\w+\])?==([^"]+)"', (root / "setup.py").read_text()))
    assert setup.keys() >= {"flwr", *PROGRAMS}
    assert setup == {name: required[name] for name in setup}


def test_what_is_installed_is_what_is_pinned(root):
    required = pins(root / "tools/requirements.txt")
    assert {name: metadata.version(name) for name in PROGRAMS} == {name: required[name] for name in PROGRAMS}


def test_pre_commit_runs_what_continuous_integration_runs(root):
    hooks = (root / ".pre-commit-config.yaml").read_text()
    assert "entry: tests/run.sh lint" in hooks
    assert "repo: local" in hooks
    assert not re.search(r"rev:|https?:", hooks)  # no other place pins a version
    assert "exec tests/run.sh\n" in (root / ".ci/run").read_text()
    script = (root / "tests/run.sh").read_text()
    for command in ("ruff check .", "ruff format --check .", "mypy"):
        assert f"\n{command}\n" in script

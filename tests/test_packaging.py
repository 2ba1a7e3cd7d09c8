"""Packaging: wheel and sdist install in an empty environment, and all places name the same versions."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement

import sase

SUFFIXES = (
    *(".py", ".typed", ".safetensors", ".onnx", ".sase", ".json", ".md"),
    *(".c", ".h", ".wasm", ".html", ".css", ".js"),
)
PROGRAMS = ("ruff", "mypy", "pdoc")  # other versions check or format differently
PIP = (sys.executable, "-m", "pip")
# A PYTHONPATH with metadata of this package would be an installation of it to pip.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def build(root, folder, **environment):
    """Build (wheel, sdist) of a copy of the repository, without a network."""
    copy, out = folder / "sase", folder / "dist"
    copy.mkdir()
    shutil.copytree(root / "sase", copy / "sase", ignore=shutil.ignore_patterns("__pycache__", "build", "_core.*"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    calls = "from setuptools import build_meta as b; b.build_wheel({0!r}); b.build_sdist({0!r})".format(str(out))
    command = [sys.executable, "-c", calls]
    subprocess.run(command, cwd=copy, env={**os.environ, **environment}, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    return build(root, tmp_path_factory.mktemp("build"))


@pytest.mark.recipe
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
    command = [*PIP, "--python", python, "install", "--no-index", "--no-deps"]
    if kind == "sdist":  # built by the setuptools of this environment
        (site / "others.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
        command += ["--no-build-isolation"]
    subprocess.run([*command, package], check=True, capture_output=True, cwd=tmp_path, env=ENVIRONMENT)
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


def required(names):
    """The distributions of this environment that these requirements need, without extras, and what those need."""
    found, waiting = {}, [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = distribution = metadata.distribution(requirement.name)
        waiting += [Requirement(line) for line in distribution.requires or []]
    return found.values()


@pytest.mark.recipe
def test_with_what_the_wheel_requires_and_no_compiler_a_file_is_enhanced(root, tmp_path):
    """The environment has the packages that the wheel's metadata requires, linked from this one, and no others."""
    (tmp_path / "build").mkdir()
    wheel, _ = build(root, tmp_path / "build", CC="false")
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    command = [*PIP, "--python", python, "install", "--no-index", "--no-deps", wheel]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=ENVIRONMENT)
    assert not list(site.glob("sase/native/_core.*"))
    num_bytes = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    requirements = next(site.glob("sase-*.dist-info")).joinpath("METADATA").read_text()
    names = re.findall(r"^Requires-Dist: ([^;\n]+)$", requirements, re.MULTILINE)
    assert len(names) > 4
    for distribution in required(names):
        assert distribution.metadata["Name"].lower() not in ("torch", "scipy", "librosa", "onnx")
        for file in distribution.files:
            source = distribution.locate_file(file)
            num_bytes += source.stat().st_size if source.is_file() else 0
            top = distribution.locate_file(file.parts[0])
            if ".." not in file.parts and not (site / top.name).exists():
                (site / top.name).symlink_to(top)
    assert num_bytes < 250e6
    soundfile.write(tmp_path / "noisy.wav", 0.1 * np.random.default_rng(0).standard_normal((30000, 2)), 44100)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [python.with_name("sase"), "enhance", "noisy.wav", "-o", "enhanced.wav"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    noisy, enhanced = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("noisy", "enhanced"))
    assert enhanced.shape == noisy.shape
    assert 0 < np.square(enhanced).sum() < 0.1 * np.square(noisy).sum()
    command = [python.with_name("sase"), "enhance", "noisy.wav", "-o", "torch.wav", "--engine", "torch"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    wanted = shlex.split(done.stderr.partition("pip install ")[2])
    assert wanted == [f"sase[train] @ {wheel.as_uri()}"]  # which pip installs from where this one came from


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
        assert re.search(rf"(?m)^ *{re.escape(command)}$", script)
    assert re.search("(?m)^ *mypy .*&$", script)  # beside the tests, too

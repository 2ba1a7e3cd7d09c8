"""Fixtures that several test files use; plain functions are in helpers/."""

import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from helpers import native
from helpers.dumps import dumped
from helpers.recipes import Recipe
from sase.model import build_model, save_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root():
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_audio():
    """The folder with real noisy and clean speech that $SASE_TEST_DATA names; skips the test when there is none."""
    folder = os.environ.get("SASE_TEST_DATA")
    if not folder:
        pytest.skip("SASE_TEST_DATA names no folder with real audio")
    return Path(folder)


@pytest.fixture(scope="session")
def core_build(tmp_path_factory):
    """The folder with the C core's library and program; skips the test when there is no C compiler."""
    folder = tmp_path_factory.mktemp("core")
    native.make(ROOT, folder)
    return folder


@pytest.fixture(scope="session")
def core_weights(tmp_path_factory):
    """{name: file} of the shipped weights for the C core; tests only read them."""
    return native.write_weights(tmp_path_factory.mktemp("weights"))


# Files of tests that take minutes, the longest first; see pytest_collection_modifyitems.
LONGEST = {
    name: number
    for number, name in enumerate(
        [
            "test_recipe_commonvoice",
            "test_recipe",
            "test_readme",
            "test_cluster",
            "test_federated_deployment",
            "test_distributed",
            "test_federated_simulation",
            "test_install",
            "test_packaging",
            "test_api_pages",
            "test_training",
            "test_federated_rounds",
            "test_federated_flower",
        ]
    )
}
SECONDS = ((0.4, 0.6), (0.9,), (0.5, 0.7, 0.6))  # of the utterances of each silo


@pytest.fixture(scope="session")
def silos_dir(tmp_path_factory):
    """A folder with the dumped training and test sets of three silos; tests only read it."""
    folder = tmp_path_factory.mktemp("silos")
    for index, seconds in enumerate(SECONDS):
        made = dumped(folder / f"made{index}", [int(16000 * s) for s in seconds], seed=index)
        (folder / "silos").mkdir(exist_ok=True)
        (folder / f"silos/silo{index}").mkdir()
        shutil.copytree(made, folder / f"silos/silo{index}/tr")
        shutil.copytree(made, folder / f"silos/silo{index}/tt")
    return folder / "silos"


@pytest.fixture(scope="session")
def dev_set(tmp_path_factory):
    """A small dumped development set; tests only read it."""
    return dumped(tmp_path_factory.mktemp("dev"), [9000, 7000, 8000, 5000], seed=9)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A ``best.pt`` of an untrained network of the preset mini; tests only read it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("untrained") / "best.pt"
    save_model(build_model("mini"), path)
    return path


@pytest.fixture(scope="session")
def make_recipe(root, tmp_path_factory):
    """``make_recipe(copy, name)`` is a :class:`Recipe`; all of a session share one generated corpus per recipe.

    The first test that needs a corpus generates it with stage 0, under a lock: the processes of pytest-xdist share it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def make(copy, name):
        corpus = shared / "corpora" / name / "egs" / name / "downloads/mini"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (corpus / ".done").exists():
                shutil.rmtree(shared / "corpora" / name, ignore_errors=True)
                Recipe(root, shared / "corpora" / name, name).run("--stop-stage", 0)
        return Recipe(root, copy, name, corpus)

    return make


def pytest_configure():
    """Restore Ctrl-C, which a shell has background processes ignore, and they their children: tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Start the longest files first: pytest-xdist keeps a file on one process, and both are to end together."""
    items.sort(key=lambda item: LONGEST.get(item.path.stem, len(LONGEST)))

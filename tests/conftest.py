"""Fixtures that several test files use; plain functions are in helpers/."""

import fcntl
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.recipes import Recipe

# What imports torch is imported by the fixtures: pytest-xdist's controller reads this file, and runs no test.

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
def shared(tmp_path_factory):
    """A folder that the processes of pytest-xdist share; what is made there is made under :func:`locked`."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@contextmanager
def locked(path):
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def core_build(shared):
    """The folder with the C core's library and program; skips the test when there is no C compiler."""
    from helpers import native

    with locked(shared / "core.lock"):
        native.make(ROOT, shared / "core")  # once: make finds what another process has built
    return shared / "core"


@pytest.fixture(scope="session")
def core_weights(tmp_path_factory):
    """{name: file} of the shipped weights for the C core; tests only read them."""
    from helpers import native

    return native.write_weights(tmp_path_factory.mktemp("weights"))


# Files of tests that take minutes, the longest first; see pytest_collection_modifyitems.
LONGEST = {
    name: number
    for number, name in enumerate(
        [
            "test_recipe_silos",
            "test_recipe_commonvoice",
            "test_readme",
            "test_federated_deployment",
            "test_recipe",
            "test_cluster",
            "test_distributed",
            "test_federated_simulation",
            "test_ablation",
            "test_federated_rounds",
            "test_federated_comparison",
            "test_install",
            "test_autocast",
            "test_training",
            "test_metrics",
            "test_packaging",
            "test_many_utterances",
            "test_engines",
            "test_federated_memory",
        ]
    )
}
SECONDS = ((0.4, 0.6), (0.9,), (0.5, 0.7, 0.6))  # of the utterances of each silo


@pytest.fixture(scope="session")
def silos_dir(tmp_path_factory):
    """A folder with the dumped training and test sets of three silos; tests only read it."""
    from helpers.dumps import dumped

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
    from helpers.dumps import dumped

    return dumped(tmp_path_factory.mktemp("dev"), [9000, 7000, 8000, 5000], seed=9)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A ``best.pt`` of an untrained network of the preset mini; tests only read it."""
    import torch

    from sase.model import build_model, save_model

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("untrained") / "best.pt"
    save_model(build_model("mini"), path)
    return path


@pytest.fixture(scope="session")
def make_recipe(root, shared):
    """``make_recipe(copy, name)`` is a :class:`Recipe`; all of a session share one generated corpus per recipe.

    The first test that needs a corpus generates it with stage 0, under a lock: the processes of pytest-xdist share it.
    With ``dumped=True`` the recipe has copies of what stages 1 and 2 made of it, once in a session too, for stage 3 on:
    stage 2 would dump again, since a data directory names its files with their absolute paths.
    """

    def make(copy, name, dumped=False):
        first = shared / "corpora" / name
        made, stop = first / "egs" / name, 2 if dumped else 0
        finished = first / f"stage{stop}"
        with locked(shared / f"{name}.lock"):
            if not finished.exists():
                Recipe(root, first, name).run("--stop-stage", stop, "--nj", 2)
                finished.touch()
        recipe = Recipe(root, copy, name, made / "downloads/mini")
        if dumped:
            shutil.copytree(made / "mini", recipe.mini)
        return recipe

    return make


def pytest_configure():
    """Restore signals that a shell or nohup has processes ignore, and they their children: tests send them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # still ignored here, but not by what the tests start


def pytest_collection_modifyitems(items):
    """Start the longest files first: pytest-xdist keeps a file on one process, and both are to end together."""
    items.sort(key=lambda item: LONGEST.get(item.path.stem, len(LONGEST)))

"""Fixtures that several test files use; plain functions are in helpers/."""

import os
import shutil
from pathlib import Path

import pytest

from helpers.dumps import dumped

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

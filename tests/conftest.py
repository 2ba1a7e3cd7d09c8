"""What all tests share: where the repository and, when there is any, the real audio stand."""

import os
from pathlib import Path

import pytest

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

"""Versions of the packages on which server and silos must agree, and where they differ."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import sase

MUST_AGREE = ("sase", "flwr")  # they define what is exchanged
SHOULD_AGREE = ("torch", "numpy", "python")  # results are then not the same to the bit


def installed_versions() -> dict[str, str]:
    """Return the version of each package here; those that are not installed are missing."""
    found = {"sase": sase.__version__, "python": platform.python_version()}
    for name in ("flwr", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {name: found[name] for name in (*MUST_AGREE, *SHOULD_AGREE) if name in found}


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return the packages whose versions differ in their first two numbers, or that one side lacks."""
    return [name for name in (*MUST_AGREE, *SHOULD_AGREE) if _series(here.get(name)) != _series(there.get(name))]


def _series(version: str | None) -> list[str]:
    return [] if version is None else version.split("+")[0].split(".")[:2]

"""Optional packages: which extra of this package installs one, and the command to run."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import sase


def missing_package(module: str) -> str:
    """Return a line that says that a module is not installed, and the command that installs it.

    Args:
        module: as in ``import``, such as ``espeakng_loader`` or ``flwr.common``.
    """
    package = module.partition(".")[0]
    extra = extra_of(package)
    wanted = package if extra is None else _requirement(extra)
    return f"the package {package} is not installed; pip install {shlex.quote(wanted)}"


def extra_of(package: str) -> str | None:
    """Return the first extra that requires a package; None if no extra does, or this package is not installed itself.

    Args:
        package: name of the top-level module; ``-`` and ``_`` are the same.
    """
    try:
        requirements = distribution("sase").requires or []
    except PackageNotFoundError:
        return None
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and name[0].replace("-", "_").lower() == package.lower():
            return extra[1]
    return None


def _requirement(extra: str) -> str:
    """Return this package with an extra, from where it was installed: it is on no index."""
    checkout = Path(sase.__file__).resolve().parent.parent
    if (checkout / "setup.py").is_file():
        return f"{checkout}[{extra}]"
    origin = json.loads(distribution("sase").read_text("direct_url.json") or "{}")
    if not (url := origin.get("url")):
        return f"sase[{extra}]"
    version_control = origin.get("vcs_info", {})
    if version_control:
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    return f"sase[{extra}] @ {url}"

"""The README's commands, run verbatim and in order in a copy of the repository that has the generated corpus."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.recipe
BLOCK = re.compile(
    r"(?:<!-- not run by the tests: (?P<why>[^\n]+) -->\n)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL
)


def blocks(root):
    """(kind, code, reason to skip) of every code block, in order."""
    text = (root / "README.md").read_text(encoding="utf-8")
    return [(match["kind"], match["code"], match["why"]) for match in BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def copy(root, make_recipe, tmp_path_factory):
    """A copy of the repository with the generated corpus of other tests, and an environment as if installed there."""
    folder = tmp_path_factory.mktemp("readme")
    copy = folder / "sase"
    made = shutil.ignore_patterns("venv*", "downloads", "data", "dump", "exp", "mini", "__pycache__", ".git", "build")
    shutil.copytree(root, copy, ignore=made)
    subprocess.run([root / "tools/install.sh", "--if-needed"], env={**os.environ, "SASE_VENV": sys.prefix}, check=True)
    (copy / "tools/venv").symlink_to(sys.prefix)
    corpus = make_recipe(folder / "recipe", "voicebank_demand").folder / "downloads/mini"
    shutil.copytree(corpus, copy / "egs/voicebank_demand/downloads/mini", copy_function=os.link)
    return copy


def run(copy, kind, code):
    # OMP_NUM_THREADS stays as the tests set it: several threads beside another worker's would spin rather than compute.
    environment = {name: value for name, value in os.environ.items() if name != "SASE_VENV"}
    environment["PYTHONPATH"] = str(copy)
    environment["PATH"] = f"{sys.prefix}/bin:{environment['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_only_listed_commands_are_skipped(root):
    reasons = [why.split()[0] for _, _, why in blocks(root) if why]
    assert sorted(reasons) == ["depends", "downloads", "it", *6 * ["needs"]]


def test_every_command_of_the_readme_works(root, copy):
    outputs = {code: run(copy, kind, code) for kind, code, why in blocks(root) if not why}
    assert len(outputs) >= 6
    scores = json.loads(next(out for code, out in outputs.items() if "--json" in code).splitlines()[-1])
    assert scores["failed"] == 0
    assert scores["scored"] > 10

    # The first command reduces noise, as promised.
    exp = copy / "egs/voicebank_demand/mini/exp/train_mini"
    summary = json.loads((exp / "enhanced_tt/scoring/summary.json").read_text())
    gain = {name: summary["mean"][name] - summary["unprocessed"]["mean"][name] for name in ("SI_SDR", "PESQ_WB")}
    assert gain["SI_SDR"] >= 3, gain
    assert gain["PESQ_WB"] >= 0.2, gain
    assert list((exp / "images").glob("*.png"))

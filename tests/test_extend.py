"""docs/extend.md: each of its examples works as printed."""

import re
import subprocess
import sys

import pytest

SECTIONS = ("A loss", "A measure", "A network", "An aggregation strategy", "A robust aggregation", "A corpus")


def examples(root):
    """Return section to its code."""
    text = (root / "docs/extend.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    return {section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL) for section in sections}


def test_every_section_has_an_example(root):
    assert tuple(examples(root)) == SECTIONS
    assert all(len(code) == 1 for code in examples(root).values())


@pytest.mark.recipe
@pytest.mark.parametrize("section", SECTIONS)
def test_an_example_runs(root, section, tmp_path):
    (code,) = examples(root)[section]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

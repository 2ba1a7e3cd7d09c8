"""docs/promises.md: every line with a test names one that exists."""

import ast
import re

import pytest


@pytest.fixture(scope="module")
def references(root):
    """(file, function or empty) of every test that the page names."""
    text = (root / "docs/promises.md").read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/.]+?)(?:::(test_\w+))?`", text)


def test_the_page_names_tests_that_exist(root, references):
    assert len(references) > 85
    functions = {}
    for name, function in references:
        path = root / name
        assert path.exists(), name
        if function:
            if name not in functions:
                tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                functions[name] = {node.name for node in tree if isinstance(node, ast.FunctionDef)}
            assert function in functions[name], f"{name} has no {function}"


def test_only_what_cannot_be_known_has_no_test(root):
    rows = [line for line in (root / "docs/promises.md").read_text().splitlines() if line.endswith("| — |")]
    assert all("cannot be known" in row for row in rows)
    assert len(rows) <= 1

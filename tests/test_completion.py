"""Records of finished work."""

import math

import pytest

from sase import completion


def test_a_fingerprint_depends_on_the_joined_text_alone():
    assert completion.fingerprint(["ab", "c"]) == completion.fingerprint(["abc"])
    assert completion.fingerprint(["abd"]) != completion.fingerprint(["abc"])


def test_a_record_counts_only_for_its_own_input(tmp_path):
    path = tmp_path / "shards" / "1.json"
    assert completion.read_if_current(path, "abc") is None
    completion.write(path, "abc", {"score": math.nan})
    assert completion.read_if_current(path, "abc") == {"input": "abc", "score": None}
    assert completion.read_if_current(path, "abd") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_what_is_no_record_does_not_count(tmp_path, text):
    (tmp_path / "1.json").write_text(text)
    assert completion.read_if_current(tmp_path / "1.json", "abc") is None

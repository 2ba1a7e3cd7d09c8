"""JSON and JSON Lines files: NaN, missing files, appending."""

import json
import math

import numpy as np
import pytest

from sase import completion, jsonfile
from sase.errors import InputError


def test_nan_is_null_in_json(tmp_path):
    path = tmp_path / "folder" / "values.json"
    jsonfile.write(path, {"a": {"x": math.nan, "y": np.float64("nan"), "z": 1.5}, "b": [math.nan, None, "text", 3]})
    assert json.loads(path.read_text()) == {"a": {"x": None, "y": None, "z": 1.5}, "b": [None, None, "text", 3]}
    again = jsonfile.null_to_nan(jsonfile.read(path)["a"])
    assert math.isnan(again["x"])
    assert math.isnan(again["y"])
    assert again["z"] == 1.5


def test_json_lines(tmp_path):
    path = tmp_path / "history.jsonl"
    assert jsonfile.read_jsonl(path) == []
    jsonfile.write_jsonl(path, [{"epoch": 1, "loss": 2.5}])
    jsonfile.append_jsonl(path, {"epoch": 2, "loss": math.nan})
    assert path.read_text() == '{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "loss": NaN}\n'
    first, second = jsonfile.read_jsonl(path)
    assert first == {"epoch": 1, "loss": 2.5}
    assert math.isnan(second["loss"])


@pytest.mark.parametrize("torn", [b"", b'{"a": 1, "b', b'{"a": 1}{"a"', b'{"a": "\xc3', b"\x00\x00\x00\x00"])
def test_a_torn_file_is_named_with_what_to_do(tmp_path, torn):
    path = tmp_path / "summary.json"
    path.write_bytes(torn)
    with pytest.raises(InputError, match=r"summary\.json: not valid JSON .* delete it and run the same command again"):
        jsonfile.read(path)
    assert completion.read_if_current(path, "key") is None


def test_a_torn_line_is_named_and_nothing_is_appended_to_it(tmp_path):
    path = tmp_path / "timing.jsonl"
    path.write_bytes(b'{"epoch": 1}\r\n{"epoch": 2, "sec')
    jsonfile.append_jsonl(path, {"epoch": 3})
    assert path.read_bytes() == b'{"epoch": 1}\r\n{"epoch": 2, "sec\n{"epoch": 3}\n'
    with pytest.raises(InputError, match=r"timing\.jsonl:2: not valid JSON .*; delete this line"):
        jsonfile.read_jsonl(path)
    path.write_bytes(b'{"epoch": 1}\n12\n')
    with pytest.raises(InputError, match=r"timing\.jsonl:2: must be a mapping"):
        jsonfile.read_jsonl(path)

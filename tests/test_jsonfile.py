"""JSON and JSON Lines files: NaN, missing files, appending."""

import json
import math

import numpy as np

from sase import jsonfile


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

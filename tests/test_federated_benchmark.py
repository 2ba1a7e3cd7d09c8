"""How the time of a federated training is spent, and the size of uploads."""

import json

import pytest

from sase.bench.federated import outside_training, upload_bytes
from sase.errors import InputError
from sase.model import build_model


def entry(number, seconds, intervals):
    times = {"seconds": seconds, "exchange": seconds - 1.5, "aggregate": 0.5, "score_and_save": 1.0}
    began = {str(silo): 1000.0 + begin for silo, (begin, _) in enumerate(intervals)}
    train = {str(silo): end - begin for silo, (begin, end) in enumerate(intervals)}
    return {"round": number, **times, "train_began": began, "train": train}


def test_training_is_the_time_in_which_some_silo_trains(tmp_path):
    lines = [
        entry(1, 99.0, [(0, 9)]),  # repeated below
        entry(1, 20.0, [(5, 7), (1, 4), (2, 3), (6, 10)]),  # 1 to 4 and 5 to 10
        entry(2, 20.0, [(0, 5), (5, 9), (9, 10)]),  # sequential
    ]
    (tmp_path / "round_timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = outside_training(tmp_path)
    assert (row["rounds"], row["s"], row["local training s"]) == (2, 40.0, 18.0)
    assert row["outside training %"] == pytest.approx(55.0)
    assert row["scoring %"] == pytest.approx(5.0)
    assert row["aggregation %"] == pytest.approx(2.5)
    assert row["s per round"] == 20.0
    with pytest.raises(InputError, match="no rounds found"):
        outside_training(tmp_path / "nothing")


def test_upload_bytes_are_those_of_the_arrays():
    state = build_model("mini").state_dict()
    sent = {name: value for name, value in state.items() if not name.endswith("omega")}  # which every silo draws itself
    trained = [name for name, _ in build_model("mini").named_parameters()]
    float32 = sum(value.numel() * value.element_size() for value in sent.values())
    matrices = [sent[name] for name in trained if sent[name].ndim > 1]
    values, rows = sum(value.numel() for value in matrices), sum(len(value) for value in matrices)
    assert {row["preset"]: row for row in upload_bytes()}["mini"] == {
        "preset": "mini",
        "float32 bytes": float32,
        "bfloat16 bytes": float32 - 2 * values,
        "int8 bytes": float32 - 3 * values + 4 * rows,
    }

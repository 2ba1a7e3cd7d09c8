"""How the time of a federated training is spent, and the size of uploads."""

import json
import os
import subprocess
import sys

import pytest

from sase.bench.federated import outside_training, upload_bytes
from sase.bench.federations import bench_federations
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


def bench(root, *options):
    """Return the rows that ``sase bench federated`` prints."""
    command = [sys.executable, "-m", "sase.bin.bench", "federated", *options, "--preset", "mini", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert not result.returncode, result.stderr
    return json.loads(result.stdout)["rows"]


def float32_mb():
    """Return the size of an upload of the preset mini, in MB."""
    (size,) = [row["float32 bytes"] for row in upload_bytes() if row["preset"] == "mini"]
    return size / 1e6


@pytest.mark.recipe
@pytest.mark.parametrize("engine", ["inproc", "server"])
def test_rounds_of_federations_are_measured_by_number_of_silos(root, engine):
    """All rounds but the first, of federations that the command runs itself."""
    rows = bench(root, "--engine", engine, "--silos", "2", "5", "--clients-per-round", "2", "--rounds", "6")
    assert [(row["engine"], row["silos"], row["a round"]) for row in rows] == [(engine, 2, 2), (engine, 5, 2)]
    for row in rows:
        assert row["up MB"] == row["down MB"] == pytest.approx(2 * float32_mb())
        assert 0 < row["outside training s"] <= row["s"]
        assert (row["outside training s"] == row["s"]) == (engine == "server")  # which trains nothing
        assert row["CPU s"] > 0
        assert row["server MB"] > 50  # torch alone


@pytest.mark.recipe
@pytest.mark.parametrize(
    "engine", ["simulation", "deployed-server", pytest.param("deployment", marks=pytest.mark.slow)]
)
def test_federations_with_flower_are_measured(root, engine):
    (row,) = bench(root, "--engine", engine, "--silos", "2", "--rounds", "3")
    assert (row["engine"], row["silos"], row["a round"]) == (engine, 2, 2)
    assert row["up MB"] == row["down MB"] == pytest.approx(2 * float32_mb())
    assert 0 < row["outside training s"] <= row["s"]
    assert row["CPU s"] > 0
    if engine == "deployed-server":  # its silos train nothing and are not measured
        assert row["outside training s"] == row["s"]
        assert row["SuperLink MB"] > 50
        assert row["ServerApp MB"] > 50
        assert row["SuperLink MB"] + row["ServerApp MB"] >= row["server MB"]
    else:
        assert row["server MB"] > 50
        assert row["silos MB"] > 50


def test_cold_silos_are_those_of_a_deployment():
    with pytest.raises(InputError, match="--engine deployment only"):
        bench_federations("simulation", [2], cold=True)


@pytest.mark.recipe
def test_cpu_time_includes_children_whose_parents_have_exited(root):
    """A shell starts a process that computes for half a second, and exits at once."""
    burn = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    code = f"""
import subprocess, sys, time
from sase.bench import process_tree
process_tree.adopt_orphans()
before = process_tree.cpu_seconds()
subprocess.run(["sh", "-c", '"$0" -c "$1" &', sys.executable, {burn!r}])
deadline = time.monotonic() + 300
while list(process_tree._descendants()) and time.monotonic() < deadline:
    process_tree.reap_orphans([])
    time.sleep(0.05)
print(process_tree.cpu_seconds() - before)
"""
    env = {**os.environ, "PYTHONPATH": str(root)}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert 0.5 <= float(output) < 2.0

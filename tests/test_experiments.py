"""Rows × seeds as processes: several at a time, resumable, a failure stops no others."""

import sys

import pytest
import torch

from helpers.dumps import dumped
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.metrics.measures import zero_mean_si_sdr
from sase.processes import folder_lock, sase_command
from sase.studies.grid import Grid
from sase.studies.page import mean_std
from sase.studies.scores import Identity, score_set

SCRIPT = """
import json, pathlib, sys, time
folder, fail = pathlib.Path(sys.argv[1]), sys.argv[2] == "fail"
with open(folder.parent.parent / "order", "a") as file:
    file.write(f"{folder.parent.name}/{folder.name}\\n")
time.sleep(0.2)
if fail:
    sys.exit("sase: no luck")
(folder / "result.json").write_text(json.dumps({"value": 1}))
"""


def command_of(grid, failing=()):
    def command(row, seed):
        return [sys.executable, "-c", SCRIPT, grid.folder(row, seed), "fail" if (row, seed) in failing else "go"]

    return command


def test_every_task_runs_once_and_finished_runs_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("sase.studies.grid._POLL_S", 0.02)
    grid = Grid(tmp_path, ("one", "+ two"), (0, 1))
    tasks = [(row, seed) for seed in grid.seeds for row in grid.rows]
    with pytest.raises(InputError, match=r"1 of 4 failed; \+ two, seed 0: sase: no luck"):
        grid.run(tasks, command_of(grid, [("+ two", 0)]), jobs=2)
    assert {row: list(seeds) for row, seeds in grid.results().items()} == {"one": [0, 1], "+ two": [1]}
    grid.run(tasks, command_of(grid), jobs=2)
    order = (tmp_path / "order").read_text().split()
    assert sorted(order) == sorted(["one/seed0", "two/seed0", "one/seed1", "two/seed1", "two/seed0"])
    assert order[-1] == "two/seed0"
    assert grid.result("+ two", 0) == {"value": 1}


def test_jobs_run_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr("sase.studies.grid._POLL_S", 0.02)
    grid, running, most = Grid(tmp_path, ("a", "b", "c"), (0,)), [], 0
    command = command_of(grid)

    def counted(row, seed):
        nonlocal most
        running.append((row, seed))
        most = max(most, sum(grid.result(*task) is None for task in running))
        return command(row, seed)

    grid.run([(row, 0) for row in grid.rows], counted, jobs=2)
    assert most == 2


def test_bad_names_and_files_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"'\+ a' and 'A' would share"):
        Grid(tmp_path, ("+ a", "A"), (0,))
    grid = Grid(tmp_path, ("a", "b"), (0,))
    assert grid.selected(["b"]) == ["b"]
    assert grid.selected(None) == ["a", "b"]
    with pytest.raises(InputError, match="no row c; rows are a, b"):
        grid.selected(["a", "c"])
    grid.write("a", 0, {"x": 1})
    assert grid.results() == {"a": {0: {"x": 1}}, "b": {}}
    (grid.folder("a", 0) / "result.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        grid.results()


def test_a_folder_is_locked_by_one_process(tmp_path):
    with (
        folder_lock(tmp_path / "out"),
        pytest.raises(InputError, match="locked by another process"),
        folder_lock(tmp_path / "out"),
    ):
        pass
    with folder_lock(tmp_path / "out"):
        pass
    assert sase_command("info", 3)[1:] == ["-m", "sase.bin.main", "info", "3"]


def test_the_unprocessed_input_is_scored(tmp_path):
    pairs = PairSet(dumped(tmp_path, [9000, 16000], seed=1))
    scores = score_set(Identity(), pairs, ("SI_SDR",))
    assert list(scores) == pairs.utts
    for index, utt in enumerate(pairs.utts):
        where = torch.tensor([index]), torch.zeros(1, dtype=torch.long), int(pairs.lengths[index])
        noisy, clean, _ = pairs.segments(*where)
        assert scores[utt]["SI_SDR"] == pytest.approx(zero_mean_si_sdr(clean[0].numpy(), noisy[0].numpy()), abs=1e-4)


def test_text_of_tables():
    assert mean_std([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"
    assert mean_std([0.5], 1, "+") == "+0.5"

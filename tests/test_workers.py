"""Worker processes: results of all items, whatever happens to a worker."""

import os
import signal
import time

import pytest

from sase import workers


def collected(work, items, num_workers):
    reports = []
    results = workers.run(work, items, num_workers, lambda index, value: reports.append((index, value)))
    return dict(results), reports


class OddError(Exception):
    """Cannot be sent to another process."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_every_item_gets_its_result_or_its_exception(num_workers):
    def work(item, report):
        report(item * 10)
        if item == 2:
            raise OddError("not", "picklable")
        if item == 3:
            raise ValueError("bad")
        return item * item, os.getpid()

    results, reports = collected(work, range(6), num_workers)
    assert {index: result[0] for index, result in results.items() if index not in (2, 3)} == {0: 0, 1: 1, 4: 16, 5: 25}
    assert "not picklable" in str(results[2])
    assert isinstance(results[3], ValueError)
    assert sorted(reports) == [(index, index * 10) for index in range(6)]
    elsewhere = {result[1] != os.getpid() for result in results.values() if isinstance(result, tuple)}
    assert elsewhere == {num_workers > 1}


def test_a_killed_worker_costs_its_item_only():
    def work(item, report):
        if item in (1, 4):
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    results, _ = collected(work, range(8), 2)
    assert {index for index, result in results.items() if isinstance(result, workers.WorkerKilledError)} == {1, 4}
    assert "killed by SIGKILL" in str(results[1])
    assert {index: result for index, result in results.items() if index not in (1, 4)} == {
        i: i for i in (0, 2, 3, 5, 6, 7)
    }


def test_closing_ends_the_workers_which_clean_up(tmp_path):
    def work(item, report):
        if item == 0:
            return 0
        try:
            (tmp_path / str(os.getpid())).write_text("")
            time.sleep(60)
        finally:
            (tmp_path / f"cleaned.{item}").write_text("")

    started = time.monotonic()
    results = workers.run(work, range(3), 2, lambda index, value: None)
    assert next(results) == (0, 0)
    while len(list(tmp_path.iterdir())) < 1:
        time.sleep(0.01)
    results.close()
    assert time.monotonic() - started < 20
    pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(list(tmp_path.glob("cleaned.*"))) == len(pids) >= 1
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

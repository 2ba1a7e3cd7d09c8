import time

import pytest
from cluster import many_utterances

from sase.evaluation.results import summarise
from sase.evaluation.scores import Scores
from sase.metrics.measures import METRICS


@pytest.mark.recipe
def test_bookkeeping_of_a_few_utterances_stays_small(tmp_path):
    rows = many_utterances.measure(tmp_path, 1000, 2)
    assert many_utterances.faults(rows) == []
    assert all(row["MB"] < 400 and row["s"] < 20 for row in rows), rows
    lines = list(many_utterances.table(rows, 2))
    assert len(lines) == 2 + len(rows) - 1
    assert "2 shards" in lines[4]


@pytest.mark.slow
def test_bookkeeping_of_100_000_utterances_stays_within_its_limits(tmp_path):
    """1 GB of memory per process, a minute per step; tests/cluster/many_utterances.py prints the whole table."""
    assert many_utterances.faults(many_utterances.measure(tmp_path, 100_000, 20)) == []


def test_exceeded_limits_are_reported():
    row = {"step": "join", "MB": 200.0, "s": 1.0, "bookkeeping": True}
    rows = [row, row | {"MB": 1001.0}, row | {"s": 61.0}, row | {"s": 61.0, "bookkeeping": False}]
    assert many_utterances.faults(rows) == ["join: 1001 MB", "join: 61 s"]


@pytest.mark.recipe
def test_the_time_of_a_summary_is_linear_in_utterances():
    utts = [f"s{number % 7}_{number:07d}" for number in range(60_000)]
    scores = Scores({utt: dict.fromkeys(METRICS, 1.0) for utt in utts}, {}, 1.0)
    labels = {"speaker": {utt: utt[:2] for utt in utts}}
    began = time.process_time()
    summary = summarise("tt", scores, scores, labels, {})
    assert time.process_time() - began < 12.0  # a linear search per utterance would take minutes
    assert summary["common"]["enhanced"]["scored"] == 60_000
    assert len(summary["breakdowns"]["speaker"]) == 7

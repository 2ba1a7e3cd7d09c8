"""Which epoch is the best so far: highest finite score, with a tolerance, over one or several development sets."""

import json
import math

import numpy as np
import pytest
import torch

from helpers.dumps import dumped
from helpers.federation import train_config
from sase.training.distributed import Workers
from sase.training.selection import is_best, labels_of, mean_scores
from sase.training.trainer import Trainer


def chosen(scores, tolerance=0.0, snrs_db=None, select_by="PESQ_WB"):
    """Return whether each record was the best so far."""
    history = []
    for number, score in enumerate(scores):
        record = {"dev_SI_SNR": 0.0 if snrs_db is None else snrs_db[number], f"dev_{select_by}": score}
        history.append({**record, "best": is_best(record, history, select_by, tolerance)})
    return [record["best"] for record in history]


def test_the_best_score_is_the_highest_finite_one():
    scores = [math.nan, 1.0, math.nan, 0.5, math.inf, 2.0, 2.0]
    for select_by in ("SI_SNR", "PESQ_WB"):
        assert chosen(scores, select_by=select_by) == [False, True, False, False, False, True, False]
    assert chosen([-70.0]) == [True]


def test_within_the_tolerance_the_si_snr_decides():
    pesq, snr_db = [1.90, 1.905, 1.895, 1.89, 1.92, 1.915], [12.0, 11.9, 12.5, 19.0, 12.4, 12.6]
    assert chosen(pesq, 0.01, snr_db) == [True, False, True, False, True, True]
    assert chosen(pesq, 0.0, snr_db) == [True, True, False, False, True, False]


def test_drift_within_the_tolerance_ends_at_the_highest_score_less_the_tolerance():
    pesq = [2.0, *(2.0 - 0.004 * np.arange(1, 10))]
    best = chosen(pesq, 0.01, list(np.arange(10.0)))
    assert best == [True, True, True, *[False] * 7]


def test_si_snr_by_itself_is_selected_without_regard_to_the_tolerance():
    scores = [3.0, 3.05, 3.02, 3.2]
    assert chosen(scores, 0.1, scores, "SI_SNR") == [True, True, False, True]


def test_each_set_counts_the_same():
    scores = {"cv": {"dev_SI_SNR": 1.0, "dev_PESQ_WB": 2.0}, "zh/cv": {"dev_SI_SNR": 4.0, "dev_PESQ_WB": math.nan}}
    means = mean_scores(scores)
    assert means["dev_SI_SNR"] == 2.5
    assert math.isnan(means["dev_PESQ_WB"])
    assert means["dev_SI_SNR/zh/cv"] == 4.0
    assert mean_scores({"cv": scores["cv"]}) == scores["cv"]


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["dump/cv"], ["cv"]),
        (["dump/cv/", "other/tt"], ["cv", "tt"]),
        (["a/dump/cv", "b/dump/cv"], ["a/dump/cv", "b/dump/cv"]),
        (["cv", "b/cv"], ["cv", "b/cv"]),
        (["cv", "cv"], ["1 cv", "2 cv"]),
    ],
)
def test_sets_have_short_names_that_differ(paths, labels):
    assert labels_of(paths) == labels


@pytest.mark.recipe
def test_a_training_is_selected_by_the_mean_over_its_development_sets(tmp_path):
    sets = [dumped(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    workers = Workers(0, 1, torch.device("cpu"))
    for name, dev_sets in (("one", sets[0]), ("two", sets)):
        Trainer(train_config(), sets[0], dev_sets, tmp_path / name, workers).run()
    one, two = (
        [json.loads(line) for line in (tmp_path / f"{name}/history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for alone, both in zip(one, two, strict=True):
        assert both["dev_SI_SNR/a/dump"] == alone["dev_SI_SNR"] != both["dev_SI_SNR/b/dump"]
        assert both["dev_SI_SNR"] == pytest.approx(
            (both["dev_SI_SNR/a/dump"] + both["dev_SI_SNR/b/dump"]) / 2, abs=1e-4
        )
    assert set(json.loads((tmp_path / "two/data.json").read_text())) >= {"development set", "development set 2"}

"""The comparison of ways of training in silos: its settings, its rows, its page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.federation import train_config
from sase.config import to_mapping
from sase.data.datadir import read_data_dir, write_data_dir
from sase.errors import InputError
from sase.federated.config import checked, load_federated_config
from sase.studies.comparison import (
    Comparison,
    Folders,
    Row,
    before_training,
    gap,
    load_comparison,
    pool_silos,
    read_results,
    run_one,
)
from sase.studies.comparison_page import verdicts, write_page
from sase.training.config import load_train_config


def settings(**more):
    config = to_mapping(train_config())
    return {
        "seeds": [0, 1],
        "min_gap_db": -100.0,
        "config": {name: value for name, value in config.items() if name != "seed"},
        "federated": {"num_rounds": 2, "local_steps": 2, "dev_s": 0.5},
        "rows": {
            "silos alone": {"kind": "alone"},
            "central": {"kind": "central"},
            "examples": {},
            "FedBN": {"federated": {"norm": "local"}, "model": {"norm": "batch"}},
        },
        **more,
    }


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(settings(), sort_keys=False))
    return load_comparison(path)


@pytest.fixture
def folders(tmp_path, silos_dir):
    # The test set is the three silos' parts together.
    shared = tmp_path / "silos"
    noisy, clean, speakers = {}, {}, {}
    for index in range(3):
        for name in ("tr", "tt"):
            data = read_data_dir(silos_dir / f"silo{index}/{name}")
            renamed = [{f"s{index}_{utt}": table[utt] for utt in table} for table in (data.noisy, data.clean)]
            whose = dict.fromkeys(renamed[0], f"s{index}")
            write_data_dir(shared / f"silo{index}/{name}", *renamed, whose)
        for table, more in zip((noisy, clean, speakers), (*renamed, whose)):
            table.update(more)
    write_data_dir(tmp_path / "test", noisy, clean, speakers)
    return Folders(shared, tmp_path / "test", tmp_path / "test", tmp_path / "out")


def test_the_settings_of_the_recipes_load(root):
    paths = sorted(root.glob("egs/*/conf/compare_*.yaml"))
    assert paths
    for path in paths:
        comparison = load_comparison(path)
        for row in comparison.rows.values():
            for section in ("federated", "model", "train"):
                assert isinstance(getattr(row, section), dict)
    named = {"examples", "uniform", "loss", "fair", "sase", "FedProx", "FedBN", "SCAFFOLD", "FedNova"}
    assert named < set(comparison.rows)
    assert {row.kind for row in comparison.rows.values()} == {"alone", "central", "federated"}
    assert len(comparison.seeds) == 3


def test_the_federated_configs_of_the_recipes_load(root):
    paths = sorted(root.glob("egs/*/conf/fl*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        checked(load_federated_config(path))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rowz": {}}, "unknown key rowz"),
        ({"rows": {}}, "needs 'config:'"),
        ({"rows": {"a": {"knid": "alone"}}}, "unknown key rows.a.knid; known here: federated, kind, model, train"),
        ({"rows": {"a": {"kind": "lonely"}}}, "'lonely'; there are federated, alone, central"),
    ],
)
def test_bad_settings_are_refused(tmp_path, change, message):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(settings(**change)))
    with pytest.raises(InputError, match=message):
        load_comparison(path)


@pytest.mark.recipe
def test_rows_are_trained_scored_and_told(plan, folders):
    pool_silos(folders)
    results = {row: run_one(plan, folders, row, 0) for row in plan.rows}
    assert read_results(plan, folders)["FedBN"] == {0: json.loads(json.dumps(results["FedBN"]))}
    steps = {row: sum(part["steps"] for part in result["trained"]) for row, result in results.items()}
    assert steps == {"silos alone": 12, "central": 4, "examples": 12, "FedBN": 12}
    assert len(results["silos alone"]["trained"]) == 3
    alone = results["silos alone"]
    assert alone["common"]["SI_SDR"] == pytest.approx(np.mean([part["SI_SDR"] for part in alone["silos_common"]]))
    parts, counts = results["examples"]["parts"], [2, 1, 3]
    assert results["examples"]["common"]["SI_SDR"] == pytest.approx(
        np.average([parts[k]["SI_SDR"] for k in range(3)], weights=counts)
    )
    own, parts = results["FedBN"]["own"], results["FedBN"]["parts"]
    assert [own[k]["utterances"] for k in range(3)] == counts
    assert any(abs(own[k]["SI_SDR"] - parts[k]["SI_SDR"]) > 1e-6 for k in range(3))
    # What was written is what 'sase federate' takes.
    folder = folders.of("FedBN", 0)
    assert load_train_config(folder / "train.yaml").model.norm == "batch"
    assert load_federated_config(folder / "federated.yaml").norm == "local"
    assert gap(plan, folders) is None  # the second seed is missing
    write_page(plan, folders, before_training(plan, folders))
    page = (folders.out / "RESULTS.md").read_text()
    assert "| FedBN (1 of 2 seeds) |" in page
    assert "its silo's own norms" in page
    assert "| unprocessed |" in page
    assert (folders.out / "images/alphas.png").stat().st_size > 5000


def made_up(values, kind="federated"):
    """Seed to result, of {seed: (SI_SDR, of the worst silo)}."""
    return {
        seed: {"kind": kind, "common": {"SI_SDR": value}, "parts": {"0": {"SI_SDR": least}, "1": {"SI_SDR": 99.0}}}
        for seed, (value, least) in values.items()
    }


def test_the_words_follow_the_numbers(tmp_path):
    rows = {"alone": Row("alone"), "central": Row("central")}
    rows |= {name: Row() for name in ("examples", "good", "bad", "same")}
    results = {
        "alone": made_up({0: (4.0, 1.0), 1: (4.2, 1.0), 2: (3.8, 1.0)}),
        "central": made_up({0: (8.0, 5.0), 1: (8.1, 5.0), 2: (7.9, 5.0)}),
        "examples": made_up({0: (7.0, 4.0), 1: (7.1, 4.1), 2: (6.9, 3.9)}),
        "good": made_up({0: (7.5, 5.0), 1: (7.6, 5.1), 2: (7.4, 4.9)}),
        "bad": made_up({0: (6.0, 3.0), 1: (6.1, 3.0), 2: (5.9, 3.0)}),
        "same": made_up({0: (7.4, 4.0), 1: (6.8, 4.0), 2: (7.0, 4.0)}),
    }
    said = verdicts(Comparison(tmp_path, rows, seeds=(0, 1, 2)), results)
    assert said[0] == "Central training is 4.00 ± 0.10 dB above the mean silo alone."
    assert "examples closes 75% of that gap, the best row, good, 88%" in said[1]
    assert said[2] == (
        "good against examples: +0.50 ± 0.00 dB SI_SDR, a gain; for the worst silo +1.00 ± 0.00 dB, a gain."
    )
    assert said[3].startswith("bad against examples: -1.00 ± 0.00 dB SI_SDR, a loss;")
    assert said[4].startswith("same against examples: +0.07 ± 0.35 dB SI_SDR, no difference; for the worst silo +0.00")
    assert "worst silo +0.00 ± 0.10" in said[4]


@pytest.mark.recipe
def test_the_command_runs_all_rows_goes_on_and_stops_where_silos_are_alike(plan, folders):
    def command(*more):
        words = [
            "--config",
            plan.path,
            "--silos",
            folders.silos,
            "--dev-set",
            folders.dev_set,
            "--test-set",
            folders.test_set,
            "--out",
            folders.out,
            *more,
        ]
        command = [sys.executable, "-m", "sase.bin.main", "compare", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=500)

    done = command("--row", "examples", "--row", "central")
    assert done.returncode == 0, done.stderr
    assert "4 of 8 trainings are in it" in done.stdout
    before = folders.of("examples", 1).joinpath("result.json").stat().st_mtime_ns
    assert command().returncode == 0
    assert folders.of("examples", 1).joinpath("result.json").stat().st_mtime_ns == before
    assert all(len(seeds) == 2 for seeds in read_results(plan, folders).values())
    Path(plan.path).write_text(yaml.safe_dump(settings(min_gap_db=1000.0), sort_keys=False))
    folders.of("FedBN", 0).joinpath("result.json").unlink()
    stopped = command()
    assert stopped.returncode == 1
    assert "make them more different" in stopped.stderr.splitlines()[-1]
    assert not folders.of("FedBN", 0).joinpath("result.json").exists()
    assert "no row nothing" in command("--row", "nothing").stderr

"""The comparison of federated strategies: settings, rows, page."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.federation import train_config
from sase import jsonfile
from sase.config import to_mapping
from sase.data.datadir import Tables, read_data_dir, write_data_dir
from sase.errors import InputError
from sase.federated.config import checked, load_federated_config
from sase.studies import page
from sase.studies.comparison import (
    Comparison,
    Folders,
    Row,
    _settings,
    before_training,
    gap,
    load_comparison,
    read_results,
    require_same_data,
    run_all,
    run_one,
)
from sase.studies.comparison_page import WORST, page_spec, summarise, worst, write_page
from sase.studies.figures import draw_gap
from sase.studies.grid import Grid
from sase.training.config import load_train_config


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


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
            write_data_dir(shared / f"silo{index}/{name}", Tables(*renamed, whose))
        for table, more in zip((noisy, clean, speakers), (*renamed, whose)):
            table.update(more)
    write_data_dir(tmp_path / "test", Tables(noisy, clean, speakers))
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
    ("change", "message"),
    [
        ({"rowz": {}}, "unknown key rowz"),
        ({"rows": {}}, "needs 'config:'"),
        ({"rows": {"a": {"knid": "alone"}}}, "unknown key rows.a.knid; known here: federated, kind, model, train"),
        ({"rows": {"a": {"kind": "lonely"}}}, "rows.a.kind is 'lonely'; choose from federated, alone, central"),
        ({"jobs": 0}, "jobs must be 1 or more"),
        ({"seeds": []}, "seeds must have 1 or more values"),
        ({"seeds": [-1]}, "seeds must be 0 or more"),
        ({"test_utterances": -1}, "test_utterances must be 0 or more"),
        ({"rows": {"a": {"train": {"clip_norm": -1}}}}, "row a: .*clip_norm must be above 0"),
        ({"rows": {"a": {"federated": {"max_norm_ratio": 0}}}}, "row a: .*max_norm_ratio must be above 1"),
        ({"config": {"model": ["mini"]}}, "row .*model must be a section"),
    ],
)
def test_bad_settings_are_rejected(tmp_path, change, message):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(settings(**change)))
    with pytest.raises(InputError, match=message):
        load_comparison(path)


def test_finished_runs_of_other_data_or_settings_are_not_reused(plan, folders, tmp_path):
    grid = Grid(folders.out, tuple(plan.rows), plan.seeds)
    require_same_data(plan, folders)
    shutil.copytree(folders.silos / "silo1/tr", tmp_path / "kept")
    (folders.silos / "silo1/tr/spk1.scp").write_text((folders.silos / "silo0/tr/spk1.scp").read_text())
    for table in ("wav.scp", "utt2spk", "spk2utt"):
        shutil.copy(folders.silos / f"silo0/tr/{table}", folders.silos / f"silo1/tr/{table}")
    require_same_data(plan, folders)  # nothing has finished yet
    settings_of_row = {"kind": "federated", "test_utterances": 0}
    grid.write("examples", 0, {"settings": settings_of_row})
    with pytest.raises(InputError, match=r"examples/seed0: made with other settings"):
        read_results(plan, folders)
    earlier = _settings(plan, "examples")  # of a version without one of today's keys
    grid.write("examples", 0, {"settings": {**earlier, "federated": without(earlier["federated"], "layerwise")}})
    assert list(read_results(plan, folders)["examples"]) == [0]
    grid.write("examples", 0, {"settings": {**earlier, "federated": {**earlier["federated"], "layerwise": True}}})
    with pytest.raises(InputError, match=r"examples/seed0: made with other settings .*layerwise"):
        read_results(plan, folders)
    shutil.rmtree(folders.silos / "silo1/tr")
    shutil.move(tmp_path / "kept", folders.silos / "silo1/tr")
    for refused in (run_all, partial(run_one, name="FedBN", seed=0), partial(write_page, before={})):
        with pytest.raises(InputError, match=r"silo1/tr: the training set of silo 1 has changed since this study"):
            refused(plan, folders)


@pytest.mark.recipe
def test_rows_are_trained_and_scored_and_shown(plan, folders):
    results = {row: run_one(plan, folders, row, 0) for row in plan.rows}
    stored = json.loads(json.dumps(jsonfile.nan_to_null(results["FedBN"])))
    assert jsonfile.nan_to_null(read_results(plan, folders)["FedBN"][0]) == stored
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
    # The written configs are what 'sase federate' accepts.
    folder = folders.of("FedBN", 0)
    assert load_train_config(folder / "train.yaml").model.norm == "batch"
    assert load_federated_config(folder / "federated.yaml").norm == "local"
    # Scores per utterance have the means that are shown, which leave out undefined values.
    for result in results.values():
        scores = result["scores"]["test"]
        for name in ("SI_SDR", "STOI"):
            assert np.nanmean([row[name] for row in scores.values()]) == pytest.approx(result["common"][name])
        for silo, part in result["part_scores"].items():
            assert np.nanmean([row["SI_SDR"] for row in part.values()]) == pytest.approx(
                result["parts"][silo]["SI_SDR"]
            )
    assert gap(plan, folders) is None  # the second seed is missing
    write_page(plan, folders, before_training(plan, folders))
    text = (folders.out / "RESULTS.md").read_text()
    assert "| FedBN (1 of 2 seeds) |" in text
    assert "its silo's own norms" in text
    assert "| unprocessed |" in text
    assert (folders.out / "images/alphas.png").stat().st_size > 5000


def made_up(values, kind="federated", scores=True):
    """Seed to result, of {seed: (SI_SDR, of the worst silo)}; scores spread around the means as utterances' do."""

    def table(mean, names):
        spread = np.linspace(-3.0, 3.0, len(names))
        return {utt: dict.fromkeys(("SI_SDR", "PESQ_WB", "STOI"), mean + more) for utt, more in zip(names, spread)}

    results = {}
    for seed, (value, least) in values.items():
        parts = {"0": table(least, [f"a{i}" for i in range(5)]), "1": table(99.0, [f"b{i}" for i in range(5)])}
        results[seed] = {
            "kind": kind,
            "common": dict.fromkeys(("SI_SDR", "PESQ_WB", "STOI"), value),
            "parts": {"0": {"SI_SDR": least}, "1": {"SI_SDR": 99.0}},
            "trained": [{"rounds": 40, "seconds": 1.0, "bytes_up": 2_000_000, "bytes_down": 3_000_000}],
            **({"scores": {"test": table(value, [*parts["0"], *parts["1"]])}, "part_scores": parts} if scores else {}),
        }
    return results


def shown(tmp_path, scores=True):
    rows = {"alone": Row("alone"), "central": Row("central")}
    rows |= {name: Row() for name in ("examples", "good", "bad", "same")}
    values = {
        "alone": {0: (4.0, 1.0), 1: (4.2, 1.0), 2: (3.8, 1.0)},
        "central": {0: (8.0, 5.0), 1: (8.1, 5.0), 2: (7.9, 5.0)},
        "examples": {0: (7.0, 4.0), 1: (7.1, 4.1), 2: (6.9, 3.9)},
        "good": {0: (7.5, 5.0), 1: (7.6, 5.1), 2: (7.4, 4.9)},
        "bad": {0: (6.0, 3.0), 1: (6.1, 3.0), 2: (5.9, 3.0)},
        "same": {0: (7.4, 4.0), 1: (6.8, 4.0), 2: (7.0, 4.0)},
    }
    results = {row: made_up(seeds, rows[row].kind, scores) for row, seeds in values.items()}
    comparison = Comparison(tmp_path, rows, seeds=(0, 1, 2))
    summary = summarise(comparison, results, {}, 10)
    spec = page_spec(comparison, summary, {})
    return summary, page.lines(spec, summary)


def test_verdicts_follow_the_intervals_and_the_seeds(tmp_path):
    summary, lines = shown(tmp_path)
    said = [line for line in lines if line.startswith("- ")]
    assert said[0] == (
        "- examples closes 75% of the gap between silos alone and central training, the best row, good, 88%."
    )
    assert said[1].startswith("- **central** against alone: SI_SDR (dB) better, +4.00 ± 0.10 [+4.00, +4.00];")
    assert said[2].startswith("- **good** against examples: SI_SDR (dB) better, +0.50 ± 0.00 [+0.50, +0.50];")
    assert "worst silo's SI_SDR (dB) better, +1.00 ± 0.00 [+1.00, +1.00]." in said[2]
    assert said[3].startswith("- **bad** against examples: SI_SDR (dB) worse, -1.00 ± 0.00")
    assert said[4].startswith("- **same** against examples: SI_SDR (dB) no reliable difference, +0.07 ± 0.35")
    assert "worst silo's SI_SDR (dB) no reliable difference, +0.00 ± 0.10" in said[4]
    draw_gap({"good": (40, 5.0, 0.88), "bad": (20, 2.5, 0.5)}, tmp_path / "gap.png")
    assert (tmp_path / "gap.png").stat().st_size > 5000
    assert summary["rows"]["good"]["differences"]["test"]["silo"]["0"]["SI_SDR"]["mean"] == pytest.approx(1.0)
    assert summary["rows"]["examples"]["against"] is None
    assert any(
        line.startswith("| good | 7.50 ± 0.10 |") and "| 88% | 40 | 2.0, 3.0 | 1 ± 0 |" in line for line in lines
    )


def test_results_without_scores_per_utterance_are_shown_without_intervals(tmp_path):
    summary, lines = shown(tmp_path, scores=False)
    assert any("delete their result.json and run the same command" in line for line in lines)
    (said,) = [line for line in lines if line.startswith("- **good**")]
    assert "SI_SDR (dB) undecided without interval, +0.50 ± 0.00;" in said
    assert summary["rows"]["good"]["differences"]["test"]["all"][WORST]["mean"] == pytest.approx(1.0)
    assert worst(made_up({0: (4.0, 1.0)})[0]) == 1.0


@pytest.mark.recipe
def test_the_command_runs_all_rows_resumes_and_stops_if_silos_are_similar(plan, folders):
    def command(*more):
        arguments = [
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
        command = [sys.executable, "-m", "sase.bin.main", "compare", *map(str, arguments)]
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
    assert "choose a more heterogeneous partition" in stopped.stderr.splitlines()[-1]
    assert not folders.of("FedBN", 0).joinpath("result.json").exists()
    assert "no row nothing" in command("--row", "nothing").stderr

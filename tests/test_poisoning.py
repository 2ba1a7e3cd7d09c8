"""The study of poisoned silos: attacks, the grid of federations and rows, and its page."""

import numpy as np
import pytest
import yaml

from helpers.federation import train_config
from sase.config import to_mapping
from sase.errors import InputError
from sase.federated.exchange import Instruction, Reply
from sase.federated.layout import Layout
from sase.studies.poisoning import ATTACKS, HONEST, Folders, grid, load_poisoning, run_all, run_one
from sase.studies.poisoning_page import page

LAYOUT = Layout(("w",), (("mean", "var"),), (), frozenset())


@pytest.fixture
def plan(tmp_path, silos_dir, dev_set):
    """A study of three silos, one of them poisoned, in a folder of partitions."""
    content = {
        "seeds": [0, 1],
        "more_seeds": ["mean", "median"],
        "config": {**to_mapping(train_config("batch")), "model": {"preset": "mini", "recurrent": 4, "bands": 8}},
        "federated": {"num_rounds": 2, "local_steps": 1, "max_drop_db": 0, "repeat_wait_s": 0},
        "federations": {
            "1 of 3": {"silos": silos_dir.name, "poisoned": 1},
            "honest": {"silos": silos_dir.name, "poisoned": 0, "federated": {"local_steps": 2}},
        },
        "rows": {"mean": None, "median": {"federated": {"aggregation": "median"}}},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return load_poisoning(path), Folders(silos_dir.parent, dev_set, tmp_path / "out")


def attacked(name):
    generator = np.random.default_rng(0)
    old = {"w": np.ones((5, 3)), "mean": np.zeros(4), "var": np.full(4, 0.25)}
    new = {"w": old["w"] + 0.1 * generator.standard_normal((5, 3)), "mean": np.ones(4), "var": np.ones(4)}
    old, new = ({n: v.astype(np.float32) for n, v in arrays.items()} for arrays in (old, new))
    reply = ATTACKS[name](Reply(0, 1, new, {"steps": 5.0}), Instruction(1, old, {}), LAYOUT, generator)
    return old, new, reply


def test_attacks_change_what_they_say():
    for name, scale in (("update × −9", -9), ("update × 9", 9), ("update × 1e6", 1e6)):
        old, new, reply = attacked(name)
        np.testing.assert_allclose(reply.arrays["w"] - old["w"], scale * (new["w"] - old["w"]), rtol=1e-4)
    old, new, reply = attacked("noise of 9 times the norm")
    length = np.linalg.norm(reply.arrays["w"] - old["w"])
    assert length == pytest.approx(9 * np.linalg.norm(new["w"] - old["w"]), rel=1e-4)
    np.testing.assert_array_equal(attacked("variances × 1e4")[2].arrays["var"], 1e4)
    np.testing.assert_array_equal(attacked("means + 100 deviations")[2].arrays["mean"], 101.0)
    assert attacked("`examples` 1e9")[2].metrics["examples"] == 1e9
    assert attacked("`steps` 1e-3")[2].metrics["steps"] == 1e-3
    for name in ATTACKS:
        assert all(value.dtype == np.float32 for value in attacked(name)[2].arrays.values())


@pytest.mark.recipe
def test_a_run_trains_every_attack_and_the_page_shows_them(plan):
    study, folders = plan
    assert grid(study, folders).rows == ("1 of 3, mean", "1 of 3, median", "honest, mean", "honest, median")
    found = run_one(study, folders, "1 of 3, mean", 0)["attacks"]
    assert list(found) == list(ATTACKS)
    assert all(len(outcome["dev_SI_SNR"]) == 2 for outcome in found.values())
    assert not any(found[HONEST]["refused"])
    for name in ("update × 1e6", "`examples` 1e9", "`steps` 1e-3"):
        assert all(len(lines) == 1 and lines[0].startswith("silo 2: ") for lines in found[name]["refused"])
        assert found[name]["dev_SI_SNR"] == found["`steps` 1e-3"]["dev_SI_SNR"]  # as if the silo were absent
    assert list(run_one(study, folders, "1 of 3, mean", 1)["attacks"]) == [HONEST]
    run_one(study, folders, "1 of 3, median", 1)
    assert list(run_one(study, folders, "honest, mean", 0)["attacks"]) == [HONEST]
    lines = page(study, folders)
    assert "### 1 of 3" in lines
    scores = found[HONEST]["dev_SI_SNR"]
    honest = f"{min(scores):.2f} / {scores[-1]:.2f}"
    assert f"| none |  | {honest} | — |" in lines
    row = next(line for line in lines if line.startswith("| `steps` 1e-3"))
    assert row.split(" | ")[1] == "refused"
    assert any(line.startswith("Honest silos, `median` minus `mean`") and line.count("0.") <= 2 for line in lines)


def test_bad_plans_are_refused_and_finished_runs_of_other_settings_are_not_reused(plan, tmp_path):
    study, folders = plan
    content = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    for change, message in (
        ({"more_seeds": ["krum"]}, "more_seeds: krum is not a row"),
        ({"federations": {"a": {"silos": "s", "poisoned": -1}}}, "poisoned must be 0 or more"),
        ({"federations": {"a": {"silos": "s"}}}, r"bad\.yaml: config: federations\.a\.poisoned is missing"),
        ({"federations": {}, "more_seeds": []}, "no rows"),
        (
            {"rows": {"mean": {"federated": {"aggregation": "none"}}}, "more_seeds": []},
            "mean: .*aggregation is",
        ),
        ({"config": {**content["config"], "seed": -1}}, "seed must be 0 or more"),
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**content, **change}))
        with pytest.raises(InputError, match=message):
            load_poisoning(tmp_path / "bad.yaml")
    everyone = {"all": {"silos": folders.silos.name, "poisoned": 3}}
    everyone["all"]["silos"] = study.federations["honest"].silos
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**content, "federations": everyone}))
    with pytest.raises(InputError, match="all: 3 of 3 silos poisoned"):
        run_one(load_poisoning(tmp_path / "bad.yaml"), folders, "all, mean", 0)
    grid(study, folders).write("honest, median", 0, {"settings": {"poisoned": 1}})
    with pytest.raises(InputError, match="honest_median/seed0: made with other settings"):
        run_all(study, folders)


def test_unknown_rows_are_named(plan):
    study, folders = plan
    with pytest.raises(InputError, match="no row krum"):
        grid(study, folders).selected(["krum"])

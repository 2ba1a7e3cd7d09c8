"""Ablations: settings, equal costs, rejection of other results, the page, and the command end to end."""

import json
import math
import shutil
import subprocess

import pytest
import torch
import yaml

from helpers.dumps import dumped
from sase.data.datadir import write_table
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.losses.loss import build_loss
from sase.model import build_model
from sase.processes import sase_command
from sase.studies import ablation, page
from sase.studies.ablation import Sets, check, hours_of, load_ablation, train_config
from sase.studies.ablation_page import page_spec, summarise, write_page
from sase.studies.scores import MEASURES, score_set


def settings(**more):
    return {
        "seeds": [0, 1],
        "config": {
            "model": {"preset": "mini", "recurrent": 4, "bands": 8},
            "data": {"batch_size": 2, "segment_s": 0.3},
            "loss": {"sdr": 1.0},
            "train": {"epochs": 2, "steps_per_epoch": 2, "warmup_steps": 2, "ema_decay": 0.5},
        },
        "rows": {
            "all": {},
            "softmax": {"against": "all", "model": {"attention": "softmax", "attention_memory_s": 0.5}},
            "mse": {"against": "all", "table": "loss", "loss": {"mse": 100.0}},
        },
        **more,
    }


def written(path, /, **more):
    path.write_text(yaml.safe_dump(settings(**more), sort_keys=False))
    return load_ablation(path)


@pytest.fixture
def plan(tmp_path):
    return written(tmp_path / "ablation.yaml")


@pytest.fixture(scope="module")
def recipe():
    from conftest import ROOT

    return load_ablation(ROOT / "egs/voicebank_demand/conf/ablation.yaml")


@pytest.mark.recipe
def test_every_row_of_the_recipe_has_equal_cost_and_data(recipe):
    configs = {row: train_config(recipe, row, 0) for row in recipe.rows}
    ratios = check(recipe, configs)
    assert ratios.keys() == configs.keys()
    assert ratios.pop("none, as slow") > 4
    assert all(abs(ratio - 1) <= 0.05 for ratio in ratios.values()), ratios
    assert ratios["all three"] == 1.0
    assert len({config.model for config in configs.values()}) == 12
    assert recipe.same_macs_as == "all three"
    assert recipe.macs_tolerance <= 0.05
    assert {hours_of(config) for config in configs.values()} == {10.0}
    assert len(recipe.seeds) == 3


def test_the_rows_of_the_recipe_match_their_names(recipe):
    def model(row):
        return train_config(recipe, row, 0).model

    parts = {row: (model(row).gates, model(row).time_attention, model(row).frequency_attention) for row in recipe.rows}
    assert parts["none"] == (False, False, False)
    assert parts["all three"] == (True, True, True)
    assert [parts[f"+ {name}"].index(True) for name in ("TF-GA", "SA-GOEA", "SA-GUEA")] == [0, 1, 2]
    assert all(sum(parts[f"+ {name}"]) == 1 for name in ("TF-GA", "SA-GOEA", "SA-GUEA"))
    assert [parts[f"all but {name}"].index(False) for name in ("TF-GA", "SA-GOEA", "SA-GUEA")] == [0, 1, 2]
    assert all(sum(parts[f"all but {name}"]) == 2 for name in ("TF-GA", "SA-GOEA", "SA-GUEA"))
    assert parts["none, as slow"] == parts["none"]
    changed = {row: recipe.rows[row].model for row in recipe.rows if recipe.rows[row].against == "all three"}
    assert changed["fixed sigmoids"] == {"learned_sigmoids": False}
    assert changed["identity for Ω"] == {"omega": "identity"}
    assert model("softmax attention").attention == "softmax"
    assert parts["softmax attention"] == (True, True, True)
    losses = {row: train_config(recipe, row, 0) for row in recipe.rows if recipe.rows[row].table == "loss"}
    assert {config.model for config in losses.values()} == {model("all three")}
    assert len(losses) == 6
    assert sum("pmsqe" in config.loss for config in losses.values()) == 3


@pytest.mark.recipe
def test_no_loss_of_the_recipe_is_scale_invariant(recipe):
    generator = torch.Generator().manual_seed(0)
    clean = 0.1 * torch.randn(3, 16000, generator=generator) * torch.linspace(0, 1, 16000)
    noisy = clean + 0.01 * torch.randn(clean.shape, generator=generator)
    for row in recipe.rows:
        loss = build_loss(train_config(recipe, row, 0).loss)
        assert loss(noisy, clean)[0] + 0.01 < min(loss(noisy * gain, clean)[0] for gain in (0.2, 5.0)), row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rowz": {}}, "unknown key rowz"),
        ({"path": "a.yaml"}, "unknown key path"),
        ({"rows": {}}, "needs 'config:'"),
        ({"rows": {"a": {"modle": {}}}}, "unknown key rows.a.modle"),
        ({"rows": {"a": {"model": 3}}}, "rows.a.model must be a section"),
        ({"rows": {"a": 3}}, "rows.a must be a section"),
        ({"rows": {"a": {"loss": 3}}}, "rows.a.loss must be a section"),
        ({"jobs": "two"}, "jobs must be int"),
        ({"jobs": 0}, "jobs must be 1 or more"),
        ({"seeds": [1, 1]}, "a seed occurs twice"),
        ({"hours": -1}, "hours must be 0, or 0.001 or more"),
        ({"macs_tolerance": ".nan"}, "macs_tolerance must be float"),
        ({"rows": {"a": {"train": {"epochs": 0}}}}, "row a: .*epochs must be 1 or more"),
        ({"rows": {"a": {"model": {"preset": []}}}}, r"row a: unknown preset \[\]"),
        ({"rows": {"−": {}}}, "names no folder"),
        ({"config": {"model": 3}}, "model must be a section"),
        ({"config": {"loss": {"sdr": 1.0}}, "rows": {"all": {}}}, "row all: the section 'model:' is missing"),
        ({"rows": {"a": {"against": "b"}}}, "row a is compared with b, which is not a row"),
        ({"macs_as": "b"}, "same_macs_as is b, which is not a row"),
    ],
)
def test_bad_settings_are_rejected(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path / "a.yaml", **change)


def test_rows_change_only_what_they_name_and_errors_name_the_row(plan, tmp_path):
    base, other = train_config(plan, "all", 3), train_config(plan, "softmax", 3)
    assert base.seed == 3
    assert other.model.attention == "softmax"
    assert other.model.recurrent == 4
    assert (base.data, base.train, base.loss) == (other.data, other.train, other.loss)
    assert train_config(plan, "mse", 3).loss == {"mse": 100.0}
    for change, message in ({"model": {"gatez": True}}, "row x: .*gatez"), ({"loss": {"none": 1}}, "row x: .*'none'"):
        with pytest.raises(InputError, match=message):
            train_config(written(tmp_path / "b.yaml", rows={"x": change}), "x", 0)


@pytest.mark.recipe
def test_unequal_costs_and_hours_are_rejected(tmp_path):
    def costs(**more):
        wide = {"model": {"recurrent": 8}}
        plan = written(tmp_path / "c.yaml", same_macs_as="wide", rows={"wide": wide, "all": more})
        return check(plan, {row: train_config(plan, row, 0) for row in plan.rows})

    with pytest.raises(InputError, match=r"row all has 0.* times the MACs of wide, outside ±0.05"):
        costs()
    ratios = costs(other_macs=True)
    assert costs(any_macs=True) == ratios  # the key of earlier versions
    assert ratios["wide"] == 1.0
    assert ratios["all"] < 0.95
    plan = written(tmp_path / "d.yaml", hours=1.0)
    with pytest.raises(InputError, match=r"trains on 0.00 h of sound, not 1"):
        check(plan, {"all": train_config(plan, "all", 0)})


def made_up(values, gain=0.0, undefined=()):
    """A result whose scores of utterance i with seed s are ``values[s] + i + gain``."""

    def scores(seed):
        return {
            f"u{i}": dict.fromkeys(MEASURES, math.nan if f"u{i}" in undefined else values[seed] + i + gain)
            for i in range(6)
        }

    return {
        seed: {
            "parameters": 1234,
            "macs_per_s": 5_000_000,
            "rtf": {"processor": 0.01},
            "seconds_here": {"training": 120.0},
            "scores": {"test": scores(seed), "development": scores(seed)},
        }
        for seed in range(len(values))
    }


def test_the_page_shows_differences_by_noise_and_snr(plan, tmp_path):
    done = {"all": made_up([1.0, 3.0]), "softmax": made_up([1.0, 3.0], 0.25, ["u5"]), "mse": made_up([2.0], -1.0)}
    noisy = {name: made_up([0.0])[0]["scores"][name] for name in ("test", "development")}
    labels = {"noise": {f"u{i}": "rain" if i < 2 else "bus" for i in range(6)}, "snr": {f"u{i}": 0.0 for i in range(6)}}
    summary = summarise(plan, done, noisy, {"test": labels, "development": {}})
    row = summary["rows"]["softmax"]
    difference = row["differences"]["test"]["all"]["PESQ_WB"]
    assert difference["mean"] == pytest.approx(0.25)
    assert difference["interval"] == pytest.approx([0.25, 0.25])
    assert (difference["sign"], difference["utterances"], difference["deviation"]) == (1, 5, 0.0)
    assert set(row["differences"]["test"]) == {"all", "noise"}  # a single SNR is not a grouping
    assert row["differences"]["test"]["noise"]["rain"]["SI_SDR"]["utterances"] == 2
    assert row["means"]["test"]["STOI"] == pytest.approx([1 + 2 + 0.25, 3 + 2 + 0.25])
    assert summary["rows"]["mse"]["seeds"] == [0]
    assert summary["unprocessed"]["test"]["STOI"] == 2.5
    spec = page_spec(plan, summary)
    lines = page.lines(spec, summary)
    assert "| all | 4.500 ± 1.414 | 4.5000 ± 1.4142 | 4.50 ± 1.41 | 1.23 k | 5.00 M | 0.0100 | 2.0 |" in lines
    assert (
        "| softmax − all | **+0.250 ± 0.000 [+0.250, +0.250]** | **+0.2500 ± 0.0000 [+0.2500, +0.2500]** | "
        "**+0.25 ± 0.00 [+0.25, +0.25]** |" in lines
    )
    assert "| | bus | rain |" in [line.replace("|  |", "| |") for line in lines]
    assert any(line.startswith("| mse (1 of 2 seeds) |") for line in lines)
    better, worse = page.verdicts(spec, summary["rows"])
    assert better.startswith("**softmax** against all: PESQ_WB better, +0.250")
    assert "PESQ_WB undecided with one seed" in worse


@pytest.mark.recipe
def test_the_figure_draws_every_interval_where_it_is(tmp_path, monkeypatch):
    from sase.studies import figures

    def entry(mean, low, high):
        return {"mean": mean, "interval": [low, high], "seeds": [mean - 0.1, mean + 0.1]}

    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    test, development = {"all": {"STOI": entry(1.0, 0.5, 1.5)}}, {"all": {"STOI": entry(-1.0, -2.0, 0.0)}}
    row = {"against": "a", "differences": {"test": test, "development": development}}
    figures.draw_differences({"b": row, "c": row}, {"STOI": "STOI", "SI_SDR": "SI-SDR"}, tmp_path / "a.png")
    axes = drawn[0].axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["b − a", "c − a"]
    lines = [line for line in axes[0].lines if line.get_linewidth() == 3]
    assert [sorted(line.get_xdata()) for line in lines] == [[0.5, 1.5]] * 2 + [[-2.0, 0.0]] * 2
    assert [round(line.get_ydata()[0]) for line in lines] == [0, 1, 0, 1]
    assert not [line for line in axes[1].lines if line.get_linewidth() == 3]  # no row has an SI-SDR


def test_many_snrs_are_grouped_in_steps():
    noises = {f"u{i}": f"n{i}" for i in range(40)}
    kinds = page.group_kinds({"snr": {f"u{i}": -4.9 + 0.5 * i for i in range(40)}, "noise": noises})
    assert list(kinds) == ["snr"]
    assert list(kinds["snr"]) == ["-5", "0", "5", "10"]
    assert sum(map(len, kinds["snr"].values())) == 40
    assert "u0" in kinds["snr"]["-5"]
    assert "u10" in kinds["snr"]["0"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    made = [
        dumped(folder / name, sizes, seed=i)
        for i, (name, sizes) in enumerate(
            {"train": [16000, 12000], "dev": [9000, 11000], "test": [12000, 8000, 10000]}.items()
        )
    ]
    utts = [line.split()[0] for line in (made[2] / "wav.scp").read_text().splitlines()]
    write_table(made[2] / "utt2noise", dict(zip(utts, ("rain", "bus", "rain"))))
    return Sets(*made)


@pytest.mark.recipe
def test_a_row_is_trained_and_scored_and_results_of_another_config_are_rejected(plan, sets, tmp_path):
    torch.set_num_threads(1)
    result = ablation.run_one(plan, sets, tmp_path / "out", "softmax", 1)
    assert result["config"]["model"]["attention"] == "softmax"
    assert result["config"]["seed"] == 1
    assert len(result["scores"]["test"]) == 3
    assert len(result["scores"]["development"]) == 2
    assert set(next(iter(result["scores"]["test"].values()))) == {"PESQ_WB", "STOI", "SI_SDR"}
    assert result["epochs"] == 2
    assert result["rtf"]["best"] > 0
    found = ablation.results(plan, sets, tmp_path / "out")
    assert list(found["softmax"]) == [1]
    assert not found["all"]
    assert result["seconds_here"]["training"] > 0
    folder = tmp_path / "out/softmax/seed1"
    averaged = torch.load(folder / "checkpoint.pt", weights_only=True)["averaged"]
    model = build_model(train_config(plan, "softmax", 1).model).eval()
    model.load_state_dict({name.removeprefix("module."): averaged[name] for name in averaged if name != "n_averaged"})
    assert score_set(model, PairSet(sets.test, 16000)) == result["scores"]["test"]
    (folder / "best.pt").unlink()  # the final model is scored
    again = ablation.run_one(plan, sets, tmp_path / "out", "softmax", 1)
    assert again["scores"] == result["scores"]
    assert again["seconds_here"]["training"] == result["seconds_here"]["training"]
    assert not (folder / "best.pt").exists()  # no row was trained again
    other = settings()
    other["config"]["train"]["epochs"] = 3
    with pytest.raises(InputError, match=r"made with other settings .*train.epochs is 3, was 2"):
        ablation.results(written(tmp_path / "e.yaml", config=other["config"]), sets, tmp_path / "out")
    with pytest.raises(InputError, match=r"made with other settings .*sets.test is"):
        ablation.results(plan, Sets(sets.train, sets.dev, sets.dev), tmp_path / "out")


def test_finished_runs_of_other_data_are_not_reused(plan, sets, tmp_path):
    own = Sets(shutil.copytree(sets.train, tmp_path / "train"), sets.dev, sets.test)
    ablation.require_same_data(plan, own, tmp_path / "out")
    ablation.grid(plan, tmp_path / "out").write(ablation.UNPROCESSED, 0, {})
    ablation.require_same_data(plan, own, tmp_path / "out")
    for name in ("wav.scp", "spk1.scp", "utt2spk", "spk2utt"):
        lines = (own.train / name).read_text().splitlines(keepends=True)
        (own.train / name).write_text("".join(lines[1:]))
    for refused in (
        lambda: ablation.run_all(plan, own, tmp_path / "out"),
        lambda: ablation.run_one(plan, own, tmp_path / "out", "all", 0),
        lambda: write_page(plan, own, tmp_path / "out"),
    ):
        with pytest.raises(InputError, match=r"train: the training set has changed since this study started .*--out"):
            refused()


@pytest.mark.recipe
def test_the_command_runs_all_rows_and_resumes(plan, sets, tmp_path):
    def command(*more):
        arguments = [
            "--config",
            plan.path,
            "--train-set",
            sets.train,
            "--dev-set",
            sets.dev,
            "--test-set",
            sets.test,
            "--out",
            tmp_path / "out",
            *more,
        ]
        return subprocess.run(sase_command("ablation", *arguments), capture_output=True, text=True, timeout=500)

    done = command("--row", "all")
    assert done.returncode == 0, done.stderr
    assert "2 of 6 trainings are in it" in done.stdout
    before = (tmp_path / "out/all/seed1/result.json").stat().st_mtime_ns
    done = command()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/all/seed1/result.json").stat().st_mtime_ns == before
    text, summary = (tmp_path / "out/RESULTS.md").read_text(), json.loads((tmp_path / "out/summary.json").read_text())
    assert "| softmax − all |" in text
    assert "## loss" in text
    assert "differences by noise:" in text
    assert list(summary["rows"]) == ["all", "softmax", "mse"]
    assert summary["rows"]["mse"]["seeds"] == [0, 1]
    for table in ("network", "loss"):
        assert f"(images/ablation_{table}.png)" in text
        assert (tmp_path / f"out/images/ablation_{table}.png").read_bytes().startswith(b"\x89PNG")
    assert "no row nothing" in command("--row", "nothing").stderr
    assert command("--seed", "0").returncode == 2

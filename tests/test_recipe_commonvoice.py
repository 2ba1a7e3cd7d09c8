"""The recipe of Common Voice under NOISEX-92, on its generated corpus: lists that are edited, silos, both trainings."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
import torch

from helpers.recipes import QUICK_ARGS, QUICK_FL_ARGS, assert_same_files
from sase.data.arks import read_int16
from sase.data.datadir import read_data_dir
from sase.data.mixtures import read_mixtures

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory):
    """The recipe with stages 0 to 2 done."""
    recipe = make_recipe(tmp_path_factory.mktemp("recipe") / "copy", "commonvoice_noise92")
    output = recipe.run("--stop-stage", 2, "--nj", 2)
    assert [line.split()[3] for line in output.splitlines() if " stage " in line] == ["0:", "1:", "2:"]
    return recipe


def test_lists_and_dump_agree(recipe):
    counts = {}
    for name in ("tr", "cv", "tt"):
        mixtures = read_mixtures(recipe.mini / "data" / name / "mixtures.tsv")
        dumped = read_data_dir(recipe.mini / "dump" / name)
        assert dumped.utts == list(mixtures)
        assert dumped.utt2noise == {utt: mixture.noise for utt, mixture in mixtures.items()}
        assert dumped.utt2snr == {utt: mixture.snr_db for utt, mixture in mixtures.items()}
        counts[name] = len(mixtures)
    assert counts == {"tr": 270, "cv": 24, "tt": 48}


def test_stages_again_change_nothing_and_killed_ones_neither(recipe, tmp_path):
    for name in ("data", "dump"):
        shutil.copytree(recipe.mini / name, tmp_path / name)
    recipe.run("--stop_stage", 2, "--nj", 2)
    shutil.rmtree(recipe.mini / "dump")
    stage, dump = ("--stage", 1, "--stop-stage", 2, "--nj", 2), recipe.mini / "dump"
    moments = [
        lambda: list(dump.glob("tr/.wav.*.partial*")),
        lambda: list(dump.glob("tr/shards/*.json")),
    ]
    statuses = [recipe.run_killed(*stage, when=when) for when in moments]
    assert -signal.SIGKILL in statuses
    recipe.run(*stage)
    for name in ("data", "dump"):
        assert_same_files(recipe.mini / name, tmp_path / name)


def test_a_line_of_the_list_that_is_edited_is_mixed_anew(recipe, monkeypatch):
    monkeypatch.chdir(recipe.folder)  # a dump names its files as the recipe sees them
    path = recipe.mini / "data/cv/mixtures.tsv"
    before, text = read_data_dir(recipe.mini / "dump/cv"), path.read_text()
    heading, first, *rest = text.splitlines()
    cells = dict(zip(heading.split("\t"), first.split("\t")))
    cells["snr_db"] = "30"
    samples = {utt: read_int16(spec) for utt, spec in before.noisy.items()}
    try:
        path.write_text("\n".join([heading, "\t".join(cells.values()), *rest, ""]))
        recipe.run("--stage", 2, "--stop-stage", 2, "--nj", 2)
        after = read_data_dir(recipe.mini / "dump/cv")
        changed = [utt for utt in samples if not np.array_equal(samples[utt], read_int16(after.noisy[utt]))]
        assert changed == [cells["utterance"]]
        assert after.utt2snr[cells["utterance"]] == 30.0
    finally:
        path.write_text(text)
        recipe.run("--stage", 2, "--stop-stage", 2, "--nj", 2)


def test_without_a_corpus_it_says_how_to_get_one(recipe):
    for option, words in (("--cv_dir", "requires an account"), ("--noise_dir", "no official download")):
        others = ("--cv_dir", "downloads/mini/zh-CN", "--noise_dir", "downloads/mini/noise")
        process = recipe.start(*others, option, "nowhere", "--mini", "false", "--stop-stage", 0)
        output = process.communicate()[0].splitlines()
        assert process.returncode == 1
        assert words in output[-1]
        assert "nowhere" in output[-1]


def test_central_training_gives_a_table_by_noise_and_snr(recipe):
    output = recipe.run("--stage", 3, "--tag", "central", "--nj", 2, "--train_args", QUICK_ARGS)
    exp = recipe.mini / "exp/central"
    assert "PESQ_WB" in output
    assert "### By noise" in (exp / "RESULTS.md").read_text()
    with open(exp / "enhanced_tt/scoring/scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert len({row["noise"] for row in rows}) == 12
    assert {row["snr"] for row in rows} == {"-5", "0", "5", "10"}
    assert {path.name for path in (exp / "images").iterdir()} >= {"tt_spectrograms.png", "tt_improvements.png"}


@pytest.mark.parametrize("engine", ["inproc", "simulation"])
def test_federated_training_advances_every_round_and_gives_a_table(recipe, engine):
    if engine == "simulation":
        pytest.importorskip("flwr")
    options = ("--fl", "true", "--fl_engine", engine, "--num_rounds", 2, "--tag", engine, "--nj", 2)
    output = recipe.run("--stage", 3, *options, "--train_args", QUICK_ARGS, "--fl_args", QUICK_FL_ARGS)
    exp, silos = recipe.mini / "exp" / engine, recipe.mini / "dump/silos/silo_4"
    assert "round 2/2" in output
    page = silos / "partition.md"
    assert "no two silos share noises" in page.read_text()
    assert page.stat().st_mtime < (exp / "config.yaml").stat().st_mtime  # before training
    rounds = [json.loads(line) for line in (exp / "rounds.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in rounds] == [1, 2]
    shares = [silo["hours"] for silo in json.loads((silos / "partition.json").read_text())["silos"]]
    assert np.array(shares) / shares[0] == pytest.approx([1, 2, 4, 8], rel=0.1)
    for name in ("best.pt", "RESULTS.md", "enhanced_tt/spk1.scp"):
        assert (exp / name).stat().st_size > 0, name
    assert "--fl true" in (exp / "run.sh").read_text()
    before = (exp / "rounds.jsonl").read_bytes()
    recipe.run("--stage", 3, "--stop-stage", 3, *options, "--train_args", QUICK_ARGS, "--fl_args", QUICK_FL_ARGS)
    assert (exp / "rounds.jsonl").read_bytes() == before


def test_engines_come_to_the_same_model(recipe):
    pytest.importorskip("flwr")
    folders = [recipe.mini / "exp" / engine for engine in ("inproc", "simulation")]
    models = [torch.load(folder / "last.pt", weights_only=True)["model"] for folder in folders]
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        (("--num_clients", 3), "was prepared for 4 silos, not 3"),
        (("--fl_partition", "colour"), "invalid choice: 'colour'"),
        (("--fl_strategy", "best"), "strategy is 'best'"),
        (("--num_rounds", "many"), "num_rounds must be int"),
        (("--fl_partition", "noise", "--num_clients", 13), "13 silos need as many noises, found 12"),
    ],
)
def test_what_cannot_be_federated_is_rejected(recipe, options, words):
    process = recipe.start("--stage", 3, "--stop-stage", 3, "--fl", "true", "--fl_engine", "inproc", *options)
    output = process.communicate()[0]
    assert process.returncode != 0
    assert words in output.splitlines()[-1]


def test_the_tag_contains_what_is_federated(recipe):
    options = ("--fl_engine", "inproc", "--fl_partition", "dirichlet", "--fl_strategy", "uniform", "--num_rounds", 1)
    arguments = ("--train_args", "--threads 1 --set model.preset=mini", "--fl_args", "--fl-set local_steps=1")
    output = recipe.run("--stage", 3, "--stop-stage", 3, "--fl", "true", *options, *arguments, "--seed", 2)
    tag = "train_mini_fl4_dirichlet0.5_presetmini_local_steps1_strategyuniform_num_rounds1_seed2"
    assert f"stage 3: train mini/exp/{tag} with" in output
    assert (recipe.mini / "exp" / tag / "best.pt").exists()
    assert (recipe.mini / "dump/silos/dirichlet0.5_4/partition.png").exists()

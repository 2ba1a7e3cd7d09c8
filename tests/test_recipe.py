"""The recipe as a user runs it, on the generated corpus, in a copy of the repository: in order, again, and killed."""

import csv
import json
import os
import shutil
import signal
import subprocess

import numpy
import pytest
import soundfile
import torch
import yaml

from helpers.checkpoints import assert_equal
from helpers.recipes import QUICK, QUICK_ARGS, assert_same_files, files, keep_few_test_pairs, rewritten
from sase import pretrained
from sase.data.datadir import read_data_dir, read_table, validate_data_dir
from sase.model import load_model

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory):
    """The recipe with stages 0 to 2 done."""
    recipe = make_recipe(tmp_path_factory.mktemp("recipe") / "copy", "voicebank_demand")
    output = recipe.run("--stop-stage", 2, "--nj", 2)
    assert [line.split()[3] for line in output.splitlines() if " stage " in line] == ["0:", "1:", "2:"]
    return recipe


@pytest.fixture(scope="module")
def trained(recipe):
    """The experiment of a quick training that was not disturbed."""
    recipe.run("--stage", 3, "--stop-stage", 3, "--tag", "quick", "--train_args", QUICK_ARGS)
    return recipe.mini / "exp/quick"


def test_data_and_dump_are_valid_and_agree(recipe):
    counts = {}
    for name in ("tr", "cv", "tt"):
        data = validate_data_dir(recipe.mini / "data" / name, audio=True)
        dumped = read_data_dir(recipe.mini / "dump" / name)
        assert dumped.noisy.keys() == data.noisy.keys()
        assert dumped.utt2noise == data.utt2noise
        assert dumped.utt2snr == data.utt2snr
        counts[name] = {utt: int(n) for utt, n in read_table(recipe.mini / "dump" / name / "utt2num_samples").items()}
        for utt, path in data.noisy.items():
            assert counts[name][utt] == pytest.approx(soundfile.info(path).frames / 3, abs=1)
    assert len(counts["tr"]) > len(counts["tt"]) > 0
    assert counts["cv"]


def test_stages_again_change_nothing(recipe, tmp_path):
    for name in ("data", "dump"):
        shutil.copytree(recipe.mini / name, tmp_path / name)
    recipe.run("--stage", 0, "--stop_stage", 2, "--nj", 2)
    for name in ("data", "dump"):
        assert_same_files(recipe.mini / name, tmp_path / name)


def test_stage_2_killed_and_run_again_gives_the_same_files(recipe, tmp_path):
    shutil.move(recipe.mini / "dump", tmp_path / "dump")
    dump, stage = recipe.mini / "dump", ("--stage", 2, "--stop-stage", 2, "--nj", 2)
    moments = [
        lambda: list(dump.glob("tr/.wav.*.partial*")),
        lambda: list(dump.glob("tr/shards/*.json")),
        (dump / "tr/wav.scp").exists,
        lambda: list(dump.glob("tt/.wav.*.partial*")),
    ]
    statuses = [recipe.run_killed(*stage, when=when) for when in moments]
    assert statuses.count(-signal.SIGKILL) >= 2
    recipe.run(*stage)
    assert_same_files(dump, tmp_path / "dump")


def test_stage_2_names_a_bad_training_file_and_refuses_a_bad_test_file(recipe, tmp_path):
    data = recipe.mini / "data"
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(recipe.mini / "dump", tmp_path / "dump")
    try:
        for name in ("tr", "tt"):
            table = read_table(data / name / "spk1.scp")
            utt = sorted(table)[3]
            bad = tmp_path / f"{name}.wav"
            soundfile.write(bad, soundfile.read(table[utt])[0][:-100], 48000)
            text = (data / name / "spk1.scp").read_text()
            (data / name / "spk1.scp").write_text(text.replace(table[utt], str(bad)))
            process = recipe.start("--stage", 2, "--stop-stage", 2, "--nj", 2)
            output = process.communicate()[0]
            assert f"{utt} (noisy and clean differ in length" in output
            assert process.returncode == (name == "tt")
        assert "1 of 2 failed, see mini/dump/tt/logs/dump.1.log" in output
        assert not (recipe.mini / "dump/tt/wav.scp").exists()
    finally:
        for name in ("data", "dump"):
            shutil.rmtree(recipe.mini / name)
            shutil.move(tmp_path / name, recipe.mini / name)


def test_stage_3_leaves_what_an_experiment_needs(trained, recipe):
    for name in ("config.yaml", "checkpoint.pt", "best.pt", "history.jsonl", "run.sh"):
        assert (trained / name).stat().st_size > 0, name
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert "--tag quick --train_args" in (trained / "run.sh").read_text()
    before = {name: (trained / name).read_bytes() for name in ("best.pt", "checkpoint.pt", "history.jsonl")}
    command = [trained / "run.sh", "--stage", "3", "--stop-stage", "3"]
    subprocess.run(command, cwd="/", env=recipe.environment, check=True, stdout=subprocess.DEVNULL)
    assert before == {name: (trained / name).read_bytes() for name in before}


def test_stage_3_killed_and_run_again_trains_the_same_to_the_bit(trained, recipe):
    exp = trained.with_name("killed")
    stage = ("--stage", 3, "--stop-stage", 3, "--tag", exp.name, "--train_args", QUICK_ARGS)

    def epochs_are(count):
        path = exp / "history.jsonl"
        return lambda: path.exists() and len(path.read_text().splitlines()) >= count

    moments = [
        (exp / "config.yaml").exists,
        (exp / "checkpoint.pt").exists,
        rewritten(exp / "checkpoint.pt", 3),  # in the middle of an epoch: one is written after every step
        epochs_are(1),
        rewritten(exp / "best.pt", 1),
        epochs_are(2),
    ]
    statuses = [recipe.run_killed(*stage, when=when) for when in moments]
    assert statuses.count(-signal.SIGKILL) >= 3
    recipe.run(*stage)
    for name in ("best.pt", "checkpoint.pt"):
        assert_equal(*(torch.load(folder / name, weights_only=True) for folder in (trained, exp)))
    assert (exp / "history.jsonl").read_text() == (trained / "history.jsonl").read_text()
    assert [path.name for path in files(exp, without=("tensorboard",))] == [
        path.name for path in files(trained, without=("tensorboard",)) if "enhanced_tt" not in path.parts
    ]


def test_an_experiment_is_not_continued_with_another_config(trained, recipe):
    arguments = ("--tag", "quick", "--train_args", f"{QUICK_ARGS} --set train.learning_rate=0.5")
    process = recipe.start("--stage", 3, "--stop-stage", 3, *arguments)
    output = process.communicate()[0]
    assert process.returncode == 1
    assert "learning_rate" in output.splitlines()[-1]
    assert "another --tag" in output.splitlines()[-1]


def test_stages_4_and_5_killed_and_run_again_give_a_table(trained, recipe):
    enhanced, quick = trained / "enhanced_tt", ("--tag", "quick", "--nj", 2)
    stage_4 = ("--stage", 4, "--stop-stage", 4, *quick)
    recipe.run_killed(*stage_4, when=lambda: len(list(enhanced.glob("wav/*.wav"))) >= 3)
    assert not (enhanced / "spk1.scp").exists()
    recipe.run(*stage_4)
    lengths = read_table(recipe.mini / "dump/tt/utt2num_samples")
    table = read_table(enhanced / "spk1.scp")
    assert table.keys() == lengths.keys()
    for utt, path in table.items():
        header = soundfile.info(recipe.folder / path)
        assert (header.samplerate, header.channels, header.frames) == (16000, 1, int(lengths[utt]))

    stage_5 = ("--stage", 5, "--stop-stage", 5, *quick)
    recipe.run_killed(*stage_5, when=lambda: list(enhanced.glob("scoring/shards/*")))
    output = recipe.run(*stage_5)
    assert "PESQ_WB" in output
    assert str(trained / "RESULTS.md") in output
    with open(enhanced / "scoring/scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["utt"] for row in rows} == set(lengths)
    results = (trained / "RESULTS.md").read_text()
    assert "unprocessed" in results
    assert f"{len(lengths)} scored" in results
    assert list((trained / "images").glob("*.png"))
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert f"{len(lengths)} of {len(lengths)} utterances have sound here." in page
    assert len(list((trained / "tensorboard").iterdir())) == 1


def test_a_missing_model_is_reported_in_one_line(recipe):
    process = recipe.start("--stage", 4, "--stop-stage", 4, "--tag", "never-trained")
    output = process.communicate()[0]
    assert process.returncode == 1
    assert "never-trained/best.pt" in output


def test_the_tag_follows_from_config_and_overrides(recipe):
    arguments = "--threads 1 --set model.preset=mini --set train.epochs=1 --set train.steps_per_epoch=1"
    output = recipe.run("--stage", 3, "--stop-stage", 3, "--seed", 3, "--train_args", arguments)
    assert "stage 3: train mini/exp/train_mini_presetmini_epochs1_steps_per_epoch1_seed3 with" in output
    config = yaml.safe_load((recipe.mini / output.split("mini/", 1)[1].split()[0] / "config.yaml").read_text())
    assert config["seed"] == 3
    assert config["train"]["epochs"] == 1


def test_all_stages_in_one_go_leave_a_finished_experiment_as_it_is(trained, recipe):
    before = {name: (trained / name).read_bytes() for name in ("best.pt", "checkpoint.pt", "history.jsonl")}
    output = recipe.run("--tag", "quick", "--nj", 2, "--train_args", QUICK_ARGS)
    assert [line.split()[3] for line in output.splitlines() if " stage " in line] == [f"{n}:" for n in range(6)]
    assert before == {name: (trained / name).read_bytes() for name in before}
    assert output.splitlines()[-1].endswith(str(trained / "RESULTS.md"))


def test_weights_to_ship_are_made_in_two_trainings_and_scored(recipe, tmp_path):
    generator = numpy.random.default_rng(0)
    for speaker in range(12):
        for kind in ("speech", "noise"):
            path = tmp_path / kind / f"s{speaker:02d}_1.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * generator.standard_normal(24000), 16000)
    nested = {}
    for name, value in QUICK.items():
        section, key = name.split(".")
        nested.setdefault(section, {})[key] = yaml.safe_load(value)
    for name in ("release_mine_1.yaml", "release_mine.yaml"):
        (recipe.folder / "conf" / name).write_text(yaml.safe_dump({**nested, "loss": {"si_snr": 1.0, "mse": 10.0}}))
    folders = ["--speech", tmp_path / "speech", "--noise", tmp_path / "noise"]
    corpus = tmp_path / "corpus"
    shutil.copytree(recipe.folder / "downloads/mini", corpus, copy_function=os.link)
    keep_few_test_pairs(corpus)
    folders += ["--corpus_dir", corpus]
    places = ["--work_dir", tmp_path / "work", "--out", tmp_path / "out", "--generated", 1, "--presets", "mine"]
    command = [recipe.folder / "local/train_release.sh", *folders, *places, "--nj", 2, "--threads", 1]
    subprocess.run([str(word) for word in command], env=recipe.environment, check=True, cwd="/")
    first, second = (tmp_path / "work/exp" / name for name in ("mine_1", "mine"))
    shipped = pretrained.load(tmp_path / "out/mine.safetensors").state_dict()
    assert_equal(shipped, load_model(second / "best.pt").state_dict())
    assert yaml.safe_load((second / "config.yaml").read_text())["init"] == str(first)
    card = (tmp_path / "out/mine.md").read_text()
    assert card.count("18 steps of 4 segments") == 2
    assert "Then, starting from these weights" in card
    assert "| unprocessed |" in card

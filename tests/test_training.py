"""Training: learning rate schedule, gradient guard, loop, and resuming."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
import torch

from helpers.checkpoints import assert_same
from helpers.dumps import dumped
from sase.config import to_mapping
from sase.data.dataset import PairSet
from sase.data.remix import Mixtures
from sase.errors import InputError
from sase.losses.loss import build_loss
from sase.metrics.measures import pesq_wb
from sase.model import build_model, load_model
from sase.training.checkpoint import first_difference, load_checkpoint
from sase.training.config import load_train_config
from sase.training.distributed import init_workers
from sase.training.loop import EpochStats, GradientGuard, TrainingStep, learning_rate, train_epoch
from sase.training.trainer import Trainer
from sase.training.validation import development_scores, validate

CONFIG = """
model: {preset: mini, recurrent: 4, bands: 8}
data: {batch_size: 2, segment_s: 0.2}
loss: {si_snr: 1.0}
train: {epochs: 3, steps_per_epoch: 4, warmup_steps: 2, ema_decay: 0.5, checkpoint_s: 0.0}
"""


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return dumped(tmp_path_factory.mktemp("set"))


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def trainer(dump, config_file, tmp_path):
    def make(name="exp", *overrides):
        config = load_train_config(config_file, overrides)
        return Trainer(config, dump, dump, tmp_path / name, init_workers(use_gpu=False))

    return make


def test_learning_rate_rises_then_falls_along_a_cosine():
    def rate(step):
        return learning_rate(step, 1.0, 10, 110, 0.02)

    assert rate(0) == pytest.approx(0.1)
    assert rate(9) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.51)
    assert rate(110) == pytest.approx(0.02)
    assert rate(500) == pytest.approx(0.02)


@pytest.mark.recipe
def test_training_lowers_the_loss(dump):
    torch.manual_seed(0)
    config = load_train_config_text(CONFIG)
    model, pairs = build_model(config.model), PairSet(dump)
    mixtures, criterion = Mixtures(pairs, config.data, 0), build_loss({"si_snr": 1.0})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = TrainingStep(model, criterion, optimizer, GradientGuard(3.0, 5))

    def epoch(first):
        batches = (mixtures.batch(n) for n in range(first, first + 25))
        return train_epoch(step, batches).means()["loss"]

    losses = [epoch(25 * number) for number in range(4)]
    assert losses[-1] < losses[0] - 6.0  # dB


def load_train_config_text(text):
    import yaml

    from sase.config import from_mapping
    from sase.model import model_config
    from sase.training.config import TrainConfig

    mapping = yaml.safe_load(text)
    return from_mapping(TrainConfig, {**mapping, "model": to_mapping(model_config(mapping["model"]))})


def test_non_finite_gradients_are_skipped_and_too_many_stop_training(dump):
    config = load_train_config_text(CONFIG)
    model, mixtures = build_model(config.model), Mixtures(PairSet(dump), config.data, 0)
    optimizer, before = torch.optim.AdamW(model.parameters()), [p.clone() for p in model.parameters()]

    def poisoned(enhanced, clean, lengths):
        return enhanced.sum() * float("nan"), {}

    step = TrainingStep(model, poisoned, optimizer, GradientGuard(3.0, 5))
    stats = train_epoch(step, (mixtures.batch(n) for n in range(4)))
    assert (stats.steps, stats.bad_steps) == (0, 4)
    assert stats.means() == {}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    step.guard = GradientGuard(3.0, 5)
    with pytest.raises(InputError, match=r"not finite in 5 steps in a row.*p\d_001"):
        train_epoch(step, (mixtures.batch(n) for n in range(9)))


def signals(index, clean, enhanced):
    return clean, enhanced


def test_validation_does_not_change_the_model_and_equals_single_utterances(dump):
    pairs, model = PairSet(dump), build_model({"preset": "mini"}).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ratio, results = validate(model, pairs, signals, max_batch_s=2.0)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    alone, results_alone = validate(model, pairs, signals, max_batch_s=0.1)
    assert ratio == pytest.approx(alone, abs=1e-3)
    assert math.isfinite(ratio)
    assert [len(clean) for clean, _ in results] == pairs.lengths.tolist() == [len(e) for _, e in results_alone]


def test_the_scores_of_a_set_hold_one_batch_at_a_time(dump):
    pairs, model = PairSet(dump), build_model({"preset": "mini"})
    seen, alive = [], []

    def measure(index, clean, enhanced):
        seen.append(weakref.ref(enhanced))
        alive.append(sum(reference() is not None for reference in seen))
        return index

    ratio, indices = validate(model, pairs, measure, max_batch_s=0.1)
    assert indices == list(range(len(pairs)))
    assert len(alive) > 2
    assert max(alive) == 1
    assert ratio == validate(model, pairs, max_batch_s=0.1)[0]


def test_development_scores_are_those_of_all_utterances_in_the_order_of_the_set(dump):
    pairs, model = PairSet(dump), build_model({"preset": "mini"})
    ratio, results = validate(model, pairs, signals)
    pesq = [pesq_wb(clean, enhanced, pairs.sample_rate) for clean, enhanced in results]
    expected = {"dev_SI_SNR": round(ratio, 4), "dev_PESQ_WB": round(float(np.nanmean(pesq)), 4)}
    assert development_scores(model, pairs, "PESQ_WB") == expected
    assert development_scores(model, pairs, "SI_SNR") == {"dev_SI_SNR": round(ratio, 4)}


def test_an_experiment_writes_its_files(trainer, tmp_path):
    history = trainer().run()
    folder = tmp_path / "exp"
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] == history
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "checkpoint.pt", "best.pt", "history.jsonl"}
    best = max(history, key=lambda entry: entry["dev_SI_SNR"])
    assert best["best"]
    assert load_model(folder).config == trainer().config.model
    assert not list(folder.glob("*.partial*")) + list(folder.glob(".*"))


def test_config_yaml_rebuilds_the_experiment(trainer, tmp_path):
    made = trainer()
    assert load_train_config(tmp_path / "exp/config.yaml") == made.config


@pytest.mark.recipe
def test_resuming_equals_an_uninterrupted_run(trainer, tmp_path, monkeypatch):
    trainer("whole").run()
    for stop in (2, 4, 6, 11):  # within an epoch, at its end, and again
        part = trainer("parts")
        original = part.mixtures.batch

        def batch(number, original=original, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return original(number)

        monkeypatch.setattr(part.mixtures, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            part.run()
    trainer("parts").run()
    for name in ("checkpoint.pt", "best.pt"):
        assert_same(tmp_path / "whole" / name, tmp_path / "parts" / name)
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "parts")]
    assert histories[0] == histories[1]


@pytest.mark.recipe
def test_killed_training_resumes_bit_for_bit(dump, config_file, tmp_path):
    def command(name):
        arguments = ["--config", config_file, "--train-set", dump, "--dev-set", dump, "--exp", tmp_path / name]
        return [sys.executable, "-m", "sase.bin.main", "train", "--threads", "1", *map(str, arguments)]

    def run(name):
        subprocess.run(command(name), check=True, capture_output=True, env={**os.environ})

    run("whole")
    process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (tmp_path / "killed/checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    run("killed")
    for name in ("checkpoint.pt", "best.pt"):
        assert_same(tmp_path / "whole" / name, tmp_path / "killed" / name)


def test_another_config_in_the_same_folder_is_rejected(trainer):
    trainer("exp")
    with pytest.raises(InputError, match="train.learning_rate is 0.5, was 0.002"):
        trainer("exp", "train.learning_rate=0.5")


@pytest.mark.recipe
def test_a_corrupt_checkpoint_is_reported_and_kept(trainer, tmp_path):
    made = trainer()
    made.run()
    path = tmp_path / "exp/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        trainer()
    assert path.stat().st_size == 1000
    with pytest.raises(InputError, match="cannot resume from it"):
        load_checkpoint(tmp_path / "exp/best.pt", {})


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.speed=3", "unknown key train.speed"),
        ("train.precision=half", "train.precision is 'half'"),
        ("train.epochs=many", "train.epochs must be int"),
        ("model.preset=huge", "unknown preset 'huge'"),
        ("data.snr_db=[1,2,3]", "needs 2 values"),
        ("seed", "must be name=value"),
    ],
)
def test_bad_configs_are_rejected(config_file, override, message):
    with pytest.raises(InputError, match=message):
        load_train_config(config_file, [override])


def test_every_config_of_the_recipes_loads(root):
    paths = sorted(root.glob("egs/*/conf/train_*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        config = load_train_config(path)
        build_loss(config.loss)
        build_model(config.model)


def test_differences_are_reported_by_their_path():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 2, was 1"
    assert first_difference({"a": 1}, {"a": 1}) == ""
    assert first_difference({}, {"a": 1}) == "a is 1, was None"


def test_merged_stats_equal_those_of_the_whole():
    whole, first, second = EpochStats(), EpochStats(), EpochStats(bad_steps=2)
    for number, part in enumerate((first, first, second)):
        part.add({"loss": float(number)})
        whole.add({"loss": float(number)})
    merged = first.merged(second)
    assert merged.means() == whole.means() == {"loss": 1.0}
    assert merged.bad_steps == 2
    assert merged.steps == 3


@pytest.mark.recipe
def test_two_processes_train_one_model(dump, config_file, tmp_path):
    arguments = ["--config", config_file, "--train-set", dump, "--dev-set", dump, "--exp", tmp_path / "exp"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "sase.bin.train", *map(str, arguments), "--threads", "1", "--set", "train.epochs=1"]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    history = (tmp_path / "exp/history.jsonl").read_text().splitlines()
    assert len(history) == 1
    assert json.loads(history[0])["steps"] == 4

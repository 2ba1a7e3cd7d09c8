"""Resuming a training: interrupted, extended, with other data, two at a time, restarted."""

import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest

from helpers.checkpoints import assert_same
from helpers.dumps import dumped
from helpers.parameters import quick
from sase.bin import train as train_command
from sase.data.dataset import PairSet
from sase.data.fingerprint import fingerprint_of_content, fingerprint_of_files
from sase.errors import InputError
from sase.processes import folder_lock
from sase.training import trainer as trainer_module
from sase.training.config import load_train_config
from sase.training.distributed import init_workers
from sase.training.trainer import Trainer, discard_training

CONFIG = """
model: {preset: mini, recurrent: 4, bands: 8}
data: {batch_size: 2, segment_s: 0.2}
loss: {si_snr: 1.0}
train: {epochs: 2, steps_per_epoch: 3, warmup_steps: 2, ema_decay: 0.5, checkpoint_s: 1000.0}
"""


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return dumped(tmp_path_factory.mktemp("set"))


@pytest.fixture
def own_dump(tmp_path):
    """A dump of the same data, whose files a test may change."""
    return dumped(tmp_path / "own")


@pytest.fixture
def make(dump, tmp_path):
    (tmp_path / "train.yaml").write_text(CONFIG)

    def trainer(name, *overrides, train_set=dump, dev_set=dump):
        config = load_train_config(tmp_path / "train.yaml", overrides)
        return Trainer(config, train_set, dev_set, tmp_path / name, init_workers(use_gpu=False))

    return trainer


@pytest.fixture(scope="module")
def whole(dump, tmp_path_factory):
    """The folder of a training that nothing interrupts; tests only read it, or change a copy."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "train.yaml").write_text(CONFIG)
    config = load_train_config(folder / "train.yaml")
    Trainer(config, dump, dump, folder / "exp", init_workers(use_gpu=False)).run()
    return folder / "exp"


def assert_same_training(one, other):
    for name in ("checkpoint.pt", "best.pt"):
        assert_same(one / name, other / name)
    assert (one / "history.jsonl").read_text() == (other / "history.jsonl").read_text()


@pytest.mark.parametrize(  # within an epoch, at the last step of one, in the next one
    ("number", "step"),
    [(signal.SIGINT, 1), pytest.param(signal.SIGINT, 2, marks=pytest.mark.recipe), (signal.SIGTERM, 4)],
)
def test_an_interrupted_training_saves_and_resumes_to_the_bit(make, whole, tmp_path, monkeypatch, number, step):
    interrupted = make("parts")
    batch = interrupted.mixtures.batch

    def batch_with_signal(index):
        if index == step:
            os.kill(os.getpid(), number)
        return batch(index)

    monkeypatch.setattr(interrupted.mixtures, "batch", batch_with_signal)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        interrupted.run()
    assert signal.getsignal(number) == before
    resumed = make("parts")
    assert resumed.step == step + 1
    resumed.run()
    assert_same_training(whole, tmp_path / "parts")


@pytest.mark.recipe
def test_training_interrupted_while_it_is_scored_is_not_trained_again(make, whole, tmp_path, monkeypatch):
    score = trainer_module.development_scores

    def interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("a signal ends the scoring at once")

    monkeypatch.setattr(trainer_module, "development_scores", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make("parts").run()
    monkeypatch.setattr(trainer_module, "development_scores", score)
    resumed = make("parts")
    assert (resumed.step, resumed.history) == (3, [])
    resumed.run()
    assert_same_training(whole, tmp_path / "parts")


def test_a_second_signal_ends_training_without_waiting_for_the_step(make, monkeypatch):
    interrupted = make("exp")

    def batch(index):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal raises")

    monkeypatch.setattr(interrupted.mixtures, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()


@pytest.mark.recipe
def test_a_finished_training_is_made_longer_and_that_can_be_interrupted(make, whole, tmp_path, monkeypatch):
    for name in ("whole", "parts"):
        shutil.copytree(whole, tmp_path / name)
    first = (tmp_path / "whole/history.jsonl").read_text()
    longer = make("whole", "train.epochs=4")
    rates = []
    monkeypatch.setattr(longer, "_learning_rate", lambda rate=longer._learning_rate: rates.append(rate()) or rates[-1])
    assert len(longer.run()) == 4
    peak, final, warmup, total = 2e-3, 0.02, 2, 4 * 3
    done = (np.arange(6, total) - warmup) / (total - warmup)
    assert rates == pytest.approx(peak * (final + (1 - final) * 0.5 * (1 + np.cos(np.pi * done))))
    assert (tmp_path / "whole/history.jsonl").read_text().startswith(first)
    assert load_train_config(tmp_path / "whole/config.yaml").train.epochs == 4

    interrupted = make("parts", "train.epochs=4")
    batch = interrupted.mixtures.batch
    monkeypatch.setattr(
        interrupted.mixtures, "batch", lambda n: (n == 7 and os.kill(os.getpid(), signal.SIGINT)) or batch(n)
    )
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    with pytest.raises(InputError, match=r"epochs is 5, was 4, of which 2 are done; only a finished training"):
        make("parts", "train.epochs=5")
    with pytest.raises(InputError, match=r"epochs is 2, was 4"):
        make("parts")
    assert load_train_config(tmp_path / "parts/config.yaml").train.epochs == 4, "a refused command changes nothing"
    make("parts", "train.epochs=4").run()
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def change_one_sample(dump, name="spk1.1.ark"):
    data = bytearray((dump / name).read_bytes())
    data[-4001] ^= 1
    (dump / name).write_bytes(data)


def keep_two(dump, name=None):
    for table in ("wav.scp", "spk1.scp", "utt2spk", "utt2num_samples"):
        lines = (dump / table).read_text().splitlines(keepends=True)
        (dump / table).write_text("".join(lines[:2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_one_sample, "3 utterances of 33000 samples, the same number, but other audio"),
        (keep_two, "2 utterances of 29000 samples, were 3 utterances of 33000 samples"),
    ],
)
@pytest.mark.parametrize("which", quick(["train_set", "dev_set"]))
def test_training_does_not_resume_with_other_data(make, whole, own_dump, tmp_path, which, change, message):
    shutil.copytree(whole, tmp_path / "exp")
    make("exp", **{which: own_dump})  # the same data until it changes
    before = {path.name: path.read_bytes() for path in (tmp_path / "exp").iterdir() if path.is_file()}
    change(own_dump)
    name = "training set" if which == "train_set" else "development set"
    advice = r"; use another --tag, or start over with --restart$"
    with pytest.raises(InputError, match=rf"own/dump: the {name} has changed .*\({message}\){advice}"):
        make("exp", "train.epochs=4", **{which: own_dump})
    assert {path.name: path.read_bytes() for path in (tmp_path / "exp").iterdir() if path.is_file()} == before
    discard_training(tmp_path / "exp")
    for name in ("exp", "other"):
        make(name, "train.epochs=1", **{which: own_dump}).run()
    assert_same_training(tmp_path / "exp", tmp_path / "other")


def test_a_copy_of_a_dump_and_an_experiment_without_record_resume(make, whole, own_dump, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "exp")
    record = json.loads((tmp_path / "exp/data.json").read_text())
    assert len(make("exp", train_set=own_dump).history) == 2, "the same content elsewhere is the same data"
    assert (
        json.loads((tmp_path / "exp/data.json").read_text())["training set"]["files"] != record["training set"]["files"]
    )
    (tmp_path / "exp/data.json").unlink()  # as in an experiment of an earlier version
    with caplog.at_level("INFO"):
        assert len(make("exp").history) == 2
    assert "data.json: the data was not recorded when this" in caplog.text
    assert json.loads((tmp_path / "exp/data.json").read_text()) == record
    (tmp_path / "exp/data.json").write_text("{")
    with pytest.raises(InputError, match=r"data\.json: not valid JSON"):
        make("exp")


def test_fingerprints_see_what_training_sees(dump, own_dump):
    one, same = PairSet(dump), PairSet(own_dump)
    assert fingerprint_of_files(one) == fingerprint_of_files(PairSet(dump))
    assert fingerprint_of_files(one) != fingerprint_of_files(same)
    for whole in (True, False):
        assert fingerprint_of_content(one, whole) == fingerprint_of_content(same, whole)
    change_one_sample(own_dump)  # the middle of the last utterance, which is 4000 samples long
    for whole in (True, False):
        assert fingerprint_of_content(one, whole) != fingerprint_of_content(PairSet(own_dump), whole)


def test_two_trainings_in_one_folder_exclude_each_other(make, whole, dump, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "exp")
    options = ["--config", "train.yaml", "--train-set", dump, "--dev-set", dump, "--exp", "exp", "--threads", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sase train", *map(str, options), "--restart"])
    with folder_lock(tmp_path / "exp"), pytest.raises(InputError, match=r"^exp: locked by another process") as caught:
        train_command.main()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "exp/checkpoint.pt").exists(), "a training that is refused discards nothing"

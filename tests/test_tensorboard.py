"""Event files of trainings, read by TensorBoard itself: one per training, resumed or not, bounded, with sound."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from helpers.dumps import dumped
from sase.data.dataset import PairSet
from sase.data.remix import DataConfig
from sase.federated import inproc
from sase.federated.config import FederatedConfig
from sase.jsonfile import read_jsonl
from sase.model import PRESETS
from sase.training import tensorboard
from sase.training.config import OptimiserConfig, TrainConfig
from sase.training.crc32c import crc32c
from sase.training.distributed import Workers
from sase.training.loop import learning_rate
from sase.training.tensorboard import EventWriter, examples_of, is_due
from sase.training.trainer import Trainer, discard_training

RATE = 16000


def entry(number):
    return {"epoch": number, "steps": 10 * number, "loss": 1.0 / number, "dev_SI_SNR": math.nan, "best": True}


def events(exp):
    (path,) = (exp / "tensorboard").iterdir()
    loaded = EventAccumulator(str(path), size_guidance={"scalars": 0, "audio": 0, "images": 0})
    loaded.Reload()
    return loaded


def scalars(exp, name):
    return [(event.step, event.value) for event in events(exp).Scalars(name)]


def test_a_resumed_training_continues_its_file(tmp_path):
    for count in (1, 2, 2, 3):  # the second time as after a resume at this point
        EventWriter(tmp_path).write([entry(n) for n in range(1, count + 1)], "steps", {"learning_rate": 0.5**count}, {})
    assert scalars(tmp_path, "loss") == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]
    assert scalars(tmp_path, "learning_rate") == [(10, 0.5), (20, 0.25), (30, 0.125)]
    assert sorted(events(tmp_path).Tags()["scalars"]) == ["dev_SI_SNR", "learning_rate", "loss"]


def test_checksums_are_those_of_the_standard_and_of_tensorboard():
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E
    generator = np.random.default_rng(0)
    for length in (0, 1, 3, 8, 1000, 1023, 1024, 1025, 2048, 2049, 4095, 12345):
        data = generator.bytes(length)
        assert crc32c(data) == pywrap_tensorflow.crc32c(data), length


@pytest.mark.parametrize("lost", [1, 3, 20, 40])
def test_a_truncated_end_is_cut_off_and_its_entries_are_written_again(tmp_path, lost):
    history = [entry(1), entry(2)]
    EventWriter(tmp_path).write(history, "steps", {}, {})
    (path,) = (tmp_path / "tensorboard").iterdir()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - lost)
    EventWriter(tmp_path).write([*history, entry(3)], "steps", {}, {})
    assert [step for step, _ in scalars(tmp_path, "loss")] == [10, 20, 30]
    assert [step for step, _ in scalars(tmp_path, "dev_SI_SNR")][-1] == 30


def test_a_file_of_noise_is_replaced(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/events.out.tfevents.1.host").write_bytes(np.random.default_rng(0).bytes(5000))
    EventWriter(tmp_path).write([entry(1)], "steps", {}, {})
    assert scalars(tmp_path, "loss") == [(10, 1.0)]


def test_sound_and_spectrograms_are_those_of_the_signals(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(RATE) / RATE).astype(np.float32)
    examples = {"input/noisy/u": (tone, RATE), "output/enhanced/u": (tone / 2, RATE)}
    EventWriter(tmp_path).write([entry(1)], "steps", {}, examples)
    EventWriter(tmp_path).write([entry(1), entry(2)], "steps", {}, examples)
    loaded = events(tmp_path)
    (noisy,) = loaded.Audio("input/noisy/u/sound")  # the input is written once
    wav, rate = soundfile.read(io.BytesIO(noisy.encoded_audio_string))
    assert rate == RATE
    assert wav == pytest.approx(tone, abs=1e-4)
    assert [event.step for event in loaded.Audio("output/enhanced/u/sound")] == [10, 20]
    (picture,) = loaded.Images("input/noisy/u/spectrogram")
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)).convert("L"))
    assert pixels.shape == (257, (RATE - 512) // 128 + 1)
    assert set(256 - pixels.argmax(axis=0)) == {2000 * 512 // RATE}
    assert pixels[:100].max() < 30


def test_examples_are_fixed_bounded_and_leave_the_network_as_it_was(tmp_path):
    pairs = PairSet(dumped(tmp_path, [9000, 7 * RATE, 8000, 5000, 6000], seed=3))
    model = torch.nn.Module()
    model.forward = lambda noisy, lengths: noisy / 2
    model.train()
    found = examples_of(model, pairs)
    assert model.training
    utts = [pairs.utts[n] for n in (0, 2, 4)]
    assert {tag.rpartition("/")[2] for tag in found} == set(utts)
    assert len(found) == 9
    for utt in utts:
        assert np.array_equal(found[f"output/enhanced/{utt}"][0], found[f"input/noisy/{utt}"][0] / 2)
    alone = PairSet(dumped(tmp_path / "long", [7 * RATE], seed=3))
    assert all(len(wav) == 5 * RATE for wav, _ in examples_of(model, alone).values())


@pytest.mark.parametrize("total", [1, 2, 9, 10, 50, 1000])
def test_examples_are_written_a_bounded_number_of_times(total):
    due = [number for number in range(1, total + 1) if is_due(number, total)]
    assert due[0] == 1
    assert due[-1] == total
    assert len(due) <= min(total, tensorboard.TIMES + 1)


@pytest.mark.recipe
def test_central_and_federated_training_write_them(tmp_path, silos_dir, dev_set, monkeypatch):
    train = TrainConfig(
        model=PRESETS["mini"],
        data=DataConfig(batch_size=2, segment_s=0.3),
        train=OptimiserConfig(epochs=2, steps_per_epoch=2, warmup_steps=1, learning_rate=0.01, final_ratio=0.0),
    )
    workers = Workers(0, 1, torch.device("cpu"))
    for epochs in (1, 2):  # the second run resumes
        longer = replace(train, train=replace(train.train, epochs=epochs))
        trainer = Trainer(longer, silos_dir / "silo0/tr", dev_set, tmp_path / "central", workers)
        history = trainer.run()
    assert [value for _, value in scalars(tmp_path / "central", "loss")] == pytest.approx([e["loss"] for e in history])
    rates = [value for _, value in scalars(tmp_path / "central", "learning_rate")]
    assert rates[-1] == pytest.approx(learning_rate(3, 0.01, 1, 4, 0.0))
    audible = events(tmp_path / "central").Tags()["audio"]
    assert len(audible) == 9
    federation = FederatedConfig(num_silos=3, num_rounds=1, local_epochs=1)
    inproc.run(train, federation, silos_dir, dev_set, tmp_path / "fed", "cpu", {})
    (record,) = read_jsonl(tmp_path / "fed/rounds.jsonl")
    assert scalars(tmp_path / "fed", "dev_SI_SNR") == [(1, pytest.approx(record["dev_SI_SNR"]))]
    assert scalars(tmp_path / "fed", "silo 1/alpha") == [(1, pytest.approx(record["silos"]["1"]["alpha"]))]
    assert len(events(tmp_path / "fed").Tags()["audio"]) == 9
    discard_training(tmp_path / "central")
    assert not list((tmp_path / "central/tensorboard").iterdir())

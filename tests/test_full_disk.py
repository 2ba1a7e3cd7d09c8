"""A full disk: one line at every stage, old files kept, nothing half written. A limit on file sizes stands for it."""

import logging
import resource
import sys

import pytest
import torch

from helpers.audio import noise
from helpers.dumps import dump_all, dumped, make_set
from helpers.federation import configs
from sase import audio
from sase.bin.main import main
from sase.model import build_model, save_model

TRAIN = """
model: {preset: mini, recurrent: 4, bands: 8}
data: {batch_size: 2, segment_s: 0.2}
loss: {si_snr: 1.0}
train: {epochs: 1, steps_per_epoch: 1}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the stages read: a corpus, a data directory, dumps of a set and of silos, a model, enhanced speech."""
    folder = tmp_path_factory.mktemp("made")
    for kind in ("noisy", "clean"):
        for part, utts in (("trainset_28spk", ("p1_001", "p2_001")), ("testset", ("p3_001",))):
            for utt in utts:
                audio.write(folder / f"corpus/{kind}_{part}_wav/{utt}.wav", noise(16000), 16000)
    data = make_set(folder, {f"p{i}_{i:03d}": 16000 for i in range(1, 5)}, rate=16000)
    dump_all(data, folder / "dump/tr")
    for index in range(2):
        made = dumped(folder / f"made{index}")
        (folder / f"silos/silo{index}").mkdir(parents=True)
        (folder / f"silos/silo{index}/tr").symlink_to(made)
    torch.manual_seed(0)
    save_model(build_model("mini"), folder / "best.pt")
    (folder / "train.yaml").write_text(TRAIN)
    for utt in ("p1_001", "p2_002", "p3_003", "p4_004"):
        audio.write(folder / f"enhanced/{utt}.wav", noise(16000), 16000)
    (folder / "fed").mkdir()
    configs(folder / "fed", num_silos=2, num_rounds=1, local_steps=1)
    return folder


COMMANDS = {
    "prepare": "prepare voicebank_demand --corpus {made}/corpus --data {out} --dev-speakers p2",
    "dump": "dump --data {made}/data/tr --out {out}",
    "train": "train --config {made}/train.yaml --train-set {made}/dump/tr --dev-set {made}/dump/tr --exp {out}",
    "federate": "federate --config {made}/fed/train.yaml --fl-config {made}/fed/fl.yaml --silos {made}/silos "
    "--dev-set {made}/dump/tr --exp {out} --engine inproc",
    "partition": "partition --train {made}/dump/tr --out {out}/silos --by speaker --num-silos 2",
    "decode": "decode --model {made}/best.pt --data {made}/dump/tr --out {out}",
    "enhance": "enhance {made}/corpus/noisy_trainset_28spk_wav -o {out} --model {made}/best.pt",
    "score": "score --clean {made}/enhanced --enhanced {made}/enhanced --out {out}",
}
SIZES = {"prepare": 100, "partition": 300, "score": 100}  # bytes that fit; more where the first files are larger


@pytest.fixture
def on_full_disk(monkeypatch):
    def call(words, size):
        monkeypatch.setattr(sys, "argv", ["sase", *words.split()])
        monkeypatch.setattr(logging, "raiseExceptions", False)  # a log that is full is no error of the command
        limits, threads = resource.getrlimit(resource.RLIMIT_FSIZE), torch.get_num_threads()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            torch.set_num_threads(threads)
            for handler in logging.root.handlers[:]:
                if isinstance(handler, logging.FileHandler) and "train.log" in handler.baseFilename:
                    logging.root.removeHandler(handler)
        return end.value.code

    return call


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_full_disk_is_one_line_at_every_stage(made, tmp_path, on_full_disk, stage):
    error = on_full_disk(COMMANDS[stage].format(made=made, out=tmp_path / "out"), SIZES.get(stage, 8000))
    assert isinstance(error, str), "the command fails with a line"
    assert error.startswith(f"sase {stage}: ")
    assert "\n" not in error
    assert "File too large" in error or "is the disk full?" in error
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]
    assert not list((tmp_path / "out").rglob("*.pt"))

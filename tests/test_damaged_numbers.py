"""Weights, outputs and scores that are no finite real numbers: refused by name, and never chosen or written."""

import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch

from helpers.dumps import dumped
from helpers.federation import fed_config, train_config
from helpers.parameters import quick
from sase import pretrained
from sase.data.dataset import PairSet
from sase.enhancer import Enhancer
from sase.errors import InputError
from sase.evaluation.decoding import decode_shard
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.server import Server
from sase.model import build_model, load_model, save_model
from sase.training.config import OptimiserConfig, TrainConfig, load_train_config
from sase.training.distributed import Workers
from sase.training.trainer import Trainer
from sase.training.validation import development_scores

WORKERS = Workers(0, 1, torch.device("cpu"))
NAME = "network.to_features.weight"
DAMAGES = {
    "NaN": (lambda w: w.index_fill(0, torch.tensor([0]), math.nan), "contains NaN or infinity"),
    "infinity": (lambda w: w.index_fill(0, torch.tensor([0]), -math.inf), "contains NaN or infinity"),
    "complex": (lambda w: w.to(torch.complex64), "has type complex64"),
    "integer": (lambda w: (100 * w).to(torch.int32), "has type int32"),
    "shape": (lambda w: w[:1], "do not match the config"),
}

FEDERATION = fed_config(
    scaffold=True, norm="local", fresh_optimizer=False, server="adam", average_decay=0.5, max_drop_db=0
)
TRAINING = """\
model: {preset: mini}
data: {batch_size: 2, segment_s: 0.3}
train: {epochs: 3, steps_per_epoch: 1, warmup_steps: 0, ema_decay: 0.5}
"""


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return dumped(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(TRAINING)
    return load_train_config(path)


@pytest.fixture(scope="module")
def trained(dump, tmp_path_factory):
    """The folder of a finished training; tests only read it, or damage a copy."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "train.yaml").write_text(TRAINING)
    Trainer(load_train_config(folder / "train.yaml"), dump, dump, folder / "exp", WORKERS).run()
    return folder / "exp"


def nan_model():
    model = build_model("mini").eval()
    with torch.no_grad():
        model.state_dict(keep_vars=True)[NAME].fill_(math.nan)
    return model


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_weights_are_refused_by_name(tmp_path, damage, suffix):
    path, (change, message) = tmp_path / f"best{suffix}", DAMAGES[damage]
    model = build_model("mini")
    (save_model if suffix == ".pt" else pretrained.save)(model, path)
    assert torch.equal(pretrained.load(path).state_dict()[NAME], model.state_dict()[NAME])
    state = model.state_dict()
    state[NAME] = change(state[NAME])
    model.state_dict = lambda: state
    (save_model if suffix == ".pt" else pretrained.save)(model, path)
    with pytest.raises(
        InputError, match=f"best{suffix}: .*{NAME}.*{message}|best{suffix}: .*{message}.*{NAME}"
    ) as error:
        pretrained.load(path)
    assert one_line(error)


def test_files_without_weights_or_config_are_refused(tmp_path):
    path = tmp_path / "best.pt"
    save_model(build_model("mini"), path)
    whole = torch.load(path, weights_only=True)
    for change in ({"model": None}, {"model": [1]}, {"model": {NAME: 3.0}}, {"model_config": None}):
        torch.save({**whole, **change}, path)
        with pytest.raises(InputError, match="best.pt: ") as error:
            load_model(path)
        assert one_line(error)
    for change in ({"blocks": 10**6}, {"hop": 0}, {"compression": math.nan}, {"norm": "foo"}, {"heads": 3}):
        torch.save({**whole, "model_config": {**whole["model_config"], **change}}, path)
        with pytest.raises(InputError, match=f"best.pt: config: model.*{next(iter(change))}") as error:
            load_model(path)
        assert one_line(error)


@pytest.mark.recipe
@pytest.mark.parametrize("part", ["model", "averaged"])
def test_training_does_not_resume_from_damaged_weights(trained, dump, config, tmp_path, part):
    shutil.copytree(trained, tmp_path / "exp")
    path = tmp_path / "exp/checkpoint.pt"
    state = torch.load(path, weights_only=True)
    next(value for name, value in state[part].items() if NAME in name).fill_(math.nan)
    torch.save(state, path)
    with pytest.raises(InputError, match=f"checkpoint.pt: .*{NAME} contains NaN") as error:
        Trainer(config, dump, dump, tmp_path / "exp", WORKERS)
    assert one_line(error)


@pytest.mark.parametrize("causal", [True, False])
def test_output_that_is_not_finite_is_an_error_and_no_file(tmp_path, causal):
    soundfile.write(tmp_path / "noisy.wav", 0.1 * np.ones(48000), 16000)
    model = nan_model() if causal else build_model({"preset": "mini", "causal": False})
    with torch.no_grad():
        model.state_dict(keep_vars=True)[NAME].fill_(math.nan)
    enhancer = Enhancer(model)
    with pytest.raises(InputError, match="output contains NaN or infinity") as error:
        enhancer.enhance(0.1 * np.ones(4000, dtype=np.float32), 16000)
    assert one_line(error)
    with pytest.raises(InputError, match="output contains NaN or infinity"):
        enhancer.enhance_file(tmp_path / "noisy.wav", tmp_path / "enhanced.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noisy.wav"]


def test_decoding_writes_no_file_of_an_output_that_is_not_finite(dump, tmp_path):
    lines = []
    with pytest.raises(InputError, match="3 of 3 utterances failed"):
        decode_shard(Enhancer(nan_model()), dump, tmp_path / "out", log=lines.append)
    assert not list((tmp_path / "out").rglob("*.wav"))


def test_scores_of_a_model_with_nan_output_are_nan(dump):
    scores = development_scores(nan_model(), PairSet(dump), "PESQ_WB")
    assert all(map(math.isnan, scores.values()))


def test_an_epoch_with_a_nan_score_does_not_end_the_choice(dump, config, tmp_path, monkeypatch):
    scores = iter([math.nan, 3.0, 2.0])
    monkeypatch.setattr("sase.training.trainer.development_scores", lambda *_: {"dev_SI_SNR": next(scores)})
    Trainer(config, dump, dump, tmp_path / "exp", WORKERS).run()
    history = [json.loads(line) for line in (tmp_path / "exp/history.jsonl").read_text().splitlines()]
    assert [epoch["best"] for epoch in history] == [False, True, False]
    assert (tmp_path / "exp/best.pt").exists()


def test_arks_of_another_rate_are_refused(dump, tmp_path):
    with pytest.raises(InputError, match="has 16000 Hz noisy and 16000 Hz clean, the network 8000 Hz") as error:
        PairSet(dump, 8000)
    assert one_line(error)
    model = {"preset": "mini", "sample_rate": 8000}
    config = TrainConfig(build_model(model).config, train=OptimiserConfig(epochs=1))
    with pytest.raises(InputError, match="the network 8000 Hz"):
        Trainer(config, dump, dump, tmp_path / "exp", WORKERS)


def first_weight(tensors):
    return next(name for name, value in sorted(tensors.items()) if value.dim() > 1)


def with_changed(tensors, change):
    name = first_weight(tensors)
    return {**tensors, name: change(tensors[name])}


TENSOR_DAMAGES = {
    "NaN": (lambda tensors: with_changed(tensors, lambda w: torch.full_like(w, math.nan)), "contains NaN"),
    "shape": (lambda tensors: with_changed(tensors, lambda w: w[None]), "has shape|do not match"),
    "complex": (lambda tensors: with_changed(tensors, lambda w: w.to(torch.complex64)), "real numbers"),
    "no tensor": (lambda tensors: with_changed(tensors, lambda w: "text"), "not a tensor|a str instead of a tensor"),
    "foreign": (lambda tensors: {**tensors, "extra": torch.zeros(2)}, "extra is unknown|do not match"),
    "no mapping": (lambda tensors: [1, 2], "is a list|no weights|holds a list|instead of"),
}


def damaged(state, place, damage):
    """Return a state in which the mapping of tensors at ``place`` is damaged."""
    head, *rest = place
    return {**state, head: damaged(state[head], rest, damage) if rest else TENSOR_DAMAGES[damage][0](state[head])}


@pytest.fixture(scope="module")
def federation(silos_dir, dev_set, tmp_path_factory):
    """The folder of a federation with every kind of state, two of its three rounds done."""
    folder = tmp_path_factory.mktemp("federation")
    server = Server(train_config("batch"), FEDERATION, dev_set, folder)
    exchange = local_exchange(local_silos(silos_dir, 3, folder))
    for _ in range(2):
        assert server.finish_round(*exchange(server.instruction()))
    return folder


@pytest.mark.parametrize("damage", quick(TENSOR_DAMAGES, 2))
@pytest.mark.parametrize("place", [("model",), ("newest",), ("optimizer", "second"), ("control_sum",)], ids=str)
def test_a_damaged_state_of_the_server_is_refused_by_name(federation, dev_set, tmp_path, place, damage):
    shutil.copytree(federation, tmp_path / "exp")
    path = tmp_path / "exp/server.pt"
    torch.save(damaged(torch.load(path, weights_only=True), place, damage), path)
    with pytest.raises(InputError, match=f"server.pt: .*({TENSOR_DAMAGES[damage][1]})") as error:
        Server(train_config("batch"), FEDERATION, dev_set, tmp_path / "exp")
    assert one_line(error)


@pytest.mark.parametrize("damage", TENSOR_DAMAGES)
def test_a_damaged_control_variate_is_refused_by_name(federation, dev_set, tmp_path, damage):
    shutil.copytree(federation, tmp_path / "exp")
    path = tmp_path / "exp/controls/silo1-2.pt"
    torch.save(damaged(torch.load(path, weights_only=True), ("control",), damage), path)
    with pytest.raises(InputError, match=f"silo1-2.pt: .*({TENSOR_DAMAGES[damage][1]})") as error:
        Server(train_config("batch"), FEDERATION, dev_set, tmp_path / "exp")
    assert one_line(error)


@pytest.mark.parametrize("part", ["control", "norms"])
@pytest.mark.parametrize("damage", quick(TENSOR_DAMAGES, 2))
def test_a_damaged_state_of_a_silo_is_that_silos_failure_in_one_line(
    federation, silos_dir, dev_set, tmp_path, part, damage
):
    shutil.copytree(federation, tmp_path / "exp")
    path = tmp_path / "exp/silos/silo1/state-2.pt"
    torch.save(damaged(torch.load(path, weights_only=True), ("kept", part), damage), path)
    server = Server(train_config("batch"), FEDERATION, dev_set, tmp_path / "exp")
    (silo,) = [silo for silo in local_silos(silos_dir, 3, tmp_path / "exp") if silo.index == 1]
    with pytest.raises(InputError, match=f"silo1.*damaged: .*({TENSOR_DAMAGES[damage][1]})") as error:
        silo.run(server.instruction())
    assert one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["optimizer"]["state"][3].update(exp_avg=torch.zeros(7)), r"exp_avg has shape \(7,\)"),
        (lambda s: s["optimizer"]["state"][3]["exp_avg_sq"].fill_(math.nan), "exp_avg_sq contains NaN"),
        (lambda s: s["optimizer"]["state"][3].update(exp_avg=torch.zeros(1).half().expand(1 << 40)), "declares"),
        (lambda s: s["averaged"].update(a=torch.zeros(4).to_sparse()), "averaged.a is a tensor sparse_coo"),
        (lambda s: s["optimizer"]["state"].update({3: 5}), "does not fit the network"),
        (lambda s: s["optimizer"]["param_groups"][0].update(weight_decay=math.nan), "weight_decay is not that of"),
        (lambda s: s["optimizer"]["param_groups"][0]["params"].pop(), "does not fit the network"),
        (lambda s: s["optimizer"].pop("state"), "state is missing"),
        (lambda s: s.update(step="3"), "step is a str"),
        (lambda s: s.pop("partial"), "partial is missing"),
        (lambda s: s.update(history=[None]), "holds a NoneType"),
        (lambda s: s["history"].reverse(), "entry 1 of the history"),
        (lambda s: s.update(config=3), "config is a int"),
    ],
)
def test_a_damaged_state_of_a_training_is_refused_by_name(trained, dump, config, tmp_path, change, message):
    shutil.copytree(trained, tmp_path / "exp")
    path = tmp_path / "exp/checkpoint.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(InputError, match=message) as error:
        Trainer(config, dump, dump, tmp_path / "exp", WORKERS)
    assert one_line(error)

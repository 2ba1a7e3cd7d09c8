"""Costs of networks against closed forms, and benchmarks that run."""

import json
import math

import pytest
import torch
from torch import nn

from helpers import commands
from sase.bench import stages
from sase.bench.training import bench_train
from sase.model import build_model
from sase.nn.complex import ComplexConv2d, ComplexConvTranspose2d
from sase.profiling import count_macs, count_parameters, macs_per_s, profile, with_unit
from sase.training.config import load_train_config


def test_layers_against_closed_forms():
    x = torch.randn(3, 11, 10)
    assert count_macs(nn.Linear(10, 7), x) == 3 * 11 * 10 * 7
    assert count_macs(nn.LSTM(10, 7, 2, batch_first=True), x) == 3 * 11 * 4 * 7 * ((10 + 7) + (7 + 7))
    assert count_macs(nn.LSTM(10, 7, bidirectional=True, batch_first=True), x) == 2 * 3 * 11 * 4 * 7 * (10 + 7)
    assert count_macs(nn.GRU(10, 7, batch_first=True), x) == 3 * 11 * 3 * 7 * (10 + 7)
    image = torch.randn(2, 4, 12, 9)
    assert count_macs(nn.Conv2d(4, 6, (5, 2)), image) == 2 * 6 * 8 * 8 * 4 * 5 * 2
    assert count_macs(nn.Conv2d(4, 6, 3, groups=2), image) == 2 * 6 * 10 * 7 * 2 * 9
    # A complex convolution is four real ones; the transposed one spends its kernel on every input position.
    assert count_macs(ComplexConv2d(2, 3, (5, 2), stride=2, padding=2), image) == 2 * (2 * 3) * 6 * 9 * (2 * 2) * 10
    up = ComplexConvTranspose2d(2, 3, (5, 2), stride=2, padding=2, output_padding=1)
    assert count_macs(up, image) == 2 * (2 * 2) * 12 * (9 + 1) * (2 * 3) * 10  # with the frame before the first


def test_counting_leaves_the_module_alone():
    lstm = nn.LSTM(4, 4)
    before = {name: tensor.clone() for name, tensor in lstm.state_dict().items()}
    count_macs(lstm, torch.zeros(2, 1, 4))
    assert lstm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in lstm.state_dict().items())


@pytest.mark.recipe
def test_a_network_costs_the_sum_of_its_parts():
    config = {"preset": "dccrn", "channels": [2, 4], "recurrent": 8}
    model = build_model(config)
    frames = 160  # a second
    freq, flat = 256, 2 * 4 * 64
    encoder = 4 * 10 * (1 * 2 * freq // 2 + 2 * 4 * freq // 4)
    decoder = 4 * 10 * (2 * 4 * 2 * freq // 4 + 2 * 2 * 1 * freq // 2)
    lstm = 4 * 8 * ((flat + 8) + (8 + 8))
    assert macs_per_s(model) == frames * (encoder + decoder + lstm + 8 * flat)


@pytest.mark.recipe
def test_profile_of_a_preset():
    costs = profile(build_model("mini"))
    assert json.loads(json.dumps(costs)) == costs
    assert (
        costs["parameters"]
        == count_parameters(build_model("mini"))
        == sum(p.numel() for p in build_model("mini").parameters())
    )
    assert costs["causal"]
    assert costs["latency_s"] == 0.032
    assert costs["macs_per_s"] > costs["parameters"]
    assert profile(build_model({"preset": "mini", "causal": False}))["latency_s"] is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (31234, "31.2 k"),
        (999499, "999 k"),
        (999600, "1.00 M"),
        (84_100_000, "84.1 M"),
        (8_610_000_000, "8.61 G"),
        (123_000_000_000, "123 G"),
        (9_996, "10.0 k"),
    ],
)
def test_counts_with_units(count, text):
    assert with_unit(count) == text


@pytest.mark.recipe
def test_benchmarks_run(tmp_path):
    threads = torch.get_num_threads()
    rows = stages.bench_enhance({"mini": build_model("mini")}, [0.1, 0.2], repeats=2)
    assert [row["input s"] for row in rows] == [0.1, 0.2]
    assert torch.get_num_threads() == threads
    assert all(0 < row["RTF best"] <= row["RTF median"] for row in rows)
    assert rows[0]["GMAC"] > 0
    (row,) = stages.bench_dump(pairs=2, duration_s=0.3)
    assert row["sound s"] == 1.2
    assert row["× real time"] > 0
    config = tmp_path / "c.yaml"
    config.write_text("model: {preset: mini}\ndata: {batch_size: 2, segment_s: 0.2}\nloss: {si_snr: 1.0}\n")
    (row,) = bench_train([load_train_config(config)], steps=1)
    assert row["batch s"] == 0.4
    assert row["× real time, median"] > 0
    assert row["switches"] == "as configured"
    assert row["bad steps"] == 0
    assert math.isfinite(row["last loss"])
    parts = list(map(int, row["draw, forward, loss, backward, update %"].split(",")))
    assert len(parts) == 5
    assert min(parts) >= 0
    assert 97 <= sum(parts) <= 103
    assert parts[1] + parts[3] > 50  # forward and backward
    assert "cores" in stages.machine()


@pytest.mark.recipe
def test_several_configs_are_trained_by_one_command(tmp_path):
    lines = "model: {preset: mini}\ndata: {batch_size: 2, segment_s: 0.2}\n"
    for name, loss, precision in (("a", "si_snr", "float32"), ("b", "sdr", "bfloat16")):
        (tmp_path / name).write_text(f"{lines}loss: {{{loss}: 1.0}}\ntrain: {{precision: {precision}}}\n")
    done = commands.sase("bench", "--json", "train", "--config", tmp_path / "a", tmp_path / "b", "--steps", 2)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["loss"] for row in rows] == ["si_snr", "sdr"]
    assert all(math.isfinite(row["last loss"]) and row["bad steps"] == 0 for row in rows)


def test_synthetic_speech_can_be_scored():
    pytest.importorskip("pesq")
    (row,) = stages.bench_score(utterances=2)
    assert row["s for 824"] == pytest.approx(row["s"] * 412)

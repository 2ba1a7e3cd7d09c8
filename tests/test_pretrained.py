"""Pretrained weights: loaded by name, safe to load, and consistent with their model cards."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from sase import Enhancer, pretrained
from sase.bin import enhance
from sase.errors import InputError
from sase.evaluation.release import release
from sase.model import build_model, save_model
from sase.profiling import count_parameters

BOTH = {"mean": 1.0, "std": 0.5}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in place of the package's own, with weights called ``mine``."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shipped")
    torch.manual_seed(0)
    model = build_model("mini").eval()
    (tmp_path / "shipped").mkdir()
    pretrained.save(model, tmp_path / "shipped" / "mine.safetensors")
    return tmp_path, model


def test_weights_are_restored_exactly_by_name_by_file_and_as_a_checkpoint(folder):
    tmp_path, model = folder
    wav = 0.1 * torch.randn(1, 8000)
    save_model(model, tmp_path / "best.pt")
    for name in ("mine", tmp_path / "shipped/mine.safetensors", tmp_path / "best.pt", tmp_path):
        loaded = pretrained.load(name)
        assert not loaded.training
        assert loaded.config == model.config
        assert torch.equal(loaded(wav), model(wav))
    assert list(pretrained.available()) == ["mine"]


def test_bad_weights_are_rejected_with_one_line(folder):
    tmp_path, _ = folder
    shipped = tmp_path / "shipped"
    whole = (shipped / "mine.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    metadata = {"format": "sase-1", "model_config": "{}"}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "misfit.safetensors", metadata)
    for name, message in {
        "yours": "yours: model not found; give one of mine",
        "exp/gone/best.pt": "model not found",
        tmp_path / "cut.safetensors": "not a readable safetensors file",
        tmp_path / "empty.safetensors": "not a readable safetensors file",
        tmp_path / "other.safetensors": "not weights of SASE",
        tmp_path / "misfit.safetensors": "do not match the config",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            pretrained.load(name)
        assert "\n" not in str(caught.value)


@pytest.mark.recipe
def test_a_release_has_the_best_weights_and_a_card_with_their_training(tmp_path):
    scores = {"mean": dict.fromkeys(_names(), 2.0), "std": dict.fromkeys(_names(), 0.5), "scored": 3}
    summary = {
        **scores,
        "unprocessed": scores,
        "common": {"unprocessed": scores, "enhanced": scores},
        "breakdowns": {"snr": {"2.5": {"unprocessed": scores, "enhanced": scores}}},
    }
    exp, scoring = tmp_path / "exp", tmp_path / "exp/enhanced_tt/scoring"
    scoring.mkdir(parents=True)
    (scoring / "summary.json").write_text(json.dumps(summary))
    (exp / "config.yaml").write_text("data: {batch_size: 12, segment_s: 2.0}\nseed: 7\n")
    history = [{"epoch": 1, "steps": 750, "best": True, "dev_SI_SNR": 3.5}, {"epoch": 2, "steps": 1500, "best": False}]
    (exp / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    (tmp_path / "notes.md").write_text("## Data\n\nTones.\n")
    with pytest.raises(InputError, match=r"best\.pt: not found"):
        release(exp, scoring, "tones", tmp_path / "notes.md", tmp_path)
    model = build_model("mini").eval()
    save_model(model, exp / "best.pt")
    paths = release(exp, scoring, "tones", tmp_path / "notes.md", tmp_path)
    assert [path.name for path in paths] == [f"tones.{kind}" for kind in ("safetensors", "md", "onnx", "sase", "json")]
    weights, card = paths[:2]
    wav = 0.1 * torch.randn(1, 4000)
    assert torch.equal(pretrained.load(weights)(wav), model(wav))
    text = card.read_text()
    expected = (
        "# tones",
        "1,500 steps",
        "10 h of mixtures",
        "Epoch 1 of 2",
        "SI_SNR 3.5",
        "seed: 7",
        "| 2.5 |",
        "Tones.",
    )
    for line in expected:
        assert line in text
    assert "Then" not in text
    first = tmp_path / "first"
    first.mkdir()
    (first / "config.yaml").write_text("data: {batch_size: 6, segment_s: 1.0, clean: 0.1}\nmodel: {hop: 64}\nseed: 9\n")
    (first / "history.jsonl").write_text(json.dumps({"epoch": 1, "steps": 600, "best": True, "dev_SI_SNR": 1.5}) + "\n")
    changed = f"data: {{batch_size: 12, segment_s: 2.0, clean: 0.1}}\nmodel: {{hop: 64}}\ninit: {first}\nseed: 7\n"
    (exp / "config.yaml").write_text(changed)
    text = release(exp, scoring, "tones", tmp_path / "notes.md", tmp_path)[1].read_text()
    before, _, after = text.partition("Then, starting from these weights: 1,500 steps")
    assert "600 steps of 6 segments of 1 s, 1 h" in before
    assert "seed: 9" in before
    assert "```yaml\ndata:\n  batch_size: 12\n  segment_s: 2.0\nseed: 7\n```" in after


def _names():
    from sase.metrics.measures import METRICS

    return list(METRICS)


@pytest.mark.parametrize("name", sorted(pretrained.available()))
def test_pretrained_weights_enhance_and_their_card_has_the_parameter_count(name):
    enhancer = Enhancer.from_pretrained(name, engine="torch")
    wav = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.05
    enhanced = enhancer.enhance(wav, 16000)
    assert np.square(enhanced).sum() < 0.1 * np.square(wav).sum()  # stationary noise is suppressed by at least 10 dB
    card = pretrained.card(name)
    assert f"# {name}" in card
    assert "cross-corpus" in card
    assert f"{count_parameters(enhancer.model) / 1e3:.1f} k" in card


def test_the_command_and_the_library_have_the_same_default(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sase enhance", "--help"])
    with pytest.raises(SystemExit):
        enhance.main()
    assert f"weights by name ({pretrained.DEFAULT};" in " ".join(capsys.readouterr().out.split())


def test_pretrained_weights_are_small():
    assert sum(path.stat().st_size for path in pretrained.available().values()) < 12e6


@pytest.mark.parametrize("name", sorted(pretrained.available()))
def test_pretrained_weights_improve_real_noisy_speech(name, real_audio):
    from sase import audio
    from sase.metrics.measures import METRICS

    corpus, enhancer, gains = real_audio / "vbd_test_part", Enhancer.from_pretrained(name), []
    sides = ("clean", "noisy")
    for utt in (corpus / "utts.txt").read_text().split()[::10]:
        (clean, rate), (noisy, _) = (audio.read_mono(corpus / f"{k}_testset_wav/{utt}.flac") for k in sides)
        measure = METRICS["SI_SDR"]
        gains.append(measure(clean, enhancer.enhance(noisy, rate), rate) - measure(clean, noisy, rate))
    assert np.mean(gains) > 5.0

"""local/peers.py of the recipe: frames, delays, tables of arks, and the table of scores, on systems made up here."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import soundfile

from helpers.dumps import dumped

RATE = 16000


def load(root, name):
    path = root / "egs/voicebank_demand/local" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peers(root):
    return load(root, "peers")


def noise(num_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def delayed(count):
    return lambda: lambda wav: np.concatenate([np.zeros(count, np.float32), wav])[: len(wav)]


@pytest.mark.parametrize("length", [1, 479, 480, 481, 5000])
def test_frames_cover_the_signal(peers, length):
    wav, sizes = noise(length), []

    def process(frame):
        sizes.append(len(frame))
        return frame

    output = peers.in_frames(wav, 480, process)
    assert set(sizes) == {480}
    np.testing.assert_array_equal(output[:length], wav)
    assert not output[length:].any()


@pytest.mark.parametrize("lag", [-1600, -3, 0, 1, 96, 1600])
def test_the_delay_is_found_by_correlation(peers, lag):
    wav = noise(8000)
    moved = np.concatenate([np.zeros(lag), wav[: 8000 - lag]]) if lag >= 0 else np.append(wav[-lag:], np.zeros(-lag))
    assert peers.delay_of(0.3 * moved + 0.01 * noise(8000, 1), wav) == lag


@pytest.mark.parametrize(("rate", "delay"), [(16000, 0), (16000, 96), (48000, 1440), (48000, 960)])
def test_a_known_delay_is_compensated(peers, rate, delay):
    """A system that only delays gives its input back, whole, at 16 kHz."""
    wav = noise(12000)
    if rate > RATE:  # without what resampling removes
        wav = np.convolve(wav, np.sinc(np.arange(-40, 41) / 2) / 2, "same").astype(np.float32)
    peer = peers.Peer(delayed(delay), rate, delay)
    output, seconds = peers.enhance(peer.make(), peer, wav)
    assert output.shape == wav.shape
    assert seconds >= 0
    assert np.abs(output - wav)[200:-200].max() < 1e-2 * np.abs(wav).max()
    assert peers.delay_of(output, wav) == 0


def test_a_set_is_enhanced_and_a_wrong_delay_refused(peers, tmp_path, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "late", peers.Peer(delayed(96), RATE, 96))
    monkeypatch.setitem(peers.PEERS, "wrong", peers.Peer(delayed(96), RATE, 90))
    dump = dumped(tmp_path)
    peers.run("late", dump, tmp_path / "late")
    noisy = dict(peers.read_table(dump / "wav.scp"))  # of an ark
    enhanced = dict(peers.read_table(tmp_path / "late/spk1.scp"))  # of files
    assert noisy.keys() == enhanced.keys()
    for utt, wav in noisy.items():
        np.testing.assert_allclose(enhanced[utt], wav, atol=1e-4)
    record = json.loads((tmp_path / "late/peer.json").read_text())
    assert record["delay_ms"] == 6
    assert record["residual_lag"] == 0
    assert record["utterances"] == len(noisy)
    with pytest.raises(SystemExit, match="wrong: its output lags 6 samples behind the input"):
        peers.run("wrong", dump, tmp_path / "wrong")
    assert not (tmp_path / "wrong/spk1.scp").exists()


def test_sets_at_another_rate_are_refused(peers, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(800), 8000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    with pytest.raises(SystemExit, match="a must be mono at 16000 Hz"):
        next(peers.read_table(tmp_path / "wav.scp"))


def test_the_table_has_means_with_intervals(root, tmp_path):
    table = load(root, "peers_table")
    for folder, values in (("noisy", (1.0, 1.2, 1.4)), ("mine/scoring", (2.0, 2.0, 2.0))):
        (tmp_path / folder).mkdir(parents=True)
        lines = [f"u{number} {value}\n" for number, value in enumerate(values)]
        (tmp_path / folder / "PESQ_WB").write_text("".join(lines))
    (tmp_path / "noisy/STOI").write_text("u0 0.5\nu1 nan\n")
    record = {"system": "mine", "rtf": 0.0123, "delay_ms": 20.0}
    (tmp_path / "mine/peer.json").write_text(json.dumps(record))
    unprocessed, mine = table.rows(tmp_path / "noisy", [tmp_path / "mine"])
    assert unprocessed[:2] == ["unprocessed", "1.200 [1.000, 1.400]"]
    assert unprocessed[2].startswith("0.5000 [")
    assert mine[:3] == ["mine", "2.000 [2.000, 2.000]", "–"]
    assert mine[-2:] == ["0.0123", "20"]

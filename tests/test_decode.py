"""Stage 4: every utterance once, exact lengths, and resuming after kills and changes."""

import numpy as np
import pytest
import torch

from helpers.dumps import dump_all, make_set
from sase import Enhancer, audio
from sase.data import arks, datadir
from sase.errors import InputError
from sase.evaluation import decoding
from sase.model import build_model

LENGTHS = {f"p{speaker}_{i:03d}": 1600 + 480 * i + i for speaker in (1, 2) for i in range(4)} | {"p3_000": 1}


def made(seed=0):
    torch.manual_seed(seed)
    return Enhancer(build_model("mini"))


@pytest.fixture(scope="module")
def enhancer():
    return made()


@pytest.fixture
def data(tmp_path):
    return dump_all(make_set(tmp_path, LENGTHS, rate=16000), tmp_path / "dump", nj=2)


def decode(enhancer, data, out, nj=1):
    """Decode all shards and join them; return the log lines."""
    lines = []
    for job in range(1, nj + 1):
        decoding.decode_shard(enhancer, data.path, out, nj, job, lines.append)
    assert decoding.finish(enhancer, data.path, out) == len(data)
    return lines


def contents(out):
    return {path.name: path.read_bytes() for path in (out / "wav").iterdir()}


def stamps(out):
    return {path.stem: path.stat().st_mtime_ns for path in (out / "wav").iterdir()}


def test_every_utterance_is_enhanced(tmp_path, data, enhancer):
    decode(enhancer, data, tmp_path / "out")
    table = datadir.read_table(tmp_path / "out/spk1.scp")
    assert list(table) == sorted(LENGTHS)
    for utt, path in table.items():
        wav, rate = audio.read_mono(path)
        assert rate == 16000
        assert wav.shape == (LENGTHS[utt],)
        expected = np.clip(enhancer.enhance(arks.read_wav(data.noisy[utt]), 16000), -1, 1)
        np.testing.assert_allclose(wav, expected, atol=2 / 32768)


def test_a_key_never_leaves_the_output_folder(tmp_path, data, enhancer):
    for name in ("wav.scp", "spk1.scp", "utt2spk", "utt2num_samples"):
        path = data.path / name
        path.write_text(path.read_text().replace("p1_000", "../../../p1_000"))
    with pytest.raises(InputError, match="the key '../../../p1_000' cannot name a file"):
        decode(enhancer, data, tmp_path / "deep/er/out")
    assert not (tmp_path / "deep").exists()


def test_shards_give_the_same_files(tmp_path, data, enhancer):
    decode(enhancer, data, tmp_path / "one")
    decode(enhancer, data, tmp_path / "three", nj=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    scp = [(tmp_path / name / "spk1.scp").read_text().replace(f"/{name}/", "/") for name in ("one", "three")]
    assert scp[0] == scp[1]


def test_only_missing_or_changed_utterances_are_decoded_again(tmp_path, data, enhancer):
    out = tmp_path / "out"
    decode(enhancer, data, out, nj=2)
    before = stamps(out)
    assert all("0 utterances enhanced" in line for line in decode(enhancer, data, out, nj=3))  # other shards
    assert stamps(out) == before
    (out / "wav/p1_000.wav").unlink()
    audio.write(out / "wav/p1_001.wav", np.zeros(5), 16000)
    decode(enhancer, data, out)
    assert {utt for utt, stamp in stamps(out).items() if stamp != before[utt]} == {"p1_000", "p1_001"}
    assert audio.info(out / "wav/p1_001.wav").num_samples == LENGTHS["p1_001"]


def test_another_model_decodes_everything_again(tmp_path, data, enhancer):
    out = tmp_path / "out"
    decode(enhancer, data, out)
    first = contents(out)
    other = made(seed=1)
    decoding.decode_shard(other, data.path, out, 2, 1, print)
    assert not (out / "spk1.scp").exists()  # it would list files of two models
    for each in (enhancer, other):
        with pytest.raises(InputError, match="missing or of another model"):
            decoding.finish(each, data.path, out)
    decode(other, data, out)
    second = contents(out)
    assert all(first[name] != second[name] for name in first)
    decode(enhancer, data, out, nj=2)
    assert contents(out) == first


def test_changed_input_is_decoded_again(tmp_path, data, enhancer):
    decode(enhancer, data, tmp_path / "out")
    before = stamps(tmp_path / "out")
    (tmp_path / "noisy/p1_000.wav").write_bytes((tmp_path / "clean/p1_000.wav").read_bytes())
    data = dump_all(tmp_path / "data/tr", tmp_path / "dump", nj=2)
    decode(enhancer, data, tmp_path / "out")
    changed = {utt for utt, stamp in stamps(tmp_path / "out").items() if stamp != before[utt]}
    assert "p1_000" in changed
    assert "p3_000" not in changed


def test_a_killed_job_resumes(tmp_path, data, enhancer, monkeypatch):
    out, calls, enhance = tmp_path / "out", [], enhancer.enhance
    decode(enhancer, data, tmp_path / "whole")

    def dying(wav, rate):
        calls.append(len(wav))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return enhance(wav, rate)

    monkeypatch.setattr(enhancer, "enhance", dying)
    with pytest.raises(KeyboardInterrupt):
        decode(enhancer, data, out)
    (out / "wav/.p1_003.77.partial.wav").write_bytes(b"RIFF")  # left behind by SIGKILL
    journal = out / "done/1"
    journal.write_text(journal.read_text()[:-5])
    with pytest.raises(InputError, match="7 of 9 utterances are missing"):
        decoding.finish(enhancer, data.path, out)
    decode(enhancer, data, out)
    assert len(calls) == 4 + 7
    assert contents(out) == contents(tmp_path / "whole")
    decode(enhancer, data, out)
    assert len(calls) == 4 + 7


def test_a_bad_utterance_is_reported_and_the_others_are_decoded(tmp_path, data, enhancer, capsys):
    table = tmp_path / "dump/wav.scp"
    table.write_text(table.read_text().replace(data.noisy["p1_002"], data.noisy["p1_002"] + "7"))
    lines = []
    with pytest.raises(InputError, match="1 of 9 utterances failed"):
        decoding.decode_shard(enhancer, data.path, tmp_path / "out", log=lines.append)
    assert "p1_002: " in capsys.readouterr().out
    assert "8 utterances enhanced, 0 before, 1 failed" in lines[0]
    assert stamps(tmp_path / "out").keys() == LENGTHS.keys() - {"p1_002"}
    with pytest.raises(InputError, match="the first p1_002"):
        decoding.finish(enhancer, data.path, tmp_path / "out")

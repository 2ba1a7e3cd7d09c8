"""Every other file that sase reads, mutated: tables, arks, YAML, weights, .mat, archives."""

import io
import json
import zipfile

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import strategies as st

from helpers.audio import noise
from helpers.fuzzing import changes, cuts, hammer, holes, outcome
from sase import pretrained
from sase.config import from_mapping, read_yaml, to_yaml
from sase.data import arks, datadir
from sase.data.corpora import commonvoice, download, matfile
from sase.data.mixtures import Mixture, read_mixtures, write_mixtures
from sase.model import build_model, save_model
from sase.nn.config import ModelConfig

SHARE = 0.36 / 10
KEYS = (b"../", b"/", b"\0", b"..", b"\r\n", b"\xef\xbb\xbf", b"\x1b[2J", b"\t", b"  ", b"\n", b"\xff", "é".encode())


def everything(content, marks, pieces=()):
    return st.one_of(cuts(content), holes(content), changes(content, marks, pieces))


@pytest.mark.fuzz
def test_tables(tmp_path, record_property):
    path = tmp_path / "wav.scp"
    datadir.write_table(path, {f"p{i}_{j}": f"/corpus/p{i}/{j}.wav" for i in range(3) for j in range(3)})
    content = path.read_bytes()

    def check(example):
        path.write_bytes(example[1])
        table = outcome(datadir.read_table, path) or {}
        assert all(".." not in key.split("/") and key[0] != "/" and "\0" not in key for key in table)
        assert len(table) <= example[1].count(b"\n")

    hammer(check, everything(content, (b"p", b"\n"), KEYS), SHARE, record_property)


@pytest.mark.fuzz
def test_mixtures(tmp_path, record_property):
    path = tmp_path / "mixtures.tsv"
    mixture = Mixture("p1", "/speech/a.wav", "bus", "/noise/bus.wav", 0.0, 4.0, 1.5, 5.0, 1)
    write_mixtures(path, {f"p1_{i}": mixture for i in range(5)})
    content = path.read_bytes()

    def check(example):
        path.write_bytes(example[1])
        for utt, mixture in (outcome(read_mixtures, path) or {}).items():
            assert ".." not in utt.split("/")
            assert 0 <= mixture.begin_s <= mixture.offset_s < mixture.end_s < float("inf")

    hammer(check, everything(content, (b"p1", b"\t"), (*KEYS, b"nan", b"1e999", b"-1", b"_")), SHARE, record_property)


@pytest.mark.fuzz
def test_the_tables_of_common_voice(tmp_path, record_property):
    (tmp_path / "clips").mkdir()
    text = "client_id\tpath\tsentence\n" + "".join(f"{i:032x}\tcommon_{i}.mp3\tja\n" for i in range(4))
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_text(text)

    def check(example):
        (tmp_path / "test.tsv").write_bytes(example[1])
        outcome(commonvoice.read_clips, tmp_path, lambda line: None)

    hammer(check, everything(text.encode(), (b"\t", b"\n"), (*KEYS, b'"')), SHARE, record_property)


@pytest.mark.fuzz
def test_arks(tmp_path, record_property):
    path = tmp_path / "wav.1.ark"
    with arks.ark_writer(path, 16000) as write:
        specs = [write(f"p1_{i}", (1000 * noise(500, seed=i)).astype(np.int16)) for i in range(3)]
    content = path.read_bytes()
    whole = [arks.read_int16(spec) for spec in specs]

    def check(example):
        how, changed = example
        path.write_bytes(changed)
        for spec, expected in zip(specs, whole):
            wav = outcome(arks.read_int16, spec)
            if wav is not None and how == "cut":
                np.testing.assert_array_equal(wav, expected)

    hammer(check, everything(content, (b"RIFF", b"fmt ", b"data")), SHARE, record_property)


@pytest.mark.fuzz
def test_yaml(tmp_path, record_property):
    path, content = tmp_path / "c.yaml", to_yaml(ModelConfig()).encode()
    pieces = (b"&a ", b"*a", b"<<: *a", b"[", b"{", b"!!int ", b"!!timestamp ", b"!!python/name:os.system", b"- ")
    pieces += (b"9" * 5000, b"1e999", b".nan", b"? ", b"|", b"%YAML 9", b"---\n", b"[" * 200, b"\0", b"2026-99-99")

    def check(example):
        path.write_bytes(example[1])
        mapping = outcome(read_yaml, path)
        if mapping is not None:
            outcome(from_mapping, ModelConfig, mapping, "model")

    hammer(check, everything(content, (b": ", b"\n"), pieces), SHARE, record_property)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("mini").eval()


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["best.pt", "a.safetensors"])
def test_weights(tmp_path, record_property, model, name):
    path = tmp_path / name
    (save_model if name == "best.pt" else pretrained.save)(model, path)
    content = path.read_bytes()
    pieces = [
        json.dumps({"blocks": 10**6}).encode(),
        b'"recurrent": 99999999',
        b'"data_offsets":[0,9999999999]',
        b"NaN",
    ]
    marks = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"model_config", b"shape", b"data_offsets", b"data.pkl")

    def check(example):
        path.write_bytes(example[1])
        loaded = outcome(pretrained.load, path)
        if loaded is not None and example[0] == "cut":
            assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))

    hammer(check, everything(content, marks, pieces), SHARE, record_property)


@pytest.mark.fuzz
@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"format": "4"}], ids=["5", "7", "4"])
def test_mat(tmp_path, record_property, options):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.arange(500.0), "y": np.arange(900, dtype=np.int16)}, **options)
    content = path.read_bytes()

    def check(example):
        path.write_bytes(example[1])
        samples = outcome(matfile.longest_vector, path)
        assert samples is None or samples.ndim == 1

    hammer(check, everything(content, (b"IM", b"x", b"y", b"\x0f\0\0\0")), SHARE / 3, record_property)


@pytest.mark.fuzz
def test_archives(tmp_path, record_property):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"set/p{i}.wav", noise(300, seed=i).tobytes())
    content, folder = buffer.getvalue(), tmp_path / "in"
    folder.mkdir()

    def check(example):
        (folder / "set.zip").write_bytes(example[1])
        outcome(download.unpack, folder / "set.zip", folder / "set")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    hammer(check, everything(content, (b"PK", b"set/"), (b"../", b"/", b"..")), SHARE, record_property)

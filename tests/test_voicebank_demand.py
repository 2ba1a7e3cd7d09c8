"""Stage 1 on small corpora in the official layout: what is written, and what is said of one that does not fit."""

import shutil

import numpy as np
import pytest

from sase import audio
from sase.data import datadir, left_out
from sase.data.corpora import voicebank_demand
from sase.errors import InputError

TRAIN = ("p226_001", "p227_001", "p227_002", "p287_003")
TEST = ("p232_001", "p257_009")


@pytest.fixture
def corpus(tmp_path):
    """The official layout with a sound of a hundredth of a second for every file."""
    root, wav = tmp_path / "corpus", 0.1 * np.ones(480, np.float32)
    for part, utts in (("trainset_28spk", TRAIN), ("testset", TEST)):
        for kind in ("clean", "noisy"):
            for utt in utts:
                audio.write(root / f"{kind}_{part}_wav" / f"{utt}.wav", wav, 48000)
    (root / "log_trainset_28spk.txt").write_text("p227_001 cafe 15\np226_001 ssn 0\np999_001 ssn 0\n\n")
    (root / "log_testset.txt").write_text("p257_009 bus 17.5\np232_001 living 2.5\n")
    return root


def read_all(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_three_sets(corpus, tmp_path):
    sets = voicebank_demand.prepare(corpus, tmp_path / "data")
    assert {name: data.utts for name, data in sets.items()} == {
        "tr": ["p227_001", "p227_002"],
        "cv": ["p226_001", "p287_003"],
        "tt": ["p232_001", "p257_009"],
    }
    assert sets["tr"].noisy["p227_001"] == str(corpus / "noisy_trainset_28spk_wav/p227_001.wav")
    assert sets["tr"].clean["p227_001"] == str(corpus / "clean_trainset_28spk_wav/p227_001.wav")
    assert sets["tr"].utt2noise == {"p227_001": "cafe"}
    assert sets["cv"].utt2snr == {"p226_001": 0.0}
    assert sets["tt"].utt2snr == {"p232_001": 2.5, "p257_009": 17.5}
    assert sets["tt"].utt2spk["p232_001"] == "p232"
    for name in sets:
        assert datadir.validate_data_dir(tmp_path / "data" / name, audio=True) == sets[name]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cv", "tr", "tt"]


def test_relative_paths_become_absolute(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = voicebank_demand.prepare("corpus", "data")
    assert sets["tt"].noisy["p232_001"] == str(corpus / "noisy_testset_wav/p232_001.wav")


def test_again_gives_the_same_files_and_a_new_split_replaces_the_old(corpus, tmp_path):
    data = tmp_path / "data"
    voicebank_demand.prepare(corpus, data)
    first = read_all(data)
    voicebank_demand.prepare(corpus, data)
    assert read_all(data) == first
    sets = voicebank_demand.prepare(corpus, data, dev_speakers=["p227"])
    assert sets["cv"].utts == ["p227_001", "p227_002"]
    assert sets["tr"].utts == ["p226_001", "p287_003"]


def test_a_failure_leaves_the_old_data_and_nothing_half(corpus, tmp_path, monkeypatch):
    data = tmp_path / "data"
    voicebank_demand.prepare(corpus, data)
    first, written = read_all(data), []

    def fail_at_the_third(folder):
        written.append(folder)
        if len(written) == 3:
            raise OSError("killed")

    monkeypatch.setattr(datadir, "validate_data_dir", fail_at_the_third)
    with pytest.raises(OSError, match="killed"):
        voicebank_demand.prepare(corpus, data, dev_speakers=["p227"])
    assert read_all(data) == first


def test_zip_layouts_and_flac(corpus, tmp_path):
    first = voicebank_demand.prepare(corpus, tmp_path / "data")
    for name in ("clean_testset_wav", "noisy_testset_wav"):  # NAME/NAME/*.wav
        (corpus / name).rename(corpus / "moved")
        (corpus / name).mkdir()
        (corpus / "moved").rename(corpus / name / name)
    (corpus / "unpacked").mkdir()  # ANY/NAME/*.wav
    for name in ("clean_trainset_28spk_wav", "noisy_trainset_28spk_wav"):
        (corpus / name).rename(corpus / "unpacked" / name)
        for file in (corpus / "unpacked" / name).iterdir():
            audio.write(file.with_suffix(".FLAC"), audio.read_mono(file)[0], 48000)
            file.unlink()
        (corpus / "unpacked" / name / "._p227_001.wav").write_bytes(b"a Mac was here")
    (corpus / "logfiles").mkdir()
    for name in ("log_trainset_28spk.txt", "log_testset.txt"):
        (corpus / name).rename(corpus / "logfiles" / name)
    sets = voicebank_demand.prepare(corpus, tmp_path / "data")
    assert {name: data.utts for name, data in sets.items()} == {name: data.utts for name, data in first.items()}
    assert sets["tr"].clean["p227_001"].endswith("unpacked/clean_trainset_28spk_wav/p227_001.FLAC")
    assert sets["tt"].noisy["p232_001"].endswith("noisy_testset_wav/noisy_testset_wav/p232_001.wav")
    assert sets["tt"].utt2noise == first["tt"].utt2noise


def test_the_other_training_set(corpus, tmp_path):
    for kind in ("clean", "noisy"):
        (corpus / f"{kind}_trainset_28spk_wav").rename(corpus / f"{kind}_trainset_56spk_wav")
    sets = voicebank_demand.prepare(corpus, tmp_path / "data")
    assert len(sets["tr"]) == 2
    assert sets["tr"].utt2noise == {}
    with pytest.raises(InputError, match="no folder noisy_trainset_28spk_wav/"):
        voicebank_demand.prepare(corpus, tmp_path / "data", trainset="28spk")


def test_without_log_files(corpus, tmp_path):
    for path in corpus.glob("*.txt"):
        path.unlink()
    sets = voicebank_demand.prepare(corpus, tmp_path / "data")
    assert not any(data.utt2noise or data.utt2snr for data in sets.values())
    assert not list((tmp_path / "data").rglob("utt2noise"))


@pytest.mark.parametrize(
    ("speakers", "words"),
    [
        (["p226", "p300", "p301"], "not found: p300 p301; choose with --dev-speakers from: p226 p227 p287"),
        ([], r"\(none given\).* --dev-speakers from: p226"),
        (["p226", "p227", "p287"], "lists every speaker"),
    ],
)
def test_development_speakers_that_do_not_fit(corpus, tmp_path, speakers, words):
    with pytest.raises(InputError, match=words):
        voicebank_demand.prepare(corpus, tmp_path / "data", dev_speakers=speakers)
    assert not (tmp_path / "data").exists()


def test_the_default_speakers_are_an_error_too_where_they_are_not(corpus, tmp_path):
    for kind in ("clean", "noisy"):
        (corpus / f"{kind}_trainset_28spk_wav/p287_003.wav").unlink()
    with pytest.raises(InputError, match="not found: p287; choose with --dev-speakers from: p226 p227"):
        voicebank_demand.prepare(corpus, tmp_path / "data")


def test_a_corpus_that_does_not_fit(corpus, tmp_path):
    data = tmp_path / "data"
    with pytest.raises(InputError, match="no such corpus folder"):
        voicebank_demand.prepare(corpus / "none", data)
    shutil.copy(corpus / "noisy_testset_wav/p232_001.wav", corpus / "noisy_testset_wav/p232_007.wav")
    with pytest.raises(
        InputError, match=r"1 bad .*: p232_007 \(is in noisy_testset_wav, but not in clean_testset_wav\)"
    ):
        voicebank_demand.prepare(corpus, data)
    voicebank_demand.prepare(corpus, tmp_path / "fewer", skip_bad_test=True)
    assert list(left_out.read(tmp_path / "fewer/tt")) == ["p232_007"]
    (corpus / "noisy_testset_wav/p232_007.wav").rename(corpus / "noisy_testset_wav/p232_001.flac")
    with pytest.raises(InputError, match="duplicate p232_001"):
        voicebank_demand.prepare(corpus, data)
    (corpus / "noisy_testset_wav/p232_001.flac").unlink()
    (corpus / "log_testset.txt").write_text("p232_001 bus 2.5\np257_009 bus loud\n")
    with pytest.raises(InputError, match="log_testset.txt:2: must be 'utterance noise snr_db'"):
        voicebank_demand.prepare(corpus, data)
    shutil.rmtree(corpus / "clean_testset_wav")
    with pytest.raises(InputError, match="no folder clean_testset_wav/"):
        voicebank_demand.prepare(corpus, data)
    assert not data.exists()

"""The commands sase download, prepare and validate: files, output and exit status."""

import subprocess
import sys

import numpy as np
import pytest

from sase import audio
from sase.data import datadir


@pytest.fixture
def sase(root, monkeypatch):
    """Run a command of sase; return (exit status, standard output, standard error)."""
    monkeypatch.setenv("PYTHONPATH", str(root))

    def call(*arguments):
        command = [sys.executable, "-m", "sase.bin.main", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def corpus(tmp_path):
    for part, utts in (("trainset_28spk", ("p1_1", "p2_1")), ("testset", ("p3_1",))):
        for kind in ("clean", "noisy"):
            for utt in utts:
                audio.write(tmp_path / f"corpus/{kind}_{part}_wav/{utt}.wav", 0.1 * np.ones(480), 48000)
    (tmp_path / "corpus/log_testset.txt").write_text("p3_1 bus 2.5\n")
    return tmp_path / "corpus"


@pytest.mark.recipe
def test_prepare_and_validate(sase, corpus, tmp_path):
    data = tmp_path / "data"
    arguments = ("prepare", "voicebank_demand", "--corpus", corpus, "--data", data)
    status, out, error = sase(*arguments)
    assert status == 1
    assert out == ""
    assert error.count("\n") == 1
    assert "p226 p287" in error
    assert "--dev-speakers" in error
    assert "p1 p2" in error
    status, out, error = sase(*arguments, "--dev-speakers", "p2")
    assert (status, error) == (0, "")
    assert "data/tr: 1 utterances of 1 speakers; the noise of 1 is not" in out
    assert out.splitlines()[2] == f"{data}/tt: 1 utterances of 1 speakers"
    status, out, error = sase("validate", data / "tr", data / "tt", "--audio")
    assert (status, error) == (0, "")
    assert out.count(", valid") == 2


@pytest.mark.recipe
def test_validate_reports_and_fixes_faults(sase, tmp_path):
    scp = {"a_1": "1", "a_2": "2"}
    datadir.write_data_dir(tmp_path, datadir.Tables(scp, scp, {"a_1": "a", "a_2": "a"}))
    (tmp_path / "wav.scp").write_text("a_2 2\na_1 1\n")
    status, out, error = sase("validate", tmp_path)
    assert status == 1
    assert "wav.scp:2: not sorted" in error
    assert "--fix" in error
    status, out, error = sase("validate", tmp_path, "--fix")
    assert (status, error) == (0, "")
    assert "kept 2 of 2 utterances" in out
    status, out, error = sase("validate", tmp_path, "--audio")
    assert status == 1
    assert "no such file" in error


def test_download_lists_the_corpora(sase):
    status, out, _ = sase("download", "--help")
    assert status == 0
    assert "voicebank_demand" in out
    assert "mini" in out
    status, _, error = sase("download", "timit", "--dir", "x")
    assert status == 2
    assert "timit" in error

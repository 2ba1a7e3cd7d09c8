"""``sase doctor`` on a silo's data: audio, tables and sample rates that are wrong are found, with a remedy."""

import shutil

import numpy as np
import pytest
import torch

from helpers.doctor import by_check
from helpers.dumps import dump_all, make_set
from sase.data import arks, datadir
from sase.errors import InputError
from sase.federated.doctor.data import check_data
from sase.federated.doctor.diagnosis import diagnose
from sase.federated.doctor.findings import FAILED, OK, WARNING
from sase.federated.onboarding import Membership


def overwrite(spec, samples):
    """Replace the samples of an ark entry; int16 (time,)."""
    entry = arks.read_entry(spec)
    with open(entry.path, "r+b") as file:
        file.seek(entry.first_byte)
        file.write(samples.astype("<i2").tobytes())


def test_silent_unprocessed_and_wrongly_sampled_data_are_found(tmp_path):
    lengths = {f"p1_{n:03d}": 8000 + 160 * n for n in range(4)}
    data = dump_all(make_set(tmp_path, lengths, rate=16000), tmp_path / "silo/tr")
    last_bit = np.random.default_rng(0).integers(-1, 2, lengths["p1_000"])
    overwrite(data.clean["p1_000"], last_bit)
    overwrite(data.noisy["p1_003"], arks.read_int16(data.clean["p1_003"]))
    found = by_check(check_data(tmp_path / "silo", 16000))
    assert (found["speech"].status, found["noise"].status) == (WARNING, WARNING)
    assert "1 of 4 utterances have silent clean audio, first p1_000" in found["speech"].message
    assert "1 of 4 utterances have noisy audio equal to the clean, first p1_003" in found["noise"].message
    assert found["test set"].status == OK
    with pytest.raises(InputError, match="16000 Hz noisy and 16000 Hz clean, the network 48000 Hz"):
        list(check_data(tmp_path / "silo", 48000))
    assert {finding.status for finding in check_data(tmp_path / "silo", None)} == {OK, WARNING}
    for name in lengths:
        overwrite(data.clean[name], np.zeros(lengths[name]))
    assert by_check(check_data(tmp_path / "silo", 16000))["speech"].status == FAILED


def test_noise_for_speech_and_tables_in_the_wrong_order_are_found(tmp_path):
    """A tone in bursts stands for speech: its level varies by more than noise's."""
    rng, lengths = np.random.default_rng(0), {f"p1_{n:03d}": 16000 for n in range(3)}
    data = dump_all(make_set(tmp_path, lengths, rate=16000), tmp_path / "silo/tr")
    time_s = np.arange(16000) / 16000
    bursts = 8000 * np.sin(2 * np.pi * 440 * time_s) * (time_s % 0.5 < 0.25)
    noises = 500 * rng.standard_normal((3, 16000))
    for utt, noise in zip(lengths, noises):
        overwrite(data.clean[utt], bursts)
        overwrite(data.noisy[utt], bursts + noise)
    assert {f.status for f in check_data(tmp_path / "silo", 16000) if f.check in ("pauses", "order")} == {OK}
    overwrite(data.clean["p1_001"], noises[1])
    overwrite(data.clean["p1_002"], bursts + noises[2])
    overwrite(data.noisy["p1_002"], bursts)
    found = by_check(check_data(tmp_path / "silo", 16000))
    assert (found["pauses"].status, found["order"].status) == (WARNING, WARNING)
    assert "1 of 3 utterances have clean audio as steady as noise, first p1_001" in found["pauses"].message
    assert "louder than those of the noisy, first p1_002" in found["order"].message


def test_levels_of_a_tone_and_of_too_little_audio():
    from sase.federated.speech import levels

    tone = 0.5 * torch.sin(2 * torch.pi * 400 * torch.arange(8000) / 8000)  # whole periods in a frame of 20 ms
    tone[:4000] *= 0.01
    assert levels(tone, 8000) == pytest.approx((10 * np.log10(0.125) - 40, 10 * np.log10(0.125)), abs=0.01)
    assert levels(torch.zeros(8000), 8000) == pytest.approx((-100, -100), abs=0.01)
    assert levels(tone[:3900], 8000) is None


def test_a_sample_rate_that_nobody_knows_is_not_assumed(tmp_path):
    dump_all(make_set(tmp_path, {"p1_001": 8000}, rate=8000), tmp_path / "silo/tr", sample_rate=8000)
    found = by_check(diagnose(Membership(0, "localhost:1"), tmp_path / "silo", tmp_path, None))
    assert (found["data"].status, found["sample rate"].status) == (OK, WARNING)
    assert "8000 Hz; neither server nor bundle says the network's" in found["sample rate"].message


def test_damaged_and_missing_data_fail_with_what_to_do(silos_dir, tmp_path):
    assert by_check(diagnose(Membership(0, "localhost:1"), tmp_path, tmp_path, None))["data"].remedy.startswith(
        "make it with"
    )
    shutil.copytree(silos_dir / "silo0", tmp_path / "data")
    scp = tmp_path / "data/tr/wav.scp"
    scp.write_text("".join(reversed(scp.read_text().splitlines(keepends=True))))
    found = by_check(diagnose(Membership(0, "localhost:1"), tmp_path / "data", tmp_path, None))["data"]
    assert found.status == FAILED
    assert "not sorted" in found.message
    assert "--fix" in found.remedy
    datadir.fix_data_dir(tmp_path / "data/tr")  # the remedy works
    assert by_check(diagnose(Membership(0, "localhost:1"), tmp_path / "data", tmp_path, None))["data"].status == OK

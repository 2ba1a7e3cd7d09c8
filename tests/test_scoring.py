"""Scoring of sets: pairs, bad utterances, shards, reuse of scores, tables, and the command."""

import csv
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from helpers import commands
from sase import audio
from sase.data import dump
from sase.data.datadir import Tables, read_data_dir, read_table, write_data_dir, write_table
from sase.errors import InputError
from sase.evaluation import results, scoring, shards
from sase.evaluation.scores import Scores, groups, write_csv
from sase.evaluation.scoring import Method, Pair
from sase.metrics.measures import METRICS, evaluate
from sase.processes import child_environment, sase_command

RATE = 16000
PUBLISHED = {"PESQ_WB": 2.391544, "STOI": 0.9346717, "ESTOI": 0.8480954, "CSIG": 3.6552286, "CBAK": 2.6603756}
PUBLISHED |= {"COVL": 2.9992574, "SegSNR": 1.7651908, "SI_SDR": 8.421285}


def speech(seed, samples=16000):
    rng = np.random.default_rng(seed)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * np.arange(samples) / RATE), 0, None)
    return (0.1 * syllables * rng.standard_normal(samples)).astype(np.float32)


def with_noise(wav, level, seed=99):
    return wav + np.float32(level) * np.random.default_rng(seed).standard_normal(len(wav)).astype(np.float32)


@pytest.fixture
def folders(tmp_path):
    """Three clean files, and the same with noise, of another format."""
    for number in range(3):
        audio.write(tmp_path / "clean" / f"u{number}.wav", speech(number), RATE)
        audio.write(tmp_path / "enhanced" / f"u{number}.flac", with_noise(speech(number), 0.01), RATE)
    return tmp_path / "clean", tmp_path / "enhanced"


@pytest.fixture
def dumped(tmp_path, monkeypatch):
    """A dump of four utterances of two speakers, enhanced by taking some of the noise away: (dump, enhanced, out)."""
    monkeypatch.chdir(tmp_path)
    noisy, clean, enhanced = {}, {}, {}
    for number, utt in enumerate(["a_1", "a_2", "b_1", "b_2"]):
        wav = speech(number)
        kinds = (noisy, "noisy", 0.03), (clean, "clean", 0), (enhanced, "exp/x/enhanced_tt/wav", 0.01)
        for table, folder, level in kinds:
            table[utt] = f"{folder}/{utt}.wav"
            audio.write(table[utt], with_noise(wav, level, number), RATE)
    speakers = {utt: utt[0] for utt in noisy}
    noises, snrs_db = {"a_1": "rain", "b_1": "rain", "a_2": "bus"}, {"a_1": 2.5, "a_2": 10.0}
    write_data_dir("data/tt", Tables(noisy, clean, speakers, noises, snrs_db))
    dump.dump_set("data/tt", "dump/tt")
    dump.join_shards("data/tt", "dump/tt")
    write_table("exp/x/enhanced_tt/spk1.scp", enhanced)
    return "dump/tt", "exp/x/enhanced_tt", "exp/x/enhanced_tt/scoring"


def silently(*_):
    """A log function that discards its lines."""


def score(*arguments):
    return commands.sase("score", *arguments)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_folders_are_paired_by_name_without_suffix(folders):
    clean, enhanced = folders
    audio.write(enhanced / "extra.wav", speech(7), RATE)
    audio.write(enhanced / ".hidden.wav", speech(7), RATE)
    (enhanced / "notes.txt").write_text("not sound")
    audio.write(clean / "deep" / "u9.wav", speech(9), RATE)
    pairs, surplus = scoring.folder_pairs(*folders)
    assert [pair.utt for pair in pairs] == ["deep/u9", "u0", "u1", "u2"]
    assert pairs[0] == Pair("deep/u9", str(clean / "deep/u9.wav"), None)
    assert pairs[1].enhanced == str(enhanced / "u0.flac")
    assert surplus == ["extra"]


def test_folders_that_cannot_be_paired_are_rejected(folders, tmp_path):
    clean, enhanced = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such folder"):
        scoring.folder_pairs(clean, tmp_path / "nowhere")
    with pytest.raises(InputError, match="contains no sound files"):
        scoring.folder_pairs(clean, tmp_path / "empty")
    audio.write(tmp_path / "other" / "v.wav", speech(0), RATE)
    with pytest.raises(InputError, match="no sound file has the same name in both"):
        scoring.folder_pairs(clean, tmp_path / "other")
    audio.write(enhanced / "u0.wav", speech(0), RATE)
    with pytest.raises(InputError, match="u0.flac and .*u0.wav have the same name"):
        scoring.folder_pairs(clean, enhanced)


def test_ark_entries_and_files_score_the_same(dumped):
    data = read_data_dir(dumped[0])
    pair = scoring.data_pairs(data, dumped[1])[0]
    assert ".ark:" in pair.clean
    assert pair.enhanced.endswith("a_1.wav")
    from_files = scoring.score_pair(Pair("a_1", "clean/a_1.wav", pair.enhanced))
    assert scoring.score_pair(pair) == from_files
    expected = evaluate(*(audio.read_mono(path)[0] for path in ("clean/a_1.wav", pair.enhanced)), RATE)
    assert from_files.values == expected


def test_a_folder_without_a_table_can_be_scored(dumped):
    data = read_data_dir(dumped[0])
    with_table = scoring.data_pairs(data, dumped[1])
    os.remove("exp/x/enhanced_tt/spk1.scp")
    assert scoring.data_pairs(data, "exp/x/enhanced_tt/wav") == with_table


def test_other_rates_are_resampled_to_16_khz(tmp_path):
    clean = speech(0, 96000)
    for name, wav in (("c.wav", clean), ("e.wav", with_noise(clean, 0.01))):
        audio.write(tmp_path / name, wav, 48000)
    values = scoring.score_pair(Pair("u", str(tmp_path / "c.wav"), str(tmp_path / "e.wav")))
    wavs = [audio.read_mono(tmp_path / name, RATE)[0] for name in ("c.wav", "e.wav")]
    assert values.values == evaluate(*wavs, RATE)


# --- bad utterances ---------------------------------------------------------------------------------------------------


def test_bad_utterances_are_reported_and_the_others_are_scored(folders, tmp_path):
    clean, enhanced = folders
    wav = speech(5)
    bad = {
        "length": (wav, wav[:-1], RATE, "clean has 16000 samples, enhanced 15999"),
        "rate": (wav, wav, 8000, "clean has 16000 Hz, enhanced 8000 Hz"),
        "silent_clean": (0 * wav, wav, RATE, "silent_clean.wav: is silent"),
        "stereo": (wav, np.stack([wav, wav]), RATE, "has 2 channels"),
    }
    for name, (one, other, rate, _) in bad.items():
        audio.write(clean / f"{name}.wav", one, RATE)
        audio.write(enhanced / f"{name}.wav", other, rate)
    for name in ("noise", "cut", "empty"):
        audio.write(clean / f"{name}.wav", wav, RATE)
    (enhanced / "noise.wav").write_bytes(b"this is no sound")
    (enhanced / "empty.wav").write_bytes(b"")
    audio.write(enhanced / "cut.wav", wav, RATE)
    with open(enhanced / "cut.wav", "r+b") as file:
        file.truncate(1000)
    reasons = {name: reason for name, (*_, reason) in bad.items()}
    reasons |= {"noise": "not a readable sound file", "empty": "not a readable sound file", "cut": "truncated"}
    lines = []
    scores = scoring.score_pairs(scoring.folder_pairs(*folders)[0], log=lines.append)
    assert sorted(scores.values) == ["u0", "u1", "u2"]
    assert sorted(scores.failed) == sorted(reasons)
    for name, reason in reasons.items():
        assert reason in scores.failed[name]
        assert any(line.startswith(f"{name}: ") and reason in line for line in lines)
    summary = scores.summary()
    assert (summary["scored"], summary["failed"], summary["missing"]) == (3, 7, 0)


def test_a_silent_enhanced_file_counts_and_a_silent_clean_file_does_not(folders):
    clean, enhanced = folders
    audio.write(clean / "gone.wav", speech(5), RATE)
    audio.write(enhanced / "gone.wav", 0 * speech(5), RATE)
    audio.write(clean / "void.wav", 0 * speech(5), RATE)
    audio.write(enhanced / "void.wav", 0 * speech(5), RATE)
    scores = scoring.score_pairs(scoring.folder_pairs(*folders)[0], log=silently)
    assert scores.failed == {"void": f"{clean / 'void.wav'}: is silent"}
    assert scores.silent == ["gone"]
    summary = scores.summary()
    rows = [scores.values[utt] for utt in ("u0", "u1", "u2")]
    lowest = {"PESQ_WB": 1.04, "STOI": 0, "ESTOI": 0, "CSIG": 1, "CBAK": 1, "COVL": 1, "SegSNR": -10}
    for name, value in lowest.items():
        assert summary["mean"][name] == pytest.approx((sum(row[name] for row in rows) + value) / 4)
    assert summary["mean"]["SI_SDR"] == pytest.approx(np.mean([row["SI_SDR"] for row in rows]))
    assert summary["undefined"]["SI_SDR"] == 1
    assert results.counts(summary) == (
        "4 scored, 1 failed, 0 without speech, 1 silent after enhancement, which count with the lowest value of each "
        "measure (SI_SDR undefined for 1)"
    )


def test_pairs_that_differ_by_some_samples_are_trimmed_on_request(folders):
    clean, enhanced = folders
    audio.write(enhanced / "u0.flac", with_noise(speech(0), 0.01)[:-100], RATE)
    audio.write(clean / "u1.wav", speech(1)[:-37], RATE)
    audio.write(enhanced / "u2.flac", with_noise(speech(2), 0.01)[:-101], RATE)
    pairs = scoring.folder_pairs(*folders)[0]
    assert sorted(scoring.score_pairs(pairs, log=silently).failed) == ["u0", "u1", "u2"]
    scores = scoring.score_pairs(pairs, log=silently, method=Method(trim=100))
    assert scores.failed == {"u2": "clean has 16000 samples, enhanced 15899"}
    assert scores.trimmed == {"u0": 100, "u1": 37}
    one, other = audio.read_mono(clean / "u0.wav")[0][:-100], audio.read_mono(enhanced / "u0.flac")[0]
    assert scores.values["u0"] == evaluate(one, other, RATE)
    assert "2 trimmed to the shorter signal by up to 100 samples (--trim)" in results.counts(scores.summary())


@pytest.mark.recipe
def test_the_scores_of_real_speech_are_those_of_the_published_tables(real_audio):
    """Ten pairs of VoiceBank-DEMAND; the means of version 0.1, before silent files counted."""
    names = sorted(path.name for path in (real_audio / "vbd_test_part/noisy_testset_wav").iterdir())[:10]
    folders = [real_audio / "vbd_test_part" / f"{kind}_testset_wav" for kind in ("clean", "noisy")]
    pairs = [Pair(name, *(str(folder / name) for folder in folders)) for name in names]
    mean = scoring.score_pairs(pairs, log=silently).summary()["mean"]
    assert mean == pytest.approx(PUBLISHED, abs=5e-7)


def test_means_skip_undefined_values_and_count_them():
    rows = [dict.fromkeys(METRICS, value) for value in (1.0, 3.0)]
    rows[1] |= {"PESQ_WB": math.nan, "COVL": math.nan}
    scores = Scores({"a": rows[0], "b": rows[1]}, {"c": "is silent", "d": scoring.MISSING}, 1.0)
    summary = scores.summary()
    assert (summary["mean"]["PESQ_WB"], summary["mean"]["STOI"], summary["std"]["STOI"]) == (1.0, 2.0, 1.0)
    assert (summary["scored"], summary["failed"], summary["missing"], summary["without_speech"]) == (2, 2, 1, 1)
    assert summary["undefined"]["COVL"] == 1
    assert summary["undefined"]["STOI"] == 0
    only_b = scores.summary(["b", "c", "x"])
    assert only_b["mean"]["PESQ_WB"] is None
    assert only_b["mean"]["STOI"] == 3.0
    assert (only_b["scored"], only_b["failed"]) == (1, 1)


@pytest.mark.recipe
def test_several_processes_equal_one(folders):
    pairs = scoring.folder_pairs(*folders)[0]
    (folders[1] / "u1.flac").write_bytes(b"broken")
    one, two = (scoring.score_pairs(pairs, workers, silently) for workers in (1, 2))
    assert one.values == two.values
    assert one.failed == two.failed
    assert list(one.failed) == ["u1"]


# --- shards and reused scores -----------------------------------------------------------------------------------------


def results_of(out):
    return {path: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file() and path.suffix != ".json"}


@pytest.mark.recipe
def test_shards_equal_one_process(dumped, tmp_path):
    data, enhanced, out = dumped
    shards.score_shard(data, enhanced, out, log=silently)
    whole = shards.join_shards(data, enhanced, out)
    expected = results_of(tmp_path / out), results_of(tmp_path / data / shards.UNPROCESSED)
    (tmp_path / data / shards.UNPROCESSED / "scores.json").unlink()
    (tmp_path / out / "scores.json").unlink()
    for job in (3, 1, 2):
        shards.score_shard(data, enhanced, out, nj=3, job=job, log=silently)
    joined = shards.join_shards(data, enhanced, out, nj=3)
    assert joined.unprocessed.values == whole.unprocessed.values
    assert joined.enhanced.values == whole.enhanced.values
    assert (results_of(tmp_path / out), results_of(tmp_path / data / shards.UNPROCESSED)) == expected
    assert joined.enhanced.values["a_1"]["SI_SDR"] > joined.unprocessed.values["a_1"]["SI_SDR"] + 6


def test_a_missing_or_unfinished_shard_is_reported(dumped):
    data, enhanced, out = dumped
    shards.score_shard(data, enhanced, out, nj=2, job=2, log=silently)
    with pytest.raises(InputError, match="dump/tt unprocessed: shards 1 of 2 are missing"):
        shards.join_shards(data, enhanced, out, nj=2)
    with pytest.raises(InputError, match="--job 3"):
        shards.score_shard(data, enhanced, out, nj=2, job=3, log=silently)


@pytest.mark.recipe
def test_scores_are_reused_until_their_input_changes(dumped, monkeypatch, tmp_path):
    data, enhanced, out = dumped
    scored = []
    real = scoring.score_pair
    monkeypatch.setattr(scoring, "score_pair", lambda pair, method: scored.append(pair.utt) or real(pair, method))

    def run(**options):
        scored.clear()
        shards.score_shard(data, enhanced, out, log=silently, **options)
        shards.join_shards(data, enhanced, out, **options)
        return sorted(scored)

    utts = ["a_1", "a_2", "b_1", "b_2"]
    assert run() == sorted(utts * 2)  # unprocessed and enhanced
    assert run() == []
    audio.write(f"{enhanced}/wav/b_1.wav", speech(2) + 0.5 * speech(3), RATE)
    assert run() == utts  # the unprocessed input is not scored again
    write_table(f"{enhanced}/spk1.scp", {utt: f"{enhanced}/wav/{utt}.wav" for utt in utts[:3]})
    assert run() == utts
    assert read_table(f"{out}/failed") == {"b_2": scoring.MISSING}
    monkeypatch.setattr(shards, "_FORMAT", shards._FORMAT + 1)
    assert run() == sorted(utts * 2)
    assert run(method=Method(trim=5)) == sorted(utts * 2)
    assert run(method=Method(trim=5)) == []
    kept = tmp_path / data / shards.UNPROCESSED
    before = results_of(kept)
    elsewhere = tmp_path / "elsewhere"
    assert run(method=Method(trim=5), unprocessed=elsewhere) == utts
    assert results_of(kept) == before
    assert {path.name: text for path, text in results_of(elsewhere).items()} == {p.name: t for p, t in before.items()}
    with pytest.raises(InputError, match="use another folder for --unprocessed"):
        run(unprocessed=out)


def test_partial_files_of_killed_jobs_are_removed_only_in_the_experiment_folder(dumped, tmp_path):
    data, enhanced, out = dumped
    shards.score_shard(data, enhanced, out, log=silently)
    folders = out, f"{data}/{shards.UNPROCESSED}"
    mine, anothers = (tmp_path / folder / "shards/.1of1.7.partial.json" for folder in folders)
    mine.write_text("half")
    anothers.write_text("being written by another experiment on the same set")
    shards.join_shards(data, enhanced, out)
    assert not mine.exists()
    assert anothers.exists()


def test_nothing_to_score_is_an_error(dumped):
    data, enhanced, out = dumped
    for utt in ("a_1", "a_2", "b_1", "b_2"):
        audio.write(f"{enhanced}/wav/{utt}.wav", np.zeros(100), RATE)
    shards.score_shard(data, enhanced, out, log=silently)
    with pytest.raises(InputError, match="none of 4 utterances could be scored; the first, a_1: clean has 16000"):
        shards.join_shards(data, enhanced, out)


def test_tables_hold_every_utterance(dumped, tmp_path):
    data, enhanced, out = dumped
    shards.score_shard(data, enhanced, out, log=silently)
    scores = shards.join_shards(data, enhanced, out).enhanced
    with open(f"{out}/scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["utt", *METRICS, "speaker", "noise", "snr"]
    assert [row["utt"] for row in rows] == ["a_1", "a_2", "b_1", "b_2"]
    assert [(row["speaker"], row["noise"], row["snr"]) for row in rows] == [
        ("a", "rain", "2.5"),
        ("a", "bus", "10"),
        ("b", "rain", ""),
        ("b", "", ""),
    ]
    for name in METRICS:
        table = read_table(f"{out}/{name}")
        assert float(table["b_2"]) == pytest.approx(scores.values["b_2"][name], abs=1e-6)
        assert float(rows[3][name]) == float(table["b_2"])


def test_undefined_values_stay_undefined(tmp_path):
    pairs = [Pair("u", "c", "e")]
    scores = Scores({"u": {**dict.fromkeys(METRICS, 1.5), "PESQ_WB": math.nan}}, {"v": "is silent"}, 2.0)
    shards._write_record(tmp_path / "r.json", pairs, scores)
    again = shards._read_record(tmp_path / "r.json", pairs)
    assert math.isnan(again.values["u"].pop("PESQ_WB"))
    assert again.values["u"] == dict.fromkeys(list(METRICS)[1:], 1.5)
    assert (again.failed, again.seconds) == ({"v": "is silent"}, 2.0)
    write_csv(tmp_path / "s.csv", scores, {"speaker": {}})
    assert (tmp_path / "s.csv").read_text() == f"utt,{','.join(METRICS)}\nu,{',1.500000' * 7}\n"


def test_groups_are_in_order():
    assert list(groups({"a": 10.0, "b": 2.5, "c": 10.0}).items()) == [(2.5, ["b"]), (10.0, ["a", "c"])]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.recipe
def test_command_prints_only_json(folders, tmp_path):
    words = ("--clean", folders[0], "--enhanced", folders[1], "--json", "--out", tmp_path / "s.csv")
    done = subprocess.run(sase_command("score", *words), env=child_environment(1), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert list(printed) == ["mean", "scored", "failed"]
    assert list(printed["mean"]) == list(METRICS)
    assert (printed["scored"], printed["failed"]) == (3, 0)
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert list(rows[0]) == ["utt", *METRICS]
    assert np.mean([float(row["STOI"]) for row in rows]) == pytest.approx(printed["mean"]["STOI"], abs=1e-6)


@pytest.mark.recipe
def test_command_continues_after_bad_files_and_fails_for_missing_ones(folders, tmp_path):
    clean, enhanced = folders
    (enhanced / "u1.flac").write_bytes(b"broken")
    done = score("--clean", clean, "--enhanced", enhanced, "--out", tmp_path)
    assert done.returncode == 1
    assert "u1: " in done.stderr
    assert "2 scored, 1 failed, 0 without speech" in done.stdout
    assert (tmp_path / "scores.csv").is_file()
    (enhanced / "u0.flac").unlink()
    done = score("--clean", clean, "--enhanced", enhanced, "--json", "--nj", "2")
    assert done.returncode == 1
    assert "u0: no enhanced file" in done.stderr
    assert "2 utterances are not scored, of which 1 have no enhanced file: the means are not those" in done.stderr
    assert (json.loads(done.stdout)["scored"], json.loads(done.stdout)["failed"]) == (1, 2)


@pytest.mark.recipe
def test_command_scores_a_folder_without_clean_files(folders, tmp_path):
    pytest.importorskip("speechmos")
    for number in (0, 2):  # sixteen times as long, which is how often it is repeated, they just fill one window
        audio.write(folders[0] / f"u{number}.wav", speech(number)[:9020], RATE)
        audio.write(folders[1] / f"u{number}.flac", with_noise(speech(number), 0.01)[:9020], RATE)
    (folders[1] / "u1.flac").write_bytes(b"broken")
    done = score("--enhanced", folders[1], "--no-reference", "--json", "--out", tmp_path / "s.csv")
    assert (done.returncode, done.stderr.count("\n")) == (1, 2), done.stderr
    printed = json.loads(done.stdout)
    assert list(printed["mean"]) == [f"DNSMOS_{name}" for name in ("SIG", "BAK", "OVRL", "P808")]
    assert all(0.5 < value < 5 for value in printed["mean"].values())
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [row["utt"] for row in rows] == ["u0", "u2"]
    assert list(rows[0]) == ["utt", *printed["mean"]]
    done = score("--enhanced", folders[1], "--clean", folders[0], "--dnsmos")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == [*METRICS, *printed["mean"]]


def test_command_fails_when_nothing_can_be_scored(folders):
    for path in folders[1].iterdir():
        path.write_bytes(b"broken")
    done = score("--clean", folders[0], "--enhanced", folders[1])
    assert done.returncode == 1
    assert done.stdout == ""
    assert "sase score: " in done.stderr
    assert "none of 3 utterances could be scored" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--clean", "x", "--data", "y"],
        ["--clean", "x", "--job", "1"],
        ["--no-reference", "--clean", "x"],
        ["--no-reference", "--trim", "3"],
        ["--clean", "x", "--trim", "-1"],
        ["--clean", "x", "--unprocessed", "y"],
        ["--data", "x", "--job", "1", "--finish"],
        ["--data", "x", "--nj", "2", "--job", "3"],
        ["--data", "x", "--nj", "0"],
    ],
)
def test_command_rejects_incompatible_options(options, monkeypatch):
    from sase.bin import score as command

    monkeypatch.setattr(sys, "argv", ["sase score", "--enhanced", "e", *options])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2

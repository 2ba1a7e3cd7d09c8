"""RESULTS.md and the figures: their content, and that equal input gives equal files."""

import json
import math
import shutil

import numpy as np
import pytest

from sase import audio, plotting
from sase.data import left_out
from sase.data.datadir import Tables, write_data_dir, write_table
from sase.errors import InputError
from sase.evaluation import figures, results, shards
from sase.evaluation.scores import MISSING, Scores
from sase.metrics.measures import METRICS, Measure

RATE = 16000
PNG = b"\x89PNG\r\n\x1a\n"


def made_scores(utts, shift=0.0, failed=None):
    """Scores that increase along the list of utterances."""
    return Scores({utt: dict.fromkeys(METRICS, 1.0 + i + shift) for i, utt in enumerate(utts)}, failed or {}, 12.34)


UTTS = ["a_1", "a_2", "b_1", "b_2", "b_3"]
LABELS = {
    "speaker": {utt: utt[0] for utt in UTTS},
    "noise": {"a_1": "rain", "a_2": "bus", "b_1": "rain", "b_2": "bus", "b_3": "rain"},
    "snr": dict(zip(UTTS, (10.0, 2.5, 10.0, 2.5, 10.0))),
}


@pytest.fixture
def scored(scored_once, tmp_path, monkeypatch):
    """A scored experiment of three utterances in the current folder, of the test's own."""
    shutil.copytree(scored_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "exp/x"


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        make_scored(folder)
    return folder


def make_scored(tmp_path):
    """Score an experiment of three utterances in the current folder, as the paths in its tables are relative."""
    rng = np.random.default_rng(0)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * np.arange(RATE) / RATE), 0, None)
    tables = {"noisy": {}, "clean": {}, "exp/x/enhanced_tt/wav": {}}
    for utt in ("a_1", "a_2", "b_1"):
        clean, noise = 0.1 * syllables * rng.standard_normal(RATE), rng.standard_normal(RATE)
        for (folder, table), level in zip(tables.items(), (0.03, 0.0, 0.01)):
            table[utt] = f"{folder}/{utt}.wav"
            audio.write(table[utt], clean + level * noise, RATE)
    noisy, clean, enhanced = tables.values()
    labels = {kind: {utt: label for utt, label in table.items() if utt in noisy} for kind, table in LABELS.items()}
    write_data_dir("data/tt", Tables(noisy, clean, labels["speaker"], labels["noise"], labels["snr"]))
    write_table("exp/x/enhanced_tt/spk1.scp", enhanced)
    (tmp_path / "exp/x/config.yaml").write_text("model:\n  causal: true\nseed: 17\n")
    history = [{"epoch": 1, "steps": 60, "dev_SI_SNR": 3.5, "best": True}, {"epoch": 2, "steps": 120, "best": False}]
    times = [{"epoch": 1, "seconds": 30.5}, {"epoch": 2, "seconds": 35.5}]
    for name, entries in (("history", history), ("timing", times)):
        (tmp_path / f"exp/x/{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    shards.score_shard("data/tt", "exp/x/enhanced_tt", "exp/x/enhanced_tt/scoring", log=lambda _: None)


def finish(**options):
    return results.finish("data/tt", "exp/x/enhanced_tt", "exp/x/enhanced_tt/scoring", log=lambda _: None, **options)


# --- RESULTS.md -------------------------------------------------------------------------------------------------------


@pytest.mark.recipe
def test_results_have_scores_figures_and_provenance(scored):
    summary = finish()
    text = (scored / "RESULTS.md").read_text()
    for needed in ("| date |", "| commit |", "| python |", "| torch |", "| numpy |", "| pesq |", "| pystoi |"):
        assert needed in text
    for needed in (f"| resampler | {audio.RESAMPLER} |", "| seed | 17 |", " cores |", "| wall time of scoring |"):
        assert needed in text
    assert "| training | 2 epochs, 120 steps |" in text
    assert "| wall time of training | 1.1 min" in text
    assert "| selected on the development set | epoch 1: dev_SI_SNR 3.5 |" in text
    assert "```yaml\nmodel:\n  causal: true\nseed: 17\n```" in text
    assert "Enhanced: 3 scored, 0 failed, 0 without speech. Unprocessed: 3 scored, 0 failed, 0 without speech." in text
    for heading in ("# Results of x", "## tt", "### By speaker", "### By noise", "### By SNR (dB)"):
        assert f"\n{heading}\n" in f"\n{text}"
    for signal in ("unprocessed", "enhanced"):
        values = summary["unprocessed"] if signal == "unprocessed" else summary
        row = next(line for line in text.splitlines() if line.startswith(f"| {signal} | 3 |"))
        assert f"| {values['mean']['PESQ_WB']:.3f} ± {values['std']['PESQ_WB']:.3f} |" in row
    for image in ("tt_spectrograms.png", "tt_improvements.png"):
        assert f"](images/{image})" in text
        assert (scored / "images" / image).read_bytes()[:8] == PNG
    assert str(scored.parent) not in text


@pytest.mark.recipe
def test_results_of_federated_training_list_rounds_and_silos(scored):
    for name in ("history", "timing"):
        (scored / f"{name}.jsonl").unlink()
    (scored / "fl.yaml").write_text("strategy: sase\n")
    silos = {name: {"steps": steps, "alpha": alpha} for name, steps, alpha in (("0", 10, 0.25), ("10", 30, 0.75))}
    rounds = [
        {"round": 1, "silos": silos, "bytes_up": 2_000_000, "bytes_down": 4_000_000, "dev_SI_SNR": 1.5, "best": True},
        {"round": 2, "silos": {"0": {"steps": 10, "alpha": 1.0}}, "bytes_up": 1_000_000, "bytes_down": 4_000_000},
    ]
    times = [{"round": 1, "seconds": 30.0}, {"round": 2, "seconds": 99.0}, {"round": 2, "seconds": 60.0}]
    for name, entries in (("rounds", rounds), ("round_timing", times)):
        (scored / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    finish()
    text = (scored / "RESULTS.md").read_text()
    assert "| federated training | 2 rounds, 2 silos, 50 steps in total; 1 missing silo replies |" in text
    assert "| steps per silo | 0: 20, 10: 30 |" in text
    assert "| mean weight per silo | 0: 0.625, 10: 0.750 |" in text
    assert "| traffic | 3.0 MB to the server, 8.0 MB to the silos |" in text
    assert "| wall time of training | 1.5 min (all rounds) |" in text
    assert "| selected on the development set | round 1: dev_SI_SNR 1.5 |" in text
    assert "<summary>fl.yaml</summary>" in text
    assert "strategy: sase" in text


@pytest.mark.recipe
def test_finishing_again_changes_nothing_but_the_date(scored):
    finish()
    files = [path for path in sorted(scored.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    finish()
    assert [path for path in sorted(scored.rglob("*")) if path.is_file()] == files
    for path in files:
        lines = zip(before[path].split(b"\n"), path.read_bytes().split(b"\n"))
        assert all(one == other or b"date" in one for one, other in lines), path


def test_results_are_written_to_the_given_folder(scored, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(results, "_draw_figures", lambda folder, *_: drawn.append(folder))
    finish(results_dir=tmp_path / "there")
    assert (tmp_path / "there/RESULTS.md").is_file()
    assert not (scored / "RESULTS.md").exists()
    (scored / "config.yaml").unlink()  # not an experiment folder: nothing is written outside the scores
    finish()
    assert (scored / "enhanced_tt/scoring/RESULTS.md").is_file()
    assert not (scored / "RESULTS.md").exists()
    own = (scored / "enhanced_tt/scoring/images").relative_to(tmp_path)
    assert drawn == [tmp_path / "there/images", own]


@pytest.mark.recipe
def test_an_experiment_with_two_sets_has_a_section_for_each(scored):
    summary = finish()
    results.write_summary(scored / "enhanced_ss" / "scoring", {**summary, "set": "ss"})
    finish()
    headings = [line for line in (scored / "RESULTS.md").read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## ss", "## tt"]


@pytest.mark.recipe
def test_a_test_set_without_its_bad_utterances_is_marked_wherever_its_means_are(scored, tmp_path):
    (scored / "images").mkdir()
    (scored / "images/.tt_spectrograms.4194400.partial.png").write_bytes(b"of a killed process")
    summary = finish()
    assert "left_out" not in summary
    assert "Not the whole test set" not in (scored / "RESULTS.md").read_text() + results.text(summary)
    left_out.write(tmp_path / "data/tt", {"c_1": "c_1.wav: silent", "c_2": "c_2.wav: no such file"})
    summary = finish()
    mark = "2 bad utterances were left out (--skip-bad-test): c_1 (c_1.wav: silent); c_2 (c_2.wav: no such file)."
    lines = (scored / "RESULTS.md").read_text().splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("| improvement"))
    assert lines[row + 1 : row + 3] == ["", f"**Not the whole test set:** {mark}"]
    assert results.text(summary).endswith(f"Not the whole test set: {mark}")
    assert json.loads((scored / "enhanced_tt/scoring/summary.json").read_text())["left_out"]["c_1"] == "c_1.wav: silent"
    assert not list((scored / "images").glob(".*"))


@pytest.mark.recipe
def test_the_example_utterance_can_be_chosen(scored):
    finish(utt="b_1")
    first = (scored / "images/tt_spectrograms.png").read_bytes()
    finish(utt="a_1")
    assert (scored / "images/tt_spectrograms.png").read_bytes() != first
    with pytest.raises(InputError, match="--utt unknown: not one of the 3 scored utterances"):
        finish(utt="unknown")


def test_improvement_is_over_common_utterances():
    unprocessed, enhanced = made_scores(UTTS), made_scores(UTTS[:3], 0.5, {"b_2": "is silent", "b_3": MISSING})
    summary = results.summarise("tt", unprocessed, enhanced, LABELS, {})
    improvement = results.table(summary)[-1]
    assert improvement.startswith("| improvement | 3 | +0.500 | +0.5000 |")
    assert summary["breakdowns"]["noise"]["rain"]["enhanced"]["scored"] == 2
    assert summary["breakdowns"]["noise"]["rain"]["unprocessed"]["mean"]["STOI"] == 2.0
    assert list(summary["breakdowns"]["snr"]) == ["2.5", "10"]
    assert (summary["failed"], summary["missing"]) == (2, 1)


def test_failures_are_listed_and_undefined_values_shown_as_such(tmp_path):
    enhanced = made_scores(UTTS[:2], failed={"b_1": "is silent"})
    for row in enhanced.values.values():
        row["PESQ_WB"] = math.nan
    summary = results.summarise("tt", made_scores(UTTS[:3]), enhanced, LABELS, {"date": "today"})
    results.write_summary(tmp_path, summary)
    results.write_results(tmp_path, [json.loads((tmp_path / "summary.json").read_text())])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "Enhanced: 2 scored, 1 failed, 2 without speech (PESQ_WB undefined for 2)." in text
    assert "- b_1: is silent" in text
    assert "| enhanced | 2 | – ± – | 1.5000 ± 0.5000 |" in text
    assert "| improvement | 2 | – | +0.0000 |" in text
    assert "scored in both" in text
    assert "nan" not in text.replace("Provenance", "")
    assert results.text(summary).splitlines()[1].split() == ["PESQ_WB", "2.000", "–"]


@pytest.mark.recipe
def test_a_measure_that_is_registered_once_is_in_every_table_and_figure(scored, monkeypatch):
    with monkeypatch.context() as without_figures:
        without_figures.setattr(results, "_draw_figures", lambda *_: None)
        finish()
    summary_before = json.loads((scored / "enhanced_tt/scoring/summary.json").read_text())
    results.write_summary(scored / "enhanced_ss" / "scoring", {**summary_before, "set": "ss"})  # of an earlier version
    drawn = []
    monkeypatch.setattr(figures, "_boxes", lambda axis, values: drawn.append(axis))
    added = Measure(lambda clean, enhanced, rate: -float(np.abs(clean - enhanced).max()), decimals=1, unit="V")
    monkeypatch.setitem(METRICS, "Deviation", added)
    shards.score_shard("data/tt", "exp/x/enhanced_tt", "exp/x/enhanced_tt/scoring", log=lambda _: None)
    summary = finish()
    assert summary["mean"]["Deviation"] > summary["unprocessed"]["mean"]["Deviation"]
    text = (scored / "RESULTS.md").read_text()
    assert text.count("| SI_SDR (dB) | Deviation (V) |") == 4  # the set's table and its breakdowns, by now
    assert text.count("| SI_SDR (dB) |\n") == 4  # those of the other set
    assert results.text(summary).splitlines()[9].split()[:2] == ["Deviation", "(V)"]
    assert (scored / "enhanced_tt/scoring/Deviation").is_file()
    header, row = (scored / "enhanced_tt/scoring/scores.csv").read_text().splitlines()[:2]
    assert dict(zip(header.split(","), row.split(",")))["Deviation"].startswith("-0.")
    labels = {axis.get_ylabel() for axis in drawn}
    assert "improvement of Deviation (V)" in labels
    assert "Deviation -0." in figures._scores({"Deviation": -0.11})
    monkeypatch.delitem(METRICS, "Deviation")  # as an earlier version reads what this one wrote
    assert "Deviation" not in results.text(json.loads((scored / "enhanced_tt/scoring/summary.json").read_text()))


def test_a_breakdown_of_many_groups_is_not_shown(tmp_path):
    utts = [f"u{i:02d}" for i in range(30)]
    labels = {"speaker": {utt: utt for utt in utts}, "noise": {}, "snr": dict.fromkeys(utts, 5.0)}
    summary = results.summarise("tt", made_scores(utts), made_scores(utts), labels, {})
    assert list(summary["breakdowns"]) == ["speaker"]  # a single SNR needs no table
    results.write_results(tmp_path, [summary])
    assert "there are 30 groups. The scores per utterance are in" in (tmp_path / "RESULTS.md").read_text()


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_example_is_the_utterance_of_median_improvement():
    unprocessed, enhanced = made_scores(UTTS), made_scores(UTTS)
    for utt, gain in zip(UTTS, (0.9, -0.5, 0.2, math.nan, 0.1)):
        enhanced.values[utt]["PESQ_WB"] += gain
    assert figures.median_utt(unprocessed, enhanced) == "b_1"  # of -0.5, 0.1, 0.2, 0.9
    assert figures.improvements(unprocessed, enhanced, "PESQ_WB").keys() == set(UTTS) - {"b_2"}
    with pytest.raises(InputError, match="none to show"):
        figures.median_utt(unprocessed, made_scores([]))


def test_the_example_is_chosen_by_si_sdr_where_pesq_is_undefined():
    unprocessed, enhanced = made_scores(UTTS), made_scores(UTTS)
    for utt, gain in zip(UTTS, (0.9, -0.5, 0.2, 0.3, 0.1)):
        enhanced.values[utt] |= {"PESQ_WB": math.nan, "SI_SDR": enhanced.values[utt]["SI_SDR"] + gain}
    assert figures.median_utt(unprocessed, enhanced) == "b_1"


@pytest.mark.recipe
def test_equal_input_draws_equal_files(tmp_path):
    wavs = np.random.default_rng(0).standard_normal((3, RATE // 2))
    unprocessed, enhanced = made_scores(UTTS), made_scores(UTTS, 0.5)
    for name in ("one", "two"):
        figures.draw_example(tmp_path / name / "example.png", "a_1", wavs, RATE, unprocessed, enhanced)
        figures.draw_improvements(tmp_path / name / "improvements.png", unprocessed, enhanced, LABELS)
    for name in ("example.png", "improvements.png"):
        first = (tmp_path / "one" / name).read_bytes()
        assert first[:8] == PNG
        assert first == (tmp_path / "two" / name).read_bytes()
    assert len(list((tmp_path / "one").iterdir())) == 2  # no partial file is left


@pytest.mark.recipe
def test_silence_and_missing_labels_can_be_drawn(tmp_path):
    plotting.draw_spectrograms(tmp_path / "s.png", {"noisy": np.zeros(RATE), "short": np.zeros(10)}, RATE)
    figures.draw_improvements(tmp_path / "i.png", made_scores(UTTS), made_scores(UTTS), {"noise": {}, "snr": {}})
    nothing = made_scores(UTTS)
    for row in nothing.values.values():
        row["PESQ_WB"] = math.nan
    figures.draw_improvements(tmp_path / "n.png", made_scores(UTTS), nothing, LABELS)
    for name in ("s.png", "i.png", "n.png"):
        assert (tmp_path / name).read_bytes()[:8] == PNG

"""The page of ``sase report``: what it contains, for complete and incomplete experiments, and its limits."""

import base64
import json
import math
import re
import shutil
import sys

import numpy as np
import pytest

from helpers.experiments import HOSTILE, made_experiment, without_page_parts
from sase import audio
from sase.errors import InputError
from sase.metrics.measures import METRICS, Measure
from sase.processes import folder_lock
from sase.report import curves
from sase.report.loudness import equal_gains_db, loudness
from sase.report.page import write_page
from sase.report.sound import widest_gaps

RATE = 16000


def silently(*_):
    """A log function that discards its lines."""


def content(path):
    """The data of a page, as its scripts read it."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def decoded(signal, tmp_path):
    path = tmp_path / "signal.ogg"
    path.write_bytes(base64.b64decode(signal["ogg"]))
    return audio.read_mono(path)


# --- what is on the page ----------------------------------------------------------------------------------------------


def test_rows_hold_all_scores_and_labels(tmp_path):
    exp, expected = made_experiment(tmp_path, "x", utts=5)
    write_page([exp], tmp_path / "page.html", log=silently)
    data = content(tmp_path / "page.html")
    assert [measure["name"].split()[0] for measure in data["measures"]] == list(METRICS)
    assert [row["utt"] for row in data["rows"]] == list(expected.utts)
    for row in data["rows"]:
        for values, table in ((row["scores"][0], expected.enhanced), (row["unprocessed"], expected.unprocessed)):
            wanted = [None if math.isnan(table[row["utt"]][name]) else table[row["utt"]][name] for name in METRICS]
            assert values == pytest.approx(wanted, abs=1e-6)
        assert (row["set"], row["speaker"], row["noise"], row["snr"]) == ("tt", *expected.labels[row["utt"]])
    assert data["experiments"][0]["notes"] == []


def test_a_measure_that_is_registered_once_is_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "Deviation", Measure(lambda clean, enhanced, rate: 0.0, decimals=1, unit="V"))
    exp, _ = made_experiment(tmp_path, "x", utts=2)
    data = write_page([exp], tmp_path / "page.html", log=silently)
    assert data["measures"][-1] == {"name": "Deviation (V)", "decimals": 1, "drawn": True}
    assert all(isinstance(row["scores"][0][-1], float) for row in data["rows"])


def test_sound_is_that_of_the_files_equally_loud(tmp_path):
    exp, expected = made_experiment(tmp_path, "x", utts=2)
    data = write_page([exp], tmp_path / "page.html", log=silently)
    assert [sound["row"] for sound in data["sounds"]] == [0, 1]
    assert data["sound_note"] == "2 of 2 utterances have sound here."
    for sound, utt in zip(data["sounds"], expected.utts):
        assert [signal["name"] for signal in sound["signals"]] == ["noisy", "x", "clean"]
        levels = []
        for signal, kind in zip(sound["signals"], ("noisy", "enhanced", "clean")):
            wav, rate = decoded(signal, tmp_path)
            original = expected.sound[kind][utt]
            assert (rate, signal["rate"], signal["samples"]) == (RATE, RATE, len(original))
            assert len(wav) > len(original)
            wav = wav[: len(original)]
            error_db = 10 * np.log10(np.sum((wav - original) ** 2) / np.sum(original**2))
            assert error_db < -8  # Vorbis
            levels.append(loudness(original * 10 ** (signal["gain_db"] / 20), RATE))
            assert np.abs(original).max() * 10 ** (signal["gain_db"] / 20) <= 1.001
        assert levels == pytest.approx([levels[0]] * 3, abs=0.05)


def test_experiments_stand_side_by_side(tmp_path):
    one, first = made_experiment(tmp_path, "one", utts=3, seed=1, settings={"seed": 1, "train": {"epochs": 2}})
    two, second = made_experiment(tmp_path, "two", utts=3, seed=2, settings={"seed": 2, "train": {"epochs": 2}})
    data = write_page([one, two], tmp_path / "page.html", log=silently)
    assert [each["name"] for each in data["experiments"]] == ["one", "two"]
    for row in data["rows"]:
        expected = [each.enhanced[row["utt"]]["SI_SDR"] for each in (first, second)]
        assert [values[-1] for values in row["scores"]] == pytest.approx(expected, abs=1e-6)
    assert [signal["name"] for signal in data["sounds"][0]["signals"]] == ["noisy", "one", "two", "clean"]
    assert data["differences"] == [["seed", ["1", "2"]]]
    (chart,) = [chart for chart in data["charts"] if chart["title"] == "development SI_SNR (dB)"]
    assert [series["name"] for series in chart["series"]] == ["one", "two"]
    assert chart["series"][0]["points"] == [[1, 3.5], [2, 4.5]]
    assert chart["series"][0]["best"] == 2


def test_federated_experiments_have_a_curve_per_silo(tmp_path):
    exp, _ = made_experiment(tmp_path, "fed", utts=2, federated=True)
    charts = {chart["title"]: chart for chart in write_page([exp], tmp_path / "p.html", log=silently)["charts"]}
    assert {chart["x"] for chart in charts.values()} == {"round"}
    assert charts["traffic to the server (MB)"]["series"][0]["points"] == [[1, 3.0], [2, 1.0]]
    weights = charts["fed, silos: weight"]["series"]
    assert [(series["name"], series["points"]) for series in weights] == [
        ("silo 0", [[1, 0.25], [2, 1.0]]),
        ("silo 10", [[1, 0.75]]),
    ]
    assert charts["fed, silos: sent (MB)"]["series"][1]["points"] == [[1, 2.0]]
    assert charts["fed, silos: gain in SI-SNR on the common set (dB)"]["series"][0]["points"] == [[1, None], [2, 0.5]]
    assert charts["development SI_SNR (dB)"]["series"][0]["points"] == [[1, 1.5], [2, None]]


# --- incomplete and damaged experiments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        (["enhanced_tt"], "nothing is enhanced yet"),
        (["enhanced_tt/scoring"], "tt: not scored yet"),
        (["enhanced_tt/spk1.scp", "enhanced_tt/scoring"], "tt: not completely enhanced yet (stage 4), 2 utterances"),
        (["history.jsonl"], "no epoch or round is completed yet"),
        (["config.yaml"], "there is no configuration"),
        (["../../dump"], "its data directory was not found"),
    ],
)
def test_what_is_missing_is_said_on_the_page(tmp_path, parts, note):
    exp, _ = made_experiment(tmp_path, "x", utts=2)
    for part in parts:
        without_page_parts(exp / part)
    write_page([exp], tmp_path / "page.html", log=silently)
    data = content(tmp_path / "page.html")
    assert any(note in each for each in data["experiments"][0]["notes"]), data["experiments"][0]["notes"]


def test_a_training_that_only_just_began_has_a_page(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/config.yaml").write_text("seed: 1\n")
    data = write_page([tmp_path / "x"], tmp_path / "page.html", log=silently)
    assert (data["rows"], data["charts"], data["sound_note"]) == ([], [], "There is no sound yet.")
    (tmp_path / "x/history.jsonl").write_text('{"epoch": 1, "dev_SI_SNR": 2.0}\n')
    assert len(write_page([tmp_path / "x"], tmp_path / "page.html", log=silently)["charts"]) == 1


def test_the_page_is_made_while_a_training_and_a_scoring_run(tmp_path):
    exp, _ = made_experiment(tmp_path, "x", utts=2)
    with folder_lock(exp), folder_lock(exp / "enhanced_tt"), folder_lock(exp / "enhanced_tt/scoring"):
        assert len(write_page([exp], tmp_path / "page.html", log=silently)["sounds"]) == 2


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
    exp, expected = made_experiment(tmp_path, "x", utts=3)
    with open(exp / "history.jsonl", "a") as file:
        file.write('{"epoch": 3, "dev')
    (exp / f"enhanced_tt/wav/{expected.utts[1]}.wav").write_bytes(b"no sound")
    lines = []
    data = write_page([exp], tmp_path / "page.html", log=lines.append)
    assert any("history.jsonl:3: not valid JSON" in note for note in data["experiments"][0]["notes"])
    assert [sound["row"] for sound in data["sounds"]] == [0, 2]
    assert f"1 could not be read, the first tt {expected.utts[1]}" in data["sound_note"]
    assert any("not a readable sound file" in line for line in lines)


def test_folders_that_are_no_experiments_are_refused(tmp_path):
    exp, _ = made_experiment(tmp_path, "x", utts=2)
    with pytest.raises(InputError, match="not the folder of an experiment"):
        write_page([tmp_path / "dump"], tmp_path / "page.html")
    with pytest.raises(InputError, match="named twice"):
        write_page([exp, f"{exp}/../x"], tmp_path / "page.html")
    with pytest.raises(InputError, match=r"is a folder; name a file"):
        write_page([exp], tmp_path)


def test_paths_of_tables_hold_from_any_folder(tmp_path, monkeypatch):
    exp, _ = made_experiment(tmp_path / "there", "x", utts=2)
    monkeypatch.chdir(tmp_path)  # tables hold paths from tmp_path/there
    assert len(write_page([exp], "page.html", log=silently)["sounds"]) == 2


# --- names, size ------------------------------------------------------------------------------------------------------


def test_names_cannot_leave_their_place(tmp_path):
    exp, _ = made_experiment(tmp_path, "x", utts=2, names=HOSTILE)
    shutil.move(exp, exp.with_name("<script>alert(1)<script>"))
    write_page([exp.with_name("<script>alert(1)<script>")], tmp_path / "page.html", log=silently)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert {row["utt"] for row in content(tmp_path / "page.html")["rows"]} == set(HOSTILE)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_page_keeps_its_limit_and_has_the_worst_and_the_best(tmp_path):
    exp, expected = made_experiment(tmp_path, "x", utts=15)
    whole = write_page([exp], tmp_path / "whole.html", log=silently)
    assert len(whole["sounds"]) == 15
    size = (tmp_path / "whole.html").stat().st_size
    sound = sum(len(signal["ogg"]) for each in whole["sounds"] for signal in each["signals"])
    limit = size - sound + 0.5 * sound
    data = write_page([exp], tmp_path / "page.html", limit_mb=limit / 1e6, log=silently)
    assert (tmp_path / "page.html").stat().st_size <= limit
    assert 5 <= len(data["sounds"]) <= 8
    ranked = sorted(range(15), key=lambda r: expected.enhanced[expected.utts[r]]["PESQ_WB"])
    places = sorted(ranked.index(sound["row"]) for sound in data["sounds"])
    assert (places[0], places[-1]) == (0, 14)
    assert max(np.diff(places)) <= 4
    left = 15 - len(data["sounds"])
    assert "spread evenly from the worst to the best PESQ_WB, both included" in data["sound_note"]
    assert f"{left} were left out for the size of the page (--limit-mb)" in data["sound_note"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100])
def test_any_number_of_chosen_utterances_is_spread_evenly(count):
    order = list(widest_gaps(count))
    assert sorted(order) == list(range(count))
    for chosen in range(2, count + 1):
        gaps = np.diff(sorted(order[:chosen]))
        assert order[0] == 0
        assert order[1] == count - 1
        assert gaps.max() <= 2 * (gaps.min() + 1)


# --- loudness ---------------------------------------------------------------------------------------------------------


def test_loudness_of_the_recommendations_reference_tone():
    """BS.1770: a sine of 997 Hz at 0 dB re full scale in one channel has -3.01 LUFS, at any rate."""
    for rate in (16000, 44100, 48000):
        tone = np.sin(2 * np.pi * 997 * np.arange(3 * rate) / rate)
        assert loudness(tone, rate) == pytest.approx(-3.01, abs=0.03)
        assert loudness(0.1 * tone, rate) == pytest.approx(-23.01, abs=0.03)
    silence = np.zeros(RATE)
    assert loudness(silence, RATE) == -math.inf
    with_pause = np.concatenate([tone, 0 * tone])  # the gate leaves the pause out, but for the block across its edge
    assert loudness(with_pause, 48000) == pytest.approx(-3.01, abs=0.3)
    assert loudness(tone[:100], 48000) < 0
    assert equal_gains_db({"a": silence, "b": 0.1 * tone}, 48000)["a"] == 0.0


def test_charts_of_several_experiments_are_combined():
    one = {"title": "loss", "x": "epoch", "series": [{"name": "a"}]}
    other = {"title": "loss", "x": "round", "series": [{"name": "b"}]}
    assert curves.merged([one, other, {**one, "series": [{"name": "c"}]}]) == [
        {**one, "series": [{"name": "a"}, {"name": "c"}]},
        other,
    ]


def test_command_says_what_is_left_out_and_missing(tmp_path, monkeypatch, capsys):
    from sase.bin import report

    exp, _ = made_experiment(tmp_path, "x", utts=2)
    without_page_parts(exp / "enhanced_tt/scoring")
    monkeypatch.setattr(sys, "argv", ["sase report", str(exp), "-o", str(tmp_path / "page.html")])
    report.main()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{tmp_path / 'page.html'}: written",
        "x: tt: not scored yet (stage 5)",
        "2 of 2 utterances have sound here.",
    ]

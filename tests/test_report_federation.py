"""What ``sase report`` shows of a federation: participation, rejections, what each silo sent, its own tests, live."""

import json
import math
import sys

import pytest

from helpers.experiments import made_experiment
from helpers.federation import fed_config, train_config
from sase import jsonfile
from sase.federated import silo_tests
from sase.federated.inproc import local_exchange, local_silos, run
from sase.federated.records import resume_key
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.report import watching
from sase.report.page import write_page


def silently(*_):
    """A log function that discards its lines."""


def write_lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def silo(alpha, sent=1_000_000, examples=6.0):
    return {"alpha": alpha, "bytes": sent, "examples": examples, "loss": 1.0}


@pytest.fixture
def exp(tmp_path):
    """A federation of three silos and four rounds: silo 2 is rejected twice, silo 10 fails once."""
    folder, _ = made_experiment(tmp_path, "fed", utts=2, federated=True)
    rounds = [
        {"silos": {"0": silo(0.25), "10": silo(0.75)}, "refused": ["silo 2: its update holds NaN"], "failed": []},
        {"silos": {"0": silo(1.0)}, "refused": ["silo 2: too long"], "failed": ["silo 10: not connected"]},
        {"silos": {"0": silo(0.5), "2": silo(0.5, 3_000_000)}, "refused": [], "failed": ["no silo is to blame"]},
        {"silos": {"0": silo(0.25), "2": silo(0.25), "10": silo(0.5, examples=7.0)}, "refused": [], "failed": []},
    ]
    write_lines(folder / "rounds.jsonl", [{"round": n, **entry} for n, entry in enumerate(rounds, 1)])
    tests = [
        {"round": 2, "silos": {"0": {"global/SI_SDR": 3.0, "global/utterances": 5}, "10": {"global/SI_SDR": 1.0}}},
        {"round": 4, "silos": {"0": {"global/SI_SDR": 4.0, "own/SI_SDR": 4.5}, "2": {"global/SI_SDR": math.nan}}},
    ]
    write_lines(folder / "silo_tests.jsonl", [{**entry, "failed": []} for entry in tests])
    return folder


def test_the_table_adds_up_what_each_silo_did(exp, tmp_path):
    found = write_page([exp], tmp_path / "page.html", log=silently)["experiments"][0]["federation"]
    assert found["rounds"] == 4
    assert found["scores"] == ["SI_SDR of the global model", "SI_SDR of its personal norms"]
    first, second, third = found["silos"]
    assert first == {
        **{"silo": 0, "rounds": 4, "rejected": 0, "failed": 0, "weight": 0.5, "examples": 6.0, "sent_mb": 4.0},
        **{"reason": "", "scores": [4.0, 4.5]},
    }
    assert (second["silo"], second["rounds"], second["rejected"], second["failed"]) == (2, 2, 2, 0)
    assert (second["sent_mb"], second["weight"], second["reason"]) == (4.0, 0.375, "silo 2: too long")
    assert math.isnan(second["scores"][0])
    assert (third["silo"], third["rounds"], third["failed"], third["examples"]) == (10, 2, 1, 7.0)
    assert (third["reason"], third["scores"]) == ("silo 10: not connected", [1.0, None])


def test_the_charts_show_participation_rejections_failures_and_tests(exp, tmp_path):
    charts = {chart["title"]: chart for chart in write_page([exp], tmp_path / "page.html", log=silently)["charts"]}
    assert charts["silos that took part"]["series"][0]["points"] == [[1, 2.0], [2, 1.0], [3, 2.0], [4, 3.0]]
    curves = {
        title.removeprefix("fed, silos: "): {series["name"]: series["points"] for series in chart["series"]}
        for title, chart in charts.items()
    }
    assert curves["replies rejected so far"] == {"silo 2": [[1, 1.0], [2, 2.0], [3, 2.0], [4, 2.0]]}
    assert curves["failures so far"] == {"silo 10": [[1, 0.0], [2, 1.0], [3, 1.0], [4, 1.0]]}
    tests = curves["SI_SDR of the global model, own test set"]
    assert (tests["silo 0"], tests["silo 10"]) == ([[2, 3.0], [4, 4.0]], [[2, 1.0]])
    assert not any("utterances" in title for title in charts)


def test_central_trainings_and_damaged_files_have_no_table(exp, tmp_path):
    central, _ = made_experiment(tmp_path, "central", utts=2)
    data = write_page([central], tmp_path / "page.html", log=silently)
    assert data["experiments"][0]["federation"] is None
    (exp / "silo_tests.jsonl").write_text("{")
    found = write_page([exp], tmp_path / "page.html", log=silently)["experiments"][0]
    assert found["federation"]["scores"] == []
    assert len([note for note in found["notes"] if "silo_tests.jsonl:1" in note]) == 1
    (exp / "rounds.jsonl").write_text("[")
    found = write_page([exp], tmp_path / "page.html", log=silently)["experiments"][0]
    assert found["federation"] is None
    assert len([note for note in found["notes"] if "rounds.jsonl:1" in note]) == 1


# --- tests at the silos -----------------------------------------------------------------------------------------------


@pytest.mark.recipe
def test_silos_test_every_few_rounds_and_at_the_end_without_changing_the_training(silos_dir, dev_set, tmp_path):
    plain = run(train_config(), fed_config(num_rounds=3), silos_dir, dev_set, tmp_path / "plain")
    server = run(train_config(), fed_config(num_rounds=3, evaluate_every=2), silos_dir, dev_set, tmp_path / "tested")
    assert (tmp_path / "plain/rounds.jsonl").read_bytes() == (tmp_path / "tested/rounds.jsonl").read_bytes()
    assert not (tmp_path / "plain/silo_tests.jsonl").exists()
    assert plain.instruction().config["experiment"] == server.instruction().config["experiment"]
    entries = jsonfile.read_jsonl(tmp_path / "tested/silo_tests.jsonl")
    assert [entry["round"] for entry in entries] == [2, 3]
    # The scores are those of the model of that round, measured by the silo itself.
    silos = local_silos(silos_dir, 3, tmp_path / "again")
    for number, scores in entries[-1]["silos"].items():
        expected = silos[int(number)].evaluate(server.model_instruction(), personal=False)
        assert scores == pytest.approx({f"global/{name}": value for name, value in expected.items()}, abs=1e-4)


def test_a_test_that_was_interrupted_is_made_up_for_and_a_failing_silo_is_named(silos_dir, dev_set, tmp_path):
    config = fed_config(num_rounds=2, evaluate_every=1)
    server = Server(train_config(), config, dev_set, tmp_path)
    silos = local_silos(silos_dir, 3, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(server, local_exchange(silos), interrupt)
    assert len(server.history) == 1
    silos[1].data_dir = tmp_path / "nowhere"  # a silo without a test set
    silos[2].evaluate = fail
    server = Server(train_config(), config, dev_set, tmp_path)
    silo_tests.test_at_silos(server, silo_tests.local_evaluation(silos))
    silo_tests.test_at_silos(server, silo_tests.local_evaluation(silos))  # once
    (entry,) = jsonfile.read_jsonl(tmp_path / "silo_tests.jsonl")
    assert (entry["round"], list(entry["silos"])) == (1, ["0"])
    assert entry["failed"] == ["silo 2 failed: no sound"]


def interrupt(instruction):
    raise KeyboardInterrupt


def fail(*_):
    raise RuntimeError("no sound")


def test_the_interval_may_change_on_resume():
    configs = [fed_config(evaluate_every=every) for every in (0, 3)]
    from sase.config import to_mapping

    train = to_mapping(train_config())
    one, other = (resume_key({"train": train, "federated": to_mapping(config)}) for config in configs)
    assert one == other


# --- live -------------------------------------------------------------------------------------------------------------


def test_the_page_is_written_again_when_the_folder_has_changed(exp, monkeypatch):
    looks, written = iter(range(6)), []

    def sleep(seconds):
        look = next(looks)
        if look == 1:
            (exp / "rounds.jsonl").write_text((exp / "rounds.jsonl").read_text() + "\n")
        if look == 3:
            write_lines(exp / "silo_tests.jsonl", [])
        if look == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watching.watch([exp], lambda: written.append(1), 1.0)
    assert len(written) == 3


def test_the_command_watches_until_it_is_interrupted(exp, tmp_path, monkeypatch, capsys):
    from sase.bin import report

    page = tmp_path / "page.html"
    pages = []

    def sleep(seconds):
        pages.append(page.read_text())
        if len(pages) == 2:
            raise KeyboardInterrupt
        (exp / "rounds.jsonl").write_text((exp / "rounds.jsonl").read_text() + '{"round": 5, "silos": {}}\n')

    monkeypatch.setattr(watching.time, "sleep", sleep)
    monkeypatch.setattr(sys, "argv", ["sase report", str(exp), "-o", str(page), "--watch", "5"])
    report.main()
    data = [json.loads(text.split('id="data">')[1].split("</script>")[0]) for text in [*pages, page.read_text()]]
    assert [each["reload_s"] for each in data] == [5.0, 5.0, None]
    assert data[-1]["experiments"][0]["federation"]["rounds"] == 5
    assert "does not reload itself any more" in capsys.readouterr().err

"""The engine ``simulation`` with all its processes: after kills and failures it resumes to the result of ``inproc``."""

import hashlib
import shutil
from pathlib import Path

import pytest

from helpers.federation import PATIENCE_S, configs, kill, largest_difference, rounds, sase, wait_until
from helpers.strangers import answered_by_ray, command_lines, exposed, listening_ports
from sase.federated.flower.processes import find_pids

pytestmark = pytest.mark.recipe
ROUNDS = 12  # short ones, enough to kill the run between two


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, dev_set):
    folder = tmp_path_factory.mktemp("configs")
    return [*configs(folder, num_rounds=ROUNDS, dev_s=0.3), "--dev-set", dev_set]


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_after_kills_and_failures_the_result_is_that_of_inproc(arguments, silos_dir, tmp_path):
    exp, log, silos = tmp_path / "exp", tmp_path / "log", tmp_path / "silos"
    shutil.copytree(silos_dir, silos)

    def simulate():
        return sase("federate", *arguments, "--silos", silos, "--exp", exp, "--engine", "simulation", log=log, umask=0)

    # Other users of the machine find no port that answers, and no token.
    process = simulate()
    wait_until(lambda: len(rounds(exp)) >= 1, process, "the first round")
    pids = find_pids(exp / "flower")
    assert answered_by_ray(listening_ports(pids)) == []
    folder = Path((exp / "flower/runtime_folder").read_text())
    assert exposed(folder / "ray_token") == exposed(folder / "socket") == []
    assert folder.stat().st_mode & 0o077 == 0
    token = (folder / "ray_token").read_bytes()
    assert not [line for line in command_lines() if token in line or b"--token\0" in line]

    # Killed during a round, it leaves no process running.
    wait_until(lambda: len(rounds(exp)) >= 2, process, "the first rounds")
    kill(process, exp / "flower")
    done = len(rounds(exp))
    assert 2 <= done < ROUNDS

    # With all silos broken it fails in one line and keeps the best model so far.
    tables = sorted(silos.glob("silo*/tr/wav.scp"))
    kept = {path: path.read_text() for path in tables}
    best = hash_of(exp / "best.pt")
    for path in tables:
        path.write_text("".join(f"{line.split()[0]} {tmp_path}/gone.ark:9\n" for line in kept[path].splitlines()))
    process = simulate()
    assert process.wait(PATIENCE_S) == 1
    said = log.read_text().splitlines()[-1]
    assert said.startswith("sase federate: round")
    assert "failed 2 times" in said
    assert "run the same command to resume" in said
    assert hash_of(exp / "best.pt") == best
    assert len(rounds(exp)) == done
    assert not find_pids(exp / "flower")

    # One broken silo of three is skipped; the result differs, so this is a copy of the experiment.
    other = tmp_path / "other"
    shutil.copytree(exp, other, ignore=shutil.ignore_patterns("flower"))
    for path in tables[1:]:
        path.write_text(kept[path])
    process = sase("federate", *arguments, "--silos", silos, "--exp", other, "--engine", "simulation", log=log)
    wait_until(lambda: len(rounds(other)) > done, process, "a round without silo 0")
    assert sorted(rounds(other)[done]["silos"]) == ["1", "2"]
    assert "silo 0" in rounds(other)[done]["failed"][0]
    process.terminate()
    assert process.wait(60) == 130
    assert not find_pids(other / "flower")

    # With all silos repaired, the run resumes and ends as if it had not been interrupted.
    tables[0].write_text(kept[tables[0]])
    assert simulate().wait(PATIENCE_S) == 0
    assert [entry["round"] for entry in rounds(exp)] == list(range(1, ROUNDS + 1))
    assert not find_pids(exp / "flower")
    assert not folder.exists()
    assert exposed(exp) == []
    plain = tmp_path / "plain"
    command = [*arguments, "--silos", silos, "--exp", plain, "--engine", "inproc", "--threads", 1]
    assert sase("federate", *command, log=log).wait(PATIENCE_S) == 0
    assert largest_difference(exp / "last.pt", plain / "last.pt") < 1e-5

    # A finished experiment: the same command logs nothing and starts nothing.
    before = hash_of(exp / "train.log")
    assert simulate().wait(60) == 0
    assert hash_of(exp / "train.log") == before

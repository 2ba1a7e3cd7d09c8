"""The engine ``deployment``: one server and three silos, each a separate process, with kills and failures."""

import shutil
import time
from pathlib import Path

import pytest

from helpers.federation import PATIENCE_S, configs, kill, kill_all, largest_difference, rounds, sase, wait_until
from helpers.strangers import command_lines, exposed, listening_ports
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated.audit_verification import verify
from sase.federated.certificates import make_certificates
from sase.federated.config import load_federated_config
from sase.federated.flower.processes import find_pids
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.server import Server
from sase.training.config import load_train_config

pytestmark = pytest.mark.recipe
ROUNDS = 8


class Federation:
    """The folders of a server and of three silos, each with its own data, state and key, as on four machines."""

    def __init__(self, folder, silos, dev):
        self.folder, self.exp, self.server = folder, folder / "exp", None
        self.stranger = None
        self.address = f"127.0.0.1:{free_port()}"
        make_certificates(folder / "certificates", ["localhost"], 3)
        make_certificates(folder / "strangers", ["localhost"], 3)
        self.arguments = [
            *configs(folder, num_rounds=ROUNDS, num_silos=3, min_silos=2),
            "--dev-set",
            dev,
            "--exp",
            self.exp,
        ]
        for index in range(3):
            shutil.copytree(silos / f"silo{index}", folder / f"machine{index}/data")
        self.silos = [None, None, None]
        self.first_trainers = []

    def start_server(self):
        port = self.address.split(":")[1]
        self.server = sase(
            "federate",
            *self.arguments,
            "--engine",
            "deployment",
            "--engine-option",
            f"port={port}",
            "--engine-option",
            f"certificates={self.folder}/certificates",
            log=self.folder / "server.log",
            umask=0,
        )

    def start_silo(self, index, certificates="certificates", log=None, machine=None):
        machine = machine or self.folder / f"machine{index}"
        return sase(
            "silo",
            "--silo",
            index,
            "--data-dir",
            self.folder / f"machine{index}/data",
            "--state-dir",
            machine / "state",
            "--server",
            self.address,
            "--threads",
            1,
            "--certificates",
            self.folder / certificates,
            log=log or machine / "silo.log",
            umask=0,
        )

    def start_stranger(self):
        """Start a silo that trusts the server, with a key that is not registered."""
        mixed = self.folder / "mixed/silo1"
        mixed.mkdir(parents=True)
        shutil.copy(self.folder / "certificates/silo1/ca.crt", mixed)
        shutil.copy(self.folder / "strangers/silo1/silo.key", mixed)
        log, machine = self.folder / "stranger.log", self.folder / "stranger"
        self.stranger = self.start_silo(1, certificates="mixed", log=log, machine=machine)

    def home(self, index):
        return self.folder / f"machine{index}/state/flower"

    def has_started(self, index, number):
        """Return whether a silo has received the message of a round."""
        path = self.folder / f"machine{index}/state/supernode.log"
        return path.exists() and f"ROUND {number}]" in path.read_text(errors="replace")

    def trainers(self, index):
        """Return the ids of a silo's processes that run its tasks."""
        return {
            pid for pid in find_pids(self.home(index)) if b"warm_client" in Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    def wait_for_round(self, number):
        wait_until(lambda: len(rounds(self.exp)) >= number, self.server, f"round {number}")


@pytest.fixture(scope="module")
def federation(tmp_path_factory, silos_dir, dev_set):
    federation = Federation(tmp_path_factory.mktemp("federation"), silos_dir, dev_set)
    yield federation
    for process in [federation.server, federation.stranger, *federation.silos]:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    stranger = federation.folder / "stranger/state/flower"
    for home in [federation.exp / "flower", stranger, *map(federation.home, range(3))]:
        kill_all(home)


# The tests of this file share one federation and run in this order.


def test_silos_wait_for_the_server_and_train(federation):
    federation.silos = [federation.start_silo(index) for index in range(3)]
    time.sleep(1.0)
    federation.start_server()
    federation.start_stranger()
    federation.wait_for_round(1)
    first = rounds(federation.exp)[0]
    assert sorted(first["silos"]) == ["0", "1", "2"]
    assert first["failed"] == []
    assert first["attempts"] == 1
    said = (federation.folder / "server.log").read_text()
    assert "registered keys: silo0, silo1, silo2" in said
    federation.first_trainers = [federation.trainers(index) for index in range(3)]


def test_other_users_find_one_port_no_token_and_no_file(federation):
    """While it runs: the server has the port of the Fleet API, silos have none."""
    assert set(listening_ports(find_pids(federation.exp / "flower"))) == {int(federation.address.split(":")[1])}
    assert listening_ports([pid for index in range(3) for pid in find_pids(federation.home(index))]) == {}
    assert not [line for line in command_lines() if b"--token\0" in line]
    for folder in (federation.exp, *(federation.folder / f"machine{index}/state" for index in range(3))):
        assert exposed(folder) == []


def test_a_silo_has_one_process_for_the_tasks_of_all_rounds(federation):
    """A new one for every task would import torch in every round of every silo."""
    federation.wait_for_round(2)
    assert [len(pids) for pids in federation.first_trainers] == [1, 1, 1]
    assert [federation.trainers(index) for index in range(3)] == federation.first_trainers
    for index in range(3):
        said = (federation.folder / f"machine{index}/state/supernode.log").read_text(errors="replace")
        assert "ROUND 2]" in said
        assert "starting flwr-clientapp" not in said


def test_a_server_with_another_certificate_is_rejected(federation):
    silo = federation.start_silo(
        1, certificates="strangers", log=federation.folder / "wary.log", machine=federation.folder / "wary"
    )
    assert silo.wait(PATIENCE_S) == 1
    assert "rejected, its certificate is not signed by" in (federation.folder / "wary.log").read_text()


def test_a_silo_killed_in_a_round_is_skipped_and_rejoins(federation):
    number = len(rounds(federation.exp)) + 1
    wait_until(lambda: federation.has_started(2, number), federation.server, f"silo 2 in round {number}")
    kill(federation.silos[2], federation.home(2))
    federation.wait_for_round(number)
    entry = rounds(federation.exp)[number - 1]
    assert sorted(entry["silos"]) == ["0", "1"]
    assert "silo 2" in " ".join(entry["failed"])
    federation.silos[2] = federation.start_silo(2)
    wait_until(lambda: "2" in rounds(federation.exp)[-1]["silos"], federation.server, "silo 2 again")


def test_a_killed_server_resumes_with_the_connected_silos(federation):
    number = len(rounds(federation.exp)) + 1
    assert number <= ROUNDS, "no round is left to kill the server in"
    wait_until(lambda: federation.has_started(0, number), federation.server, f"silo 0 in round {number}")
    kill(federation.server, federation.exp / "flower")
    assert len(rounds(federation.exp)) == number - 1
    assert all(silo.poll() is None for silo in federation.silos)
    federation.start_server()
    assert federation.server.wait(PATIENCE_S) == 0
    assert [entry["round"] for entry in rounds(federation.exp)] == list(range(1, ROUNDS + 1))
    assert sorted(rounds(federation.exp)[-1]["silos"]) == ["0", "1", "2"]


def test_the_silo_with_another_key_was_rejected(federation):
    assert federation.stranger.wait(PATIENCE_S) == 1
    assert "rejects its key" in (federation.folder / "stranger.log").read_text()
    assert not find_pids(federation.folder / "stranger/state/flower")


def test_all_processes_exit_at_the_end(federation):
    for index, silo in enumerate(federation.silos):
        assert silo.wait(PATIENCE_S) == 0
        assert "training is finished" in (federation.folder / f"machine{index}/silo.log").read_text()
        assert not find_pids(federation.home(index))
    assert not find_pids(federation.exp / "flower")


def test_the_server_has_signed_every_round(federation):
    result = verify(federation.exp, federation.folder / "certificates/ca.crt")
    assert (result.rounds, result.trusted) == (list(range(1, ROUNDS + 1)), True)
    with pytest.raises(InputError, match="did not sign"):
        verify(federation.exp, federation.folder / "strangers/ca.crt")


def test_the_model_is_that_of_inproc_with_the_same_silos(federation, tmp_path):
    """The kills changed only which silos took part: inproc with the ledger's silos gives the same model."""
    config = load_train_config(federation.folder / "train.yaml")
    fed = load_federated_config(federation.folder / "fl.yaml")
    silos_dir = tmp_path / "silos"
    for index in range(3):
        shutil.copytree(federation.folder / f"machine{index}/data", silos_dir / f"silo{index}")
    (dev,) = [federation.arguments[k + 1] for k, word in enumerate(federation.arguments) if word == "--dev-set"]
    server, silos = Server(config, fed, dev, tmp_path / "exp"), local_silos(silos_dir, 3, tmp_path / "exp")
    for entry in rounds(federation.exp):
        took_part = [silos[int(name)] for name in entry["silos"]]
        assert server.finish_round(*local_exchange(took_part)(server.instruction()))
    assert largest_difference(federation.exp / "last.pt", tmp_path / "exp/last.pt") < 1e-5
    assert [entry["dev_SI_SNR"] for entry in server.history] == pytest.approx(
        [entry["dev_SI_SNR"] for entry in rounds(federation.exp)], abs=1e-3
    )


def test_all_silos_fail(federation, tmp_path):
    """All silos are broken: one line that says why, and status 1."""
    silos = tmp_path / "silos"
    for index in range(3):
        shutil.copytree(federation.folder / f"machine{index}/data", silos / f"silo{index}")
        table = silos / f"silo{index}/tr/wav.scp"
        table.write_text("".join(f"{line.split()[0]} /gone.ark:9\n" for line in table.read_text().splitlines()))
    arguments = federation.arguments[:-1] + [tmp_path / "exp", "--silos", silos, "--engine", "deployment"]
    process = sase("federate", *arguments, "--engine-option", f"port={free_port()}", log=tmp_path / "log")
    assert process.wait(PATIENCE_S) == 1
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert said.startswith("sase federate: round 1 failed 2 times")
    assert "gone.ark" in said
    homes = [tmp_path / "exp/flower", *(tmp_path / f"exp/silos/silo{index}/flower" for index in range(3))]
    assert not any(find_pids(home) for home in homes)

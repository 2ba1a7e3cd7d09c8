"""Resuming a federated training: interrupted, with more rounds, with other data."""

import os
import shutil
import signal

import pytest

from helpers.checkpoints import assert_same
from helpers.dumps import dumped
from helpers.federation import fed_config, train_config
from sase.errors import InputError
from sase.federated import development
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.training.trainer import discard_training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    dumped(folder / "dev", seed=9)
    for index in range(2):
        made = dumped(folder / f"made{index}", seed=index)
        (folder / f"silos/silo{index}").mkdir(parents=True)
        os.symlink(made, folder / f"silos/silo{index}/tr")
    return folder


@pytest.fixture
def federate(data, tmp_path):
    def run(exp, num_rounds=2, dev_set=data / "dev/dump", silos=data / "silos", **values):
        config = fed_config(num_silos=2, num_rounds=num_rounds, **{"max_repeats": 0, **values})
        server = Server(train_config(norm="batch"), config, dev_set, tmp_path / exp)
        run_rounds(server, local_exchange(local_silos(silos, 2, tmp_path / exp)))
        return server

    return run


def assert_same_federation(one, other):
    for name in ("server.pt", "best.pt", "last.pt"):
        assert_same(one / name, other / name)
    assert (one / "rounds.jsonl").read_text() == (other / "rounds.jsonl").read_text()


@pytest.mark.recipe
def test_more_rounds_can_be_added_and_the_silos_keep_their_states(federate, tmp_path, monkeypatch):
    options = {"norm": "local", "fresh_optimizer": False}
    short = federate("exp", 2, **options)
    shutil.copytree(tmp_path / "exp", tmp_path / "parts")
    assert len(federate("exp", 4, **options).history) == 4

    def interrupt(*arguments):  # after the round is aggregated, before it is saved
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(development, "development_scores", interrupt)
        with pytest.raises(KeyboardInterrupt):
            federate("parts", 4, **options)
    with pytest.raises(InputError, match=r"num_rounds is 1, was 2"):
        federate("parts", 1, **options)
    federate("parts", 4, **options)
    assert_same_federation(tmp_path / "exp", tmp_path / "parts")
    names = sorted(path.name for path in (tmp_path / "exp/silos/silo0").glob("state-*.pt"))
    assert names == sorted(path.name for path in (tmp_path / "parts/silos/silo0").glob("state-*.pt"))
    for name in names:
        assert_same(tmp_path / "exp/silos/silo0" / name, tmp_path / "parts/silos/silo0" / name)
    assert federate("exp", 4, **options).instruction().config["experiment"] == short.instruction().config["experiment"]


@pytest.mark.recipe
def test_an_unfinished_federation_keeps_its_number_of_rounds(federate, tmp_path, monkeypatch):
    save = Server._save

    def save_and_stop(self, record):
        save(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Server, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            federate("exp", 2)
    with pytest.raises(InputError, match=r"num_rounds is 3, was 2, of which 1 are done; only a finished training"):
        federate("exp", 3)
    assert len(federate("exp", 2).history) == 2


@pytest.mark.recipe
def test_another_development_set_is_refused_and_restarting_forgets_it(federate, tmp_path):
    federate("exp", 1)
    other = dumped(tmp_path / "dev2", seed=10)
    with pytest.raises(InputError, match=r"the development set has changed .* other audio\); .* with --restart$"):
        federate("exp", 2, dev_set=other)
    discard_training(tmp_path / "exp")
    assert len(federate("exp", 2, dev_set=other).history) == 2


@pytest.mark.recipe
def test_a_silo_whose_data_has_changed_refuses_until_its_owner_agrees(federate, data, tmp_path):
    silos = shutil.copytree(data / "silos", tmp_path / "silos", symlinks=True)
    federate("exp", 1, silos=silos)
    (silos / "silo1/tr").unlink()
    os.symlink(dumped(tmp_path / "new", seed=5), silos / "silo1/tr")
    refusal = r"silo 1 failed: .*silo1/tr: the training set has changed .*; delete data\.json in the silo's"
    with pytest.raises(InputError, match=refusal):
        federate("exp", 2, silos=silos, min_silos=2, max_repeats=1)
    (tmp_path / "exp/silos/silo1/data.json").unlink()
    assert len(federate("exp", 2, silos=silos, min_silos=2).history[-1]["silos"]) == 2
    federate("another", 1, silos=silos)  # another experiment, with the new data from its start

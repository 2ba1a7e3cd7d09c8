"""A round of a few silos costs the server what it costs, however many silos there are: work is counted, not time."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.federation import fed_config, train_config
from sase.bench.synthetic_replies import synthetic_reply
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.server import Server
from sase.federated.silo import Silo

A_ROUND = 10


@dataclass
class Work:
    """What this process does: function calls, files that it opens and folders that it lists, bytes that it writes."""

    calls: int = 0
    files: int = 0
    written: int = 0


_counted: list[Work] = []  # to which files are added now; an audit hook stays for the life of the process


def _count_files(event, arguments):
    if _counted and event in ("open", "os.listdir", "os.scandir", "glob.glob"):
        _counted[-1].files += 1


sys.addaudithook(_count_files)


@contextmanager
def counted():
    work = Work()

    def count_calls(frame, event, argument):
        if event in ("call", "c_call"):
            work.calls += 1

    def bytes_written():
        return int(Path("/proc/self/io").read_text().split("wchar:")[1].split()[0])

    work.written -= bytes_written()
    _counted.append(work)
    sys.setprofile(count_calls)
    try:
        yield work
    finally:
        sys.setprofile(None)
        _counted.remove(work)
        work.written += bytes_written()


def round_of(server, silos):
    """Run one round, of which no silo trains."""
    assert server.finish_round(*local_exchange(silos, server.spool.keep)(server.instruction()))


def federation(folder, count, dev_set):
    config = fed_config(num_silos=count, clients_per_round=A_ROUND, num_rounds=9, dev_s=0.3)
    return Server(train_config(), config, dev_set, folder), local_silos(folder / "data", count, folder)


@pytest.fixture
def works(tmp_path, dev_set, monkeypatch):
    """The work of the second round by number of silos; the first one loads modules."""
    monkeypatch.setattr(Silo, "run", lambda silo, instruction: synthetic_reply(instruction, silo.index))
    found = {}
    for count in (A_ROUND, 1000):
        server, silos = federation(tmp_path / str(count), count, dev_set)
        round_of(server, silos)
        with counted() as work:
            round_of(server, silos)
        assert len(server.history[-1]["silos"]) == A_ROUND
        found[count] = work
    return found


@pytest.mark.recipe
def test_a_round_of_ten_silos_of_a_thousand_is_that_of_ten(works):
    few, many = works[A_ROUND], works[1000]
    assert few.calls > 1000
    assert few.files > 5
    assert few.written > 10_000  # the model and the replies
    assert many.calls <= 1.1 * few.calls  # a dozen for each silo
    assert many.files <= few.files + 10
    assert many.written <= 1.1 * few.written

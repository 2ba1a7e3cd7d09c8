"""Secure aggregation by the command: one silo drops out of a round, and the server never has a single update."""

import os
import shutil
import threading
from contextlib import suppress

import numpy as np
import pytest

from helpers.federation import PATIENCE_S, configs, fed_config, largest_difference, rounds, sase, train_config
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.model import load_model

pytestmark = pytest.mark.recipe
ONCE = {"num_silos": 4, "num_rounds": 1, "local_steps": 2, "max_drop_db": 0, "max_repeats": 0}


@pytest.fixture
def silos(silos_dir, tmp_path):
    """Four silos, the last of which announces its number of utterances, and then cannot read them."""
    for index in range(4):
        shutil.copytree(silos_dir / f"silo{index % 3}", tmp_path / f"silos/silo{index}")
    table = tmp_path / "silos/silo3/tr/wav.scp"
    table.write_text("".join(f"{line.split()[0]} {tmp_path}/gone.ark:9\n" for line in table.read_text().splitlines()))
    return tmp_path / "silos"


class Copies(threading.Thread):
    """Keeps what appears in a folder, also when its files are deleted later: as hard links."""

    def __init__(self, folder, kept):
        super().__init__(daemon=True)
        self.folder, self.kept, self.over = folder, kept, threading.Event()
        kept.mkdir()

    def run(self):
        while not self.over.wait(0.01):
            with suppress(OSError):
                for path in self.folder.iterdir():
                    with suppress(FileExistsError, FileNotFoundError):
                        os.link(path, self.kept / path.name)


def holding(files, values):
    """Return those of these files that hold any of these values with its three neighbours, in single or double."""
    parts = [values[start : start + 4] for start in range(0, values.size - 4, 4)]
    patterns = [part.astype(kind).tobytes() for part in parts for kind in ("<f4", "<f8")]
    contents = {path: path.read_bytes() for path in files}
    return [path for path, content in contents.items() if any(pattern in content for pattern in patterns)]


def test_the_server_has_the_sum_of_three_of_four_silos_and_no_single_update(silos, dev_set, tmp_path):
    replies = []
    server = Server(train_config(), fed_config(**ONCE), dev_set, tmp_path / "plain")
    exchange = local_exchange(local_silos(silos, 4, tmp_path / "plain"))

    def recording(instruction):
        answered, failures = exchange(instruction)
        replies.extend(answered)
        return answered, failures

    begin = {name: server.instruction().arrays[name].copy() for name in server.layout.weights}
    run_rounds(server, recording)
    assert [reply.silo for reply in replies] == [0, 1, 2]

    exp, log = tmp_path / "exp", tmp_path / "log"
    options = [*configs(tmp_path, **ONCE, secure_aggregation="true"), "--dev-set", dev_set, "--silos", silos]
    copies = Copies(exp / "replies", tmp_path / "received")
    copies.start()
    process = sase("federate", *options, "--exp", exp, "--engine", "simulation", log=log)
    try:
        assert process.wait(PATIENCE_S) == 0, log.read_text()[-2000:]
    finally:
        process.terminate()
        copies.over.set()
        copies.join()

    (record,) = rounds(exp)
    assert list(record["silos"]) == ["0", "1", "2"]
    assert [reason for reason in record["failed"] if reason.startswith("silo 3") and "gone.ark" in reason]
    assert largest_difference(tmp_path / "plain/last.pt", exp / "last.pt") < 1e-6

    count = sum(array.size for array in begin.values())
    masked = [path for path in copies.kept.iterdir() if path.stat().st_size >= 4 * count]
    assert len(masked) == 3
    kept = [path for path in exp.rglob("*") if path.is_file() and exp / "silos" not in path.parents]
    largest = max(begin, key=lambda name: begin[name].size)
    model = load_model(exp / "last.pt").state_dict()[largest].numpy().ravel()
    assert exp / "last.pt" in holding(kept, model)  # what is searched for is found
    for reply in replies:
        change = np.concatenate([(reply.arrays[name] - begin[name]).ravel() for name in begin])
        for path in masked:
            received = np.fromfile(path, "<i4", count)
            assert abs(np.corrcoef(received, change)[0, 1]) < 5 / np.sqrt(count)
        for values in (reply.arrays[largest], reply.arrays[largest] - begin[largest]):
            assert holding([*kept, *masked], values.ravel()) == []

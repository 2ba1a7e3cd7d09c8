"""Rounds of many silos: updates on disk in the meantime, the same bits in any order of arrival, records appended."""

import json
import os
import stat
import tracemalloc

import numpy as np
import pytest
import torch

from helpers.federation import fed_config, first_round, train_config
from helpers.parameters import quick
from sase.errors import InputError
from sase.federated import matrices
from sase.federated.admission import Admitted
from sase.federated.aggregation import Rule, aggregate
from sase.federated.config import FederatedConfig
from sase.federated.exchange import Reply
from sase.federated.global_model import GlobalModel, new_optimiser
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.layout import Layout
from sase.federated.payload import Upload, encode
from sase.federated.robust import AGGREGATIONS
from sase.federated.server import Server
from sase.federated.server_optimiser import ServerOptimiser
from sase.federated.spool import Spool, store

LAYOUT = Layout(("a", "b"), (), ("n",), frozenset())


def arrays_of(generator, rows=7, columns=33):
    return {
        "a": generator.standard_normal((rows, columns)).astype(np.float32),
        "b": generator.standard_normal(columns).astype(np.float32),
        "n": np.array(generator.integers(100)),
    }


def test_stored_arrays_are_read_back_to_the_bit(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
        "scalar": np.array(5),
        "empty": np.zeros((0, 3), np.int8),
        "foreign": np.arange(3, dtype=">f4"),
        "bits": np.array([[np.nan, -0.0, np.inf]], np.float64),
    }
    stored = store(tmp_path / "x", arrays)
    assert list(stored) == list(arrays)
    for name, value in arrays.items():
        assert stored[name].dtype == value.dtype
        assert stored[name].shape == value.shape
        assert stored[name].tobytes() == value.tobytes()


@pytest.mark.recipe
def test_replies_are_private_and_removed_after_the_round(silos_dir, dev_set, tmp_path):
    server = Server(train_config(), fed_config(), dev_set, tmp_path)
    previous = os.umask(0)
    try:
        replies, failures = local_exchange(local_silos(silos_dir, 3, tmp_path), server.spool.keep)(server.instruction())
    finally:
        os.umask(previous)
    files = list((tmp_path / "replies").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "replies").stat().st_mode) == 0o700
    assert server.finish_round(replies, failures)
    assert not (tmp_path / "replies").exists()
    (tmp_path / "replies").mkdir()
    (tmp_path / "replies/reply-0").write_bytes(b"of a killed server")
    Server(train_config(), fed_config(), dev_set, tmp_path)
    assert not (tmp_path / "replies").exists()


@pytest.mark.parametrize("payload", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_order_of_arrival_and_storage_do_not_change_a_bit(tmp_path, monkeypatch, name, payload):
    """The oracle has all updates in memory, in one matrix, in the order of the silos."""
    monkeypatch.setattr(matrices, "_BLOCK_BYTES", 8 * 9 * 50)  # columns are divided
    generator = np.random.default_rng(1)
    reference, locals_ = arrays_of(generator), [arrays_of(generator) for _ in range(9)]
    alphas = generator.dirichlet(np.ones(9))
    spool, uploads = Spool(tmp_path / "replies"), {}
    for silo in generator.permutation(9):
        upload = encode(payload, locals_[silo], reference, {"a", "b"})
        uploads[silo] = spool.keep(Reply(int(silo), 1, upload)).arrays
    silos = [Upload(payload, uploads[silo], reference, {"a", "b"}) for silo in range(9)]
    result = aggregate(reference, silos, alphas, LAYOUT, ServerOptimiser(), rule=Rule(name, folder=spool.scratch()))
    whole = np.stack([np.concatenate([np.asarray(s[n], np.float64).ravel() for n in "ab"]) for s in silos])
    old = np.concatenate([np.asarray(reference[n], np.float64).ravel() for n in "ab"])
    shares = shares_of(name, alphas, whole - old)
    total = (1.0 - np.sum(shares, axis=0)) * old
    for share, row in zip(shares, whole):
        total += share * row
    assert np.concatenate([result[n].ravel() for n in "ab"]).tobytes() == total.astype(np.float32).tobytes()
    assert result["n"] == max(local["n"] for local in locals_)
    assert len(list(spool.folder.iterdir())) == 9  # temporary files are gone


def shares_of(name, alphas, matrix):
    """Return the shares of a rule for updates that are all in memory."""
    count, norms = len(matrix), np.linalg.norm(matrix, axis=1)
    if name == "clipped_mean":
        return alphas * np.minimum(1.0, np.median(norms) / norms)
    if name in ("median", "trimmed_mean"):
        trimmed = 4 if name == "median" else 3
        ranks = matrix.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        return ((ranks >= trimmed) & (ranks < count - trimmed)) / (count - 2.0 * trimmed)
    if name == "krum":
        distances = np.array([np.square(matrix - row).sum(axis=1) for row in matrix])
        nearest = np.sort(distances, axis=1)[:, 1 : max(1, count - 3 - 2) + 1]
        return np.eye(count)[int(nearest.sum(axis=1).argmin())]
    if name == "geometric_median":
        shares = np.full(count, 1.0 / count)
        for _ in range(200):
            distances = np.linalg.norm(matrix - shares @ matrix, axis=1)
            inverse = 1.0 / np.maximum(distances, 1e-6 * distances.mean())
            before, shares = shares, inverse / inverse.sum()
            if np.abs(shares - before).max() < 1e-9:
                break
        return shares
    return alphas


@pytest.mark.parametrize("payload", ["float32", "int8"])
@pytest.mark.parametrize("name", quick(["mean", "clipped_mean", "median"]))
def test_memory_of_a_round_does_not_grow_with_the_number_of_silos(tmp_path, name, payload):
    """From 4 to 40 silos of 1 MB: by less than one of them."""
    config = FederatedConfig(aggregation=name, payload=payload)

    def peak(count):
        generator = np.random.default_rng(0)
        reference = arrays_of(generator, 64, 4096)
        spool = Spool(tmp_path / f"{count}")

        def admitted(silo):
            upload = encode(payload, arrays_of(generator, 64, 4096), reference, {"a", "b"})
            decoded = Upload(payload, spool.keep(Reply(silo, 1, upload)).arrays, reference, {"a", "b"})
            return Admitted(silo, decoded, {}, {"examples": 5.0, "steps": 1.0, "last_loss": 0.0}, 1.0, 1)

        tracemalloc.start()
        replies = [admitted(silo) for silo in range(count)]
        GlobalModel(reference, reference, new_optimiser(config)).after(replies, config, LAYOUT, 0.0, spool.scratch())
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(40) - peak(4) < 64 * 4096 * 4


def test_replies_of_one_layout_share_it(tmp_path):
    """With hundreds of silos, layouts would take as much memory as an update."""
    spool = Spool(tmp_path)
    first, second = (
        spool.keep(Reply(silo, 1, {"a": np.full(3, silo), "b": np.ones((2, 2))})).arrays for silo in (1, 2)
    )
    other = spool.keep(Reply(3, 1, {"a": np.full(4, 3), "b": np.ones((2, 2))})).arrays
    assert second.places is first.places
    assert [list(arrays["a"]) for arrays in (first, second, other)] == [[1] * 3, [2] * 3, [3] * 4]
    np.testing.assert_array_equal(other["b"], np.ones((2, 2)))


@pytest.mark.recipe
def test_a_round_of_stored_replies_equals_one_in_memory(silos_dir, dev_set, tmp_path):
    """With SCAFFOLD, whose control variates are stored as well, and FedNova."""
    models = []
    for name, order in (("memory", [0, 1, 2]), ("disk", [2, 0, 1])):
        server, replies = first_round(silos_dir, dev_set, tmp_path / name)
        if name == "disk":
            replies = [server.spool.keep(replies[silo]) for silo in order]
        assert server.finish_round(replies, [])
        models.append(server.instruction().arrays)
    assert all(models[0][name].tobytes() == models[1][name].tobytes() for name in models[0])
    controls = [
        {n.removeprefix("control/"): v for n, v in reply.arrays.items() if n.startswith("control/")}
        for reply in first_round(silos_dir, dev_set, tmp_path / "oracle")[1]
    ]
    for name in controls[0]:
        mean = np.mean([control[name] for control in controls], axis=0, dtype=np.float64).astype(np.float32)
        assert models[0][f"control/{name}"].tobytes() == mean.tobytes()


FEDERATION = {"scaffold": True, "num_rounds": 4, "local_steps": 1}


def run(folder, silos_dir, dev_set, rounds):
    server = Server(train_config(), fed_config(**FEDERATION), dev_set, folder)
    exchange = local_exchange(local_silos(silos_dir, 3, folder), server.spool.keep)
    for _ in range(rounds):
        assert server.finish_round(*exchange(server.instruction()))
    return server


@pytest.mark.recipe
def test_records_are_appended_and_repaired_after_a_kill(silos_dir, dev_set, tmp_path, monkeypatch):
    path = tmp_path / "a/rounds.jsonl"
    run(tmp_path / "a", silos_dir, dev_set, 1)
    inode, first = path.stat().st_ino, path.read_bytes()
    run(tmp_path / "a", silos_dir, dev_set, 1)
    assert path.stat().st_ino == inode
    assert path.read_bytes().startswith(first)
    assert "history" not in torch.load(tmp_path / "a/server.pt", weights_only=True)
    whole = path.read_bytes()
    for damage in (first, whole[:-5], whole + b'{"round": 3, "silos"', whole + whole):  # killed while it wrote
        path.write_bytes(damage)
        assert len(Server(train_config(), fed_config(**FEDERATION), dev_set, tmp_path / "a").history) == 2
        assert path.read_bytes() == whole
    path.write_bytes(first[:-9])
    with pytest.raises(InputError, match=r"rounds.jsonl: has \d+ bytes, .*restore this file"):
        Server(train_config(), fed_config(**FEDERATION), dev_set, tmp_path / "a")
    path.write_bytes(first.replace(b'"round": 1', b'"round": 7'))
    with pytest.raises(InputError, match="entry 1 of the history has another number"):
        Server(train_config(), fed_config(**FEDERATION), dev_set, tmp_path / "a")


@pytest.mark.recipe
def test_a_state_of_an_earlier_version_is_resumed(silos_dir, dev_set, tmp_path):
    """It had all records and all control variates in ``server.pt``."""
    whole = run(tmp_path / "whole", silos_dir, dev_set, 3)
    run(tmp_path / "old", silos_dir, dev_set, 2)
    path = tmp_path / "old/server.pt"
    state = torch.load(path, weights_only=True)
    del state["records"]
    state["history"] = [json.loads(line) for line in (tmp_path / "old/rounds.jsonl").read_text().splitlines()]
    state["controls"] = {
        silo: torch.load(tmp_path / f"old/controls/silo{silo}-{number}.pt", weights_only=True)["control"]
        for silo, number in state["controls"].items()
    }
    torch.save(state, path)
    for file in (tmp_path / "old/controls").iterdir():
        file.unlink()
    resumed = run(tmp_path / "old", silos_dir, dev_set, 1)
    assert resumed.history == whole.history
    assert (tmp_path / "old/rounds.jsonl").read_bytes() == (tmp_path / "whole/rounds.jsonl").read_bytes()
    for name, value in whole.instruction().arrays.items():
        assert resumed.instruction().arrays[name].tobytes() == value.tobytes()
    assert sorted(file.name for file in (tmp_path / "old/controls").iterdir()) == [f"silo{k}-3.pt" for k in range(3)]

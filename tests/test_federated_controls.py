"""SCAFFOLD's control variates at the server: their mean over rounds and restarts, and what a round reads."""

import numpy as np
import pytest
import torch

from sase.federated import controls as module
from sase.federated.controls import Controls

SHAPES = {"a": (3, 2), "b": (5,)}
SILOS, ROUNDS = 12, 9


def variates(rng):
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def rounds(seed=0):
    """Yield the number of each round and the control variates of three silos; the last one has none."""
    rng = np.random.default_rng(seed)
    for number in range(1, ROUNDS + 1):
        silos = rng.choice(SILOS, 3, replace=False)
        yield number, {int(silo): variates(rng) if place < 2 else {} for place, silo in enumerate(silos)}


def restored(folder, store, total, number):
    """Return the control variates of a restarted server, from the state on disk."""
    other = Controls(folder, SHAPES)
    other.restore(store.state(), total, SILOS, number)
    other.check_files()
    return other


def test_the_mean_is_that_of_the_newest_of_each_silo_and_survives_restarts(tmp_path):
    whole, resumed, newest = Controls(tmp_path / "a", SHAPES), Controls(tmp_path / "b", SHAPES), {}
    assert whole.mean() == {}
    for number, sent in rounds():
        for store in (whole, resumed):
            store.write(number, sent)
        newest |= {silo: arrays for silo, arrays in sent.items() if arrays}
        resumed = restored(tmp_path / "b", resumed, resumed.sum_state(), number)
        resumed.remove_old()
        earlier_version = restored(tmp_path / "b", resumed, None, number)
        for name in SHAPES:
            expected = np.mean([arrays[name] for arrays in newest.values()], axis=0, dtype=np.float64)
            np.testing.assert_allclose(whole.mean()[name], expected, rtol=1e-6, atol=1e-12)
            np.testing.assert_allclose(earlier_version.mean()[name], expected, rtol=1e-6, atol=1e-12)
            assert resumed.mean()[name].tobytes() == whole.mean()[name].tobytes()
            assert whole.mean()[name].dtype == np.float32
    assert len(list((tmp_path / "b/controls").iterdir())) == len(newest)


def test_a_round_reads_the_files_of_its_own_silos_only(tmp_path, monkeypatch):
    store, rng = Controls(tmp_path, SHAPES), np.random.default_rng(1)
    store.write(1, {silo: variates(rng) for silo in range(SILOS)})
    read, read_checkpoint = [], module.read_checkpoint
    monkeypatch.setattr(module, "read_checkpoint", lambda path: read.append(path.name) or read_checkpoint(path))
    store.write(2, {3: variates(rng), 7: variates(rng)})
    store.mean()
    assert sorted(read) == ["silo3-1.pt", "silo7-1.pt"]


def test_a_sum_without_control_variates_is_damage(tmp_path):
    store = Controls(tmp_path, SHAPES)
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    with pytest.raises(module.InputError, match="damaged: the sum of the control variates: a is unknown"):
        store.restore({}, total, SILOS, 3)

"""What a silo may send: every lie, impossible number and damaged array is refused by name, and the others count."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.dumps import RATE, dumped
from helpers.federation import fed_config, first_round, train_config
from helpers.parameters import quick
from sase.data import arks, datadir
from sase.errors import InputError
from sase.federated.admission import admit
from sase.federated.exchange import CONTROL
from sase.federated.inproc import local_exchange, local_silos, run
from sase.federated.layout import Layout
from sase.federated.reported import steps_per_round
from sase.federated.server import Server
from sase.federated.statistics import check_statistics, statistics_excess

VARIANCES = ("running_cov", "running_var")


@pytest.fixture(scope="module")
def training(silos_dir, dev_set, tmp_path_factory):
    return first_round(silos_dir, dev_set, tmp_path_factory.mktemp("replies"))


def judged(training, change, history=(), config=None, silos=(0, 1, 2)):
    """Return the silos that are admitted and the reasons for the others when silo 1's reply is changed."""
    server, replies = training
    sent = [change(reply) if reply.silo == 1 else reply for reply in replies if reply.silo in silos]
    admitted, rejected = admit(sent, server.instruction(), config or server.config, server.layout, history)
    return [reply.silo for reply in admitted], rejected


def arrays(change):
    """Change arrays: (name, value) -> value."""
    return lambda reply: replace(reply, arrays={name: change(name, value) for name, value in reply.arrays.items()})


def metrics(**values):
    return lambda reply: replace(reply, metrics={**reply.metrics, **values})


def without(name):
    return lambda reply: replace(reply, metrics={n: value for n, value in reply.metrics.items() if n != name})


def is_weight(name, value):
    return value.ndim > 1 and not is_control(name) and not is_variance(name)


def is_control(name):
    return name.startswith(CONTROL)


def is_variance(name):
    return name.endswith(VARIANCES)


def deviated(reply):
    """Return a reply whose running means are off by 100 deviations."""
    moved = {}
    for name, value in reply.arrays.items():
        if name.endswith("running_mean"):
            second = next(
                reply.arrays[name.replace("running_mean", v)]
                for v in VARIANCES
                if name.replace("running_mean", v) in reply.arrays
            )
            variances = second[:2].ravel() if second.ndim == 2 else second
            moved[name] = (value + 100 * np.sqrt(variances)).astype(np.float32)
    assert moved
    return replace(reply, arrays={**reply.arrays, **moved})


def correlated(name, value):
    if not name.endswith("running_cov"):
        return value
    changed = value.copy()
    changed[2] = 3 * np.sqrt(value[0] * value[1]) + 1e-3
    return changed


def test_honest_replies_are_admitted(training):
    assert judged(training, lambda reply: reply) == ([0, 1, 2], {})


LIES = {
    "its 1000000001 examples are not whole batches": metrics(examples=1_000_000_001),
    "examples, the median is": metrics(examples=1_000_000_000),
    "its examples is inf": metrics(examples=math.inf),
    "its examples is -2, not a count": metrics(examples=-2),
    "its examples is inf ": metrics(examples=10**400),
    "not whole batches of 2": metrics(examples=3),
    "its examples is missing": without("examples"),
    "its examples is '4'": metrics(examples="4"),
    "its examples is [4.0]": metrics(examples=[4.0]),
    "its steps is 0.001, not a count": metrics(steps=1e-3),
    "it reports 1 + 0 steps": metrics(steps=1),
    "no training steps": metrics(steps=0, bad_steps=2),
    "its bad_steps is 0.5": metrics(bad_steps=0.5),
    "its loss is 1e+09, beyond": metrics(loss=1e9),
    "its last_loss is nan": metrics(last_loss=math.nan),
    "contains NaN or infinity": arrays(lambda n, v: np.full_like(v, np.inf) if n.endswith("weight") else v),
    "its update has norm": arrays(lambda n, v: v * np.float32(1e6) if is_weight(n, v) else v),
    "times the usual": arrays(lambda n, v: v * np.float32(1e4) if is_variance(n) else v),
    "times the usual ": deviated,
    "contains a negative variance": arrays(lambda n, v: -v if is_variance(n) else v),
    "contains a covariance above its variances": arrays(correlated),
    "its control variate has norm": arrays(lambda n, v: v * np.float32(1e6) if is_control(n) else v),
    "is missing": lambda reply: replace(reply, arrays={}),
    "[2Jx[2Jx": lambda reply: replace(reply, arrays={**reply.arrays, "\x1b[2Jx" * 9999: np.zeros(3)}),
    "has shape (0,)": arrays(lambda n, v: np.zeros(0, v.dtype)),
    "has type <U1": arrays(lambda n, v: np.full(v.shape, "x")),
    "object has no attribute": lambda reply: replace(reply, metrics=None),
}


@pytest.mark.parametrize("message", LIES)
def test_a_lie_is_refused_by_name_and_the_others_count(training, message):
    kept, rejected = judged(training, LIES[message])
    assert kept == [0, 2]
    assert list(rejected) == [1]
    assert message.strip() in rejected[1]
    assert len(rejected[1]) <= 300
    assert rejected[1].isprintable()


def test_numbers_of_no_use_are_dropped_and_wrong_timings_are_zero(training):
    server, replies = training
    sent = [metrics(seconds="x" * 10**6, train_seconds=math.nan, **{"\x1b[31m": 1.0})(reply) for reply in replies]
    admitted, rejected = admit(sent, server.instruction(), server.config, server.layout)
    assert not rejected
    expected = {"examples", "steps", "bad_steps", "loss", "last_loss", "seconds", "train_began", "train_seconds"}
    assert set(admitted[0].metrics) == expected
    assert admitted[0].metrics["seconds"] == admitted[0].metrics["train_seconds"] == 0.0
    assert admitted[0].metrics["loss"] == replies[0].metrics["loss"]


def test_examples_are_those_of_the_first_admitted_reply(training):
    own = training[1][1].metrics["examples"]
    record = {"silos": {"1": {"examples": own, "update_norm": 1.0}}}
    assert judged(training, lambda reply: reply, [record])[0] == [0, 1, 2]
    record["silos"]["1"]["examples"] = 2 * own
    kept, rejected = judged(training, lambda reply: reply, [record])
    assert kept == [0, 2]
    assert f"reports {own:.0f} examples and had {2 * own:.0f} in its first reply" in rejected[1]


def test_an_update_of_zero_has_no_weight(training):
    sent = training[0].instruction().arrays
    kept, rejected = judged(training, lambda r: replace(r, arrays={**r.arrays, **sent}))
    assert kept == [0, 2]
    assert "its update is zero" in rejected[1]


@pytest.mark.parametrize("silos", [(0, 1), (1,)])
def test_two_silos_are_bounded_by_the_rounds_before(training, silos):
    """With fewer than three replies there is no median to compare with."""
    large = arrays(lambda n, v: v * np.float32(1e6) if is_weight(n, v) else v)
    assert judged(training, large, silos=silos)[1] == {}  # nothing to compare with: left to the development score
    norm = admit(training[1], training[0].instruction(), training[0].config, training[0].layout)[0][0].update_norm
    history = [{"silos": {"0": {"examples": training[1][0].metrics["examples"], "update_norm": norm}}}] * 3
    kept, rejected = judged(training, large, history, silos=silos)
    assert 1 not in kept
    assert f"the median of recent rounds is {norm:.4g}" in rejected[1]
    assert judged(training, lambda reply: reply, history, silos=silos)[1] == {}


def test_statistics_of_two_silos_are_compared_with_a_trained_global_model(training):
    server, replies = training
    instruction = server.instruction()
    wild = arrays(lambda n, v: v * np.float32(1e7) if is_variance(n) else v)
    sent = [replies[0], wild(replies[1])]
    admitted, _ = admit(sent, instruction, server.config, server.layout)
    assert len(admitted) == 2  # the statistics of new weights say nothing
    given = {**instruction.config, "train": {**instruction.config["train"], "init": "some.pt"}}
    admitted, rejected = admit(sent, replace(instruction, config=given), server.config, server.layout)
    assert [reply.silo for reply in admitted] == [0]
    assert "times the usual" in rejected[1]


@pytest.mark.parametrize("count", [-1, 2**62])
def test_a_counter_that_would_overflow_is_refused(count):
    layout = Layout((), (), ("norm.count",), frozenset())
    check_statistics({"norm.count": np.array(7)}, layout)
    with pytest.raises(ValueError, match=r"norm\.count is not a possible count"):
        check_statistics({"norm.count": np.array(count)}, layout)


def test_excess_of_statistics_follows_its_formula():
    centre = np.array([1.0, 2.0]), np.array([4.0, 1.0])
    assert statistics_excess(centre, centre) == pytest.approx(1.0)
    # Channel 0: (8 + 6²) / 4 = 11; channel 1 is compared with the layer's mean variance: 5 / 2.5.
    assert statistics_excess((np.array([7.0, 2.0]), np.array([8.0, 5.0])), centre) == pytest.approx(11.0)
    assert statistics_excess((np.array([1.0, 2.0]), np.array([4.0, 5.0])), centre) == pytest.approx(2.0)
    cov = np.array([1.0, 2.0]), np.array([[4.0], [1.0], [0.5]])
    assert statistics_excess((np.array([7.0, 2.0]), np.array([[8.0], [5.0], [0.0]])), cov) == pytest.approx(11.0)


@pytest.mark.parametrize(
    "values", quick([{"local_steps": 3}, {"local_steps": 0, "epoch_share": 0.37, "local_epochs": 2}])
)
def test_the_server_knows_the_number_of_steps(silos_dir, dev_set, tmp_path, values):
    fed = fed_config(num_rounds=1, **values)
    entry = run(train_config(), fed, silos_dir, dev_set, tmp_path).history[0]
    assert not entry["refused"]
    for silo in entry["silos"].values():
        assert silo["steps"] == steps_per_round(int(silo["examples"]) // 2, fed)


def test_a_silent_silo_says_so_and_has_no_weight(silos_dir, dev_set, tmp_path):
    """There is nothing to learn from noise without speech, nor from silence, here of the last bit's noise."""
    shutil.copytree(silos_dir, tmp_path / "silos")
    for silo, noisy in ((0, True), (1, False)):
        folder = dumped(tmp_path / f"made{silo}", [RATE, RATE], seed=silo)
        data = datadir.read_data_dir(folder)
        silenced = data.clean.values() if noisy else [*data.clean.values(), *data.noisy.values()]
        for spec in silenced:
            entry = arks.read_entry(spec)
            with open(entry.path, "r+b") as file:
                file.seek(entry.first_byte)
                file.write(np.random.default_rng(0).integers(-1, 2, entry.num_samples).astype("<i2").tobytes())
        shutil.rmtree(tmp_path / f"silos/silo{silo}/tr")
        shutil.copytree(folder, tmp_path / f"silos/silo{silo}/tr")
    fed = fed_config(num_rounds=1, min_silos=1)
    entry = run(train_config(), fed, tmp_path / "silos", dev_set, tmp_path / "exp").history[0]
    assert list(entry["silos"]) == ["2"]
    assert entry["silos"]["2"]["alpha"] == 1.0
    assert len(entry["failed"]) == 2
    for silo, failure in enumerate(entry["failed"]):
        assert f"silo {silo}: no speech in" in failure
    with pytest.raises(InputError, match="no speech in"):
        local_silos(tmp_path / "silos", 1, tmp_path / "s")[0].run(
            Server(train_config(), fed, dev_set, tmp_path / "b").instruction()
        )


def test_any_exception_of_one_silo_is_that_silos(silos_dir, dev_set, tmp_path):
    server = Server(train_config(), fed_config(num_rounds=1), dev_set, tmp_path / "exp")
    silos = local_silos(silos_dir, 3, tmp_path / "exp")

    def fail(instruction):
        raise KeyError("\x1b[2Jevil\nline" + "x" * 10**6)

    silos[1].run = fail
    assert server.finish_round(*local_exchange(silos)(server.instruction()))
    entry = server.history[0]
    assert list(entry["silos"]) == ["0", "2"]
    assert entry["failed"][0].startswith("silo 1 failed: ")
    assert entry["failed"][0].isprintable()
    assert len(entry["failed"][0]) <= 300

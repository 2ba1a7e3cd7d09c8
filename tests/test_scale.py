"""Cost estimates for a corpus: the arithmetic on cases worked out by hand, and the measurements."""

import pytest

from sase.bench.scale import Speeds, measure_exchange, page, predict
from sase.data.dataset import MAX_CACHED_BYTES
from sase.errors import InputError

SPEEDS = Speeds(
    dump_speed=1000.0,
    step_s=0.5,
    batch_s=36.0,
    segments=12,
    device="a core",
    parameters=250_000,
    exchange_speed=1e6,
    decode_speed=50.0,
    score_speed=10.0,
)


def test_one_device_has_nothing_to_exchange():
    cost = predict(SPEEDS, hours=10, test_hours=2, epochs=3, cpus=4, devices=1)
    assert cost.steps == 3 * 1000
    assert cost.exchange_share == 0.0
    assert cost.train_h == pytest.approx(3000 * 0.5 / 3600)
    assert cost.dump_h == pytest.approx(20 / 4000)
    assert cost.decode_h == pytest.approx(2 / 200)
    assert cost.score_h == pytest.approx(4 / 40)
    assert cost.dump_bytes == 10 * 3600 * 16000 * 2 * 2
    assert cost.enhanced_bytes == 2 * 3600 * 16000 * 2


def test_devices_share_a_step_and_exchange_gradients():
    # 4 devices: a quarter of a step, 0.125 s, and 1.5 times a megabyte at a megabyte a second
    cost = predict(SPEEDS, hours=10, test_hours=1, epochs=1, cpus=4, devices=4)
    assert cost.train_h == pytest.approx(1000 * (0.125 + 1.5) / 3600)
    assert cost.exchange_share == pytest.approx(1.5 / 1.625)
    two = predict(SPEEDS, hours=10, test_hours=1, epochs=1, cpus=4, devices=2)
    assert two.train_h == pytest.approx(1000 * (0.25 + 1.0) / 3600)


def test_everything_grows_with_the_corpus_and_shrinks_with_cores():
    small, large = (predict(SPEEDS, hours, 1, 1, 4, 2) for hours in (10, 10_000))
    assert large.train_h == pytest.approx(1000 * small.train_h)
    assert large.dump_h == pytest.approx(1000 * small.dump_h)
    assert large.dump_bytes == 1000 * small.dump_bytes
    assert large.decode_h == small.decode_h
    assert small.memory_bytes == small.dump_bytes
    assert large.memory_bytes == MAX_CACHED_BYTES
    more = predict(SPEEDS, 10, 1, 1, 8, 2)
    assert (more.dump_h, more.decode_h, more.score_h) == (small.dump_h / 2, small.decode_h / 2, small.score_h / 2)
    assert more.train_h == small.train_h


def test_the_largest_share_determines_the_step_time():
    # 5 devices: 3, 3, 2, 2 and 2 of 12 segments
    cost = predict(SPEEDS, hours=10, test_hours=1, epochs=1, cpus=4, devices=5)
    assert cost.train_h == pytest.approx(1000 * (0.5 * 3 / 12 + 1.6) / 3600)
    with pytest.raises(InputError, match="a batch has 12 segments, too few for 13 devices"):
        predict(SPEEDS, 10, 1, 1, 4, 13)


@pytest.mark.parametrize("name", ["hours", "test_hours", "epochs", "cpus", "devices"])
def test_values_that_are_not_positive_are_rejected(name):
    with pytest.raises(InputError, match="must be more than 0"):
        predict(SPEEDS, **{**dict.fromkeys(("hours", "test_hours", "epochs", "cpus", "devices"), 1), name: 0})


def test_the_page_separates_measurements_and_estimates():
    text = page(SPEEDS, "a machine", [10, 1000, 10_000], 1, 50, 64, 8)
    measured, arithmetic = text.split("## Arithmetic")
    assert "On a machine; " in measured
    assert "| 1,000 |" in measured
    assert "250,000" in measured
    assert "These are estimates, not measurements" in arithmetic
    assert [f"| {hours} |" in arithmetic for hours in ("10", "1,000", "10,000")] == [True] * 3
    assert "| 2.30 TB | 115 MB | 4.29 GB |" in arithmetic  # memory does not grow with the corpus


@pytest.mark.recipe
def test_two_local_processes_exchange_gradients():
    assert 1e6 < measure_exchange(100_000) < 1e12

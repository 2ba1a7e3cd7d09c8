"""Federations with secure sums: the same global model as without, drop-outs recovered, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.federation import fed_config, largest_difference, rounds, train_config
from helpers.parameters import quick
from sase.config import to_yaml
from sase.errors import InputError
from sase.federated.config import SECURE_UNUSED, load_federated_config
from sase.federated.inproc import local_exchange, local_silos, run
from sase.federated.rounds import run_rounds
from sase.federated.secure.local import local_carrier, local_participant, make_local_keys
from sase.federated.secure.messages import AGREE, KEYS, MASKED, PHASES, SHARES, UNMASK
from sase.federated.secure.participant import limited
from sase.federated.secure.rounds import STATE_FILE, secure_exchange
from sase.federated.secure.update import Update
from sase.federated.server import Server

PLAIN = {"max_drop_db": 0, "num_rounds": 1, "local_steps": 2}
SECURE = {**PLAIN, "secure_aggregation": True}


@pytest.fixture(scope="module")
def silos4(silos_dir, tmp_path_factory):
    """Four silos: the three shared ones, and one of them again."""
    folder = tmp_path_factory.mktemp("silos4")
    for index in range(4):
        (folder / f"silo{index}").symlink_to(silos_dir / f"silo{index % 3}")
    return folder


@pytest.mark.parametrize(
    ("norm", "values", "tolerance"),
    quick(
        [
            ("batch", {"fednova": True, "local_steps": 0}, 2e-6),
            ("batch", {"norm": "local", "strategy": "uniform", "fednova": True, "local_steps": 0}, 2e-6),
            ("layer", {"server": "adam", "average_decay": 0.5, "num_rounds": 2}, 1e-5),
        ],
        several=True,
    ),
)
def test_masks_do_not_change_the_global_model(silos_dir, dev_set, tmp_path, norm, values, tolerance):
    config, plain = train_config(norm), {**SECURE, **values, "secure_aggregation": False}
    expected = run(config, fed_config(**plain), silos_dir, dev_set, tmp_path / "plain")
    masked = run(config, fed_config(**{**SECURE, **values}), silos_dir, dev_set, tmp_path / "masked")
    assert largest_difference(tmp_path / "plain/last.pt", tmp_path / "masked/last.pt") < tolerance
    for first, second in zip(expected.history, masked.history, strict=True):
        assert first["dev_SI_SNR"] == pytest.approx(second["dev_SI_SNR"], abs=1e-3)
        own, same = list(first["silos"].values()), list(second["silos"].values())
        for name in ("alpha", "examples", "steps"):
            assert [silo[name] for silo in own] == [silo[name] for silo in same]
        mean = sum(silo["loss"] * silo["alpha"] for silo in own)
        assert [silo["loss"] for silo in same] == pytest.approx(
            [mean] * 3, abs=1e-4
        )  # of a single silo it is not known
    assert (tmp_path / "masked/silos/silo0/secure/masked.json").exists()
    assert not list(tmp_path.glob("masked/silos/silo*/secure/session.json"))


class Federation:
    """A server and four silos in this process, whose messages a test may lose."""

    def __init__(self, silos_dir, dev_set, exp, **values):
        self.exp, self.lost, self.trained, self.asked = exp, set(), [], []
        self.config = fed_config(**{**SECURE, "num_silos": 4, "num_rounds": 1, "max_repeats": 0, **values})
        self.server = Server(train_config(), self.config, dev_set, exp)
        self.roster = make_local_keys(exp / "silos", 4)
        silos = local_silos(silos_dir, 4, exp)
        for silo in silos:
            silo.run = self.counting(silo.run, silo.index)
        self.participants = [local_participant(silo, exp / "silos") for silo in silos]

    def counting(self, function, index):
        def run(instruction):
            self.trained.append(index)
            return function(instruction)

        return run

    def carry(self, request):
        self.asked.append(request.phase)
        present = [p for p in self.participants if (request.phase, p.silo.index) not in self.lost]
        return local_carrier(present)(request)

    def run(self):
        run_rounds(self.server, secure_exchange(self.carry, self.roster, self.exp))


def without(silos_dir, dev_set, exp, absent):
    """The same round without masks and without some silos."""
    server = Server(train_config(), fed_config(**{**PLAIN, "num_silos": 4, "num_rounds": 1}), dev_set, exp)
    silos = [silo for silo in local_silos(silos_dir, 4, exp) if silo.index not in absent]
    run_rounds(server, local_exchange(silos))
    return exp / "last.pt"


@pytest.mark.recipe
def test_only_the_silos_that_are_drawn_take_part(silos4, dev_set, tmp_path):
    values = {"num_silos": 4, "clients_per_round": 3, "num_rounds": 2}
    run(train_config(), fed_config(**{**PLAIN, **values}), silos4, dev_set, tmp_path / "plain")
    run(train_config(), fed_config(**{**SECURE, **values}), silos4, dev_set, tmp_path / "masked")
    drawn = [[list(record["silos"]) for record in rounds(tmp_path / name)] for name in ("plain", "masked")]
    assert drawn[0] == drawn[1]
    assert [len(silos) for silos in drawn[0]] == [3, 3]
    assert largest_difference(tmp_path / "plain/last.pt", tmp_path / "masked/last.pt") < 1e-5
    assert not (tmp_path / "masked/replies").exists()


@pytest.mark.recipe
def test_a_silo_that_drops_out_within_the_round_is_left_out_and_its_masks_removed(silos4, dev_set, tmp_path):
    made = Federation(silos4, dev_set, tmp_path / "masked")
    made.lost = {(MASKED, 3), (AGREE, 3), (UNMASK, 3)}
    made.run()
    assert made.asked == list(PHASES)
    assert list(rounds(tmp_path / "masked")[0]["silos"]) == ["0", "1", "2"]
    expected = without(silos4, dev_set, tmp_path / "plain", {3})
    assert largest_difference(expected, tmp_path / "masked/last.pt") < 1e-6


@pytest.mark.recipe
def test_with_too_few_silos_the_round_fails_in_one_line_and_is_completed_later(silos4, dev_set, tmp_path):
    """A silo masks once: the round continues with the same sum, also by a server and silos that were restarted."""
    made = Federation(silos4, dev_set, tmp_path / "masked")
    made.lost = {(MASKED, 2), (MASKED, 3)}
    with pytest.raises(InputError, match=r"round 1 failed 1 times: .*2 silos are left, 3 of 4 are needed"):
        made.run()
    assert made.trained == [0, 1]
    again = Federation(silos4, dev_set, tmp_path / "masked")
    again.lost = {(AGREE, 0), (AGREE, 1)}  # killed once more, when the silos have agreed on nothing yet
    with pytest.raises(InputError, match="2 silos are left, 3 of 4 are needed"):
        again.run()
    assert again.asked == [MASKED, AGREE]
    assert again.trained == [2, 3]
    last = Federation(silos4, dev_set, tmp_path / "masked")
    last.run()
    assert last.asked == [MASKED, AGREE, UNMASK]
    assert last.trained == []  # the masked updates of before
    expected = without(silos4, dev_set, tmp_path / "plain", set())
    assert largest_difference(expected, tmp_path / "masked/last.pt") < 1e-6


@pytest.mark.recipe
def test_a_second_training_from_the_same_weights_is_refused_by_the_silos(silos4, dev_set, tmp_path):
    made = Federation(silos4, dev_set, tmp_path / "exp")
    made.run()
    for name in ("server.pt", "rounds.jsonl", STATE_FILE):
        (tmp_path / "exp" / name).unlink()
    again = Federation(silos4, dev_set, tmp_path / "exp")
    with pytest.raises(InputError, match="round 1 failed") as error:
        again.run()
    assert "0 participants, at least 3 are needed" in str(error.value)
    assert again.asked == [KEYS]
    assert again.trained == []


@pytest.mark.recipe
def test_an_answer_of_another_size_or_type_is_that_silos_failure(silos4, dev_set, tmp_path):
    made = Federation(silos4, dev_set, tmp_path / "exp")
    carry = made.carry

    def damaged(request):
        answers, failures = carry(request)
        if request.phase == MASKED:
            answers[1].arrays["weights"] = answers[1].arrays["weights"][1:]
            answers[0].content.update(seconds=float("nan"), train_seconds=10**400, train_began="now")
        if request.phase == SHARES:
            failures = [*failures, "silo 7: not connected", "silo 7: not connected"]
        return answers, failures

    made.carry = damaged
    made.run()
    (record,) = rounds(tmp_path / "exp")
    assert list(record["silos"]) == ["0", "2", "3"]
    assert record["failed"][0] == "silo 7: not connected"
    assert "silo 1: its masked weights are uint32" in record["failed"][1]


def test_an_update_beyond_the_fixed_point_range_is_that_silos_failure(silos4, dev_set, tmp_path):
    made = Federation(silos4, dev_set, tmp_path, secure_range=1e-4)
    with pytest.raises(InputError, match="round 1 failed"):
        made.run()
    assert any(
        "exceeds the fixed-point range of ±0.0001; raise secure_range" in f for f in made.server._attempts.failed
    )


@pytest.mark.recipe
def test_silos_clip_their_updates_themselves(silos4, dev_set, tmp_path):
    values = {"norm": "none", "dp_clip_norm": 1e-3}
    made = Federation(silos4, dev_set, tmp_path, **values)
    before = {name: value.clone() for name, value in made.server.model.state_dict().items()}
    made.run()
    after = made.server.model.state_dict()
    change = torch.sqrt(sum(((after[name] - before[name]).double() ** 2).sum() for name in made.server.layout.weights))
    assert 0.5e-3 < float(change) <= 1.0001e-3
    noisy = limited(Update(np.zeros(100_000), np.zeros(2)), fed_config(**SECURE, **values, dp_noise_multiplier=2.0))
    assert np.std(noisy.weights) == pytest.approx(2e-3, rel=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_silos": 2}, "needs num_silos: at least 3, it is 2"),
        ({"strategy": "sase"}, "needs strategy: examples or uniform, it is sase"),
        ({"strategy": "loss"}, "needs strategy: examples or uniform, it is loss"),
        ({"aggregation": "median"}, "needs aggregation: mean, it is median"),
        ({"payload": "int8"}, "needs payload: float32, it is int8"),
        ({"scaffold": True}, "needs scaffold: false, it is True"),
        ({"strategy": "fair"}, "needs strategy: examples or uniform, it is fair"),
        ({"shared_moments": "both"}, "needs shared_moments: none, it is both"),
        ({"layerwise": True}, "needs layerwise: false, it is True"),
        ({"alignment": 0.5, "scaffold_space": "steps"}, r"needs alignment: 0, it is 0\.5"),
        ({"max_drop_db": 3.0}, r"needs max_drop_db: 0 \(no silo can be left out\), it is 3.0"),
        ({"max_weight": 0.9}, "needs max_weight: at most 0.75, it is 0.9"),
        ({"clients_per_round": 2}, "needs clients_per_round: at least 3, it is 2"),
        ({"grace_s": 5.0}, "needs grace_s: 0, it is 5.0"),
        ({"mode": "buffered", "grace_s": 5.0}, "needs mode: sync, it is buffered"),
        ({"secure_range": 0}, "secure_range must be above 0"),
        ({"max_norm_ratio": 5.0}, "max_norm_ratio has no effect, it is 5.0: leave it out"),
        ({"max_statistics_ratio": 1e12}, "max_statistics_ratio has no effect, it is 1000000000000.0: leave it out"),
        ({"max_poisoned": 0.1}, "max_poisoned has no effect, it is 0.1: leave it out"),
        ({"max_staleness": 2}, "max_staleness has no effect, it is 2: leave it out"),
        ({"alpha_min": 0.1}, "alpha_min has no effect, it is 0.1: leave it out"),
        ({"common_dev_s": 10.0}, "common_dev_s has no effect, it is 10.0: leave it out"),
        ({"tau": 3.0}, "tau has no effect, it is 3.0: leave it out"),
        ({"gamma": 0.5}, "gamma has no effect, it is 0.5: leave it out"),
        ({"control_steps": 4}, "control_steps has no effect, it is 4: leave it out"),
        ({"scaffold_space": "steps"}, "scaffold_space has no effect, it is steps: leave it out"),
    ],
)
def test_what_needs_single_updates_is_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        fed_config(**{**SECURE, **values})
    assert "\n" not in str(error.value)


def test_the_defaults_of_what_has_no_effect_in_a_secure_sum_are_accepted(tmp_path):
    """Also when written out, as in the recipes and in the fl.yaml of an experiment."""
    config = fed_config(**SECURE)
    path = tmp_path / "fl.yaml"
    path.write_text(to_yaml(config))
    assert all(f"\n{key}: " in path.read_text() for key in SECURE_UNUSED)
    assert load_federated_config(path) == config
    root = Path(__file__).resolve().parents[1]
    for recipe in ("commonvoice_noise92", "voicebank_demand"):
        overrides = ["secure_aggregation=true", "max_drop_db=0", "shared_moments=none"]
        assert load_federated_config(root / f"egs/{recipe}/conf/fl.yaml", overrides).secure_aggregation

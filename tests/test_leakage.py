"""What an update reveals: the views of the server, the two attacks and their page."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.federation import train_config
from helpers.parameters import quick
from sase.data.dataset import PairSet
from sase.errors import InputError
from sase.losses.loss import build_loss
from sase.metrics.measures import zero_mean_si_sdr
from sase.studies import leakage
from sase.studies.leakage_attacks import Candidates, invert, simulated
from sase.studies.leakage_page import FIGURE, SCORES, write_page
from sase.studies.leakage_setting import ROWS, Attack, Exposure, segments, trained_on
from sase.studies.leakage_views import Views
from sase.training.initial import initial_model

SGD, ADAM = Exposure(optimizer="sgd"), Exposure()
ROUND = Exposure(batch=2, steps=3, simulated=3)


@pytest.fixture(scope="module")
def attack(dev_set):
    config = train_config(weight_decay=0.1)
    return Attack(config, PairSet(dev_set), steps=3, candidates=5, victims=2, inverted=2, seeds=2)


@pytest.fixture
def views(attack):
    return Views(attack)


def cosine(first, second):
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def predicted(attack, exposure, victim=0, silo=0):
    """The direction that an attacker computes from the right audio."""
    model = initial_model(attack.config).train()
    numbers = trained_on(exposure, victim, silo)
    starts = range(numbers.start, numbers.stop, exposure.batch)
    batches = [segments(attack, range(start, start + exposure.batch)) for start in starts]
    loss = build_loss(attack.config.loss)
    return simulated(model, loss, batches, exposure.optimizer, attack.config.train).detach().double().numpy()


def test_the_server_sees_the_gradient_or_its_signs_and_clipping_hides_neither(attack, views):
    for exposure in (SGD, ADAM):
        view = views.of(exposure, 0)
        assert cosine(view, predicted(attack, exposure)) > 0.999
        clipped = views.of(replace(exposure, clip=True), 0)
        assert np.linalg.norm(clipped) == pytest.approx(0.5 * np.linalg.norm(view), rel=1e-3)
        assert cosine(view, clipped) > 0.999999
    sizes = np.abs(view)
    assert np.mean(np.abs(sizes - np.median(sizes)) < 0.05 * np.median(sizes)) > 0.9  # AdamW's first step: the signs


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_round_of_several_steps_is_simulated_to_the_end(attack, views, optimizer):
    exposure = replace(ROUND, optimizer=optimizer)
    whole = cosine(views.of(exposure, 0), predicted(attack, exposure))
    first = cosine(views.of(exposure, 0), predicted(attack, replace(exposure, steps=1)))
    assert whole > 0.999
    assert first < 0.95
    assert cosine(views.of(replace(exposure, clip=True), 0), views.of(exposure, 0)) > 0.99999


def test_noise_masks_and_sums_change_what_the_server_sees(attack, views):
    for exposure in (ADAM, ROUND):
        view = views.of(exposure, 0)
        bound = 5 / np.sqrt(len(view))
        # The noise has the length √n of the clipped update's; of four silos' mean, half of it.
        noisy = views.of(replace(exposure, clip=True, noise=1.0), 0)
        assert cosine(noisy, view) == pytest.approx(1 / np.sqrt(len(view)), abs=bound)
        mean = views.of(replace(exposure, silos=4), 0)
        added = views.of(replace(exposure, silos=4, clip=True, noise=1.0), 0) - 0.5 * mean
        assert np.linalg.norm(added) == pytest.approx(0.5 * np.linalg.norm(noisy - 0.5 * view), rel=0.25)
        assert abs(cosine(views.of(replace(exposure, masked=True), 0), view)) < bound
        singles = [views.of(exposure, 0), *(predicted(attack, exposure, silo=silo) for silo in (1, 2, 3))]
        singles = [single / np.linalg.norm(single) for single in singles]
        assert cosine(mean, np.sum(singles, axis=0)) > 0.99


def test_no_segment_is_of_two_silos_or_victims():
    for exposure in ROWS.values():
        numbers = [
            n for victim in range(3) for silo in range(exposure.silos) for n in trained_on(exposure, victim, silo)
        ]
        assert len(set(numbers)) == len(numbers) == 3 * exposure.silos * exposure.trained


def test_every_protection_has_a_row_of_one_step_and_of_a_round():
    def protections(rows):
        return {(row.clip, row.noise, row.silos > 1, row.masked) for row in rows}

    single = [row for row in ROWS.values() if row.steps == 1]
    several = [row for row in ROWS.values() if row.steps > 1 and row.batch > 1]
    wanted = {(False, 0.0, False, False), (True, 0.0, False, False), (True, 1.0, False, False)}
    wanted |= {(False, 0.0, True, False), (False, 0.0, False, True)}
    assert wanted <= protections(single)
    assert wanted | {(True, 1.0, True, False)} <= protections(several)
    assert all(row.silos == 1 or row.silos >= 3 for row in ROWS.values())  # a secure sum has three


def test_a_recording_is_identified_by_its_update_but_not_by_its_opposite(attack, views):
    candidates = Candidates(attack)
    for victim in range(2):
        for exposure in (SGD, ADAM):
            view = views.of(exposure, victim)
            assert candidates.rank(view, exposure.optimizer, victim) == 0
            assert candidates.rank(-view, exposure.optimizer, victim) == 4


@pytest.mark.parametrize("exposure", quick([SGD, replace(ROUND, optimizer="sgd"), ROUND], count=0))
def test_an_inversion_approaches_the_update_and_is_repeatable(attack, views, exposure):
    view = views.of(exposure, 0)
    first, once = invert(attack, exposure, view)
    again, twice = invert(attack, exposure, view)
    assert once == twice
    assert torch.equal(first.clean, again.clean)
    assert not torch.equal(first.clean, invert(attack, exposure, view, seed=1)[0].clean)
    assert first.clean.shape == (exposure.trained, 3200)
    _, longer = invert(replace(attack, steps=30), exposure, view)
    assert longer > once + 0.02


def test_from_almost_the_right_audio_the_match_is_almost_perfect(attack, views):
    for exposure in (SGD, replace(ROUND, optimizer="sgd")):
        truth = segments(attack, trained_on(exposure, 0))
        near = replace(exposure, known_db=60.0)
        found, match = invert(replace(attack, steps=1), near, views.of(exposure, 0), truth)
        assert leakage.scores(found, truth)["clean"] > 59.0
        assert match > 0.8  # the gradients of some small tensors are rounding only


def test_scores_are_those_of_the_best_pair():
    generator = np.random.default_rng(0)
    clean = torch.from_numpy(generator.standard_normal((2, 3200)).astype(np.float32))
    found = torch.stack([clean[1] + 0.1 * torch.randn(3200, generator=torch.Generator().manual_seed(0)), 2 * clean[1]])
    lengths = torch.full((2,), 3200)
    got = leakage.scores(leakage.Batch(found, found, lengths, []), leakage.Batch(clean, clean, lengths, []))
    assert got["clean"] == zero_mean_si_sdr(clean[1].numpy(), 2 * clean[1].numpy())
    assert got["spectrum"] == pytest.approx(1.0)


@pytest.mark.recipe
def test_rows_are_repeatable_kept_and_the_page_shows_chance(attack, tmp_path):
    names = ["SGD, one step", "4 steps, clipped, noise z = 1", "masks: one masked update"]
    results = leakage.run(attack, tmp_path, names)
    assert list(results) == [name for name in ROWS if name in names]
    for numbers in results.values():
        assert len(numbers["ranks"]) == 4
        assert len(numbers["clean"]) == len(numbers["clean_chance"]) == len(numbers["match"]) == 4
    again = tmp_path / "again"
    again.mkdir()
    # In another order and interrupted: rows do not depend on each other.
    leakage.run(attack, again, names[1:2])
    finished = {path: path.stat().st_mtime_ns for path in again.glob("*.json")}
    assert leakage.run(attack, again, names) == results
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    with pytest.raises(InputError, match=r"json: made with .*'seeds': 2.*another folder") as error:
        leakage.run(replace(attack, seeds=1), again, names)
    assert "\n" not in str(error.value)
    write_page(attack, results, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    clean, chance = (results["SGD, one step"][key] for key in ("clean", "clean_chance"))
    assert f"| {np.mean(clean):.1f} ± {np.std(clean):.1f} ({np.mean(chance):.1f} ± {np.std(chance):.1f}) |" in text
    assert "chance is 20 %" in text
    assert all((tmp_path / name).stat().st_size > 1000 for name in (FIGURE, SCORES))
    assert json.loads(leakage.path_of(tmp_path, names[0]).read_text())["attack"]["steps"] == 3


@pytest.mark.parametrize("values", [{"steps": 0}, {"seeds": 0}, {"inverted": 3}, {"candidates": 1}])
def test_impossible_numbers_are_refused(attack, values):
    with pytest.raises(InputError, match="steps, inverted and seeds must be 1 or more"):
        replace(attack, **values)

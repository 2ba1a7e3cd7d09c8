"""What an update reveals: the views of the server, the two attacks and their page."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.federation import train_config
from sase.data.dataset import PairSet
from sase.metrics.measures import zero_mean_si_sdr
from sase.studies import leakage
from sase.studies.leakage import Attack, Exposure
from sase.studies.leakage_page import FIGURE, write_page

SGD, ADAM = Exposure(optimizer="sgd"), Exposure()


@pytest.fixture(scope="module")
def attack(dev_set):
    config = train_config(weight_decay=0.1)
    return Attack(config, PairSet(dev_set), steps=3, candidates=5, victims=2)


def cosine(first, second):
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def predicted(attack, exposure, batch):
    """The step that an attacker computes from the right audio."""
    model = leakage.initial_model(attack.config).train()
    loss = leakage.build_loss(attack.config.loss)
    return leakage._step(model, loss, batch, exposure, soft=False).double().numpy()


def test_the_server_sees_the_gradient_or_its_signs_and_clipping_hides_neither(attack):
    for exposure in (SGD, ADAM):
        view, truth = leakage.observe(attack, exposure, 0)
        assert truth.clean.shape == (1, 3200)
        assert cosine(view, predicted(attack, exposure, truth)) > 0.999
        clipped, _ = leakage.observe(attack, replace(exposure, clip=True), 0)
        assert np.linalg.norm(clipped) == pytest.approx(0.5 * np.linalg.norm(view), rel=1e-3)
        assert cosine(view, clipped) > 0.999999
    sizes = np.abs(view)
    assert np.mean(np.abs(sizes - np.median(sizes)) < 0.05 * np.median(sizes)) > 0.9  # AdamW's first step: the signs


def test_noise_masks_and_sums_change_what_the_server_sees(attack):
    view, truth = leakage.observe(attack, ADAM, 0)
    count = len(view)
    noisy, _ = leakage.observe(attack, Exposure(clip=True, noise=1.0), 0)
    # The noise has the length √n of the clipped update's.
    assert cosine(noisy, view) == pytest.approx(1 / np.sqrt(count), abs=5 / np.sqrt(count))
    masked, _ = leakage.observe(attack, Exposure(masked=True), 0)
    assert abs(cosine(masked, view)) < 5 / np.sqrt(count)
    mean, truths = leakage.observe(attack, Exposure(silos=3), 0)
    assert truths.clean.shape == (3, 3200)
    assert torch.equal(truths.clean[0], truth.clean[0])
    singles = [predicted(attack, ADAM, leakage.segments(attack, [number])) for number in range(3)]
    assert cosine(mean, np.mean(singles, axis=0)) > 0.999


def test_a_recording_is_identified_by_its_update_but_not_by_a_masked_one(attack):
    candidates = leakage._Candidates(attack)
    for victim in range(2):
        for exposure in (SGD, ADAM):
            view, _ = leakage.observe(attack, exposure, victim)
            assert candidates.rank(view, exposure, victim) == 0
            assert candidates.rank(-view, exposure, victim) == 4


@pytest.mark.recipe
def test_an_inversion_approaches_the_update_and_is_repeatable(attack):
    view, truth = leakage.observe(attack, SGD, 0)
    first, once = leakage.invert(attack, SGD, view)
    again, twice = leakage.invert(attack, SGD, view)
    assert once == twice
    assert torch.equal(first.clean, again.clean)
    _, longer = leakage.invert(replace(attack, steps=30), SGD, view)
    assert longer > once + 0.05
    assert first.clean.shape == truth.clean.shape
    control, match = leakage.invert(replace(attack, steps=1), Exposure(optimizer="sgd", known_db=30.0), view, truth)
    assert leakage.scores(control, truth)["clean"] == pytest.approx(30.0, abs=0.5)
    assert match > longer


def test_scores_are_those_of_the_best_pair():
    generator = np.random.default_rng(0)
    clean = torch.from_numpy(generator.standard_normal((2, 3200)).astype(np.float32))
    found = torch.stack([clean[1] + 0.1 * torch.randn(3200, generator=torch.Generator().manual_seed(0)), 2 * clean[1]])
    lengths = torch.full((2,), 3200)
    got = leakage.scores(leakage.Batch(found, found, lengths, []), leakage.Batch(clean, clean, lengths, []))
    assert got["clean"] == zero_mean_si_sdr(clean[1].numpy(), 2 * clean[1].numpy())
    assert got["spectrum"] == pytest.approx(1.0)


@pytest.mark.recipe
def test_rows_are_kept_and_the_page_shows_chance(attack, tmp_path):
    names = ["SGD, one step", "masks: one masked update"]
    results = leakage.run(attack, tmp_path, names)
    assert list(results) == names
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert leakage.run(attack, tmp_path, names) == results
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    write_page(attack, results, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| SGD, one step |" in text
    assert "100 (20)" in text
    assert (tmp_path / FIGURE).stat().st_size > 1000

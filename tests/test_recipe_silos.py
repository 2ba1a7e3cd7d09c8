"""What both recipes come to when they are trained in silos."""

import json

import pytest

from helpers.recipes import QUICK_ARGS, QUICK_FL_ARGS
from sase.data.datadir import read_table

pytestmark = pytest.mark.recipe


def test_the_first_recipe_federates_by_speaker(make_recipe, tmp_path):
    recipe = make_recipe(tmp_path / "copy", "voicebank_demand", dumped=True)
    options = ("--fl", "true", "--fl_engine", "inproc", "--num_rounds", 1, "--tag", "fl", "--nj", 2)
    recipe.run("--stage", 3, *options, "--train_args", QUICK_ARGS, "--fl_args", QUICK_FL_ARGS)
    summary = json.loads((recipe.mini / "dump/silos/speaker_4/partition.json").read_text())
    speakers = [speaker for silo in summary["silos"] for speaker in silo["speakers"]]
    assert len(speakers) == len(set(speakers)) == 16
    assert "unprocessed" in (recipe.mini / "exp/fl/RESULTS.md").read_text()


def si_sdr(recipe, tag):
    """Return the mean SI_SDR of an experiment's test set, enhanced and unprocessed."""
    scores = json.loads((recipe.mini / "exp" / tag / "enhanced_tt/scoring/summary.json").read_text())
    return scores["mean"]["SI_SDR"], scores["unprocessed"]["mean"]["SI_SDR"]


def test_the_mini_corpus_is_enhanced_centrally_and_by_four_silos(make_recipe, tmp_path):
    """Both trainings of the recipe, shortened: 300 steps centrally, and twice as many in silos, which need more."""
    recipe = make_recipe(tmp_path / "copy", "commonvoice_noise92", dumped=True)
    recipe.run("--stage", 3, "--nj", 2, "--tag", "short", "--train_args", "--set train.epochs=2")
    silos = ("--fl", "true", "--num_clients", 4, "--fl_engine", "inproc", "--num_rounds", 12)
    recipe.run("--stage", 3, "--nj", 2, "--tag", "short_fl4", *silos)
    central, unprocessed = si_sdr(recipe, "short")
    federated, _ = si_sdr(recipe, "short_fl4")
    assert central > unprocessed + 3.0
    assert federated > unprocessed + 2.0
    assert federated > central - 1.5
    lengths = read_table(recipe.mini / "dump/tt/utt2num_samples")
    assert read_table(recipe.mini / "exp/short_fl4/enhanced_tt/spk1.scp").keys() == lengths.keys()

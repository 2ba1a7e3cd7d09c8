"""Partitions of a dumped set: every utterance in one silo, balanced sizes, trainable silos, and the page."""

import json
import os
from functools import cache

import numpy as np
import pytest

from helpers.parameters import quick
from sase.data import arks, datadir, dump
from sase.data.dataset import PairSet
from sase.data.mixtures import FILE, Mixture, write_mixtures
from sase.data.splitting import split_proportionally
from sase.errors import InputError
from sase.federated import partition as module
from sase.federated.partition import partition

RATE = 16000
NOISES = ("car", "crowd", "jet", "rain", "work")


def make_dump(folder, speakers, count, seed, silos=True):
    """Write the dump of a set: ``count`` utterances of each speaker, 0.1 to 0.4 s, cycling noises, SNRs -5 to 10 dB."""
    import soundfile

    generator, mixtures = np.random.default_rng(seed), {}
    soundfile_path = folder / "noise.wav"
    folder.mkdir(parents=True)
    soundfile.write(soundfile_path, 0.1 * generator.standard_normal(RATE), RATE)
    for i in range(speakers * count):
        speaker = f"s{i // count:02d}"
        path = folder / f"{speaker}_{i:03d}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(int(RATE * generator.uniform(0.1, 0.4))), RATE)
        noise = {
            "noise": NOISES[i % 5],
            "noise_file": str(soundfile_path),
            "begin_s": 0.0,
            "end_s": 1.0,
            "offset_s": 0.0,
        }
        snr_db = round(float(generator.uniform(-5, 10)), 1)
        silo = i // count % 3 if silos else -1
        mixtures[path.stem] = Mixture(speaker, str(path), snr_db=snr_db, silo=silo, **noise)
    write_mixtures(folder / "data" / FILE, mixtures)
    dump.dump_set(folder / "data", folder / "dump", log=lambda line: None)
    dump.join_shards(folder / "data", folder / "dump", log=lambda line: None)
    return folder / "dump"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return make_dump(folder / "tr", 9, 10, 0), make_dump(folder / "tt", 3, 10, 1)


def run(sets, out, method, **settings):
    return partition(*sets, out, method, log=lambda line: None, **settings)


@pytest.fixture(scope="module")
def silos(sets, tmp_path_factory):
    """``silos(method)`` is the folder of a partition for three silos and its summary; tests only read it."""

    @cache
    def made(method):
        folder = tmp_path_factory.mktemp("silos") / method
        return folder, run(sets, folder, method, num_silos=3)

    return made


def silo_sets(out, count, name="tr"):
    return [datadir.validate_data_dir(out / f"silo{k}/{name}") for k in range(count)]


@pytest.mark.parametrize("method", quick(module.METHODS))
def test_every_utterance_is_in_exactly_one_silo_unchanged(sets, silos, method, monkeypatch):
    data, silos = datadir.read_data_dir(sets[0]), silo_sets(silos(method)[0], 3)
    assert sorted(utt for silo in silos for utt in silo.utts) == data.utts
    monkeypatch.chdir("/")  # a silo's process may run anywhere
    for silo in silos:
        for name in ("utt2spk", "utt2noise", "utt2snr"):
            table, whole = getattr(silo, name), getattr(data, name)
            assert table == {utt: whole[utt] for utt in silo.utts}
        for utt in silo.utts[:3]:
            np.testing.assert_array_equal(arks.read_int16(silo.noisy[utt]), arks.read_int16(data.noisy[utt]))
        assert len(PairSet(silo.path)) == len(silo)
        samples = datadir.read_table(silo.path / "utt2num_samples")
        assert samples == {utt: str(len(arks.read_int16(silo.clean[utt]))) for utt in silo.utts}


def test_methods_do_not_split_their_groups(silos):
    for method, table in (("silo", "utt2spk"), ("speaker", "utt2spk"), ("noise", "utt2noise")):
        groups = [set(getattr(silo, table).values()) for silo in silo_sets(silos(method)[0], 3)]
        assert all(groups)
        assert sum(map(len, groups)) == len(set.union(*groups))
    snrs_db = [list(silo.utt2snr.values()) for silo in silo_sets(silos("snr")[0], 3)]
    assert max(snrs_db[0]) <= min(snrs_db[1])
    assert max(snrs_db[1]) <= min(snrs_db[2])


@pytest.mark.parametrize("method, tolerance", [("speaker", 0.1), ("snr", 0.05)])
def test_silos_have_similar_sizes(silos, method, tolerance):
    hours = [silo["hours"] for silo in silos(method)[1]["silos"]]
    assert max(hours) / min(hours) < 1 + 2 * tolerance


def test_dirichlet_is_uneven_for_small_alpha_and_reproducible(sets):
    train = module.read_dumped(sets[0])

    def largest(alpha, seed):
        """Return the share of a noise in its largest silo, averaged over the noises."""
        silos = module.assign_silos(train, "dirichlet", 3, alpha, seed)
        owned = [[k for utt, k in silos.items() if train.data.utt2noise[utt] == noise] for noise in NOISES]
        return np.mean([max(map(silos.count, range(3))) / len(silos) for silos in owned])

    assert np.mean([largest(100.0, seed) for seed in range(5)]) < 0.5
    assert np.mean([largest(0.1, seed) for seed in range(5)]) > 0.7
    once = module.assign_silos(train, "dirichlet", 3, 0.5, 3)
    assert (
        module.assign_silos(train, "dirichlet", 3, 0.5, 3) == once != module.assign_silos(train, "dirichlet", 3, 0.5, 4)
    )


def test_test_utterances_go_to_the_matching_silo(sets, silos, tmp_path):
    training, testing = (silo_sets(silos("noise")[0], 3, name) for name in ("tr", "tt"))
    assert sum(map(len, testing)) == 30
    for a, b in zip(training, testing):
        assert set(a.utt2noise.values()) == set(b.utt2noise.values())
    utt2silo = datadir.read_table(sets[1] / "utt2silo")
    for k, data in enumerate(silo_sets(silos("silo")[0], 3, "tt")):
        assert data.utts == [utt for utt in utt2silo if utt2silo[utt] == str(k)]
    snrs_db = [list(data.utt2snr.values()) for data in silo_sets(silos("snr")[0], 3, "tt")]
    assert max(snrs_db[0]) <= min(snrs_db[1])
    assert max(snrs_db[1]) <= min(snrs_db[2])
    for method in ("speaker", "dirichlet"):
        assert not list(silos(method)[0].glob("*/tt"))
    run((sets[0], None), tmp_path / "none", "noise", num_silos=3)
    assert not list((tmp_path / "none").glob("*/tt"))


@pytest.mark.recipe
def test_page_and_summary_match_the_silos(sets, tmp_path):
    summary, lines = None, []
    summary = partition(*sets, tmp_path / "silos", "noise", 3, log=lines.append)
    assert json.loads((tmp_path / "silos/partition.json").read_text()) == summary
    page = (tmp_path / "silos/partition.md").read_text()
    assert lines == [page]
    assert "no two silos share noises" in page
    assert "silos share speakers" in page
    for k, (silo, data) in enumerate(zip(summary["silos"], silo_sets(tmp_path / "silos", 3))):
        assert silo["utterances"] == len(data)
        assert silo["speakers"] == sorted(data.spk2utt)
        seconds = sum(len(arks.read_int16(spec)) for spec in data.clean.values()) / RATE
        assert silo["hours"] == pytest.approx(seconds / 3600, abs=1e-4)
        assert list(silo["noises"]) == sorted(set(data.utt2noise.values()))
        assert silo["snr_db"][0] == min(data.utt2snr.values())
        assert silo["snr_db"][2] == max(data.utt2snr.values())
        assert f"| {k} | {silo['hours']:.3f} |" in page
        assert ", ".join(silo["noises"]) in page
    assert (tmp_path / "silos/partition.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.recipe
def test_existing_partition_is_kept_and_another_replaces_it(sets, tmp_path):
    out = tmp_path / "silos"
    run(sets, out, "silo", num_silos=3)
    before = os.stat(out / "silo0/tr/wav.scp").st_ino
    run(sets, out, "silo", num_silos=3)
    assert os.stat(out / "silo0/tr/wav.scp").st_ino == before
    run(sets, out, "speaker", num_silos=2)
    names = ["partition.json", "partition.md", "partition.png", "silo0", "silo1"]
    assert sorted(path.name for path in out.iterdir()) == names
    (out / "partition.json").write_text("half")
    run(sets, out, "speaker", num_silos=2)
    assert json.loads((out / "partition.json").read_text())["num_silos"] == 2


def test_impossible_partitions_are_rejected_with_a_reason(sets, tmp_path):
    for method, count, message in (
        ("silo", 4, "was prepared for 3 silos, not 4; run stages 1 and 2 again"),
        ("speaker", 10, "10 silos need as many speakers, found 9"),
        ("noise", 6, "6 silos need as many noises, found 5"),
        ("snr", 91, "91 silos need as many utterances, found 90"),
    ):
        with pytest.raises(InputError, match=message):
            run(sets, tmp_path / "silos", method, num_silos=count)
    with pytest.raises(InputError, match="alpha 1e-09 none of 1000 draws"):
        run(sets, tmp_path / "silos", "dirichlet", num_silos=9, alpha=1e-9)
    with pytest.raises(InputError, match="must be above 0"):
        run(sets, tmp_path / "silos", "dirichlet", num_silos=3, alpha=0.0)
    assert not (tmp_path / "silos").exists()


def test_sets_without_silo_or_noise_tables(tmp_path):
    path = make_dump(tmp_path / "tr", 4, 3, 0, silos=False)
    with pytest.raises(InputError, match="has no utt2silo.* choose another partition: speaker, noise, snr, dirichlet"):
        run((path, None), tmp_path / "silos", "silo", num_silos=2)
    (path / "utt2noise").unlink()
    with pytest.raises(InputError, match="utt2noise: missing or incomplete .0 of 12"):
        run((path, None), tmp_path / "silos", "noise", num_silos=2)
    summary = run((path, None), tmp_path / "silos", "speaker", num_silos=2)
    assert summary["silos"][0]["noises"] == {}
    assert "unknown" in (tmp_path / "silos/partition.md").read_text()


@pytest.mark.parametrize("shares", [[1, 2, 4, 8], [1, 1, 1], [5]])
def test_split_is_close_to_the_proportions(shares):
    generator = np.random.default_rng(0)
    for count in (15, 40, 1200):
        weights = {f"k{i}": float(generator.uniform(1, 3)) for i in range(count)}
        owners = split_proportionally(weights, shares)
        assert owners.keys() == weights.keys()
        sums = np.bincount([owners[key] for key in weights], list(weights.values()), len(shares))
        wanted = np.array(shares) / sum(shares) * sum(weights.values())
        assert np.abs(sums - wanted).max() < {15: 1.0, 40: 0.2, 1200: 3.0}[count]
        assert split_proportionally(dict(reversed(weights.items())), shares) == owners


def test_split_leaves_no_share_empty_and_finds_the_exact_solution():
    assert sorted(split_proportionally({"a": 100.0, "b": 1.0, "c": 1.0}, [1, 1, 8]).values()) == [0, 1, 2]
    owners = split_proportionally(dict(zip("abcdefg", (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 3.0))), [1, 1])
    halves = [sum(w for c, w in zip("abcdefg", (8, 7, 6, 5, 4, 3, 3)) if owners[c] == k) for k in (0, 1)]
    assert halves == [18, 18]
    with pytest.raises(ValueError):
        split_proportionally({"a": 1.0}, [1, 1])

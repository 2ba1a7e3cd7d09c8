"""Common Voice in noise: official splits, speakers and noises that never cross sets or silos, the same every time."""

import csv
import hashlib
import shutil

import numpy as np
import pytest
import soundfile

from sase.data import left_out
from sase.data.corpora import commonvoice, mini_mandarin
from sase.data.corpora.espeak import speak
from sase.data.corpora.sentences import MANDARIN, sentences
from sase.data.mixtures import FILE, Mixer, read_mixtures
from sase.errors import InputError

RATE = 16000
SPEAKERS = {"train": (9, 6), "dev": (2, 5), "test": (4, 5)}  # speakers, clips of each
NOISES = {"rumble": 60, "car": 200, "crowd": 500, "work": 1200, "jet": 3000, "hiss": 6000}


def client(name):
    return hashlib.sha512(name.encode()).hexdigest()


def write_tsv(folder, split, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{split}.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerow(["client_id", "path", "sentence", "up_votes"])
        writer.writerows([client(speaker), path, 'er sagte "ja', "2"] for speaker, path in rows)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A language as published, with clips of a second, and six noises of four seconds, each of another frequency."""
    root = tmp_path_factory.mktemp("pristine")
    folder, generator, number = root / "cv/xx", np.random.default_rng(0), 100
    (folder / "clips").mkdir(parents=True)
    for split, (speakers, count) in SPEAKERS.items():
        rows = []
        for speaker in range(speakers):
            for _ in range(count):
                number += 1
                rows.append((f"{split}{speaker}", f"common_voice_xx_{number}.mp3"))
                wav = 0.1 * generator.standard_normal(RATE)
                soundfile.write(folder / "clips" / rows[-1][1], wav, RATE, format="MP3")
        write_tsv(folder, split, rows)
    (root / "noise").mkdir()
    for name, hertz in NOISES.items():
        wav = 0.2 * np.sin(2 * np.pi * hertz * np.arange(4 * RATE) / RATE)
        soundfile.write(root / f"noise/{name}.wav", wav, RATE)
    return root


@pytest.fixture
def corpus(pristine, tmp_path):
    """A copy of it to spoil; the noises are in noise/ beside cv/."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path / "cv/xx"


def prepare(corpus, tmp_path, **settings):
    return commonvoice.prepare(corpus, tmp_path / "noise", tmp_path / "data", log=lambda line: None, **settings)


@pytest.mark.parametrize("path", ["../../secret.wav", "/etc/passwd", "a/../../../b.mp3"])
def test_a_table_names_no_file_outside_the_corpus(corpus, tmp_path, path):
    with open(corpus / "train.tsv", "a") as file:
        file.write(f"{client('train0')}\t{path}\tsie\t1\n")
    with pytest.raises(InputError, match="train.tsv:56: the key .* cannot name a file"):
        prepare(corpus, tmp_path)


def test_official_splits_without_common_speakers(corpus, tmp_path):
    sets = prepare(corpus, tmp_path)
    counts = {name: (len(mixtures), len({m.speaker for m in mixtures.values()})) for name, mixtures in sets.items()}
    assert counts == {"tr": (54, 9), "cv": (10, 2), "tt": (20, 4)}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cv", "tr", "tt"]
    for name, mixtures in sets.items():
        assert read_mixtures(tmp_path / "data" / name / FILE) == mixtures
        for utt, mixture in mixtures.items():
            assert mixture.speech == str(corpus / f"clips/common_voice_xx_{utt.split('_')[1]}.mp3")
    for split, name in (("train", "tr"), ("dev", "cv"), ("test", "tt")):
        expected = {client(f"{split}{i}")[:10] for i in range(SPEAKERS[split][0])}
        assert {m.speaker for m in sets[name].values()} == expected


def test_no_sample_of_a_test_noise_is_in_training(corpus, tmp_path):
    sets = prepare(corpus, tmp_path)
    ends = {}
    for name, mixtures in sets.items():
        (ends[name],) = {(m.begin_s, m.end_s) for m in mixtures.values()}
        assert all(m.begin_s <= m.offset_s < m.end_s for m in mixtures.values())
    assert ends == {"tr": (0.0, 2.4), "cv": (2.4, 3.2), "tt": (3.2, 4.0)}
    mixer, ramp = Mixer(RATE), np.arange(4 * RATE)
    mixer._noises[str(tmp_path / "noise/hiss.wav")] = ramp
    for name, mixtures in sets.items():
        for mixture in mixtures.values():
            if mixture.noise == "hiss":
                used = mixer.excerpt(mixture, 3 * RATE)
                assert ends[name][0] * RATE <= used.min()
                assert used.max() < ends[name][1] * RATE


def test_dev_and_test_hear_every_noise_at_every_snr_equally_often(corpus, tmp_path):
    for mixtures in (prepare(corpus, tmp_path)[name] for name in ("cv", "tt")):
        noises = [m.noise for m in mixtures.values()]
        counts = [noises.count(name) for name in NOISES]
        assert max(counts) - min(counts) <= 1
        snrs_db = [m.snr_db for m in mixtures.values()]
        counts = [snrs_db.count(snr_db) for snr_db in commonvoice.SNRS_DB]
        assert sum(counts) == len(snrs_db)
        assert max(counts) - min(counts) <= 3


def test_silos_have_their_own_speakers_noises_and_snrs_and_grow(corpus, tmp_path):
    mixtures = prepare(corpus, tmp_path)["tr"].values()
    silos = [[m for m in mixtures if m.silo == k] for k in range(4)]
    assert sum(map(len, silos)) == len(mixtures)
    for what in ("speaker", "noise"):
        sets = [{getattr(m, what) for m in silo} for silo in silos]
        assert all(sets)
        assert sum(map(len, sets)) == len(set.union(*sets))
    noises = [sorted({m.noise for m in silo}) for silo in silos]
    assert noises == [["rumble"], ["car", "crowd"], ["work"], ["hiss", "jet"]]
    assert [len({m.speaker for m in silo}) for silo in silos] in ([1, 1, 2, 5], [1, 1, 3, 4])
    for k, silo in enumerate(silos):
        low, high = commonvoice.silo_snrs_db(k, 4)
        assert (low, high) == (-5 + 2.5 * k, 2.5 + 2.5 * k)
        assert all(low <= m.snr_db <= high for m in silo)
    owners = {m.noise: m.silo for m in mixtures}
    assert all(m.silo == owners[m.noise] for m in read_mixtures(tmp_path / "data/tt" / FILE).values())


def test_same_seed_same_lists_another_seed_others(corpus, tmp_path):
    paths = [tmp_path / "data" / name / FILE for name in ("tr", "cv", "tt")]
    lists = []
    for seed in (0, 0, 1):
        prepare(corpus, tmp_path, seed=seed)
        lists.append([path.read_bytes() for path in paths])
    assert lists[0] == lists[1]
    assert not any(a == b for a, b in zip(lists[0], lists[2]))


@pytest.mark.parametrize("place", ["", "..", "../.."])
def test_the_folder_of_the_language_is_found_below(corpus, place, capsys):
    commonvoice.download(corpus / place)
    assert capsys.readouterr().out.endswith("xx: train 54 clips, dev 10 clips, test 20 clips\n")


def test_bad_clips_are_named_and_left_out_of_training_and_an_error_in_the_test(corpus, tmp_path):
    lines = []
    (corpus / "clips/common_voice_xx_101.mp3").unlink()
    (corpus / "clips/common_voice_xx_160.mp3").write_bytes(b"not sound")
    sets = commonvoice.prepare(corpus, tmp_path / "noise", tmp_path / "data", log=lines.append)
    assert len(sets["tr"]) == 53
    assert len(sets["cv"]) == 9
    assert [line.split("_")[1].split(":")[0] for line in lines] == ["160", "101"]
    (corpus / "clips/common_voice_xx_170.mp3").unlink()
    before = (tmp_path / "data/tr" / FILE).read_bytes()
    (corpus / "clips/common_voice_xx_171.mp3").write_bytes(b"")
    refusal = "test.tsv: 2 bad utterances in the test set: .*_170.mp3: no such file.*_171.*--skip-bad-test"
    with pytest.raises(InputError, match=refusal):
        prepare(corpus, tmp_path, seed=5)
    assert (tmp_path / "data/tr" / FILE).read_bytes() == before
    sets = prepare(corpus, tmp_path, skip_bad_test=True)
    assert len(sets["tt"]) == 18
    assert [utt.split("_")[1] for utt in left_out.read(tmp_path / "data/tt")] == ["170", "171"]
    assert left_out.read(tmp_path / "data/tr") == {}


def test_speakers_of_the_test_are_left_out_of_training(corpus, tmp_path):
    rows = [line.split("\t") for line in (corpus / "train.tsv").read_text().splitlines()[1:]]
    rows = [(row[1], "test0" if i < 6 else f"train{i // 6}") for i, row in enumerate(rows)]
    write_tsv(corpus, "train", [(speaker, path) for path, speaker in rows])
    lines = []
    sets = commonvoice.prepare(corpus, tmp_path / "noise", tmp_path / "data", log=lines.append)
    assert len(sets["tr"]) == 48
    assert len(sets["tt"]) == 20
    assert len(lines) == 1
    assert "train.tsv: 6 clips skipped: their speakers are also in a later set" in lines[0]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "dev.tsv").unlink(), "dev.tsv not found. Common Voice requires an account"),
        (lambda folder: (folder / "dev.tsv").write_text("a\tb\n1\t2\n"), "dev.tsv:2: no client_id or path"),
        (lambda folder: (folder / "dev.tsv").write_text("client_id\tpath\n"), "dev.tsv: lists no clips"),
        (
            lambda folder: (folder / "train.tsv").unlink(),
            "contains no train.tsv. Common Voice requires an account: log in",
        ),
        (
            lambda folder: write_tsv(folder.parent / "yy", "train", []),
            "contains several languages, pass one of .*xx, .*yy",
        ),
    ],
)
def test_a_corpus_that_does_not_fit_is_rejected(corpus, spoil, message):
    spoil(corpus)
    with pytest.raises(InputError, match=message):
        commonvoice.download(corpus.parent)


def test_too_few_noises_or_speakers_for_the_silos(corpus, tmp_path):
    with pytest.raises(InputError, match="7 silos need as many noises, found 6"):
        prepare(corpus, tmp_path, num_silos=7)
    for name in ("sea", "wind", "rain", "bells"):
        (tmp_path / f"noise/{name}.wav").write_bytes((tmp_path / "noise/hiss.wav").read_bytes())
    with pytest.raises(InputError, match="10 silos need as many training speakers, found 9"):
        prepare(corpus, tmp_path, num_silos=10)
    assert {m.silo for m in prepare(corpus, tmp_path, num_silos=1)["tr"].values()} == {0}
    assert not list((tmp_path / "data").glob(".*"))


def test_a_noise_with_pauses_is_never_taken_where_it_is_silent(corpus, tmp_path):
    wav = np.zeros(40 * RATE)
    wav[:: 8 * RATE] = 0.5  # a click every eight seconds; clips last one
    soundfile.write(tmp_path / "noise/clock.wav", wav, RATE)
    sets, mixer = prepare(corpus, tmp_path), Mixer(RATE)
    for mixture in (m for mixtures in sets.values() for m in mixtures.values() if m.noise == "clock"):
        clean, noisy = mixer.mix(mixture)
        assert np.any(noisy != clean)
    wav[24 * RATE :] = 0
    soundfile.write(tmp_path / "noise/clock.wav", wav, RATE)
    with pytest.raises(InputError, match="clock.wav: almost entirely silent between 24 and 32 s"):
        prepare(corpus, tmp_path)


@pytest.mark.recipe
def test_the_real_corpus(real_audio, tmp_path):
    sets = commonvoice.prepare(real_audio / "cv-corpus-zh-CN", real_audio / "noisex92", tmp_path)
    assert {name: len(mixtures) for name, mixtures in sets.items()} == {"tr": 990, "cv": 205, "tt": 187}
    silos = [m.silo for m in sets["tr"].values()]
    assert silos.count(0) < silos.count(1) < silos.count(2) < silos.count(3)
    mixer = Mixer(RATE)
    for mixture in list(sets["tt"].values())[::20]:
        clean, noisy = mixer.mix(mixture)
        noise = noisy.astype(np.float64) - clean
        ratio = np.sum(clean.astype(np.float64) ** 2) / np.sum(noise**2)
        assert 10 * np.log10(ratio) == pytest.approx(mixture.snr_db, abs=0.01)


@pytest.mark.recipe
def test_the_generated_corpus_is_laid_out_alike(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader", reason="generated speech needs espeakng-loader")
    train = dict(list(mini_mandarin.TRAIN.items())[:7])
    every = [*train, *mini_mandarin.DEV, *mini_mandarin.TEST, *mini_mandarin.BACKGROUND]
    monkeypatch.setattr(mini_mandarin, "TRAIN", train)
    monkeypatch.setitem(mini_mandarin.SPLITS, "train", train)
    monkeypatch.setattr(mini_mandarin, "UTTERANCES_PER_SPEAKER", dict.fromkeys(every, 1))
    monkeypatch.setattr(mini_mandarin, "NOISE_DURATION_S", 5.0)
    for name in ("a", "b"):
        mini_mandarin.download(tmp_path / name)
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.*")) for name in "ab"]
    assert files[0] == files[1]
    assert len(files[0]) == 1 + 3 + 13 + 12
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files[0])
    sets = commonvoice.prepare(tmp_path / "a/zh-CN", tmp_path / "a/noise", tmp_path / "data", num_silos=3)
    assert {name: len(mixtures) for name, mixtures in sets.items()} == {"tr": 7, "cv": 2, "tt": 4}
    assert [[m.silo for m in sets["tr"].values()].count(k) for k in range(3)] == [1, 2, 4]
    for mixture in sets["tt"].values():
        clean, _ = Mixer(RATE).mix(mixture)
        assert 1.5 * RATE < len(clean) < 8 * RATE
        assert np.sqrt(np.mean(clean**2)) > 0.01


@pytest.mark.recipe
def test_mandarin_voices_and_sentences_differ():
    pytest.importorskip("espeakng_loader", reason="generated speech needs espeakng-loader")
    texts = sentences(2000, np.random.default_rng(0), MANDARIN)
    assert len(set(texts)) == 2000
    assert all(text.endswith("。") and 8 <= len(text) <= 30 for text in texts)
    groups = (mini_mandarin.TRAIN, mini_mandarin.DEV, mini_mandarin.TEST, mini_mandarin.BACKGROUND)
    voices = {speaker: voice for group in groups for speaker, voice in group.items()}
    spoken = {speaker: speak(voice, ["我爷爷在市场里买了五个红苹果。"])[0][0] for speaker, voice in voices.items()}
    assert len(voices) == 27
    assert len({wav.tobytes() for wav in spoken.values()}) == 27
    for speaker, wav in spoken.items():
        assert 1.5 < len(wav) / 22050 < 5.0, speaker
        assert np.abs(wav).max() > 0.1, speaker

"""The generated corpus: official layout, reproducible bytes, plausible speech."""

import hashlib

import numpy as np
import pytest

from sase import audio
from sase.data import datadir
from sase.data.corpora import mini, sentences, synthetic, voicebank_demand
from sase.data.corpora.espeak import Voice, speak
from sase.errors import InputError

pytest.importorskip("espeakng_loader", reason="generated speech needs espeakng-loader")


def shrink(monkeypatch, utterances=3, speakers=2):
    for name in ("TRAIN", "BACKGROUND"):
        monkeypatch.setattr(mini, name, dict(list(getattr(mini, name).items())[:speakers]))
    counts = dict.fromkeys([*mini.TRAIN, *mini.DEV, *mini.TEST], utterances)
    monkeypatch.setattr(mini, "UTTERANCES_PER_SPEAKER", counts)


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole_test_part(tmp_path_factory):
    """The corpus with the whole of its test part, and one utterance of one training speaker."""
    folder = tmp_path_factory.mktemp("mini") / "corpus"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(mini, "TRAIN", dict(list(mini.TRAIN.items())[:1]))
        shorter = mini.UTTERANCES_PER_SPEAKER | dict.fromkeys([*mini.TRAIN, *mini.DEV], 1)
        monkeypatch.setattr(mini, "UTTERANCES_PER_SPEAKER", shorter)
        mini.download(folder, seed=0)
    return folder


@pytest.mark.recipe
def test_the_recipes_defaults_fit(tmp_path):
    corpus = tmp_path / "corpus"
    mini.download(corpus, seed=0)
    sets = voicebank_demand.prepare(corpus, tmp_path / "data")
    assert {name: (len(data), len(data.spk2utt)) for name, data in sets.items()} == {
        "tr": (272, 16),
        "cv": (20, 2),
        "tt": (40, 2),
    }
    assert sorted(sets["cv"].spk2utt) == ["p226", "p287"]
    assert sorted(sets["tt"].spk2utt) == ["p232", "p257"]
    for _name, data in sets.items():
        datadir.validate_data_dir(data.path, audio=True)
        assert data.utt2noise.keys() == data.utt2snr.keys() == data.noisy.keys()
        assert set(data.utt2noise.values()) == set(mini.KINDS)
    test = sets["tt"]  # every noise at every SNR, once
    conditions = {(test.utt2noise[utt], test.utt2snr[utt]) for utt in test.utts}
    assert len(conditions) == 40
    assert {snr_db for _, snr_db in conditions} == {2.5, 7.5, 12.5, 17.5}
    assert set(sets["tr"].utt2snr.values()) == {0.0, 5.0, 10.0, 15.0}


@pytest.mark.recipe
def test_pairs_have_the_logged_snr(whole_test_part, tmp_path):
    data = voicebank_demand.prepare(whole_test_part, tmp_path)["tt"]
    assert len(data.utts) == 40
    for utt in data.utts:
        (clean, rate), (noisy, _) = (audio.read_mono(table[utt]) for table in (data.clean, data.noisy))
        assert rate == 48000
        assert 2 * rate < len(clean) < 5 * rate
        noise = noisy.astype(np.float64) - clean
        assert 10 * np.log10(np.sum(clean.astype(np.float64) ** 2) / np.sum(noise**2)) == pytest.approx(
            data.utt2snr[utt], abs=0.02
        )
        assert 0.1 < np.abs(clean).max() < 1.0
        assert np.abs(noisy).max() <= 0.991


@pytest.mark.recipe
def test_speech_has_the_speakers_pitch_and_no_long_pauses(whole_test_part):
    """The median pitch separates the low voice from the high one; no pause within a sentence reaches half a second."""
    pitches = {}
    for speaker in ("p232", "p257"):
        found = []
        for path in sorted((whole_test_part / "clean_testset_wav").glob(f"{speaker}_*.wav"))[:4]:
            wav, rate = audio.read_mono(path, 16000)
            frames = wav[: len(wav) // 640 * 640].reshape(-1, 640)
            loud = np.sqrt(np.mean(frames**2, axis=1)) > 0.01
            inner = loud[np.argmax(loud) : len(loud) - np.argmax(loud[::-1])]
            assert max(map(len, "".join("x" if on else " " for on in inner).split("x"))) * 0.04 < 0.5
            for frame in frames[loud]:
                correlation = np.correlate(frame, frame, "full")[639:]
                lag = 40 + np.argmax(correlation[40:200])  # 400 down to 80 Hz
                if correlation[lag] > 0.5 * correlation[0]:
                    found.append(rate / lag)
        pitches[speaker] = np.median(found)
        assert len(found) > 50
    assert 80 < pitches["p232"] < 140 < 160 < pitches["p257"] < 260


@pytest.mark.recipe
def test_the_seed_determines_every_byte(tmp_path, monkeypatch):
    shrink(monkeypatch)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        mini.download(tmp_path / name, seed)
    a, b, c = (hashes(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert len(a) == 3 + 2 * 3 * 6
    assert not {name for name in a if a[name] == c[name]}


@pytest.mark.recipe
def test_a_finished_corpus_is_skipped_another_seed_replaces_it_other_files_are_untouched(tmp_path, monkeypatch, capsys):
    shrink(monkeypatch, utterances=1, speakers=1)
    target = tmp_path / "mini"
    mini.download(target, 0)
    first, written = hashes(target), (target / synthetic.MARKER).stat().st_mtime_ns
    mini.download(target, 0)
    assert (target / synthetic.MARKER).stat().st_mtime_ns == written
    assert f"delete {target / synthetic.MARKER}" in capsys.readouterr().out
    mini.download(target, 1)
    assert hashes(target) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mini"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("keep")
    with pytest.raises(InputError, match="something other than"):
        mini.download(tmp_path / "letters")
    assert (tmp_path / "letters/mine.txt").read_text() == "keep"


@pytest.mark.recipe
def test_a_failure_leaves_no_partial_files(tmp_path, monkeypatch):
    shrink(monkeypatch, utterances=1, speakers=1)

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(mini.audio, "write", full)
    with pytest.raises(OSError, match="No space"):
        mini.download(tmp_path / "mini")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.recipe
def test_every_voice_exists_and_differs_from_the_others():
    voices = {**mini.TRAIN, **mini.DEV, **mini.TEST, **mini.BACKGROUND}
    assert len(mini.TRAIN) + len(mini.DEV) + len(mini.TEST) == 20
    assert len(voices) == 26
    lines = ["The bus driver found a silver watch."]
    spoken = {speaker: speak(voice, lines)[0][0] for speaker, voice in voices.items()}
    for speaker, wav in spoken.items():
        spectrum = np.abs(np.fft.rfft(wav))
        assert 1.0 < len(wav) / 22050 < 4.0, speaker
        assert np.abs(wav).max() > 0.1, speaker
        assert spectrum[len(spectrum) // 100 : len(spectrum) // 3].sum() > 0.5 * spectrum.sum(), speaker
    assert len({wav.tobytes() for wav in spoken.values()}) == len(voices)


def test_a_missing_voice_is_an_error():
    with pytest.raises(InputError, match="no voice xx-nobody"):
        speak(Voice("xx-nobody"), ["Hello."])


def test_sentences_differ_and_have_no_commas():
    found = sentences.sentences(500, np.random.default_rng(0))
    assert len(set(found)) == 500
    assert found == sentences.sentences(500, np.random.default_rng(0))
    for text in found:
        assert text[0].isupper()
        assert text.endswith(".")
        assert "," not in text
        assert 6 <= len(text.split()) <= 15, text

"""Lists of mixtures: written lists are read back, errors are located, and mixtures match their description."""

import dataclasses

import numpy as np
import pytest
import soundfile

from sase.data import arks, datadir, dump
from sase.data.mixtures import FILE, Mixer, Mixture, read_mixtures, validate_mixtures, write_mixtures
from sase.errors import InputError

RATE = 16000


@pytest.fixture
def mixtures(tmp_path):
    """Three utterances of two speakers in one noise of four seconds, of which they may use the last two."""
    generator = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.wav", 0.1 * generator.standard_normal(4 * RATE), RATE, subtype="FLOAT")
    result = {}
    for i, (utt, seconds) in enumerate({"a_1": 1.0, "a_2": 3.0, "b_1": 0.5}.items()):
        path = tmp_path / f"{utt}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(int(seconds * RATE)), RATE, subtype="FLOAT")
        noise = {"noise": "hiss", "noise_file": str(tmp_path / "noise.wav"), "begin_s": 2.0, "end_s": 4.0}
        result[utt] = Mixture(speaker=utt[0], speech=str(path), **noise, offset_s=3.125, snr_db=5.0 * i - 5, silo=i % 2)
    return result


def test_what_is_written_is_read_again_in_any_order(mixtures, tmp_path):
    path = tmp_path / FILE
    write_mixtures(path, mixtures)
    assert read_mixtures(path) == mixtures
    heading, *lines = path.read_text().splitlines()
    assert heading.startswith("utterance\tspeaker\tspeech\tnoise")
    assert lines[0].startswith("a_1\ta\t")
    path.write_text("\n".join([heading, *reversed(lines), ""]))
    assert list(read_mixtures(path).items()) == list(mixtures.items())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("utterance", "utt", 1), ":1: must be the header"),
        (lambda text: text.replace("\t3.125", "\tlate", 1), ":2: offset_s must be a number, got 'late'"),
        (lambda text: text.replace("\t3.125", "\t4.0", 1), ":2: offset_s must be between begin_s and end_s"),
        (lambda text: text.replace("\t-5", "\tnan", 1), ":2: times and SNR must be finite"),
        (lambda text: text.replace("hiss\t", "", 1), ":2: has 9 columns, expected 10"),
        (lambda text: text.replace("b_1\tb", "b_1\tc"), ":4: b_1 does not start with the name of its speaker c"),
        (lambda text: text.replace("a_2", "a/../../a_2"), ":3: the key 'a/../../a_2' cannot name a file"),
        (lambda text: text.replace("a_2", "a" * 201), ":3: the key .* cannot name a file: too long"),
        (lambda text: text.replace("a_2", "a_1"), ":3: duplicate utterance a_1"),
        (lambda text: text.splitlines()[0] + "\n", "contains no mixtures"),
    ],
)
def test_a_line_that_does_not_fit_is_named(mixtures, tmp_path, change, message):
    path = tmp_path / FILE
    write_mixtures(path, mixtures)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=f"{FILE}{message}|{message}"):
        read_mixtures(path)


def test_a_mixture_is_speech_plus_its_part_of_the_noise_at_its_snr(mixtures, tmp_path):
    noise = soundfile.read(tmp_path / "noise.wav", dtype="float32")[0]
    for _utt, mixture in mixtures.items():
        clean, noisy = Mixer(RATE).mix(mixture)
        speech = soundfile.read(mixture.speech, dtype="float32")[0]
        scale = np.dot(clean, speech) / np.dot(speech, speech)
        np.testing.assert_allclose(clean, scale * speech, atol=1e-6)
        under = noisy.astype(np.float64) - clean
        assert 10 * np.log10(np.sum(clean.astype(np.float64) ** 2) / np.sum(under**2)) == pytest.approx(
            mixture.snr_db, abs=1e-3
        )
        # From 3.125 s on, at 4 s on from 2 s, which the set may use; never what lies before.
        expected = noise[[2 * RATE + (18000 + i) % (2 * RATE) for i in range(len(clean))]]
        gain = np.dot(under, expected) / np.dot(expected, expected)
        np.testing.assert_allclose(under, gain * expected, atol=1e-5)


def test_validation_opens_the_files_if_asked(mixtures, tmp_path):
    write_mixtures(tmp_path / FILE, mixtures)
    assert validate_mixtures(tmp_path / FILE, with_audio=True) == mixtures
    (tmp_path / "noise.wav").unlink()
    assert validate_mixtures(tmp_path / FILE) == mixtures
    with pytest.raises(InputError, match="noise.wav: no such file"):
        validate_mixtures(tmp_path / FILE, with_audio=True)


def dump_all(data, out, nj=1, **settings):
    for job in range(1, nj + 1):
        dump.dump_set(data, out, nj=nj, job=job, log=lambda line: None, **settings)
    dump.join_shards(data, out, nj=nj, log=lambda line: None, **settings)
    return datadir.read_data_dir(out)


def test_stage_2_mixes_what_the_list_says(mixtures, tmp_path):
    write_mixtures(tmp_path / "data" / FILE, mixtures)
    data = dump_all(tmp_path / "data", tmp_path / "dump", nj=2)
    assert data.utt2snr == {"a_1": -5.0, "a_2": 0.0, "b_1": 5.0}
    assert set(data.utt2noise.values()) == {"hiss"}
    assert data.utt2spk == {"a_1": "a", "a_2": "a", "b_1": "b"}
    assert datadir.read_table(tmp_path / "dump/utt2silo") == {"a_1": "0", "a_2": "1", "b_1": "0"}
    datadir.validate_data_dir(tmp_path / "dump")
    for utt, mixture in mixtures.items():
        clean, noisy = Mixer(RATE).mix(mixture)
        np.testing.assert_array_equal(arks.read_int16(data.noisy[utt]), arks.to_int16(noisy))
        np.testing.assert_array_equal(arks.read_int16(data.clean[utt]), arks.to_int16(clean))


def test_an_edited_line_is_mixed_anew_and_the_rest_stays(mixtures, tmp_path):
    write_mixtures(tmp_path / "data" / FILE, mixtures)
    dump_all(tmp_path / "data", tmp_path / "dump", nj=3)
    arks = sorted((tmp_path / "dump").glob("wav.*.ark"))
    before = [ark.stat().st_mtime_ns for ark in arks]
    changed = {**mixtures, "a_2": dataclasses.replace(mixtures["a_2"], snr_db=20.0, silo=-1)}
    changed["b_1"] = dataclasses.replace(mixtures["b_1"], silo=-1)
    write_mixtures(tmp_path / "data" / FILE, {utt: dataclasses.replace(m, silo=-1) for utt, m in changed.items()})
    data = dump_all(tmp_path / "data", tmp_path / "dump", nj=3)
    assert data.utt2snr["a_2"] == 20.0
    assert not (tmp_path / "dump/utt2silo").exists()
    write_mixtures(tmp_path / "data" / FILE, mixtures)
    dump_all(tmp_path / "data", tmp_path / "dump", nj=3)
    middle = [ark.stat().st_mtime_ns for ark in arks]
    assert all(new > old for new, old in zip(middle, before))
    write_mixtures(tmp_path / "data" / FILE, {**mixtures, "a_2": dataclasses.replace(mixtures["a_2"], snr_db=20.0)})
    dump_all(tmp_path / "data", tmp_path / "dump", nj=3)
    assert [ark.stat().st_mtime_ns == old for ark, old in zip(arks, middle)] == [True, False, True]


def test_bad_mixtures_are_named_and_left_out_of_training_and_refused_in_tests(mixtures, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.ones(RATE), RATE)
    soundfile.write(tmp_path / "a_1.wav", np.zeros(RATE), RATE)
    bad = {**mixtures, "b_1": dataclasses.replace(mixtures["b_1"], noise_file=str(tmp_path / "short.wav"))}
    write_mixtures(tmp_path / "data" / FILE, bad)
    lines = []
    dump.dump_set(tmp_path / "data", tmp_path / "dump", log=lines.append)
    assert "a_1: " in lines[0]
    assert "a_1.wav: is silent" in lines[0]
    assert "short.wav: lasts 1 s, but the list uses it up to 4 s" in lines[1]
    with pytest.raises(InputError, match="2 bad utterances"):
        dump.dump_set(tmp_path / "data", tmp_path / "test", keep_all=True, log=lines.append)

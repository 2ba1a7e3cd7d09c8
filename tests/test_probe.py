"""The probe: closed forms of its measures, reports of systems whose effect is known, its stimuli, its page."""

import json
import math

import numpy as np
import pytest

from sase import audio
from sase.bin import probe as command
from sase.data.noises import NOISES as TRAINING_NOISES
from sase.data.tonal import TONAL
from sase.errors import InputError
from sase.evaluation.probe import measures, noises, page
from sase.evaluation.probe.material import LEVEL_DB, Material, at_level, material
from sase.evaluation.probe.probing import SECTIONS, identity, probe
from sase.evaluation.probe.voice import talk

RATE = 16000
SUPPRESSION, ERRORS, BINS, OCTAVES, CLEAN, LEVELS, ROOM, ONSET, DRIFT, CLIPPED = SECTIONS


@pytest.fixture(scope="module")
def stimuli():
    """One talker and three kinds of noise: enough for every section."""
    kinds = {kind: [at_level(noises.NOISES[kind](4 * RATE, RATE, np.random.default_rng(0)))] for kind in KINDS}
    return Material(RATE, [at_level(talk(4.0, 120.0, RATE, 0))], kinds, "one talker")


KINDS = ("white noise", "tone 1 kHz", "horn")


@pytest.fixture(scope="module")
def unprocessed(stimuli):
    """The report of a system that changes nothing."""
    return probe(identity, stimuli)


def sine(hz, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)


def test_ratios_of_energies_in_closed_form():
    wav = sine(440)
    assert measures.gain_db(wav, wav) == 0
    assert measures.gain_db(wav, 0.5 * wav) == pytest.approx(-6.0206, abs=1e-3)
    assert measures.gain_db(wav, 0 * wav) == -measures.LIMIT_DB
    assert measures.gain_db(0 * wav, 0 * wav) == 0
    assert measures.error_db(wav, wav) == measures.LIMIT_DB
    assert measures.error_db(wav, 0 * wav) == 0
    assert measures.error_db(wav, 0.9 * wav) == pytest.approx(20)  # 0.1 of the amplitude
    assert measures.ratio_db(1e300, 1e-300) == measures.LIMIT_DB


def test_the_error_is_found_in_its_band():
    """A tone in each band, and an error of a tenth of one of them."""
    tones = {"below 1 kHz": sine(400), "1 to 4 kHz": sine(2000), "above 4 kHz": sine(6000)}
    clean = sum(tones.values())
    for band, tone in tones.items():
        errors = measures.error_by_band(clean, clean - 0.1 * tone, RATE)
        assert errors[band] == pytest.approx(20, abs=0.1)
        assert all(db > 45 for name, db in errors.items() if name != band)


def test_frames_without_speech_have_no_error():
    clean = np.concatenate([sine(400), np.zeros(RATE)])
    output = clean + np.concatenate([np.zeros(RATE + 1024), 0.5 * sine(400)[: RATE - 1024]])
    assert measures.error_by_band(clean, output, RATE)["below 1 kHz"] > 60


def test_bins_of_speech_and_of_noise_are_told_apart_by_their_level():
    clean, noise = sine(500), sine(3000)
    assert measures.bins_db(clean, noise, clean + noise, RATE) == pytest.approx((0, 0), abs=0.05)
    assert measures.bins_db(clean, noise, 0.5 * (clean + noise), RATE) == pytest.approx((-6.02, -6.02), abs=0.05)
    assert measures.bins_db(clean, noise, 0.5 * clean + 0.1 * noise, RATE) == pytest.approx((-6.02, -20), abs=0.7)
    assert measures.bins_db(clean, noise, 0 * clean, RATE) == pytest.approx((-100, -100))
    strong, noisy = measures.bins_db(clean, 0 * noise, clean, RATE)
    assert strong == 0
    assert math.isnan(noisy)  # there are none


def test_the_gain_of_speech_ignores_unrelated_noise():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal(20 * RATE)
    gains = measures.gain_of_speech_by_octave(clean, 0.5 * clean + rng.standard_normal(len(clean)), RATE)
    assert set(gains) == {"all", *(f"{hz} Hz" for hz in measures.OCTAVES_HZ)}
    assert list(gains.values()) == pytest.approx([-6.02] * len(gains), abs=0.4)
    assert gains["all"] == pytest.approx(-6.02, abs=0.05)
    turned = measures.gain_of_speech_by_octave(clean, -clean, RATE)
    assert set(turned.values()) == {-measures.LIMIT_DB}
    assert measures.gain_of_speech_by_octave(0 * clean, clean, RATE) == {}


def test_the_time_until_a_level_stays_down():
    levels = np.array([-10.0, -50.0, -10.0, -50.0, -50.0])
    assert measures.seconds_until(levels, -30.0, RATE) == pytest.approx(3 * 0.016)
    assert measures.seconds_until(levels, 0.0, RATE) == 0
    wav = np.concatenate([np.ones(1600), np.full(1600, 0.1)])
    np.testing.assert_allclose(measures.levels_db(wav, RATE)[[0, -1]], [0, -20], atol=1e-9)


def test_spectra_are_those_of_librosa():
    import librosa

    wav = np.random.default_rng(0).standard_normal(5000)
    expected = librosa.stft(wav, n_fft=512, hop_length=256, pad_mode="constant")
    found = measures.spectrum(wav, RATE)
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=1e-9)
    assert len(measures.frequencies(RATE)) == len(found)


def test_the_input_as_output(unprocessed):
    report = unprocessed
    assert list(report) == list(SECTIONS)
    assert report[SUPPRESSION] == dict.fromkeys(KINDS, 0)
    assert report[CLEAN]["PESQ_WB"] == pytest.approx(4.644, abs=0.001)
    assert report[CLEAN]["clean over error (dB)"] == 100
    assert report[ROOM] == dict.fromkeys(report[ROOM], 0)
    assert report[DRIFT] == {"60 s": 0}
    assert report[ONSET]["white noise is 10 dB down for good after (s)"] == pytest.approx(5, abs=0.02)
    assert report[ONSET]["first 0.1 s of speech over the rest (dB)"] == 0
    assert len(set(np.round([*report[LEVELS].values()], 2))) == 1
    assert [*report[OCTAVES].values()] == pytest.approx([0] * len(report[OCTAVES]), abs=1.0)
    assert report[CLIPPED]["9 dB above the RMS"] > report[CLIPPED]["3 dB above the RMS"]


def test_half_the_amplitude(stimuli, unprocessed):
    report, before = probe(lambda wav: 0.5 * wav, stimuli), unprocessed
    assert [*report[SUPPRESSION].values()] == pytest.approx([6.02] * 3, abs=0.01)
    assert report[CLEAN]["clean over error (dB)"] == pytest.approx(6.02, abs=0.01)
    for section, tolerance in ((BINS, 0.01), (OCTAVES, 0.01)):
        for row, value in report[section].items():
            assert value - before[section][row] == pytest.approx(-6.02, abs=tolerance)
    assert [*report[ROOM].values()] == pytest.approx([-6.02] * 3, abs=0.01)
    assert report[LEVELS] == pytest.approx(before[LEVELS], abs=0.01)  # which is blind to it


def test_silence_and_a_system_that_fades(stimuli):
    silent = probe(np.zeros_like, stimuli)
    assert set(silent[SUPPRESSION].values()) == {100}
    assert [*silent[ERRORS].values()] == pytest.approx([0] * 3)
    assert silent[ONSET]["white noise is 10 dB down for good after (s)"] == 0
    assert all(math.isnan(value) for value in silent[LEVELS].values())

    def fading(wav):  # by 0.5 dB a second
        return (wav * 10 ** (-0.5 / 20 * np.arange(len(wav)) / RATE)).astype(np.float32)

    report = probe(fading, stimuli)
    assert report[DRIFT]["60 s"] == pytest.approx(-0.5 * 52, abs=0.01)  # from 4 s to 56 s
    assert report[ONSET]["first 0.1 s of speech over the rest (dB)"] > 0.3


def test_a_system_that_only_passes_loud_input(stimuli):
    report = probe(lambda wav: wav * (np.abs(wav).max() > 0.01), stimuli)
    shares = report[LEVELS]
    assert math.isnan(shares["-60 dB"])
    assert math.isfinite(shares["+0 dB"])


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_stimuli_have_one_level_at_any_rate(rate):
    stimuli = material(rate)
    assert set(stimuli.noises) == set(noises.NOISES)
    for wav in [*stimuli.speech, *(wav for wavs in stimuli.noises.values() for wav in wavs)]:
        assert wav.dtype == np.float32
        assert 10 * np.log10(np.mean(wav.astype(float) ** 2)) == pytest.approx(LEVEL_DB, abs=0.01)


@pytest.mark.parametrize(("kind", "hz"), [("hum 50 Hz", 50), ("hum 60 Hz", 60), ("tone 1 kHz", 1000)])
def test_synthetic_hums_and_tones_have_their_pitch(kind, hz):
    wav = noises.NOISES[kind](RATE, RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(wav)) ** 2
    assert power.argmax() == hz  # a second: a bin per Hz
    assert power[np.arange(len(power)) % hz != 0].sum() < 1e-3 * power.sum()


def test_the_talker_is_voiced_and_pauses():
    wav = talk(10.0, 120.0, RATE, 0)
    np.testing.assert_array_equal(wav, talk(10.0, 120.0, RATE, 0))
    levels = measures.levels_db(at_level(wav), RATE)
    assert 0.1 < np.mean(levels < -80) < 0.5  # pauses
    low, high = (np.abs(talk(10.0, hz, RATE, 0)) for hz in (120.0, 240.0))
    assert np.abs(low - high).max() > 0.1


@pytest.mark.recipe
def test_the_stimuli_are_not_those_of_training():
    """No synthetic noise of the probe is a computed noise of training, at any lag."""
    for kind, make in noises.NOISES.items():
        mine = make(RATE, RATE, np.random.default_rng(0))
        for name, other in {**TRAINING_NOISES, **TONAL}.items():
            theirs = other(RATE, RATE, np.random.default_rng(0)).astype(float)
            products = np.fft.irfft(np.fft.rfft(mine, 2 * RATE) * np.fft.rfft(theirs, 2 * RATE).conj())
            assert np.abs(products).max() < 0.9 * np.linalg.norm(mine) * np.linalg.norm(theirs), (kind, name)


def test_recorded_stimuli_by_kind(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("siren_0", "siren_1", "crowd", "sheep_0"):
        audio.write(tmp_path / "noise" / f"{name}.wav", 0.1 * rng.standard_normal(8000), 8000)
    audio.write(tmp_path / "speech" / "a.wav", 0.1 * rng.standard_normal(RATE), RATE)
    stimuli = material(RATE, tmp_path / "speech", [tmp_path / "noise"], ["siren", "c*"])
    assert list(stimuli.noises) == [*noises.NOISES, "siren (recorded)", "crowd (recorded)"]
    assert [len(wavs) for wavs in stimuli.noises.values()][-2:] == [2, 1]
    assert all(len(wav) == 4 * RATE for wav in stimuli.noises["siren (recorded)"])
    assert [len(wav) for wav in stimuli.speech] == [5 * RATE]
    assert stimuli.described.startswith("1 recordings of speech; 13 kinds of synthetic noise, 2 kinds of recorded")
    with pytest.raises(InputError, match="--kinds: no noise named dog"):
        material(RATE, tmp_path / "speech", [tmp_path / "noise"], ["dog"])


@pytest.mark.recipe
def test_the_command_writes_table_figure_and_numbers(tmp_path, monkeypatch, capsys):
    kinds = {kind: noises.NOISES[kind] for kind in KINDS}
    monkeypatch.setattr("sase.evaluation.probe.material.NOISES", kinds)
    monkeypatch.setattr("sase.evaluation.probe.material._PITCHES_HZ", (120.0,))
    monkeypatch.setattr("sase.evaluation.probe.probing._DRIFT_S", 15.0)
    monkeypatch.setattr("sys.argv", ["sase probe", "--model", "tiny", "-o", str(tmp_path)])
    command.main()
    text = (tmp_path / "probe.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert f"## {SUPPRESSION}\n\n|  | unprocessed | tiny |" in text
    assert "| white noise | 0.0 | " in text
    numbers = json.loads((tmp_path / "probe.json").read_text())
    assert set(numbers) == {"unprocessed", "tiny"}
    assert numbers["tiny"][SUPPRESSION]["white noise"] > 15
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_undefined_values_are_dashes():
    assert "| a | – | 1.0 |" in "\n".join(page.lines({"x": {"T": {"a": math.nan}}, "y": {"T": {"a": 1.0}}}, "none"))

"""Measures against reference libraries and programs, closed forms, identities, and undefined values."""

import sys
import warnings

import numpy as np
import pytest

from helpers.parameters import quick
from sase import audio
from sase.errors import InputError
from sase.metrics import composite
from sase.metrics.measures import METRICS, WITHOUT_REFERENCE, evaluate

RATE = 16000
# Means over 100 unprocessed pairs of the VoiceBank+DEMAND test set: pesq 0.0.4, pystoi 0.4.1, ratings at 16-bit scale.
KNOWN = {"PESQ_WB": (2.028, 0.002), "STOI": (0.9206, 0.002), "SI_SDR": (8.486, 0.002), "CSIG": (3.354, 0.01)}
KNOWN |= {"CBAK": (2.474, 0.01), "COVL": (2.663, 0.01), "SegSNR": (1.776, 0.01)}


def speech(duration_s=2.0, seed=0):
    """Syllables of a synthetic voice with pauses, over a low noise floor: float64 (time,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(duration_s * RATE)) / RATE
    pitch = 120 + 15 * np.sin(2 * np.pi * 0.9 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 30))
    syllables = np.clip(np.sin(2 * np.pi * 2.7 * time), 0, None)
    return 0.1 * voice * syllables + 1e-4 * rng.standard_normal(len(time))


def noisy(clean, snr_db=5.0, seed=1):
    noise = np.random.default_rng(seed).standard_normal(len(clean))
    return clean + noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2) / 10 ** (snr_db / 10))


def real_pairs(folder, count):
    folder = folder / "vbd_test_part"
    utts = (folder / "utts.txt").read_text().split()
    for utt in utts[:: max(1, len(utts) // count)][:count]:
        yield tuple(audio.read_mono(folder / f"{kind}_testset_wav" / f"{utt}.flac")[0] for kind in ("clean", "noisy"))


# --- the libraries and the published programs ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=quick(["synthetic", "real"]))
def pairs(request):
    if request.param == "real":
        return list(real_pairs(request.getfixturevalue("real_audio"), 6))
    return [(speech(seed=seed), noisy(speech(seed=seed), snr_db)) for seed, snr_db in enumerate((0.0, 15.0))]


def test_library_measures_equal_their_libraries(pairs):
    import pesq
    import pystoi
    import torch
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    for clean, enhanced in pairs:
        values = evaluate(clean, enhanced, RATE)
        assert values["PESQ_WB"] == pytest.approx(pesq.pesq(RATE, clean, enhanced, "wb"), abs=1e-4)
        assert values["STOI"] == pytest.approx(pystoi.stoi(clean, enhanced, RATE), abs=1e-5)
        assert values["ESTOI"] == pytest.approx(pystoi.stoi(clean, enhanced, RATE, extended=True), abs=1e-5)
        expected = scale_invariant_signal_distortion_ratio(
            torch.from_numpy(enhanced), torch.from_numpy(clean), zero_mean=True
        )
        assert values["SI_SDR"] == pytest.approx(expected.item(), abs=1e-3)


def windowed(wav):
    """Yield frames as in the published programs."""
    size, step = 480, 120
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1)))
    for start in range(0, int(len(wav) / step - size / step) * step, step):
        yield 32768.0 * wav[start : start + size].astype(float) * window


def mean_of_best(distances):
    return np.mean(sorted(distances)[: round(0.95 * len(distances))])


def test_segmental_snr_frame_by_frame(pairs):
    for clean, enhanced in pairs:
        frames = zip(windowed(clean), windowed(enhanced))
        snrs_db = [10 * np.log10(np.sum(c**2) / np.sum((c - e) ** 2)) for c, e in frames]
        expected = np.mean([min(35, max(-10, snr_db)) for snr_db in snrs_db])
        assert METRICS["SegSNR"](clean, enhanced, RATE) == pytest.approx(expected, abs=1e-3)


def test_log_likelihood_ratio_frame_by_frame(pairs):
    def predict(frame):
        correlation = np.correlate(frame, frame, "full")[479:496]
        matrix = np.array([[correlation[abs(i - j)] for j in range(17)] for i in range(17)])
        return np.r_[1, np.linalg.solve(matrix[1:, 1:], -correlation[1:])], matrix

    for clean, enhanced in pairs:
        ratios = []
        for c, e in zip(windowed(clean), windowed(enhanced)):
            (own, matrix), (other, _) = predict(c), predict(e)
            ratios.append(np.log((other @ matrix @ other) / (own @ matrix @ own)))
        assert composite.log_likelihood_ratio(clean, enhanced, RATE) == pytest.approx(mean_of_best(ratios), rel=1e-5)


def test_weighted_spectral_slope_frame_by_frame(pairs):
    widths = [70] * 7 + [77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154, 183.457]
    widths += [199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136]
    centres = [50.0]
    for width in widths[:-1]:
        centres.append(centres[-1] + width)

    def bands(frame):
        power = np.abs(np.fft.fft(frame, 1024)) ** 2
        energies = []
        for centre, width in zip(centres, widths):
            bins = np.arange(512)
            gains = np.exp(-11 * ((bins - int(centre / 8000 * 512)) / (width / 8000 * 512)) ** 2 + np.log(70 / width))
            gains[gains <= np.exp(-30 / (2 * 2.303))] = 0
            energies.append(10 * np.log10(max(gains @ power[:512], 1e-10)))
        return energies

    def weights_of(energies, slopes):
        weights = []
        for i, slope in enumerate(slopes):
            n = i
            if slope > 0:
                while n < 24 and slopes[n] > 0:
                    n += 1
                peak = energies[n - 1]
            else:
                while n >= 0 and slopes[n] <= 0:
                    n -= 1
                peak = energies[n + 1]
            weights.append(20 / (20 + max(energies) - energies[i]) / (1 + peak - energies[i]))
        return np.array(weights)

    for clean, enhanced in pairs[:2]:
        distances = []
        for frames in zip(windowed(clean), windowed(enhanced)):
            energies = [bands(frame) for frame in frames]
            slopes = [np.diff(levels) for levels in energies]
            weights = sum(map(weights_of, energies, slopes)) / 2
            distances.append(np.sum(weights * (slopes[0] - slopes[1]) ** 2) / np.sum(weights))
        # The published table rounds the centres, hence the tolerance.
        assert composite.weighted_spectral_slope(clean, enhanced, RATE) == pytest.approx(
            mean_of_best(distances), rel=1e-4
        )


@pytest.mark.recipe
def test_unprocessed_pairs_have_known_scores(real_audio):
    rows = [evaluate(clean, enhanced, RATE) for clean, enhanced in real_pairs(real_audio, 100)]
    assert len(rows) == 100
    for measure, (expected, tolerance) in KNOWN.items():
        assert np.mean([row[measure] for row in rows]) == pytest.approx(expected, abs=tolerance), measure


# --- closed forms and identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [-20.0, 0.0, 13.0])
def test_si_sdr_of_a_known_mixture(snr_db):
    time = np.arange(RATE)
    clean = np.sin(2 * np.pi * 10 * time / RATE)
    distortion = np.cos(2 * np.pi * 10 * time / RATE)  # orthogonal, of equal power
    for scale, offset in ((1.0, 0.0), (0.01, 0.3)):
        mixture = scale * (clean + 10 ** (-snr_db / 20) * distortion) + offset
        assert METRICS["SI_SDR"](clean, mixture, RATE) == pytest.approx(snr_db, abs=1e-6)


def test_si_sdr_removes_means_that_the_objective_keeps():
    import torch

    from sase.losses import objectives

    clean = speech()
    enhanced = noisy(clean)
    rows = [torch.from_numpy(wav)[None] for wav in (enhanced, clean)]
    centred = METRICS["SI_SDR"](clean, enhanced, RATE)
    assert METRICS["SI_SDR"](clean, enhanced + 0.1, RATE) == pytest.approx(centred)
    assert objectives.si_snr(*rows).item() == pytest.approx(centred, abs=1e-4)
    assert objectives.si_sdr(rows[0] + 0.1, rows[1]).item() < centred - 3.0  # dB


def test_digital_silence_around_both_signals_does_not_change_the_segmental_snr():
    generator = np.random.default_rng(0)
    clean = 0.1 * generator.standard_normal(2 * RATE)
    enhanced = clean + 0.08 * generator.standard_normal(2 * RATE)
    alone = METRICS["SegSNR"](clean, enhanced, RATE)
    padded = [np.pad(wav, (RATE, RATE // 2)) for wav in (clean, enhanced)]
    assert METRICS["SegSNR"](*padded, RATE) == pytest.approx(alone, abs=0.05)  # frames at the edges hold both
    hissing = padded[1] + 1e-3 * generator.standard_normal(len(padded[1]))
    assert METRICS["SegSNR"](padded[0], hissing, RATE) == pytest.approx(alone, abs=0.1)
    assert np.isnan(METRICS["SegSNR"](np.zeros(RATE), np.ones(RATE), RATE))


def test_segmental_snr_is_clipped_in_every_frame():
    clean = np.random.default_rng(0).standard_normal(RATE)
    for factor, expected in ((0.1, 20.0), (1e-3, 35.0), (100.0, -10.0)):
        assert METRICS["SegSNR"](clean, clean * (1 + factor), RATE) == pytest.approx(expected, abs=1e-3)


def test_identical_signals_have_the_best_values():
    values = evaluate(speech(), speech(), RATE)
    assert values["PESQ_WB"] == pytest.approx(4.644, abs=1e-3)
    assert values["STOI"] == pytest.approx(1)
    assert values["ESTOI"] == pytest.approx(1)
    assert (values["CSIG"], values["SegSNR"], values["SI_SDR"]) == (5.0, 35.0, 100.0)
    assert composite.log_likelihood_ratio(speech(), speech(), RATE) == pytest.approx(0, abs=1e-9)
    assert composite.weighted_spectral_slope(speech(), speech(), RATE) == 0


def test_less_noise_scores_higher_and_si_sdr_ignores_the_level():
    clean = speech()
    better, worse = evaluate(clean, noisy(clean, 15), RATE), evaluate(clean, noisy(clean, 0), RATE)
    assert all(better[measure] > worse[measure] for measure in METRICS)
    loud, quiet = (METRICS["SI_SDR"](clean, gain * noisy(clean), RATE) for gain in (1.0, 0.1))
    assert quiet == pytest.approx(loud)


def test_evaluate_equals_the_single_measures_in_the_same_order():
    clean, enhanced = speech(), noisy(speech())
    values = evaluate(clean, enhanced, RATE)
    assert list(values) == ["PESQ_WB", "STOI", "ESTOI", "CSIG", "CBAK", "COVL", "SegSNR", "SI_SDR"]
    assert values == {name: measure(clean, enhanced, RATE) for name, measure in METRICS.items()}
    assert evaluate(clean, enhanced, RATE, ["COVL", "STOI"]) == {name: values[name] for name in ("COVL", "STOI")}
    assert all(type(value) is float for value in values.values())


def test_estoi_is_reproducible_and_restores_the_global_generator():
    clean = speech()
    enhanced = np.where(
        np.abs(clean) > 0.05, clean, 0
    )  # digital silence, where the result depends on the added noise alone
    np.random.seed(3)
    expected = np.random.random(3)
    np.random.seed(3)
    first = METRICS["ESTOI"](clean, enhanced, RATE)
    assert np.array_equal(np.random.random(3), expected)
    assert METRICS["ESTOI"](clean, enhanced, RATE) == first


@pytest.mark.recipe
def test_long_signals_are_scored_in_pieces_within_the_limits_of_pesq():
    # 70 s of short bursts have more segments of speech than the buffer of the pesq library: it would crash.
    clean = np.tile(speech(1.0), 70)
    enhanced = noisy(clean, 10)
    score = METRICS["PESQ_WB"](clean, enhanced, RATE)
    quarters = [METRICS["PESQ_WB"](*pair, RATE) for pair in zip(np.split(clean, 4), np.split(enhanced, 4))]
    assert score == pytest.approx(np.mean(quarters))


# --- undefined values -----------------------------------------------------------------------------------------------


def test_silent_clean_speech_gives_nan_everywhere():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate(np.zeros(RATE), noisy(speech(1.0)), RATE)
        both = evaluate(np.zeros(RATE), np.zeros(RATE), RATE)
    assert np.isnan(list(values.values())).all()
    assert np.isnan(list(both.values())).all()


@pytest.mark.recipe
def test_silent_enhanced_speech_has_the_lowest_value_of_each_measure():
    lowest = {"PESQ_WB": 1.04, "STOI": 0, "ESTOI": 0, "CSIG": 1, "CBAK": 1, "COVL": 1, "SegSNR": -10, "SI_SDR": np.nan}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for silence in (np.zeros(2 * RATE), np.full(2 * RATE, 0.25)):
            values = evaluate(speech(), silence, RATE)
            assert values == pytest.approx(lowest, nan_ok=True)
            assert {name: METRICS[name](speech(), silence, RATE) for name in lowest} == pytest.approx(
                values, nan_ok=True
            )


def test_what_the_clean_speech_does_not_define_stays_undefined_for_silence():
    values = evaluate(speech()[2000:2600], np.zeros(600), RATE)
    assert np.isnan([values[name] for name in ("PESQ_WB", "STOI", "ESTOI", "COVL", "SI_SDR")]).all()
    assert evaluate(np.zeros(RATE), np.zeros(RATE), RATE) == pytest.approx(dict.fromkeys(METRICS, np.nan), nan_ok=True)


@pytest.mark.recipe
def test_a_silent_piece_of_a_long_signal_does_not_vanish_from_its_pesq():
    clean = speech(40.0)
    half = clean.copy()
    half[len(half) // 2 :] = 0
    first = METRICS["PESQ_WB"](clean[: len(clean) // 2], half[: len(half) // 2], RATE)
    assert METRICS["PESQ_WB"](clean, half, RATE) == pytest.approx((first + 1.04) / 2)


def test_digital_silence_within_a_signal_gives_finite_values():
    clean, enhanced = speech(), noisy(speech())
    clean[8000:16000] = 0
    enhanced[4000:12000] = 0
    for pair in ((clean, enhanced), (enhanced, clean), (clean, clean)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = evaluate(*pair, RATE)
        assert np.isfinite(list(values.values())).all()
    assert METRICS["SegSNR"](clean, clean, RATE) == 35


@pytest.mark.parametrize("samples", [1, 2, 479, 480, 600, 3999, 4001, 6000])
def test_signals_too_short_for_a_measure_give_nan(samples):
    clean = speech()[2000 : 2000 + samples]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate(clean, noisy(clean), RATE)
    assert np.isnan(values["STOI"])
    assert np.isnan(values["ESTOI"])
    assert np.isnan(values["PESQ_WB"]) == np.isnan(values["COVL"])
    assert np.isnan(values["PESQ_WB"]) or 1 <= values["PESQ_WB"] <= 4.65
    assert np.isnan(values["SegSNR"]) == (samples < 600)


def test_too_little_speech_for_stoi_is_nan_without_a_warning():
    clean = 1e-6 * speech()
    clean[:1000] = speech()[2000:3000]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(METRICS["STOI"](clean, clean, RATE))


def test_invalid_signals_and_names_are_rejected():
    clean = speech()
    with pytest.raises(ValueError, match=r"\(32000,\) and \(31999,\)"):
        evaluate(clean, clean[:-1], RATE)
    for wrong in (np.zeros((2, 100)), np.zeros(0)):
        with pytest.raises(ValueError, match="got"):
            evaluate(wrong, wrong, RATE)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            METRICS["STOI"](clean, np.where(np.arange(len(clean)) == 5, value, clean), RATE)
    with pytest.raises(ValueError, match=r"unknown measures .*PESQ"):
        evaluate(clean, clean, RATE, ["PESQ"])


@pytest.mark.parametrize("rate", [8000, 48000])
def test_measures_at_other_rates(rate):
    with pytest.raises(ValueError, match=f"PESQ_WB is defined at 16000 Hz, got {rate} Hz"):
        evaluate(speech(), speech(), rate)
    clean = audio.resample(speech(), RATE, rate)
    enhanced = audio.resample(noisy(speech()), RATE, rate)
    values = evaluate(clean, enhanced, rate, ["STOI", "ESTOI", "SegSNR", "SI_SDR"])
    expected = evaluate(speech(), noisy(speech()), RATE, ["STOI"])
    assert values["STOI"] == pytest.approx(expected["STOI"], abs=0.02)
    assert np.isfinite(list(values.values())).all()


def test_sample_types_and_strides_do_not_matter():
    clean, enhanced = speech().astype(np.float32), noisy(speech()).astype(np.float32)
    strided = np.stack([clean, enhanced], axis=1)
    expected = evaluate(clean, enhanced, RATE)
    assert evaluate(strided[:, 0], strided[:, 1], RATE) == expected
    assert evaluate(clean.astype(np.float64), enhanced.tolist(), RATE) == expected


# --- without a clean signal -------------------------------------------------------------------------------------------


@pytest.mark.recipe
def test_dnsmos_equals_the_package_and_prefers_clean_speech(real_audio):
    dnsmos = pytest.importorskip("speechmos.dnsmos")
    clean, _ = audio.read_mono(min((real_audio / "vbd_test_part/clean_testset_wav").iterdir()), RATE)
    wavs = [noisy(clean, 5.0).astype(np.float32), clean]
    rated = [evaluate(None, wav, RATE, WITHOUT_REFERENCE) for wav in wavs]
    expected = dnsmos.run(wavs[0], RATE)
    keys = {"SIG": "sig_mos", "BAK": "bak_mos", "OVRL": "ovrl_mos", "P808": "p808_mos"}
    assert rated[0] == pytest.approx({f"DNSMOS_{name}": expected[key] for name, key in keys.items()}, abs=1e-4)
    assert rated[1]["DNSMOS_OVRL"] > rated[0]["DNSMOS_OVRL"] + 0.1
    assert rated[1]["DNSMOS_BAK"] > rated[0]["DNSMOS_BAK"] + 0.3


def test_without_dnsmos_one_line_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(InputError, match=r"DNSMOS: the package speechmos is not installed; pip install \S+"):
        evaluate(None, speech(), RATE, ["DNSMOS_SIG"])


def test_measures_that_need_a_clean_signal_are_refused_without_one():
    with pytest.raises(ValueError, match="'STOI'.* need a clean signal"):
        evaluate(None, speech(), RATE, ["STOI"])
    with pytest.raises(ValueError, match="16000 Hz"):
        evaluate(None, speech(), 8000, ["DNSMOS_SIG"])

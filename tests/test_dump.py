import os
import signal
import struct
import subprocess
import sys
import time

import kaldiio
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from helpers.commands import sase
from helpers.dumps import dump_all, make_set
from sase import audio
from sase.data import arks, datadir, dump, left_out
from sase.errors import InputError
from sase.locking import output_lock


def samples_of(table):
    return {utt: arks.read_int16(spec) for utt, spec in table.items()}


LENGTHS = {f"p{speaker}_{i:03d}": 4800 + 480 * i + i for speaker in (1, 2) for i in range(4)}


def test_kaldiio_and_we_read_the_same_samples(tmp_path):
    data = dump_all(make_set(tmp_path, LENGTHS), tmp_path / "dump")
    for spec in [*data.noisy.values(), *data.clean.values()]:
        rate, expected = kaldiio.load_mat(spec)
        wav = arks.read_int16(spec)
        assert rate == arks.read_entry(spec).sample_rate == 16000
        assert wav.dtype == np.int16
        np.testing.assert_array_equal(wav, expected)
        np.testing.assert_array_equal(arks.read_wav(spec), expected.astype(np.float64) / 32768)
        np.testing.assert_array_equal(arks.read_int16(spec, 100, 50), expected[100:150])
        np.testing.assert_array_equal(arks.read_int16(spec, 1500, 10**9), expected[1500:])
        assert arks.read_int16(spec, 10**9).shape == (0,)


def test_samples_are_those_of_the_files(tmp_path):
    source = datadir.read_data_dir(make_set(tmp_path, LENGTHS))
    data = dump_all(source.path, tmp_path / "dump")
    for table, original in ((data.noisy, source.noisy), (data.clean, source.clean)):
        for utt, spec in table.items():
            wav, rate = audio.read_mono(original[utt], 16000)
            assert rate == 16000
            assert np.abs(arks.read_wav(spec) - np.clip(wav, -1, 32767 / 32768)).max() <= 0.5 / 32768 + 1e-7


def test_16_khz_input_is_unchanged_bit_for_bit(tmp_path):
    source = datadir.read_data_dir(make_set(tmp_path, LENGTHS, rate=16000))
    data = dump_all(source.path, tmp_path / "dump")
    for utt, wav in samples_of(data.noisy).items():
        np.testing.assert_array_equal(wav, soundfile.read(source.noisy[utt], dtype="int16")[0])


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_scaling_round_trip_is_exact(samples):
    wav = np.array(samples, dtype=np.int16)
    np.testing.assert_array_equal(arks.to_int16(arks.to_float(wav)), wav)


def test_full_scale_is_clipped_not_wrapped():
    np.testing.assert_array_equal(arks.to_int16([1.0, 2.0, -1.0, -7.0]), [32767, 32767, -32768, -32768])


@pytest.mark.parametrize("nj", [2, 3, 11])
def test_samples_do_not_depend_on_the_number_of_jobs(tmp_path, nj):
    source = make_set(tmp_path, LENGTHS)
    one, many = dump_all(source, tmp_path / "one"), dump_all(source, tmp_path / "many", nj=nj)
    for left, right in ((one.noisy, many.noisy), (one.clean, many.clean)):
        assert list(left) == list(right) == sorted(LENGTHS)
        for utt in left:
            np.testing.assert_array_equal(arks.read_int16(left[utt]), arks.read_int16(right[utt]))
    assert (tmp_path / "one/utt2num_samples").read_bytes() == (tmp_path / "many/utt2num_samples").read_bytes()


def test_tables_are_copied_and_counts_are_correct(tmp_path):
    source = datadir.read_data_dir(make_set(tmp_path, LENGTHS))
    data = dump_all(source.path, tmp_path / "dump", nj=2)
    assert (data.utt2spk, data.utt2noise, data.utt2snr) == (source.utt2spk, source.utt2noise, {})
    counts = datadir.read_table(tmp_path / "dump/utt2num_samples")
    assert {utt: int(count) for utt, count in counts.items()} == {u: len(w) for u, w in samples_of(data.clean).items()}


def test_old_arks_are_removed_when_there_are_fewer_jobs(tmp_path):
    source = make_set(tmp_path, LENGTHS)
    dump_all(source, tmp_path / "dump", nj=4)
    data = dump_all(source, tmp_path / "dump", nj=1)
    assert sorted(path.name for path in (tmp_path / "dump").glob("*.ark")) == ["spk1.1.ark", "wav.1.ark"]
    assert len(samples_of(data.noisy)) == len(LENGTHS)


def spoil_rate(path):
    wav, rate = soundfile.read(path)
    soundfile.write(path, wav, rate // 2)


def spoil_length(path):
    wav, rate = soundfile.read(path)
    soundfile.write(path, wav[:-1], rate)


def spoil_nan(path):
    soundfile.write(path, np.full(4800, np.nan), 48000, subtype="FLOAT")


FAULTS = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "no sound file": (lambda path: path.write_bytes(b"hello"), "not a readable sound file"),
    "empty": (lambda path: soundfile.write(path, np.zeros(0), 48000), "no samples"),
    "truncated": (lambda path: os.truncate(path, 5000), "truncated"),
    "stereo": (lambda path: soundfile.write(path, np.ones((4800, 2)), 48000), "2 channels"),
    "rate": (spoil_rate, "differ in rate"),
    "length": (spoil_length, "differ in length"),
    "NaN": (spoil_nan, "NaN"),
    "one sample": (lambda path: soundfile.write(path, np.ones(1), 48000), "differ in length"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["noisy", "clean"])
def test_a_bad_training_utterance_is_reported_and_skipped(tmp_path, kind, fault):
    source = make_set(tmp_path, LENGTHS)
    spoil, message = FAULTS[fault]
    spoil(tmp_path / kind / "p1_002.wav")
    lines = []
    dump.dump_set(source, tmp_path / "dump", log=lines.append)
    dump.join_shards(source, tmp_path / "dump", log=lines.append)
    data = datadir.validate_data_dir(tmp_path / "dump")
    assert sorted(LENGTHS.keys() - data.noisy.keys()) == ["p1_002"]
    assert lines[0].startswith("p1_002: ")
    assert message in lines[0]
    assert any("1 of 8 utterances skipped: p1_002" in line for line in lines)


def test_bad_test_utterances_are_an_error_after_all_were_tried(tmp_path):
    source, lines = make_set(tmp_path, LENGTHS), []
    (tmp_path / "noisy/p1_001.wav").unlink()
    spoil_length(tmp_path / "clean/p2_003.wav")
    with pytest.raises(
        InputError, match=r"2 bad utterances in the test set: p1_001 .*no such file.*; p2_003 .*differ in length"
    ):
        dump.dump_set(source, tmp_path / "dump", keep_all=True, log=lines.append)
    assert [line.split(":")[0] for line in lines] == ["p1_001", "p2_003"]
    with pytest.raises(InputError, match="shards 1 of 1"):
        dump.join_shards(source, tmp_path / "dump", keep_all=True)
    assert not (tmp_path / "dump/wav.scp").exists()


def test_a_test_set_rejects_shards_with_skipped_utterances(tmp_path):
    source = make_set(tmp_path, LENGTHS)
    dump.dump_set(source, tmp_path / "dump")
    with pytest.raises(InputError, match="of other input"):
        dump.join_shards(source, tmp_path / "dump", keep_all=True)


def spoil(kind, path):
    """Make a bad recording of a file: every kind that stage 2 finds."""
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "silent":
        soundfile.write(path, np.zeros(soundfile.info(path).frames), 48000)
    else:
        wav, rate = soundfile.read(path)
        soundfile.write(path, np.stack([wav, wav], axis=1), rate)


REASONS = {"missing": "no such file", "empty": "", "silent": "silent", "stereo": "has 2 channels"}


def test_bad_utterances_are_skipped_in_training_refused_in_test_sets_and_left_out_on_request(tmp_path):
    source = make_set(tmp_path, LENGTHS)
    bad = dict(zip(sorted(LENGTHS), REASONS))
    for utt, kind in bad.items():
        spoil(kind, tmp_path / f"clean/{utt}.wav")
    assert not set(dump_all(source, tmp_path / "tr").noisy) & set(bad)
    assert left_out.read(tmp_path / "tr") == {}, "only results of test sets are marked"
    with pytest.raises(InputError, match="4 bad utterances in the test set.*--skip-bad-test, which marks the results"):
        dump_all(source, tmp_path / "tt", keep_all=True)
    left_out.write(source, {"p0_999": "found in stage 1"})
    dump.dump_set(source, tmp_path / "tt", log=lambda line: None)
    dump.join_shards(source, tmp_path / "tt", log=lambda line: None, mark=True)
    missing = left_out.read(tmp_path / "tt")
    assert list(missing) == ["p0_999", *bad]
    for utt, kind in bad.items():
        assert REASONS[kind] in missing[utt]
    assert sorted(dump.read_source(tmp_path / "tt").utts) == sorted(set(LENGTHS) - set(bad))


def test_a_set_without_usable_utterances_is_an_error(tmp_path):
    source = make_set(tmp_path, {"p1_000": 4800})
    (tmp_path / "noisy/p1_000.wav").unlink()
    with pytest.raises(InputError, match="none of 1 utterances is usable"):
        dump_all(source, tmp_path / "dump")


def test_a_finished_shard_is_skipped_until_its_input_changes(tmp_path):
    source = make_set(tmp_path, LENGTHS)
    dump_all(source, tmp_path / "dump", nj=2)
    arks = [tmp_path / f"dump/wav.{job}.ark" for job in (1, 2)]
    before = [ark.stat().st_mtime_ns for ark in arks]
    dump_all(source, tmp_path / "dump", nj=2)
    assert [ark.stat().st_mtime_ns for ark in arks] == before
    path = tmp_path / "noisy/p2_003.wav"
    os.utime(path, ns=(0, 0))
    with pytest.raises(InputError, match="shards 2 of 2 are missing or of other input"):
        dump.join_shards(source, tmp_path / "dump", nj=2)
    dump_all(source, tmp_path / "dump", nj=2)
    assert [ark.stat().st_mtime_ns == old for ark, old in zip(arks, before)] == [True, False]


def test_tables_never_point_into_an_ark_being_replaced(tmp_path, monkeypatch):
    source = make_set(tmp_path, LENGTHS)
    dump_all(source, tmp_path / "dump")
    os.utime(tmp_path / "noisy/p1_000.wav", ns=(0, 0))

    def fill_the_disk(*args):
        assert not (tmp_path / "dump/wav.scp").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kaldiio, "save_ark", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        dump.dump_set(source, tmp_path / "dump")
    assert not list((tmp_path / "dump").glob(".*.partial*"))


def test_a_job_outside_the_range_is_rejected(tmp_path):
    source = make_set(tmp_path, LENGTHS)
    for job in (0, 3):
        with pytest.raises(InputError, match="--job"):
            dump.dump_set(source, tmp_path / "dump", nj=2, job=job)


@pytest.mark.parametrize("spec", ["x.wav", "x.ark:", "x.ark:-1", "nowhere.ark:5", "x.ark:²", f"x.ark:{10**30}", ":5"])
def test_invalid_ark_positions_are_rejected(spec):
    with pytest.raises(InputError):
        arks.read_wav(spec)


def test_a_stale_offset_and_a_truncated_ark_are_reported(tmp_path):
    data = dump_all(make_set(tmp_path, {"p1_000": 4800, "p1_001": 4800}), tmp_path / "dump")
    first, last = data.noisy.values()
    with pytest.raises(InputError, match="no sound starts at this offset"):
        arks.read_int16(first + "0")
    os.truncate(tmp_path / "dump/wav.1.ark", arks.read_entry(last).first_byte + 100)
    with pytest.raises(InputError, match="truncated: 50 of 1600"):
        arks.read_int16(last)


@pytest.mark.parametrize(
    ("place", "field", "words"),
    [
        (24, struct.pack("<I", 1), "has 1 Hz, must have 1000"),
        (24, struct.pack("<I", 2**32 - 1), "Hz, must have"),
        (40, struct.pack("<I", 2**32 - 2), "truncated: [0-9]* of 2147483647 samples"),
        (40, struct.pack("<I", 2**31), "truncated"),
        (16, struct.pack("<I", 2**32 - 16), "no sound starts"),
        (22, struct.pack("<H", 2), "not 16-bit mono"),
    ],
)
def test_an_ark_entry_that_declares_nonsense_is_refused(tmp_path, place, field, words):
    data = dump_all(make_set(tmp_path, {"p1_000": 4800, "p1_001": 4800}), tmp_path / "dump")
    path, _, offset = data.noisy["p1_000"].rpartition(":")
    with open(path, "r+b") as file:
        file.seek(int(offset) + place)
        file.write(field)
    with pytest.raises(InputError, match=words):
        arks.read_int16(data.noisy["p1_000"])


def run_dump(source, out, *options):
    command = [sys.executable, "-m", "sase.bin.main", "dump", "--data", str(source), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.recipe
def test_a_killed_dump_resumes_to_the_same_files(tmp_path):
    source = make_set(tmp_path, {f"p1_{i:03d}": 480000 for i in range(60)})
    out, expected = tmp_path / "dump/tr", tmp_path / "expected"
    for delay_s in (0.0, 0.02, 0.1):
        process = run_dump(source, out, "--nj", "3")
        deadline = time.monotonic() + 20
        while not list(out.glob(".*partial*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / "wav.scp").exists() or process.returncode == 0
    process = run_dump(source, out, "--nj", "3")
    assert process.wait() == 0, process.stderr.read()
    out.rename(tmp_path / "killed")
    assert run_dump(source, out, "--nj", "3").wait() == 0
    out.rename(expected)
    names = sorted(str(path.relative_to(expected)) for path in expected.rglob("*"))
    assert names == sorted(str(path.relative_to(tmp_path / "killed")) for path in (tmp_path / "killed").rglob("*"))
    for name in names:
        if (expected / name).is_file():
            assert (expected / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_the_command_reports_bad_input_in_one_line(tmp_path):
    process = run_dump(tmp_path / "none", tmp_path / "dump")
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert "no such data directory" in error


def test_one_writer_of_a_shard_and_of_the_tables_at_a_time(tmp_path):
    """Shards are dumped side by side; a lock that a killed process has left does not count."""
    data, out = make_set(tmp_path, LENGTHS), tmp_path / "dump"
    words = ("dump", "--data", data, "--out", out, "--nj", 2)
    out.mkdir()
    for name in ("lock", "lock.1", "lock.2"):
        (out / name).touch()
    with output_lock(out, job=1, within=0):
        assert sase(*words, "--job", 2).returncode == 0
        for further in (("--job", 1), ("--finish",), ()):
            done = sase(*words, *further)
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
            assert f"{out}: locked by another process that is running" in done.stderr
    assert not (out / "wav.1.ark").exists()
    assert sase(*words, "--job", 1).returncode == 0
    assert sase(*words, "--finish").returncode == 0
    assert list(datadir.validate_data_dir(out).utts) == sorted(LENGTHS)


def test_a_killed_writer_leaves_no_lock(tmp_path):
    data, out = make_set(tmp_path, LENGTHS), tmp_path / "dump"
    hold = "import sys, time; from sase.locking import output_lock\nwith output_lock(sys.argv[1], 1, 0):\n"
    command = [sys.executable, "-c", f"{hold} print(flush=True); time.sleep(60)", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert "locked" in sase("dump", "--data", data, "--out", out).stderr
        holder.kill()
    assert sase("dump", "--data", data, "--out", out).returncode == 0

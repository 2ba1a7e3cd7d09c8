"""Kaldi data directories: round trip, errors with file and line, and repair."""

import numpy as np
import pytest

from sase import audio
from sase.data import datadir
from sase.errors import InputError

UTTS = ("p001_001", "p001_002", "p002_001")


def write_example(path, **changes):
    tables = {
        "noisy": {utt: f"/noisy/{utt}.wav" for utt in UTTS},
        "clean": {utt: f"/clean/{utt}.wav" for utt in UTTS},
        "utt2spk": {utt: utt[:4] for utt in UTTS},
        "utt2noise": {"p001_001": "bus"},
        "utt2snr": {"p001_001": 17.5, "p002_001": 15.0},
    }
    return datadir.write_data_dir(path, datadir.Tables(**{**tables, **changes}))


def test_round_trip(tmp_path):
    written = write_example(tmp_path / "tr")
    assert datadir.validate_data_dir(tmp_path / "tr") == written
    assert written.utts == list(UTTS)
    assert len(written) == 3
    assert written.utt2snr == {"p001_001": 17.5, "p002_001": 15.0}
    assert written.spk2utt == {"p001": ["p001_001", "p001_002"], "p002": ["p002_001"]}
    assert (tmp_path / "tr/spk2utt").read_text() == "p001 p001_001 p001_002\np002 p002_001\n"
    assert (tmp_path / "tr/utt2snr").read_text() == "p001_001 17.5\np002_001 15\n"


def test_optional_tables_are_removed_when_no_longer_given(tmp_path):
    write_example(tmp_path)
    assert write_example(tmp_path, utt2noise={}, utt2snr={}).utt2noise == {}
    assert not (tmp_path / "utt2noise").exists()
    assert not (tmp_path / "utt2snr").exists()


def test_keys_are_sorted_by_bytes_and_values_may_contain_spaces(tmp_path):
    table = {"b": "1", "B": "two words", "a-1": "3", "a": "4", "ä": "5", "a_1": "6"}
    datadir.write_table(tmp_path / "t", table)
    keys = [line.split()[0] for line in (tmp_path / "t").read_text().splitlines()]
    assert keys == ["B", "a", "a-1", "a_1", "b", "ä"]
    assert datadir.read_table(tmp_path / "t") == table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b 1\na 2\n", ["t:2", "not sorted", "a after b"]),
        ("a 1\na 2\n", ["t:2", "duplicate key a"]),
        ("a 1\nb\n", ["t:2", "'key value'", "'b'"]),
        ("a 1\n\nb 1\n", ["t:2", "'key value'"]),
        ("a\t1\n", ["t:1", "'key value'"]),
        ("a 1\nb 2", ["no newline"]),
        ("a 1\r\n", ["Windows"]),
        (b"a \xff\xfe\n", ["UTF-8"]),
    ],
)
def test_a_bad_table_is_reported_with_its_line(tmp_path, text, expected):
    (tmp_path / "t").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        datadir.read_table(tmp_path / "t")
    assert all(word in str(error.value) for word in expected)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "a\n"])
def test_keys_that_cannot_be_read_back_are_rejected(tmp_path, key):
    with pytest.raises(InputError):
        datadir.write_table(tmp_path / "t", {key: "1"})
    assert list(tmp_path.iterdir()) == []


BAD_KEYS = [
    "../a",
    "/etc/a",
    "a/../../b",
    "a//b",
    "a/.",
    "..",
    "a\0b",
    "a\x1b[2Jb",
    "a\x9bb",
    "é" * 101,
    "a/" * 500 + "b",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_reaches_out_of_a_folder_enters_no_table(tmp_path, key):
    path = tmp_path / "t"
    with pytest.raises(InputError, match="cannot name a file") as error:
        datadir.write_table(path, {key: "1"})
    assert str(error.value).isprintable()
    assert not path.exists()
    path.write_text(f"{key} 1\n")
    with pytest.raises(InputError, match="t:1: the key .* cannot name a file") as error:
        datadir.read_table(path)
    assert str(error.value).isprintable()


def test_keys_with_folders_dots_and_other_scripts_are_kept(tmp_path):
    table = dict.fromkeys(("a/b", "a..b", ".a", "a.", "...", "p_übung", "语音_1", "x" * 200), "1")
    datadir.write_table(tmp_path / "t", table)
    assert datadir.read_table(tmp_path / "t") == table


def test_a_missing_folder_table_or_utterance_is_reported(tmp_path):
    with pytest.raises(InputError, match="no such data directory"):
        datadir.read_data_dir(tmp_path / "none")
    write_example(tmp_path)
    (tmp_path / "spk1.scp").write_text("p001_001 x\np002_001 y\n")
    with pytest.raises(InputError, match=r"spk1.scp: p001_002 is missing, it is in .*wav.scp"):
        datadir.read_data_dir(tmp_path)
    (tmp_path / "spk1.scp").unlink()
    with pytest.raises(InputError, match="spk1.scp: cannot be read"):
        datadir.read_data_dir(tmp_path)


def test_no_utterances_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no utterances"):
        datadir.write_data_dir(tmp_path, datadir.Tables({}, {}, {}))
    for name in datadir.REQUIRED:
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="has no utterances"):
        datadir.validate_data_dir(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("utt2spk", "p001_001 p001\np001_002 q001\np002_001 p002\n", "p001_002 does not start with"),
        ("spk2utt", "p001 p001_001\np002 p002_001\n", "p001 does not agree with utt2spk"),
        ("spk2utt", "p001 p001_001 p001_002\np002 p002_001\np003 p003_1\n", "p003 does not agree"),
        ("wav.scp", "p001_001 sox x.wav |\np001_002 b\np002_001 c\n", "p001_001: must be a plain path"),
        ("wav.scp", "p001_001 a\np001_002 ~/b\np002_001 c\n", "p001_002: must be a plain path"),
        ("utt2noise", "p009_001 bus\n", "p009_001 is not in"),
        ("utt2snr", "p001_001 loud\n", "number of dB"),
        ("utt2num_samples", "p001_001 16000\n", "utt2num_samples: p001_002 is missing"),
    ],
)
def test_inconsistent_tables_are_rejected(tmp_path, name, text, message):
    write_example(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        datadir.validate_data_dir(tmp_path)


def test_audio_is_checked_on_request(tmp_path):
    files = {}
    for kind, rate, length in (("a", 16000, 800), ("b", 16000, 801), ("c", 8000, 800)):
        files[kind] = str(tmp_path / f"{kind}.wav")
        audio.write(files[kind], np.zeros(length, np.float32), rate)
    faults = (files["b"], "801"), (files["c"], "8000 Hz"), ("/none.wav", "no such file"), (files["a"], "")
    for clean, message in faults:
        datadir.write_data_dir(tmp_path / "d", datadir.Tables({"p1_1": files["a"]}, {"p1_1": clean}, {"p1_1": "p1"}))
        datadir.validate_data_dir(tmp_path / "d")
        if message:
            with pytest.raises(InputError, match=message):
                datadir.validate_data_dir(tmp_path / "d", audio=True)
        else:
            assert len(datadir.validate_data_dir(tmp_path / "d", audio=True)) == 1


def test_fix_sorts_intersects_and_keeps_the_old_files(tmp_path):
    write_example(tmp_path)
    old = "p002_001 c\r\np001_001 a\np001_001 other\n\np001_002 b\np003_001 d"
    (tmp_path / "wav.scp").write_bytes(old.encode())
    (tmp_path / "spk1.scp").write_text("p001_001 a\np002_001 c\n")
    (tmp_path / "spk2utt").unlink()
    (tmp_path / "utt2noise").write_text("p001_001 bus\np009_001 car\n")
    assert datadir.fix_data_dir(tmp_path) == (2, 4)
    data = datadir.validate_data_dir(tmp_path)
    assert data.noisy == {"p001_001": "a", "p002_001": "c"}
    assert data.utt2noise == {"p001_001": "bus"}
    assert (tmp_path / ".backup/wav.scp").read_bytes() == old.encode()
    assert not (tmp_path / ".backup/spk1.scp").exists()
    assert datadir.fix_data_dir(tmp_path) == (2, 2)
    assert (tmp_path / ".backup/wav.scp").read_bytes() == old.encode()


def test_fix_never_writes_an_empty_directory(tmp_path):
    write_example(tmp_path)
    (tmp_path / "spk1.scp").write_text("q 1\n")
    before = (tmp_path / "wav.scp").read_bytes()
    with pytest.raises(InputError, match="no utterance is in all of"):
        datadir.fix_data_dir(tmp_path)
    assert (tmp_path / "wav.scp").read_bytes() == before


def test_subset(tmp_path):
    write_example(tmp_path / "a")
    part = datadir.subset_data_dir(tmp_path / "a", tmp_path / "b", ["p002_001", "p001_001"])
    assert part.utts == ["p001_001", "p002_001"]
    assert part.utt2noise == {"p001_001": "bus"}
    assert datadir.validate_data_dir(tmp_path / "b") == part
    with pytest.raises(InputError, match="no utterance p9"):
        datadir.subset_data_dir(tmp_path / "a", tmp_path / "c", ["p9"])


@pytest.mark.parametrize(("count", "nj"), [(10, 3), (3, 5), (7, 1), (100, 7)])
def test_shards_concatenate_to_the_whole_set(count, nj):
    keys = [f"{i:04d}" for i in range(count)]
    shards = [datadir.shard(reversed(keys), nj, job) for job in range(1, nj + 1)]
    assert [key for shard in shards for key in shard] == keys
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for job in (0, nj + 1):
        with pytest.raises(InputError, match="--job"):
            datadir.shard(keys, nj, job)


@pytest.mark.recipe
def test_a_hundred_thousand_utterances(tmp_path):
    utts = [f"p{i % 5000:04d}_{i:06d}" for i in range(100_000)]
    tables = [{utt: f"/corpus/{kind}/{utt}.wav" for utt in utts} for kind in ("noisy", "clean")]
    utt2spk, utt2noise = {utt: utt[:5] for utt in utts}, dict.fromkeys(utts, "bus")
    datadir.write_data_dir(tmp_path, datadir.Tables(*tables, utt2spk, utt2noise))
    assert len(datadir.validate_data_dir(tmp_path)) == 100_000
    assert datadir.fix_data_dir(tmp_path) == (100_000, 100_000)

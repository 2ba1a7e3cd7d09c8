"""Folders of noises: sound files and .mat files under their usual names, other folders, and what does not fit."""

import resource
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import soundfile

from sase import audio
from sase.data.corpora import matfile, noisex92
from sase.errors import InputError

RATE = 16000


def write(path, wav, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate)


def tone(hertz, duration_s=2.5, rate=RATE):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(duration_s * rate)) / rate)


def test_names_lengths_and_centroids(tmp_path):
    write(tmp_path / "noise/Volvo.wav", tone(100))
    write(tmp_path / "noise/white.flac", tone(6000, 3.0))
    write(tmp_path / "noise/.hidden.wav", tone(1))
    noises = noisex92.prepare(tmp_path / "noise", tmp_path / "wav")
    assert [(noise.name, noise.duration_s) for noise in noises] == [("volvo", 2.5), ("white", 3.0)]
    assert [noise.centroid_hz for noise in noises] == pytest.approx([100, 6000], rel=0.01)
    assert not (tmp_path / "wav").exists()


def test_a_mat_file_becomes_a_wav_of_19980_hz(tmp_path):
    wav = np.random.default_rng(0).integers(-20000, 20000, 3 * 19980).astype(np.int16)
    (tmp_path / "noise").mkdir()
    scipy.io.savemat(tmp_path / "noise/babble.mat", {"babble": wav[:, None], "n": 3})
    (noise,) = noisex92.prepare(tmp_path / "noise", tmp_path / "wav")
    assert noise.name == "babble"
    assert noise.path == str(tmp_path / "wav/babble.wav")
    assert noise.duration_s == 3.0
    read, rate = audio.read_mono(noise.path)
    assert rate == 19980
    assert np.abs(read - 0.9 * wav / np.abs(wav.astype(float)).max()).max() < 1e-4
    write(tmp_path / "noise/babble.wav", tone(500))  # the same noise, and one that tells its rate
    assert noisex92.prepare(tmp_path / "noise", tmp_path / "wav")[0].duration_s == 2.5


def test_equal_names_in_several_folders_are_distinguished_by_them(tmp_path):
    for name in ("kitchen/ch 01.wav", "street/ch 01.wav", "street/bus.wav"):
        write(tmp_path / name, tone(300))
    assert [n.name for n in noisex92.prepare(tmp_path, tmp_path / "x")] == ["bus", "kitchen_ch_01", "street_ch_01"]


def test_the_noises_of_a_folder_are_listed(tmp_path, capsys):
    for name in ("babble", "white", "ours"):
        write(tmp_path / f"{name}.wav", tone(300))
    noisex92.download(tmp_path)
    line = capsys.readouterr().out
    assert "3 noises, 2 of the 15 of NOISEX-92; missing: buccaneer1" in line
    assert line.count("\n") == 1
    (tmp_path / "babble.wav").unlink()
    (tmp_path / "white.wav").unlink()
    noisex92.download(tmp_path)
    assert "not there" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, make, message",
    [
        (
            "a.wav",
            lambda path: soundfile.write(path, tone(100, 1.0), RATE),
            "only 1.00 s long; a noise needs at least 2 s",
        ),
        ("a.wav", lambda path: soundfile.write(path, np.zeros(5 * RATE), RATE), "a.wav: is silent"),
        ("a.wav", lambda path: path.write_bytes(b"RIFF"), "a.wav: not a readable sound file"),
        ("a.mat", lambda path: path.write_bytes(b"nothing of the kind"), "a.mat: not a readable .mat file"),
        ("a.mat", lambda path: scipy.io.savemat(path, {"x": np.zeros((3, 3))}), "contains no vector of numbers"),
        ("a.mat", lambda path: scipy.io.savemat(path, {"x": np.full(9, np.nan)}), "contains NaN"),
        ("a.txt", lambda path: path.write_text("x"), "contains no sound files .* no official download"),
    ],
)
def test_a_noise_that_does_not_fit_is_named(tmp_path, name, make, message):
    (tmp_path / "noise").mkdir()
    make(tmp_path / "noise" / name)
    with pytest.raises(InputError, match=message):
        noisex92.prepare(tmp_path / "noise", tmp_path / "wav")


def mat_of_version_4(count):
    """A file that declares a vector of doubles and holds one."""
    return struct.pack("<5i", 0, count, 1, 0, 2) + b"x\0" + struct.pack("<d", 1.0)


def mat_with_packed(num_bytes, shape):
    """A file of version 5 whose packed variable x of 16-bit numbers has so many zero bytes."""
    flags = struct.pack("<IIII", 6, 8, 10, 0) + struct.pack("<II", 5, 8) + struct.pack("<ii", *shape)
    head = flags + struct.pack("<HHI", 1, 1, ord("x")) + struct.pack("<II", 3, num_bytes)
    packer = zlib.compressobj(6)
    data = packer.compress(struct.pack("<II", 14, len(head) + num_bytes) + head)
    for _ in range(num_bytes // (1 << 20)):
        data += packer.compress(bytes(1 << 20))
    data += packer.flush()
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mat_of_version_4(1 << 30), "declares 1073741824 numbers"),
        (lambda: mat_of_version_4(100000), "not a readable .mat file"),
        pytest.param(
            lambda: mat_with_packed(272 << 20, (136 << 20, 1)), "holds more than 256 MB", marks=pytest.mark.recipe
        ),
        (lambda: mat_with_packed(1 << 20, (1 << 30, 1)), "declares 1073741824 numbers"),
        (lambda: mat_with_packed(1 << 20, (1 << 20, 1)), "not a readable .mat file"),
        (lambda: mat_with_packed(1 << 20, (1 << 19, 1))[:-9], "truncated"),
    ],
    ids=["version 4", "version 4 torn", "packed", "packed shape", "other shape", "torn"],
)
def test_a_mat_file_takes_no_more_memory_than_it_should(tmp_path, make, words):
    content = make()
    (tmp_path / "a.mat").write_bytes(content)
    assert len(content) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=words) as error:
        matfile._longest_vector(tmp_path / "a.mat")  # in this process, whose memory is measured
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("kind", [0, 25, 1 << 20])
def test_a_mat_file_that_ends_its_reader_is_one_line(tmp_path, kind):
    """Types of elements that do not exist: scipy reads behind its table of them, and may crash."""
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.arange(900.0)})
    content = (tmp_path / "a.mat").read_bytes()
    place = content.index(struct.pack("<HHI", 1, 1, ord("x"))) + 8  # behind the name: the type of the numbers
    (tmp_path / "a.mat").write_bytes(content[:place] + struct.pack("<I", kind) + content[place + 4 :])
    with pytest.raises(InputError, match="not a readable .mat file") as error:
        matfile.longest_vector(tmp_path / "a.mat")
    assert "\n" not in str(error.value)


def test_the_longest_vector_is_read(tmp_path):
    for options in ({}, {"do_compression": True}, {"format": "4"}):
        content = {"m": np.ones((3, 3)), "s": 2.0, "a": np.arange(5.0), "b": np.arange(9.0)[:, None]}
        scipy.io.savemat(tmp_path / "a.mat", content, **options)
        np.testing.assert_array_equal(matfile.longest_vector(tmp_path / "a.mat"), np.arange(9.0))


def test_a_missing_folder_says_how_to_get_the_corpus(tmp_path):
    with pytest.raises(InputError, match="no such folder.*no official download.*any other folder"):
        noisex92.download(tmp_path / "none")


def test_the_real_noises(real_audio, tmp_path):
    noises = {noise.name: noise for noise in noisex92.prepare(real_audio / "noisex92", tmp_path)}
    assert len(noises) == 9
    assert set(noises) <= set(noisex92.NAMES)
    assert noises["volvo"].centroid_hz < noises["babble"].centroid_hz < noises["white"].centroid_hz

"""Lengths are measured: every container is read to its end or refused, never read in part; and in bounded memory."""

import io
import itertools
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from helpers.audio import noise
from sase import audio
from sase.errors import InputError

RATE = 16000
KINDS = {  # name: libsndfile's format and subtype
    "a.wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "wide.wav": ("WAVEX", "PCM_24"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "a.rf64": ("RF64", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.aiff": ("AIFF", "PCM_16"),
    "a.au": ("AU", "PCM_16"),
    "ulaw.au": ("AU", "ULAW"),
    "a.caf": ("CAF", "PCM_16"),
    "a.svx": ("SVX", "PCM_16"),
    "a.sph": ("NIST", "PCM_16"),
    "a.flac": ("FLAC", "PCM_16"),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
}


def encoded(name, wav=None, rate=RATE):
    """The bytes of a sound file of a kind."""
    kind, subtype = KINDS[name]
    buffer = io.BytesIO()
    wav = noise(9000) if wav is None else wav
    with soundfile.SoundFile(buffer, "w", rate, wav.ndim, subtype, format=kind) as file:
        for start in range(0, len(wav), 4000):
            file.write(wav[start : start + 4000])
    return bytearray(buffer.getvalue())


def reading(path, content):
    """All samples of a file, as one array and in blocks, both (channels, time)."""
    path.write_bytes(content)
    wav, _ = audio.read(path)
    with audio.open_blocks(path, 0.05) as (info, blocks):
        joined = np.concatenate(list(blocks), axis=1)
    np.testing.assert_array_equal(joined, wav)
    assert info.num_samples == audio.info(path).num_samples
    assert abs(info.num_samples - wav.shape[1]) < 2304 if path.suffix == ".mp3" else info.num_samples == wav.shape[1]
    return wav


def refused(path, content, words=None):
    path.write_bytes(content)
    for read in (audio.read, lambda path: list(drained(path))):
        with pytest.raises(InputError, match=words) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def drained(path):
    with audio.open_blocks(path, 0.05) as (_, blocks):
        yield from blocks


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_is_read_as_libsndfile_reads_it_and_a_cut_one_is_refused(tmp_path, name):
    content, path = encoded(name), tmp_path / name
    expected = soundfile.SoundFile(io.BytesIO(content)).read(dtype="float32", always_2d=True)
    np.testing.assert_array_equal(reading(path, content), expected.T)
    for cut in [1, 2, 3, 5, *range(7, len(content) - 1, max(1, len(content) // 60))]:
        path.write_bytes(content[:-cut])
        try:
            wav = audio.read(path)[0]
        except InputError:
            continue
        # Nothing but padding or the end of a tag was lost.
        np.testing.assert_array_equal(wav, expected.T, err_msg=f"without its last {cut} bytes")


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus", "a.mp3"])
def test_a_hole_in_the_middle_is_refused(tmp_path, name):
    content = encoded(name, noise(200000))
    for begin in range(len(content) // 3, len(content), len(content) // 7):
        refused(tmp_path / name, content[:begin] + content[begin + 1500 :])


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus"])
def test_damaged_bytes_are_refused(tmp_path, name):
    content = encoded(name, noise(60000))
    for place in range(len(content) // 4, len(content), len(content) // 5):
        refused(tmp_path / name, content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])


def at(content, place, value):
    return content[:place] + value + content[place + len(value) :]


FIELDS = {  # where the length is declared: mark, bytes behind it, format of the number, what it includes
    "a.wav": (b"data", 4, "<I", 0),
    "a.aiff": (b"SSND", 4, ">I", 8),
    "a.svx": (b"BODY", 4, ">I", 0),
    "a.au": (b".snd", 8, ">I", 0),
    "a.rf64": (b"ds64", 16, "<Q", 0),
    "a.w64": (b"data", 16, "<Q", 24),
    "a.caf": (b"data", 4, ">Q", 4),
}
OPEN = [("a.wav", 0), ("a.wav", 0x7FFFF000), ("a.wav", 0x7FFFFF00), ("a.wav", 0x7FFFFFFF), ("a.wav", 0x80000000)]
OPEN += [("a.wav", 0xFFFFFFFF), ("a.wav", 0xFFFFFFFF - 36), ("a.aiff", 0), ("a.aiff", 8), ("a.aiff", 0x7F000008)]
OPEN += [("a.au", 0), ("a.au", 0xFFFFFFFF), ("a.au", 0x7FFFF000), ("a.rf64", 0), ("a.rf64", (1 << 64) - 1)]
OPEN += [("a.w64", 0), ("a.w64", (1 << 63) - 1), ("a.caf", (1 << 64) - 1), ("a.svx", 0), ("a.svx", 0xFFFFFFFF)]


@pytest.mark.parametrize(("name", "length"), OPEN)
def test_a_file_from_a_pipe_of_unknown_length_is_read_to_its_end(tmp_path, name, length):
    mark, offset, kind, _ = FIELDS[name]
    content = encoded(name)
    content = at(content, content.rindex(mark) + offset, struct.pack(kind, length))
    np.testing.assert_allclose(reading(tmp_path / name, content)[0], noise(9000), atol=2 / 32768)
    refused(tmp_path / name, content[:-1], "ends within a sample")


@pytest.mark.parametrize("name", FIELDS)
def test_a_header_that_declares_another_length_is_refused(tmp_path, name):
    mark, offset, kind, extra = FIELDS[name]
    content = encoded(name)
    for declared, words in ((1000, "declares 1000 bytes of audio, but 17000 more"), (18002, "truncated: 2 of 18002")):
        lie = at(content, content.rindex(mark) + offset, struct.pack(kind, declared + extra))
        refused(tmp_path / name, lie, words)


def test_nist_counts_samples(tmp_path):
    content = bytes(encoded("a.sph"))
    lie = content.replace(b"sample_count -i 9000", b"sample_count -i 9001")
    refused(tmp_path / "a.sph", lie, "truncated: 2 of 18002")
    lie = content.replace(b"sample_count -i 9000", b"sample_count -i 100 ")
    refused(tmp_path / "a.sph", lie, "declares 200 bytes")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.w64", "a.rf64"])
def test_chunks_and_padding_behind_the_sound_are_no_sound(tmp_path, name):
    content = encoded(name)
    expected = reading(tmp_path / name, content)
    chunk = b"LIST" + struct.pack(">I" if name == "a.aiff" else "<I", 6000) + bytes(range(250)) * 24
    if name == "a.w64":
        chunk = b"LIST" + bytes(12) + struct.pack("<Q", 6024) + bytes(range(250)) * 24
    for rest in (chunk, chunk + chunk, b"TAG" + bytes(125), bytes(512)):
        np.testing.assert_array_equal(reading(tmp_path / name, content + rest), expected)
    refused(tmp_path / name, content + encoded(name)[100:], "more follow")


@pytest.mark.parametrize("name", FIELDS)
def test_a_byte_missing_from_the_header_does_not_shorten_the_sound(tmp_path, name):
    """Without a byte of its length, a file declares up to 255 bytes less, no more than a tag may have."""
    mark, _, _, _ = FIELDS[name]
    content = encoded(name)
    expected = reading(tmp_path / name, content)
    for place in range(content.rindex(mark) + len(mark) + 16):
        path = tmp_path / name
        path.write_bytes(content[:place] + content[place + 1 :])
        try:
            wav = audio.read(path)[0]
        except InputError:
            continue
        np.testing.assert_array_equal(wav, expected, err_msg=f"without byte {place}")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
@pytest.mark.parametrize("length", [33, 57, 90, 125])
def test_a_chunk_behind_an_odd_number_of_bytes_may_follow_without_padding(tmp_path, name, length):
    """The chunk's length is then read as a letter of its name, if taken for padded."""
    sound = soundfile.SoundFile(io.BytesIO(encoded(name))).read(dtype="float32")[:999]
    order, kind, sound_name = (">", "FORM", b"SSND") if name == "a.aiff" else ("<", "RIFF", b"data")
    file = io.BytesIO()
    soundfile.write(file, sound, 16000, subtype="PCM_S8" if name == "a.aiff" else "PCM_U8", format=name[2:].upper())
    content = file.getvalue()
    begin = content.rindex(sound_name)
    size = 999 + (8 if name == "a.aiff" else 0)
    content = at(content, begin + 4, struct.pack(order + "I", size))[: begin + 8 + size]
    chunk = b"LIST" + struct.pack(order + "I", length) + bytes(range(1, 1 + length))
    for padding in (b"", b"\0"):
        whole = content + padding + chunk
        whole = kind.encode() + struct.pack(order + "I", len(whole) - 8) + whole[8:]
        np.testing.assert_allclose(reading(tmp_path / name, whole)[0], sound, atol=1 / 128)


def with_total(content, total):
    """A FLAC file that declares another number of samples."""
    fields = int.from_bytes(content[18:26], "big")
    return at(content, 18, ((fields >> 36 << 36) | total).to_bytes(8, "big"))


def test_flac_is_measured_by_its_last_frame(tmp_path):
    content = encoded("a.flac")
    for declared in (0, 1000, 8999):
        np.testing.assert_allclose(
            reading(tmp_path / "a.flac", with_total(content, declared))[0], noise(9000), atol=1 / 32768
        )
        refused(tmp_path / "a.flac", with_total(content, declared)[:-1])
    for declared in (9001, (1 << 36) - 1):
        refused(tmp_path / "a.flac", with_total(content, declared), f"ends at sample 9000, .* declares {declared}")


def test_tags_and_padding_behind_flac_are_no_sound(tmp_path):
    content = encoded("a.flac")
    expected = reading(tmp_path / "a.flac", content)
    for rest in (b"TAG" + bytes(125), b"APETAGEX" + bytes(3000), bytes(5000)):
        for declared in (9000, 0):
            np.testing.assert_array_equal(reading(tmp_path / "a.flac", with_total(content, declared) + rest), expected)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus", "a.mp3", "a.wav", "a.aiff", "a.au", "a.rf64", "a.w64"])
def test_the_length_of_a_cut_file_is_not_reported(tmp_path, name):
    for cut in (1, 3, 500):
        (tmp_path / name).write_bytes(encoded(name, noise(40000))[:-cut])
        with pytest.raises(InputError, match="truncated"):
            audio.info(tmp_path / name)


def frames_of(content):
    """The positions of the MPEG frames of a file of version 1 or 2, layer III, by the table of ISO 11172-3."""
    positions, place = [], 0
    while place + 4 <= len(content):
        version1, index, padding = content[place + 1] & 8, content[place + 2] >> 4, content[place + 2] >> 1 & 1
        kbits = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
        kbits = kbits if version1 else (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
        rate = ((44100, 48000, 32000) if version1 else (22050, 24000, 16000))[content[place + 2] >> 2 & 3]
        positions.append(place)
        place += (144000 if version1 else 72000) * kbits[index - 1] // rate + padding
    assert place == len(content)
    return positions


@pytest.mark.parametrize("rate", [16000, 48000])
def test_an_mp3_without_a_count_is_read_to_its_end(tmp_path, rate):
    tone = np.sin(0.1 * np.arange(6 * rate)) * np.repeat([0.3, 0.0, 0.1], 2 * rate)
    wav = (tone + np.repeat([1.0, 0.0, 0.0], 2 * rate) * noise(6 * rate)).astype(np.float32)
    content = encoded("a.mp3", wav, rate)
    positions = frames_of(content)
    bare = content[positions[1] :]  # without the frame that counts the others
    estimate = soundfile.info(io.BytesIO(bare)).frames
    assert estimate < 0.8 * len(wav)  # what libsndfile alone would read
    read = reading(tmp_path / "a.mp3", bare)
    assert read.shape[1] == (len(positions) - 1) * (576 if rate == 16000 else 1152)
    delay = read.shape[1] - len(wav)
    lag = int(np.argmax(np.correlate(read[0, : 4000 + delay], wav[:4000], "valid")))
    difference = read[0, lag : lag + len(wav)] - wav
    assert np.abs(difference).mean() < 0.02
    refused(tmp_path / "a.mp3", bare[:-1], "truncated")
    refused(tmp_path / "a.mp3", content[: positions[len(positions) // 2]], "truncated: .* MPEG frames")
    refused(tmp_path / "a.mp3", content + content, "declares .* MPEG frames and holds")
    middle = frames_of(bare)[50]
    refused(tmp_path / "a.mp3", bare[:middle] + bytes(700) + bare[middle:], "no MPEG frame at byte")


def test_an_mp3_without_one_of_its_frames_is_refused(tmp_path):
    """Also where the number of frames could include the one that declares it: then the number of bytes decides."""
    content = encoded("a.mp3")
    positions = frames_of(content)
    tag = content.index(b"Xing") if b"Xing" in content else content.index(b"Info")
    frames = int.from_bytes(content[tag + 8 : tag + 12], "big")
    assert frames == len(positions) - 1
    counts_itself = content[: tag + 8] + (frames + 1).to_bytes(4, "big") + content[tag + 12 :]
    expected = reading(tmp_path / "a.mp3", content)
    np.testing.assert_array_equal(reading(tmp_path / "a.mp3", counts_itself)[:, : expected.shape[1]], expected)
    for begin, end in [*itertools.pairwise(positions[1:]), (positions[-1], len(content))]:
        refused(tmp_path / "a.mp3", content[:begin] + content[end:], "truncated: .* MPEG frames")
    refused(tmp_path / "a.mp3", content[: tag + 12] + content[tag + 12 + positions[1] :], "truncated: .* MPEG frames")


def test_tags_around_an_mp3_are_no_sound(tmp_path):
    bare = encoded("a.mp3")
    bare = bare[frames_of(bare)[1] :]
    expected = reading(tmp_path / "a.mp3", bare)
    id3 = b"ID3\x04\x00\x00" + bytes([0, 1, 0, 0]) + bytes(1 << 14)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)
    np.testing.assert_array_equal(reading(tmp_path / "a.mp3", id3 + bare), expected)
    np.testing.assert_array_equal(reading(tmp_path / "a.mp3", id3 + bare + ape + b"TAG" + bytes(125)), expected)


@pytest.mark.parametrize("name", ["a.ogg", "a.opus"])
def test_joined_ogg_streams_are_refused(tmp_path, name):
    both = encoded(name) + encoded(name)
    refused(tmp_path / name, both, "several Ogg streams")
    refused(tmp_path / name, both[:-2000], "truncated or damaged")  # before ffmpeg is asked, which would not notice
    refused(tmp_path / name, both[:-4000] + both[-3000:], "damaged")


@pytest.mark.parametrize("num_samples", [300, 9000])
@pytest.mark.parametrize("name", ["a.wav", "a.rf64", "a.aiff", "a.w64", "a.caf", "a.au", "a.flac"])
def test_a_second_file_behind_the_first_is_refused(tmp_path, name, num_samples):
    content = encoded(name, noise(num_samples))
    refused(tmp_path / name, content + content, "more follow|several FLAC files")
    refused(tmp_path / name, content + encoded(name, noise(2 * num_samples)), "more follow|several FLAC files")


@pytest.mark.parametrize("kind", ["AVR", "VOC", "MAT5", "PAF", "XI", "MPC2K", "CAF/ALAC_16"])
def test_containers_whose_end_cannot_be_checked_are_refused(tmp_path, kind):
    kind, _, subtype = kind.partition("/")
    soundfile.write(tmp_path / "a.bin", noise(9000), RATE, subtype or None, format=kind)
    refused(tmp_path / "a.bin", (tmp_path / "a.bin").read_bytes(), "cannot be checked; convert it to WAV or FLAC")


@pytest.mark.parametrize("rate", [1, 999, 768001, 2**31 - 1])
def test_rates_beyond_the_limits_are_refused(tmp_path, rate):
    content = encoded("a.wav")
    place = content.index(b"fmt ") + 12
    refused(tmp_path / "a.wav", at(content, place, struct.pack("<I", rate)), "Hz")
    with pytest.raises(InputError, match="must have 1000 to 768000 Hz"):
        audio.check_limits("x", rate)


def test_the_limits_themselves_are_read(tmp_path):
    for rate, channels in ((1000, 1), (768000, 1), (16000, 64)):
        soundfile.write(tmp_path / "a.wav", noise(100, channels), rate)
        assert audio.read(tmp_path / "a.wav")[0].shape == (channels, 100)
    soundfile.write(tmp_path / "a.wav", noise(100, 65), 16000)
    with pytest.raises(InputError, match="has 65 channels, must have 1 to 64"):
        audio.read(tmp_path / "a.wav")


def test_names_that_no_file_can_have(tmp_path):
    for name in ("a" * 300 + ".wav", "a\0b.wav"):
        with pytest.raises(InputError) as error:
            audio.info(tmp_path / name)
        assert "\n" not in str(error.value)


LIMITED = """
import resource, sys
from sase import audio
from sase.errors import InputError
audio.resample([0.0] * 1000, 48000, 16000)  # loads what it needs
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20), used + (400 << 20)))
for path in sys.argv[1:]:
    for read in (audio.read, lambda path: audio.read_mono(path, 48000), audio.info):
        try:
            read(path)
        except InputError as error:
            assert "\\n" not in str(error)
            print(str(error).replace(path, "FILE"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space")
def test_memory_follows_what_is_there_and_not_what_a_header_says(tmp_path, root):
    wav = encoded("a.wav", noise(128000))
    files = {
        "slow.wav": at(wav, wav.index(b"fmt ") + 12, struct.pack("<I", 1)),
        "long.flac": with_total(encoded("a.flac"), (1 << 36) - 1),
        "long.au": at(encoded("a.au"), 8, struct.pack(">I", 0xFFFFFF00)),
        "long.sph": bytes(encoded("a.sph")).replace(b"sample_count -i 9000", b"sample_count -i 9" + 16 * b"0"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *(str(tmp_path / name) for name in files)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) >= 9
    assert re.search("has 1 Hz", lines[0])

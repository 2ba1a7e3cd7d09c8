"""``sase enhance`` as people expect it: what it takes, what it writes, and what it says."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from helpers import programs
from helpers.audio import noise
from sase import Enhancer, audio, enhancing, filetree, progress
from sase.bin.main import main


@pytest.fixture
def enhance(monkeypatch, capfd, model, tmp_path):
    """``enhance(*words)`` runs ``sase enhance words`` in ``tmp_path``; returns exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sase", "enhance", *map(str, words), "--model", str(model)])
        with pytest.raises(SystemExit) as end:
            main()
        status, printed = end.value.code, capfd.readouterr()
        if isinstance(status, str):
            return 1, printed.out, printed.err + status + "\n"
        return status or 0, printed.out, printed.err

    return call


def ffmpeg(*words):
    (program,) = programs.find("ffmpeg")
    subprocess.run([program, "-nostdin", "-v", "error", *map(str, words)], check=True)


KINDS = [
    ("a.wav", "WAV", "PCM_16", 1),
    ("a.wav", "WAV", "PCM_24", 2),
    ("a.wav", "WAV", "FLOAT", 2),
    ("a.wav", "WAVEX", "PCM_16", 6),
    ("a.wav", "RF64", "PCM_24", 2),
    ("a.wav", "WAV", "ULAW", 1),
    ("a.flac", "FLAC", "PCM_24", 2),
    ("a.ogg", "OGG", "VORBIS", 2),
    ("a.opus", "OGG", "OPUS", 1),
    ("a.mp3", "MP3", "MPEG_LAYER_III", 2),
    ("a.aiff", "AIFF", "PCM_24", 1),
    ("a.au", "AU", "PCM_16", 1),
    ("a.caf", "CAF", "FLOAT", 3),
    ("a.w64", "W64", "PCM_32", 1),
]


@pytest.mark.parametrize(("name", "container", "subtype", "channels"), KINDS)
def test_the_kind_of_a_file_stays(tmp_path, enhance, name, container, subtype, channels):
    with soundfile.SoundFile(tmp_path / name, "w", 48000, channels, subtype, format=container) as file:
        file.write(noise(24000, channels))
    assert enhance(name, "-o", "out/")[0] == 0
    written = soundfile.info(tmp_path / "out" / name)
    assert (written.format, written.subtype) == (container, subtype)
    assert (written.samplerate, written.channels, written.frames) == (48000, channels, 24000)


def test_tags_and_the_channel_layout_stay(tmp_path, enhance):
    kind = audio.Kind("WAVEX", "PCM_24", layout=(2, 3, 4, 11), tags={"title": "Rain", "artist": "Ä", "date": "2020"})
    with audio.open_writer(tmp_path / "a.wav", 16000, 4, kind) as put:
        put(noise(4, 1000))
    assert enhance("a.wav", "-o", "b.wav")[0] == 0
    for name in ("a.wav", "b.wav"):
        with audio.open_any(tmp_path / name) as sound:
            assert sound.kind == kind
    for name in ("c.flac", "c.mp3"):
        with soundfile.SoundFile(tmp_path / name, "w", 16000, 1) as file:
            file.title = "Rain"
            file.write(noise(16000))
        assert enhance(name, "-o", "out/")[0] == 0
        assert soundfile.SoundFile(tmp_path / "out" / name).title == "Rain"


def test_format_and_subtype_change_what_is_written(tmp_path, enhance):
    audio.write(tmp_path / "in/a.wav", noise(4000), 16000)
    audio.write(tmp_path / "in/b.mp3", noise(4000), 16000)
    assert enhance("in", "-o", "out", "--format", "flac", "--subtype", "pcm_24")[0] == 0
    assert {path.name: soundfile.info(path).subtype for path in (tmp_path / "out").iterdir()} == {
        "a.flac": "PCM_24",
        "b.flac": "PCM_24",
    }
    status, _, err = enhance("in/a.wav", "-o", "c.flac", "--subtype", "FLOAT")
    assert status == 1
    assert "FLAC has no sample format FLOAT; use one of PCM_S8 PCM_16 PCM_24" in err
    status, _, err = enhance("in/a.wav", "-o", "c.flac", "--format", "wav")
    assert "c.flac: its extension is not that of wav" in err
    assert enhance("in/a.wav", "-o", "f.wav", "--subtype", "FLOAT")[0] == 0
    assert enhance("f.wav", "-o", "f.flac")[0] == 0
    assert soundfile.info(tmp_path / "f.flac").subtype == "PCM_24"  # the nearest


@pytest.mark.recipe
def test_what_only_ffmpeg_reads_becomes_wav_and_that_is_said(tmp_path, enhance, caplog):
    audio.write(tmp_path / "tone.wav", 0.1 * np.sin(np.arange(96000) * 0.05), 48000)
    (tmp_path / "in").mkdir()
    ffmpeg("-i", tmp_path / "tone.wav", "-metadata", "title=Rain", tmp_path / "in/a: b.m4a")
    video = ("-f", "lavfi", "-i", "color=s=32x32:d=2", "-i", tmp_path / "tone.wav")
    ffmpeg(*video, "-c:v", "mpeg4", "-c:a", "aac", tmp_path / "in/v.mp4")
    ffmpeg(*video, "-c:v", "mpeg4", "-c:a", "mp3", tmp_path / "in/v.mkv")
    ffmpeg("-i", tmp_path / "tone.wav", "-c:a", "alac", "-sample_fmt", "s32p", tmp_path / "in/lossless.m4a")
    status, _, err = enhance("in", "-o", "out")
    assert status == 0, err
    assert "4 files become WAV, since their kind cannot be written (.m4a .mkv .mp4)" in err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a: b.wav", "lossless.wav", "v.mp4.wav", "v.wav"]
    for path in (tmp_path / "out").iterdir():
        written = soundfile.info(path)
        assert (written.samplerate, written.channels) == (48000, 1)
        assert abs(written.frames - 96000) < 4096
    assert soundfile.info(tmp_path / "out/lossless.wav").subtype == "PCM_24"
    assert soundfile.SoundFile(tmp_path / "out/a: b.wav").title == "Rain"
    for name in ("a: b.m4a", "v.mkv"):
        content = (tmp_path / "in" / name).read_bytes()
        (tmp_path / "cut").write_bytes(content[: len(content) * 2 // 3])
        status, _, err = enhance("cut", "-o", "cut.wav")
        assert status == 1
        assert err.count("\n") == 1
        assert "cut: " in err
        assert not (tmp_path / "cut.wav").exists()
    assert enhance("cut", "-o", "cut.wav", "--salvage")[0] == 0
    assert "s salvaged (truncated: " in caplog.text
    assert 32000 < audio.info(tmp_path / "cut.wav").num_samples < 90000
    ffmpeg("-f", "lavfi", "-i", "color=s=32x32:d=1", "-c:v", "mpeg4", tmp_path / "silent.mp4")
    assert "there is no sound track" in enhance("silent.mp4", "-o", "x.wav")[2]


@pytest.mark.recipe
def test_what_ffmpeg_cannot_decode_is_an_error(tmp_path, enhance, caplog):
    """It leaves such packets out, and ends with status 0."""
    audio.write(tmp_path / "tone.wav", 0.1 * np.sin(np.arange(64000) * 0.05) + 0.05 * noise(64000), 16000)
    ffmpeg("-i", tmp_path / "tone.wav", tmp_path / "a.m4a")
    content = bytearray((tmp_path / "a.m4a").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1200] = bytes(byte ^ 0xA5 for byte in content[middle : middle + 1200])
    (tmp_path / "a.m4a").write_bytes(content)
    status, _, err = enhance("a.m4a", "-o", "out.wav")
    assert (status, err.count("\n")) == (1, 1)
    assert "a.m4a: damaged: " in err
    assert not (tmp_path / "out.wav").exists()
    assert enhance("a.m4a", "-o", "out.wav", "--salvage")[0] == 0
    assert "s salvaged (damaged: " in caplog.text


@pytest.mark.recipe
def test_several_streams_in_one_ogg_file_are_read_by_ffmpeg(tmp_path, enhance, monkeypatch):
    audio.write(tmp_path / "a.ogg", noise(32000), 16000)
    ffmpeg("-i", tmp_path / "a.ogg", "-c:a", "copy", tmp_path / "b.ogg")  # of another serial number
    joined = (tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes()
    (tmp_path / "joined.ogg").write_bytes(joined)
    assert enhance("joined.ogg", "-o", "out.ogg")[0] == 0
    assert abs(audio.info(tmp_path / "out.ogg").num_samples - 64000) < 2000
    monkeypatch.setenv("PATH", str(tmp_path))
    _, _, err = enhance("joined.ogg", "-o", "other.ogg")
    assert "contains several Ogg streams" in err
    assert "with ffmpeg installed" in err


def test_without_ffmpeg_one_line_says_so_also_in_folders(tmp_path, enhance, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/talk.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(range(256)) * 20)
    audio.write(tmp_path / "in/a.wav", noise(1000), 16000)
    (tmp_path / "in/notes.txt").write_text("no sound, and not mentioned")
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = enhance("in", "-o", "out")
    assert status == 1
    assert "1 files" in out
    assert "in/talk.m4a: not a readable sound file" in err
    assert "with ffmpeg installed, more kinds of files can be read" in err
    assert "notes" not in err
    assert enhance("in/talk.m4a", "-o", "x.wav")[2].count("\n") == 1


@pytest.mark.parametrize(("kind", "least"), [("WAV", 0.49), ("FLAC", 0.2), ("OGG", 0.2), ("AIFF", 0.49), ("MP3", 0.4)])
def test_salvage_takes_what_there_is(tmp_path, enhance, caplog, kind, least):
    soundfile.write(tmp_path / "a", noise(160000), 16000, format=kind)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    assert enhance("cut", "-o", "b.wav")[0] == 1
    assert enhance("cut", "-o", "b.wav", "--salvage")[0] == 0
    assert "s salvaged" in caplog.text
    assert least * 160000 < audio.info(tmp_path / "b.wav").num_samples < 0.6 * 160000
    caplog.clear()
    assert enhance("a", "-o", "c.wav", "--salvage")[0] == 0
    assert not caplog.text


def test_an_output_of_unknown_kind_is_an_error_not_a_folder(tmp_path, enhance):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    status, out, err = enhance("a.wav", "-o", "x.xyz")
    assert (status, out) == (1, "")
    assert "x.xyz: cannot write '.xyz' files; use one of .wav .flac" in err
    assert not (tmp_path / "x.xyz").exists()
    assert enhance("a.wav", "-o", "x.xyz/")[0] == 0
    assert enhance("a.wav", "-o", "v1.2")[0] == 0
    assert (tmp_path / "v1.2/a.wav").is_file()


@pytest.mark.parametrize("words", [("", "-o", "out"), ("a.wav", "-o", ""), ("a.wav", "", "-o", "out"), ("", "-o", "-")])
def test_an_empty_argument_is_an_error(tmp_path, enhance, words):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    status, _, err = enhance(*words)
    assert status == 1
    assert "empty file name" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_an_existing_output_is_an_error_before_any_work(tmp_path, enhance, monkeypatch):
    for name in "abc":
        audio.write(tmp_path / f"in/{name}.wav", noise(1000), 16000)
    audio.write(tmp_path / "out/b.wav", noise(10), 16000)
    (tmp_path / "out/c.wav").symlink_to("nowhere")
    before = (tmp_path / "out/b.wav").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Enhancer, "from_pretrained", lambda: 1 / 0)  # not even the model is loaded
        status, out, err = enhance("in", "-o", "out")
    assert (status, out) == (1, "")
    assert "out/b.wav and 1 more: exists already; use --overwrite, --skip-existing" in err
    assert not (tmp_path / "out/a.wav").exists()
    (tmp_path / "out/c.wav").unlink()
    status, out, _ = enhance("in", "-o", "out", "--skip-existing")
    assert status == 0
    assert "2 files, 1 skipped" in out
    assert (tmp_path / "out/b.wav").read_bytes() == before
    assert enhance("in", "-o", "out", "--overwrite")[0] == 0
    assert audio.info(tmp_path / "out/b.wav").num_samples == 1000
    assert "0 files, 3 skipped" in enhance("in", "-o", "out", "--skip-existing")[1]


class Stream:
    """Standard input or output with a buffer of bytes."""

    def __init__(self, content=b""):
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_24", 2), ("FLOAT", 1), ("PCM_U8", 2)])
def test_standard_input_and_output(tmp_path, enhance, monkeypatch, subtype, channels):
    soundfile.write(tmp_path / "a.wav", noise(40000, channels), 48000, subtype)
    assert enhance("a.wav", "-o", "b.wav")[0] == 0
    out = Stream()
    monkeypatch.setattr(sys, "stdin", Stream((tmp_path / "a.wav").read_bytes()))
    with monkeypatch.context() as patch:
        patch.setattr(enhancing.sys, "stdout", out)
        status, printed, err = enhance("-", "-o", "-")
    assert (status, printed) == (0, "")
    assert "1 files" in err  # not between the samples
    (tmp_path / "piped.wav").write_bytes(out.buffer.getvalue())
    assert soundfile.info(tmp_path / "piped.wav").subtype == subtype
    piped, rate = audio.read(tmp_path / "piped.wav")
    assert rate == 48000
    np.testing.assert_array_equal(piped, audio.read(tmp_path / "b.wav")[0])
    monkeypatch.setattr(sys, "stdin", Stream((tmp_path / "a.wav").read_bytes()))
    assert enhance("-", "-o", "c.wav")[0] == 0
    assert soundfile.info(tmp_path / "c.wav").subtype == subtype
    # Not the bytes: libsndfile writes the time into a WAV file of floats.
    np.testing.assert_array_equal(audio.read(tmp_path / "c.wav")[0], audio.read(tmp_path / "b.wav")[0])


@pytest.mark.recipe
def test_pipes_of_processes(tmp_path, model, root):
    audio.write(tmp_path / "a.flac", noise(20000), 16000)
    command = [sys.executable, "-m", "sase.bin.main", "enhance", "-", "-o", "-", "--model", model]
    with open(tmp_path / "a.flac", "rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, cwd=root, check=True)
    (tmp_path / "b.wav").write_bytes(done.stdout)
    assert audio.info(tmp_path / "b.wav") == audio.AudioInfo(16000, 20000, 1)
    assert done.stdout[:4] == b"RIFF"


def test_standard_streams_that_make_no_sense(tmp_path, enhance, monkeypatch):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    assert "exactly one input" in enhance("a.wav", "-", "-o", "-")[2]
    assert "one WAV file and nothing else" in enhance("a.wav", "-o", "-", "--json")[2]
    assert "one WAV file and nothing else" in enhance("a.wav", "-o", "-", "--format", "flac")[2]
    monkeypatch.setattr(sys, "stdin", Stream(b"no sound at all"))
    assert "needs an output file" in enhance("-", "-o", "out")[2]
    status, _, err = enhance("-", "-o", "out.wav")
    assert status == 1
    assert err.startswith("sase enhance: standard input: not a readable sound file")


def test_any_file_name_works_and_folders_are_walked_as_expected(tmp_path, enhance):
    names = ["-a.wav", "b c'd.wav", "e[1].wav", "Ü\N{SNOWMAN}.wav", "x" * 250 + ".wav", "new\nline.wav", "100%.wav"]
    names += [os.fsdecode(b"\xff\xfe.wav"), "sub.d/deep/f.wav"]
    for name in names:
        audio.write(tmp_path / "short.wav", noise(500), 16000)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(tmp_path / "short.wav", tmp_path / "in" / name)
    for hidden in (".g.wav", ".trash/h.wav", "sub.d/.git/i.wav"):
        (tmp_path / "in" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / hidden).write_bytes(b"")
    (tmp_path / "in/folder.wav").mkdir()
    status, _, err = enhance("in", "-o", "out", "--jobs", 1)
    assert (status, err) == (0, "")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == set(names)


def test_a_folder_that_cannot_be_searched_is_named(tmp_path, enhance, monkeypatch):
    audio.write(tmp_path / "in/a.wav", noise(500), 16000)
    (tmp_path / "in/locked").mkdir()
    walk = os.walk

    def deny(folder, followlinks, onerror):  # root may search any folder
        for parent, folders, names in walk(folder, followlinks=followlinks):
            if parent.endswith("locked"):
                onerror(PermissionError(13, "Permission denied", parent))
            else:
                yield parent, folders, names

    monkeypatch.setattr(filetree.os, "walk", deny)
    status, out, err = enhance("in", "-o", "out")
    assert status == 1
    assert "1 files" in out
    assert "in/locked: cannot be searched (Permission denied)" in err


@pytest.mark.recipe
def test_jobs_do_not_change_the_result_and_a_killed_one_is_one_failure(tmp_path, enhance, monkeypatch):
    for number in range(5):
        audio.write(tmp_path / f"in/{number}.wav", noise(8000, seed=number), 16000)
    for jobs in (1, 3):
        assert enhance("in", "-o", f"out{jobs}", "--jobs", jobs)[0] == 0
    for number in range(5):
        one, other = ((tmp_path / f"out{jobs}/{number}.wav").read_bytes() for jobs in (1, 3))
        assert one == other
    enhance_file = Enhancer.enhance_file

    def killed(self, source, *arguments, **options):
        if source.name == "2.wav":
            os.kill(os.getpid(), signal.SIGKILL)
        return enhance_file(self, source, *arguments, **options)

    monkeypatch.setattr(Enhancer, "enhance_file", killed)
    status, out, err = enhance("in", "-o", "out", "--jobs", 2)
    assert status == 1
    assert "4 files" in out
    assert "in/2.wav: its process was killed by SIGKILL" in err
    assert "1 of 5 failed" in err


def test_json_says_what_became_of_each_file(tmp_path, enhance):
    for name in "abc":
        audio.write(tmp_path / f"in/{name}.wav", noise(16000), 16000)
    (tmp_path / "in/b.wav").write_text("no sound")
    audio.write(tmp_path / "out/c.wav", noise(10), 16000)
    status, out, _ = enhance("in", "-o", "out", "--skip-existing", "--json")
    assert status == 1
    report = json.loads(out)
    assert {key: report[key] for key in ("enhanced", "skipped", "failed", "audio_s")} == {
        "enhanced": 1,
        "skipped": 1,
        "failed": 1,
        "audio_s": 1.0,
    }
    files = {entry["input"]: entry for entry in report["files"]}
    assert files["in/a.wav"] == {
        "input": "in/a.wav",
        "output": "out/a.wav",
        "status": "enhanced",
        "duration_s": 1.0,
        "reason": "",
    }
    assert files["in/b.wav"]["reason"].startswith("not a readable sound file")
    assert files["in/c.wav"]["status"] == "skipped"


def test_progress_is_a_line_now_and_then_without_a_terminal(tmp_path, enhance, monkeypatch):
    monkeypatch.setattr(progress, "_INTERVAL_S", 0.0)
    for name in "abc":
        audio.write(tmp_path / f"in/{name}.wav", noise(1000), 16000)
    _, _, err = enhance("in", "-o", "out", "--jobs", 1)
    lines = err.splitlines()
    assert any("2 of 3 files enhanced" in line and "left" in line for line in lines)
    assert all(line.startswith("sase enhance: ") for line in lines)
    audio.write(tmp_path / "long.wav", noise(16000 * 20), 16000)
    assert "sase enhance: 20 of 20 s enhanced" in enhance("long.wav", "-o", "long.flac")[2]


def test_limit_and_highs_are_options(tmp_path, enhance, model):
    wav = noise(48000)
    soundfile.write(tmp_path / "a.wav", wav, 48000, "FLOAT")
    assert enhance("a.wav", "-o", "b.wav", "--limit", 6, "--highs", "drop")[0] == 0
    expected = Enhancer.from_pretrained(model, limit_db=6.0, highs="drop").enhance(wav, 48000)
    np.testing.assert_allclose(audio.read(tmp_path / "b.wav")[0][0], expected, atol=1e-5)
    assert "limit_db must be 0 or more" in enhance("a.wav", "-o", "c.wav", "--limit", -1)[2]


@pytest.mark.recipe
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_jobs_and_leaves_nothing(tmp_path, model, root, number):
    for name in "abcd":
        audio.write(tmp_path / f"in/{name}.wav", noise(16000 * 120), 16000)
    command = [sys.executable, "-m", "sase.bin.main", "enhance", tmp_path / "in", "-o", tmp_path / "out"]
    process = subprocess.Popen([*command, "--model", model, "--jobs", "2"], cwd=root, stderr=subprocess.PIPE)
    ended = time.monotonic() + 60
    while len(list((tmp_path / "out").glob(".*partial*"))) < 2 and time.monotonic() < ended:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert not list((tmp_path / "out").glob(".*"))
    assert b"Traceback" not in err
    for pid in children:
        assert not os.path.exists(f"/proc/{pid}")

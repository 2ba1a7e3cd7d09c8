"""``sase stream``: pipes that are answered hop by hop, WAV files of open length, and the microphone."""

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import soundfile

from helpers.audio import noise
from helpers.native import signals
from sase.audio.pcm import PcmFormat, read_wav_header
from sase.bench.stream import bench_stream
from sase.enhancer import Enhancer
from sase.errors import InputError
from sase.live import enhance_microphone, enhance_pipe

COMMAND = [sys.executable, "-m", "sase.bin.main", "stream", "--model", "tiny"]


@pytest.fixture(scope="module")
def enhancer():
    return Enhancer.from_pretrained("tiny")


def through(enhancer, data, raw, **options):
    """What ``enhance_pipe`` writes for some bytes that arrive in pieces, and the error that ended it, if any."""
    source, feed = os.pipe()
    drain, target = os.pipe()
    parts = []

    def write():
        with contextlib.suppress(BrokenPipeError), open(feed, "wb", buffering=0) as file:
            for start in range(0, len(data), 777):
                file.write(data[start : start + 777])

    def read():
        with open(drain, "rb") as file:
            parts.append(file.read())

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    error = None
    try:
        enhance_pipe(enhancer, source, target, raw, **options)
    except InputError as raised:
        error = str(raised)
    os.close(target)
    os.close(source)
    for thread in threads:
        thread.join()
    return parts[0], error


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
@pytest.mark.parametrize("num_samples", [0, 1, 255, 10000])
def test_streams_equal_files(enhancer, tmp_path, rate, encoding, num_samples):
    pcm = PcmFormat(encoding, rate, 2)
    wav = np.stack([signals(10000)[:num_samples], 0.1 * noise(num_samples + 1)[:num_samples]])
    wav = pcm.decode(pcm.encode(0.5 * wav))
    out, error = through(enhancer, pcm.encode(wav), pcm)
    assert error is None
    assert len(out) == num_samples * pcm.frame_bytes
    if num_samples:
        soundfile.write(tmp_path / "noisy.wav", wav.T, rate, "FLOAT")
        enhancer.enhance_file(tmp_path / "noisy.wav", tmp_path / "enhanced.wav")
        expected = soundfile.read(tmp_path / "enhanced.wav", dtype="float32")[0].T
        tolerance = 1e-5 if encoding == "f32le" else 1 / 32768
        assert np.abs(pcm.decode(out) - np.clip(expected, -1, 1)).max() <= tolerance + 1 / 32768
        assert np.abs(pcm.decode(out) - enhancer.enhance(wav, rate)).max() <= tolerance


@pytest.mark.parametrize(("subtype", "encoding"), [("PCM_16", "s16le"), ("FLOAT", "f32le")])
def test_wav_in_and_out(enhancer, subtype, encoding):
    """The header counts, not the options; libsndfile reads the output, whose header leaves the length open."""
    wav, file = 0.3 * noise(9000).reshape(2, -1), io.BytesIO()
    soundfile.write(file, wav.T, 44100, subtype, format="WAV")
    out, error = through(enhancer, file.getvalue(), PcmFormat("s16le", 16000, 1))
    pcm, num_bytes = read_wav_header(io.BytesIO(out).read, "output")
    assert (error, pcm, num_bytes) == (None, PcmFormat(encoding, 44100, 2), None)
    read, rate = soundfile.read(io.BytesIO(out), dtype="float32")
    assert rate == 44100
    assert np.abs(read.T - enhancer.enhance(wav.astype("f4"), 44100)).max() < 1e-4


def test_wav_of_open_length_and_chunks_behind_the_samples(enhancer):
    pcm, samples = PcmFormat("s16le", 16000, 1), (1000 * noise(2000)).astype("<i2").tobytes()
    header = pcm.wav_header()
    for size, tail in ((0, b""), (0xFFFFFFFF, b""), (0x7FFFF024, b""), (len(samples), b"LIST\x04\0\0\0abcd")):
        data = header[:-4] + struct.pack("<I", size) + samples + tail
        out, error = through(enhancer, data, pcm)
        assert (len(out), error) == (len(header) + len(samples), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda wav: wav[:30], "ends within the header"),
        (lambda wav: wav[:-100], "truncated: 100 bytes are missing"),
        (lambda wav: wav + wav, "its header declares 8000 bytes of audio, but more follow"),
        (lambda wav: wav[:40] + struct.pack("<I", 4000) + wav[44:], "declares 4000 bytes of audio, but more follow"),
        (
            lambda wav: wav.replace(b"fmt \x10\0\0\0\x01\0", b"fmt \x10\0\0\0\x06\0"),
            "WAV samples of kind 6 with 16 bits",
        ),
        (lambda wav: wav.replace(b"fmt ", b"junk"), "without a description"),
        (lambda wav: wav.replace(b"fmt \x10\0\0\0", b"fmt \xff\xff\xff\x7f"), "chunk of 2147483647 bytes"),
        (lambda wav: wav.replace(struct.pack("<I", 16000), struct.pack("<I", 3), 1), "has 3 Hz"),
    ],
)
def test_bad_wav_files_are_one_line(enhancer, change, message):
    file = io.BytesIO()
    soundfile.write(file, 0.1 * noise(4000), 16000, "PCM_16", format="WAV")
    _, error = through(enhancer, change(file.getvalue()), PcmFormat("s16le", 16000, 1))
    assert error.startswith("standard input: ")
    assert message in error


def test_raw_samples_that_look_like_a_wav_file(enhancer):
    data = b"RIFF\0\0\0\0WAVE" + bytes(1000)
    out, error = through(enhancer, data, PcmFormat("s16le", 16000, 1), may_be_wav=False)
    assert (len(out), error) == (len(data), None)
    out, error = through(enhancer, b"RIFFRAFF", PcmFormat("s16le", 16000, 1))  # short, and raw
    assert (len(out), error) == (8, None)


def test_half_a_sample_and_nan_are_one_line(enhancer):
    out, error = through(enhancer, bytes(1001), PcmFormat("s16le", 16000, 1))
    assert (len(out), error) == (1000, "standard input: ends within a sample")
    data = np.array([0.1] * 600 + [np.nan], "<f4").tobytes()
    assert "NaN" in through(enhancer, data, PcmFormat("f32le", 16000, 1))[1]


def test_each_hop_is_answered_at_once():
    with subprocess.Popen([*COMMAND, "--format", "f32le"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(bytes(4 * 512))  # two hops: the first is the latency
        process.stdin.flush()
        assert len(process.stdout.read(4 * 256)) == 4 * 256  # would wait for ever if the command waited for more
        process.stdin.write(bytes(4 * 100))
        process.stdin.close()
        assert len(process.stdout.read()) == 4 * 356
    assert process.returncode == 0


def test_a_reader_that_stops_ends_it_silently():
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(bytes(2000))
        process.stdin.flush()
        process.stdout.read(1)
        process.stdout.close()
        with pytest.raises(BrokenPipeError):
            for _ in range(100):
                process.stdin.write(bytes(65536))
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.recipe
def test_limits_and_a_terminal_are_one_line():
    for options, message in (
        (["--rate", "10"], "--rate and --channels: has 10 Hz"),
        (["--channels", "65"], "has 65 channels"),
        (["--limit", "-1"], "limit_db must be 0 or more"),
    ):
        done = subprocess.run([*COMMAND, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr
    _, terminal = os.openpty()
    done = subprocess.run(COMMAND, stdin=terminal, capture_output=True, text=True)
    assert done.returncode == 2
    assert "standard input is a terminal" in done.stderr


class Devices:
    """Stands for sounddevice's stream: the microphone gives some blocks, then the user interrupts."""

    def __init__(self, wav):
        self.wav, self.played = wav, []

    def __call__(self, rate, hop, channels, dtype, latency):
        self.hop, self.opened = hop, (rate, hop, channels, dtype)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, count):
        if len(self.wav) < count:
            raise KeyboardInterrupt
        block, self.wav = self.wav[:count], self.wav[count:]
        return block[:, None], False

    def write(self, block):
        assert block.flags.c_contiguous
        self.played.append(block[:, 0])


def test_the_microphone_is_played_enhanced(enhancer, monkeypatch):
    wav = 0.2 * noise(256 * 40)
    devices = Devices(wav)
    module = types.SimpleNamespace(Stream=devices, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with pytest.raises(KeyboardInterrupt):
        enhance_microphone(enhancer, 16000)
    assert devices.opened == (16000, 256, 1, "float32")
    played = np.concatenate(devices.played)
    np.testing.assert_allclose(played, enhancer.enhance(wav, 16000)[: len(played)], atol=1e-5)
    assert len(played) == 256 * 39


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise ModuleNotFoundError(name='sounddevice')", "the package sounddevice is not installed"),
        ("raise OSError('PortAudio library not found')", "libportaudio2"),
    ],
)
def test_what_the_microphone_needs_is_one_line(tmp_path, module, message):
    (tmp_path / "sounddevice.py").write_text(module)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([*COMMAND, "--mic"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


@pytest.mark.recipe
def test_the_benchmark_reports_times():
    rows = bench_stream(["tiny"], seconds=0.3, rate=48000)
    assert rows[0]["Hz"] == 48000
    times = [value for key, value in rows[0].items() if "ms" in key]
    assert len(times) == 4
    assert all(time > 0 for time in times)
    assert rows[0]["CPU ms median"] <= rows[0]["CPU ms 99 %"]

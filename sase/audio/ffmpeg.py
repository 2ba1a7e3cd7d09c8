"""Read what libsndfile does not, through the programs ffmpeg and ffprobe where they are installed."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from sase.audio.kinds import Kind
from sase.audio.sound import AudioInfo, check_limits
from sase.errors import InputError, one_line
from sase.processes import kill_with_parent

SUFFIXES = (  # of files with sound that only ffmpeg reads
    *(
        ".3g2",
        ".3gp",
        ".aac",
        ".ac3",
        ".aiffc",
        ".amr",
        ".ape",
        ".asf",
        ".avi",
        ".dts",
        ".eac3",
        ".flv",
        ".m4a",
        ".m4b",
    ),
    *(".m4r", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".mpc", ".mpeg", ".mpg", ".mts", ".ogv", ".ra", ".spx"),
    *(".tak", ".tta", ".webm", ".wma", ".wmv", ".wv"),
)
_MAGIC = (  # offset and bytes at the beginning of containers that libsndfile does not read
    *((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI ")),
    *((0, b"0&\xb2u\x8ef\xcf\x11"), (0, b"FLV"), (0, b"#!AMR"), (0, b"MAC "), (0, b"wvpk"), (0, b".RMF")),
)
_TAGS = ("title", "copyright", "artist", "comment", "date", "album", "genre")
_SLACK_S = 0.25  # by which the declared duration of a whole file may be wrong
_OF_OUTPUT = b"[f32le "  # how messages about raw samples begin: that time stamps of joined streams start again
_INPUT = ("-v", "error", "-protocol_whitelist", "file,pipe")  # playlists do not fetch anything

log = logging.getLogger(__name__)


@dataclass
class ForeignSound:
    """The first sound track of a file, decoded by ffmpeg."""

    path: Path
    info: AudioInfo
    kind: Kind
    salvage: bool
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield all samples, float32 (up to ``size``, channels); raise InputError if some are bad or missing."""
        channels, done = self.info.num_channels, 0
        assert self.process.stdout is not None
        while data := self.process.stdout.read(4 * channels * size):
            wav = np.frombuffer(data[: len(data) // (4 * channels) * 4 * channels], np.float32).reshape(-1, channels)
            if not np.isfinite(wav).all():
                raise InputError(f"{self.path}: contains NaN or infinite samples")
            done += len(wav)
            yield wav
        status = self.process.wait()
        self.errors.seek(0)
        about_input = (line for line in self.errors if not line.startswith(_OF_OUTPUT))
        fault = _last_line(b"".join(about_input))
        declared = self.info.num_samples
        if status == 0 and done < declared - _SLACK_S * self.info.sample_rate:
            fault = f"truncated: {done} of about {declared} samples can be read"
        elif fault and status == 0:  # ffmpeg leaves out what it cannot decode, and goes on
            fault = f"damaged: {fault}"
        if done == 0:
            raise InputError(f"{self.path}: contains no samples{f' ({fault})' if fault else ''}")
        if fault and not self.salvage:
            raise InputError(f"{self.path}: {fault}")
        if fault:
            log.warning("%s: %.2f s salvaged (%s)", self.path, done / self.info.sample_rate, fault)


def is_foreign(path: Path) -> bool:
    """Return whether a file begins like one of a container that libsndfile does not read."""
    with open(path, "rb") as file:
        head = file.read(16)
    return any(head[offset:].startswith(magic) for offset, magic in _MAGIC)


@contextmanager
def open_sound(path: Path, reason: str, salvage: bool = False) -> Iterator[ForeignSound]:
    """Yield the first sound track of a file.

    Args:
        path: of a file with sound, in whatever container ffmpeg knows.
        reason: why it is not read without ffmpeg, which the error says if ffmpeg is missing or does no better.
        salvage: read what is there of a truncated or damaged file.

    Raises:
        InputError: ffmpeg is not installed or finds no sound in the file.
    """
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        raise InputError(f"{reason}; with ffmpeg installed, more kinds of files can be read")
    stream, tags = _probe(path, reason)
    rate, channels = int(stream["sample_rate"]), int(stream["channels"])
    check_limits(path, rate, channels)
    info = AudioInfo(rate, max(1, round(_duration_s(stream) * rate)), channels)
    kind = Kind(subtype="PCM_24" if int(stream.get("bits_per_raw_sample") or 16) > 16 else "PCM_16", tags=tags)
    command = ["ffmpeg", "-nostdin", *_INPUT, "-i", f"file:{path}", "-map", "0:a:0", "-f", "f32le", "-"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, preexec_fn=kill_with_parent
        )
        try:
            yield ForeignSound(path, info, kind, salvage, process, errors)
        finally:
            process.kill()
            process.communicate()


def _probe(path: Path, reason: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return ffprobe's description of the first sound track, and the tags of the file."""
    command = ["ffprobe", *_INPUT, "-select_streams", "a:0", "-show_streams", "-show_entries", "format_tags"]
    done = subprocess.run([*command, "-of", "json", f"file:{path}"], stdin=subprocess.DEVNULL, capture_output=True)
    try:
        found = json.loads(done.stdout)
        streams = [stream for stream in found.get("streams", []) if int(stream.get("sample_rate") or 0)]
    except ValueError:
        found, streams = {}, []
    if not streams:
        why = _last_line(done.stderr).removeprefix(f"file:{path}: ") or "there is no sound track"
        raise InputError(f"{reason}; ffmpeg cannot read it either ({why})")
    tags = {name.lower(): text for name, text in found.get("format", {}).get("tags", {}).items()}
    return streams[0], {name: tags[name] for name in _TAGS if tags.get(name)}


def _duration_s(stream: dict[str, Any]) -> float:
    """Return the declared duration of a track, 0 if it has none."""
    if "duration" in stream:
        return float(stream["duration"])
    clock = {name.upper(): text for name, text in stream.get("tags", {}).items()}.get("DURATION", "0")
    try:
        return sum(60**power * float(part) for power, part in enumerate(reversed(clock.split(":"))))
    except ValueError:
        return 0.0


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""

"""What TensorBoard shows of a training: one event file, which a resumed training continues.

A record of an event file is its length, a checksum of that, the event, and a checksum of it. A killed process may have
left a record truncated, and later ones would be unreadable: it is cut off before the file is continued.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from sase.training.crc32c import crc32c

if TYPE_CHECKING:
    from sase.data.dataset import PairSet
    from sase.training.validation import PairSubset

FOLDER = "tensorboard"
UTTERANCES = 3  # with sound and spectrograms, evenly spaced over the development set
SECONDS = 5.0  # of each
TIMES = 10  # that a training writes them, at most, evenly spaced
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_WINDOW, _HOP, _RANGE_DB = 512, 128, 80.0
_NOT_SCALARS = ("epoch", "round", "steps", "best")

log = logging.getLogger(__name__)


class EventWriter:
    """Writes events of a training; does nothing where tensorboard is not installed, since histories hold the numbers.

    Args:
        exp_dir: the experiment's folder.
    """

    def __init__(self, exp_dir: str | Path) -> None:
        self.folder = Path(exp_dir) / FOLDER

    def write(
        self,
        history: Sequence[Mapping[str, Any]],
        counter: str,
        extra: Mapping[str, float],
        examples: Mapping[str, tuple[np.ndarray, int]],
    ) -> None:
        """Write the scalars of all entries that the file lacks, and sound and spectrograms at the step of the last one.

        Args:
            history: entries of ``history.jsonl`` or ``rounds.jsonl``, the last one new.
            counter: its key that counts steps: ``steps`` or ``round``.
            extra: further scalars of the last entry, such as the learning rate.
            examples: {tag: (float (time,), sample rate in Hz)}; the tags that begin with ``input/`` are written once.
        """
        try:
            from torch.utils.tensorboard import summary
        except ImportError:
            return
        path = self._file()
        with open(path, "r+b" if path.exists() else "w+b") as file:
            last, any_input = _continue(file)
            if file.tell() == 0:
                file.write(_record(_event(file_version="brain.Event:2")))
            for entry in history:
                step = int(entry[counter])
                numbers = {**entry, **extra} if entry is history[-1] else entry
                if step > last:
                    file.write(_record(_event(step, _scalars(numbers))))
            for tag, (wav, rate) in examples.items():
                if tag.startswith("input/") and any_input:
                    continue
                sound = torch.from_numpy(np.clip(wav, -1.0, 1.0).astype(np.float32))
                file.write(_record(_event(step, summary.audio(f"{tag}/sound", sound, rate))))
                picture = summary.image(f"{tag}/spectrogram", _spectrogram(wav), dataformats="HWC")
                file.write(_record(_event(step, picture)))

    def _file(self) -> Path:
        """Return the event file to continue, the newest there is, or a new one's path."""
        found = sorted(self.folder.glob("events.out.tfevents.*"))
        self.folder.mkdir(parents=True, exist_ok=True)
        return found[-1] if found else self.folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"


def discard(exp_dir: str | Path) -> None:
    """Delete the event files of an experiment, whose training starts over."""
    for path in (Path(exp_dir) / FOLDER).glob("events.out.tfevents.*"):
        path.unlink()


def is_due(number: int, total: int) -> bool:
    """Return whether examples are written after epoch or round ``number`` of ``total``: first, last, few between."""
    interval = -(-total // (TIMES - 1))
    return number in (1, total) or number % interval == 0


@torch.no_grad()
def examples_of(model: torch.nn.Module, pairs: PairSet | PairSubset) -> dict[str, tuple[np.ndarray, int]]:
    """Return {tag: (float32 (time,), rate)} of the first seconds of some development utterances: input and output.

    Args:
        model: the network; its mode is restored.
        pairs: the development set. The utterances are always the same, evenly spaced.
    """
    count = min(UTTERANCES, len(pairs))
    chosen = np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int)).tolist()
    was_training, found = model.training, {}
    model.eval()
    try:
        for number in chosen:
            samples = min(int(pairs.lengths[number]), round(SECONDS * pairs.sample_rate))
            index = torch.tensor([number], device=pairs.device)
            noisy, clean, lengths = pairs.segments(index, torch.zeros_like(index), samples)
            signals = {"output/enhanced": model(noisy, lengths), "input/noisy": noisy, "input/clean": clean}
            for kind, wav in signals.items():
                found[f"{kind}/{pairs.utts[number]}"] = (wav[0].float().nan_to_num().cpu().numpy(), pairs.sample_rate)
    finally:
        model.train(was_training)
    return found


def _spectrogram(wav: np.ndarray) -> np.ndarray:
    """Return a spectrogram as uint8 (frequency, time, 1), 0 Hz at the bottom, 80 dB from black to white."""
    padded = np.pad(wav, (0, max(0, _WINDOW - len(wav))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    level_db = 20 * np.log10(np.abs(np.fft.rfft(frames)) + 1e-6)
    return (np.clip(1 + (level_db - level_db.max()) / _RANGE_DB, 0, 1) * 255).astype(np.uint8).T[::-1, :, None]


def _scalars(numbers: Mapping[str, Any]) -> Any:
    """Return one summary of all numbers, so that a step is in the file as a whole or not at all."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import summary

    found = Summary()
    for name, value in numbers.items():
        if name not in _NOT_SCALARS and isinstance(value, int | float):
            found.MergeFrom(summary.scalar(name, value))
    return found


def _event(step: int = 0, summary: Any = None, file_version: str | None = None) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(wall_time=time.time(), step=step, summary=summary, file_version=file_version).SerializeToString()


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    checks = (struct.pack("<I", _masked(crc32c(part))) for part in (length, event))
    return length + next(checks) + event + next(checks)


def _masked(checksum: int) -> int:
    """Return a checksum as event files hold it, rotated and shifted: checksums of checksums would be weak."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _continue(file: BinaryIO) -> tuple[int, bool]:
    """Cut off a truncated end, and seek to it; return the last step with scalars (0: none), and if there is input."""
    from tensorboard.compat.proto.event_pb2 import Event

    last, any_input, end = 0, False, 0
    for event, position in _records(file):
        parsed = Event.FromString(event)
        for value in parsed.summary.value:
            any_input = any_input or value.tag.startswith("input/")
            if value.HasField("simple_value"):
                last = max(last, parsed.step)
        end = position
    if end < os.fstat(file.fileno()).st_size:
        log.warning("%s: truncated, the last event is discarded", file.name)
    file.seek(end)
    file.truncate()
    return last, any_input


def _records(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield (event, its end in the file) of all whole records."""
    file.seek(0)
    while len(header := file.read(_HEADER_BYTES)) == _HEADER_BYTES:
        (length,) = struct.unpack("<Q", header[:8])
        if length > os.fstat(file.fileno()).st_size:
            return
        event = file.read(length)
        if len(event) < length or _record(event) != header + event + file.read(_FOOTER_BYTES):
            return
        yield event, file.tell()

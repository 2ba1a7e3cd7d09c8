"""The public interface: enhance arrays, sound files and folders with a trained network."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat, takewhile
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from sase import audio, pretrained
from sase.errors import InputError
from sase.filetree import files_below
from sase.model import SASE
from sase.nn.frozen import frozen

Wav = TypeVar("Wav", np.ndarray, torch.Tensor)
_BLOCK_S = 2.0  # of a file that is processed at a time
_PAD_S = 0.01  # of silence appended to a signal before resampling
_MANY_CHANNELS = 32


class Enhancer:
    """Enhances speech at any sample rate, each channel separately.

    ::

        enhancer = Enhancer.from_pretrained()
        enhanced = enhancer.enhance(wav, sample_rate)
        enhancer.enhance_file("noisy.wav", "enhanced.wav")

    The network operates at its own sample rate, ``enhancer.sample_rate``; frequencies above half of it are removed.

    Args:
        model: a :class:`sase.model.SASE`, which is copied; later changes of it have no effect.

    Attributes:
        model: the copy, :func:`~sase.nn.frozen.frozen` for inference.
    """

    def __init__(self, model: SASE) -> None:
        self.model = frozen(model)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = pretrained.DEFAULT, device: str = "cpu") -> Enhancer:
        """Return an Enhancer with trained weights.

        Args:
            name_or_path: the name of shipped weights, a ``best.pt`` or ``.safetensors`` file, or an
                experiment folder with one.
            device: torch device: ``cpu``, ``cuda``, ``cuda:1``.

        Raises:
            InputError: no such model or device, or a corrupt or incompatible file.
        """
        return cls(pretrained.load(name_or_path, _device(device)))

    @property
    def sample_rate(self) -> int:
        """The sample rate of the network in Hz."""
        return self.model.config.sample_rate

    def enhance(self, wav: Wav, sample_rate: int) -> Wav:
        """Enhance samples in memory.

        Args:
            wav: numpy array or torch tensor of floats in [-1, 1], (time,) or (channels, time), time ≥ 1.
            sample_rate: of ``wav``, in Hz.

        Returns:
            Enhanced samples with the type, dtype, shape and sample rate of ``wav``.

        Raises:
            InputError: samples that are NaN, infinite or integers, or an invalid rate.
            ValueError: another shape.
        """
        noisy = np.atleast_2d(_checked(wav, sample_rate))
        noisy = np.pad(noisy, ((0, 0), (0, self._padding(sample_rate))))
        noisy = audio.resample(noisy, sample_rate, self.sample_rate)
        enhanced = audio.resample(_per_channel(repeat(self.model), noisy, self._device), self.sample_rate, sample_rate)
        enhanced = np.ascontiguousarray(enhanced[:, : wav.shape[-1]]).reshape(wav.shape)
        if isinstance(wav, torch.Tensor):
            return torch.from_numpy(enhanced).to(wav.device, wav.dtype)
        return enhanced.astype(wav.dtype, copy=False)

    def enhance_file(
        self, source: str | Path, target: str | Path, on_block: Callable[[float], None] | None = None
    ) -> float:
        """Enhance a sound file, preserving rate, channels and length; in bounded memory if the network is causal.

        Args:
            source: a WAV, FLAC, OGG or MP3 file.
            target: output file with any of these suffixes, 16 bit if possible; appears once it is complete.
            on_block: called after each block with the number of seconds written.

        Returns:
            The duration in seconds.

        Raises:
            InputError: a missing, unreadable, truncated or empty file, or samples that are not finite.
        """
        if os.path.realpath(source) == os.path.realpath(target):
            raise InputError(f"{target}: same as the input; inputs are never overwritten")
        num_samples = 0
        with (
            audio.open_blocks(source, _BLOCK_S) as (info, blocks),
            audio.open_writer(target, info.sample_rate, info.num_channels) as put,
        ):
            for enhanced in self._enhance_blocks(blocks, info.sample_rate, info.num_channels):
                put(enhanced)
                num_samples += enhanced.shape[1]
                if on_block is not None:
                    on_block(enhanced.shape[1] / info.sample_rate)
        return num_samples / info.sample_rate

    def _enhance_blocks(
        self, blocks: Iterable[np.ndarray], sample_rate: int, num_channels: int
    ) -> Iterator[np.ndarray]:
        """Yield the enhanced signal of blocks (channels, n), aligned with the input and of the same total length."""
        network = (_Streams if self.model.config.causal else _Whole)(self.model, num_channels, self._device)
        down = audio.Resampler(sample_rate, self.sample_rate, num_channels)
        up = audio.Resampler(self.sample_rate, sample_rate, num_channels)
        missing = 0  # samples received and not yet returned

        def enhanced() -> Iterator[np.ndarray]:
            nonlocal missing
            for wav in blocks:
                missing += wav.shape[1]
                yield up.feed(network.feed(down.feed(wav)))
            silence = np.zeros((num_channels, self._padding(sample_rate)), dtype=np.float32)
            yield up.feed(network.feed(down.feed(silence)))
            yield up.feed(network.feed(down.flush()))
            for wav in network.flush():
                yield up.feed(wav)
            yield up.flush()

        for wav in enhanced():
            wav = wav[:, :missing]
            missing -= wav.shape[1]
            yield wav

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _padding(self, sample_rate: int) -> int:
        """Return how many samples of silence to append, so that rounding of lengths does not truncate the signal."""
        return 0 if sample_rate == self.sample_rate else math.ceil(_PAD_S * sample_rate)


class _Streams:
    """A stream per channel of a causal network: numpy (channels, n) in, samples that are ready (channels, m) out."""

    def __init__(self, model: SASE, num_channels: int, device: torch.device) -> None:
        self._streams, self._device = [model.stream() for _ in range(num_channels)], device

    def feed(self, wav: np.ndarray) -> np.ndarray:
        return _per_channel([stream.feed for stream in self._streams], wav, self._device)

    def flush(self) -> Iterator[np.ndarray]:
        with torch.inference_mode():
            yield np.concatenate([_output(stream.flush()) for stream in self._streams])


class _Whole:
    """The same for an offline network, which needs the whole signal: all output comes at the end, in blocks."""

    def __init__(self, model: SASE, num_channels: int, device: torch.device) -> None:
        self._model, self._device = model, device
        self._blocks: list[np.ndarray] = []

    def feed(self, wav: np.ndarray) -> np.ndarray:
        self._blocks.append(wav)
        return wav[:, :0]

    def flush(self) -> Iterator[np.ndarray]:
        wav = _per_channel(repeat(self._model), np.concatenate(self._blocks, axis=1), self._device)
        size = round(_BLOCK_S * self._model.config.sample_rate)
        yield from (wav[:, start : start + size] for start in range(0, wav.shape[1], size))


def plan_outputs(inputs: Sequence[str | Path], out: str | Path) -> list[tuple[Path, Path]]:
    """Return source and target of every sound file for ``sase enhance``, in the given order.

    A file is written to ``out`` under its own name, files of a folder keep their relative path, and files of a pattern
    their path relative to the first folder of the pattern. For a single input file, ``out`` may be a file.

    Args:
        inputs: files, folders and glob patterns (``**`` for folders at any depth).
        out: a folder, created if necessary, or a file.

    Raises:
        InputError: nothing to enhance, two inputs for one output, or an output that is an input.
    """
    out = Path(out)
    if out.suffix.lower() in audio.SUFFIXES and not out.is_dir():
        if len(inputs) != 1 or Path(inputs[0]).is_dir() or _is_pattern(inputs[0]):
            raise InputError(f"{out}: an output file needs exactly one input file; pass a folder for several")
        pairs = [(Path(inputs[0]), out)]
    else:
        pairs = [(source, out / name) for item in inputs for source, name in _find_files(item, out)]
    sources, targets = {os.path.realpath(source): source for source, _ in pairs}, dict[str, Path]()
    for source, target in pairs:
        place = os.path.realpath(target)
        if place in sources:
            raise InputError(f"{target}: is an input, which is never overwritten; choose another -o")
        if place in targets:
            raise InputError(f"{targets[place]} and {source} would both become {target}; enhance them separately")
        targets[place] = source
    return pairs


def _find_files(item: str | Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the sound files of a file, folder or pattern, and their paths relative to the output folder."""
    path = Path(item)
    found: Iterable[Path]
    if path.is_dir():
        base, found = path, files_below(path)
    elif _is_pattern(item):
        fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
        base, found = Path(*fixed), map(Path, glob.glob(str(item), recursive=True))
    else:
        yield path, Path(path.name)
        return
    files = [file for file in sorted(found) if audio.is_sound_file(file)]
    if out.resolve() != base.resolve():  # skip outputs of an earlier run inside the input folder
        files = [file for file in files if out.resolve() not in file.resolve().parents]
    if not files:
        raise InputError(f"{item}: no sound files found ({' '.join(audio.SUFFIXES)})")
    yield from ((file, file.relative_to(base)) for file in files)


def _is_pattern(item: str | Path) -> bool:
    return glob.has_magic(str(item)) and not Path(item).exists()


def _device(name: str) -> str:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # unknown name, or torch built without this device
        raise InputError(f"device {name}: cannot be used here ({str(error).splitlines()[0]})") from None
    return name


def _per_channel(
    functions: Iterable[Callable[[torch.Tensor], torch.Tensor]], wav: np.ndarray, device: torch.device
) -> np.ndarray:
    """Apply a function to each channel of numpy (channels, time), sequentially.

    The result of a channel thus does not depend on the number of channels, nor does the peak memory.
    """
    with torch.inference_mode():
        channels = zip(functions, np.ascontiguousarray(wav)[:, None])
        return np.concatenate([_output(run(torch.from_numpy(channel).to(device))) for run, channel in channels])


def _checked(wav: np.ndarray | torch.Tensor, sample_rate: float) -> np.ndarray:
    """Return samples as float32 numpy of the same shape, or raise as documented in :meth:`Enhancer.enhance`."""
    if not isinstance(wav, (np.ndarray, torch.Tensor)):
        raise InputError(f"samples must be a numpy array or a torch tensor, got {type(wav).__name__}")
    if wav.ndim not in (1, 2) or 0 in wav.shape:
        raise ValueError(f"enhance needs (time,) or (channels, time), time ≥ 1, got {tuple(wav.shape)}")
    if wav.ndim == 2 and wav.shape[0] > max(_MANY_CHANNELS, wav.shape[1]):
        raise ValueError(f"enhance needs (channels, time), got {tuple(wav.shape)}: is it (time, channels)?")
    if not (wav.is_floating_point() if isinstance(wav, torch.Tensor) else np.issubdtype(wav.dtype, np.floating)):
        raise InputError(f"samples must be floats in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768")
    if not audio.MIN_RATE <= sample_rate <= audio.MAX_RATE:
        raise InputError(f"sample_rate must be {audio.MIN_RATE} to {audio.MAX_RATE} Hz, got {sample_rate}")
    noisy = _numpy(wav.detach()) if isinstance(wav, torch.Tensor) else np.asarray(wav, dtype=np.float32)
    if not np.isfinite(noisy).all():
        raise InputError("samples contain NaN or infinity")
    return noisy


def _numpy(wav: torch.Tensor) -> np.ndarray:
    return wav.float().cpu().numpy()


def _output(wav: torch.Tensor) -> np.ndarray:
    """Return what a network returned as numpy; raise InputError if it is not finite: a file would get full scale."""
    if not bool(wav.isfinite().all()):
        raise InputError("the network's output contains NaN or infinity; use another model or lower the input's level")
    return _numpy(wav)

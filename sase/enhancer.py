"""The public interface: enhance arrays, streams and sound files with a trained network."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from sase import audio, engines, pretrained
from sase.errors import InputError
from sase.hops import MAX_SAMPLE, peak
from sase.stages.chain import Chain, Stage, Streams, Whole
from sase.stages.highs import Highs
from sase.stages.level import Level
from sase.stages.limit import Limit

if TYPE_CHECKING:
    import torch

    from sase.model import SASE

Wav = TypeVar("Wav", np.ndarray, "torch.Tensor")
_BLOCK_S = 2.0  # of a file that is processed at a time
_PAD_S = 0.01  # of silence appended to a signal before resampling
_MANY_CHANNELS = 32
_OFFLINE_HOP_S = 0.016  # over which the level is measured where the network has no hops
HIGHS = ("keep", "drop")


class Enhancer:
    """Enhances speech at any sample rate, each channel separately.

    ::

        enhancer = Enhancer.from_pretrained()
        enhanced = enhancer.enhance(wav, sample_rate)
        enhancer.enhance_file("noisy.wav", "enhanced.wav")

    The network operates at its own sample rate, ``enhancer.sample_rate``. Frequencies above half of it are turned down
    as much as those just below it (:mod:`sase.stages.highs`). The input may have any level (:mod:`sase.stages.level`).

    Args:
        engine: a network of :func:`sase.engines.load`; or a :class:`sase.model.SASE`, which is copied for the engine
            ``torch``: later changes of it have no effect.
        limit_db: attenuate noise by at most so many decibels, ≥ 0; None: as much as the network does.
        highs: ``keep`` or ``drop`` frequencies above half of the network's sample rate.
        level: adapt to the level of the input; otherwise the network receives it as it is.

    Attributes:
        engine: the network.
    """

    def __init__(
        self, engine: engines.Engine | SASE, limit_db: float | None = None, highs: str = "keep", level: bool = True
    ) -> None:
        if not isinstance(engine, engines.Engine):
            from sase.engines.torch import TorchEngine

            engine = TorchEngine(engine)
        if limit_db is not None and not limit_db >= 0.0:
            raise InputError(f"limit_db must be 0 or more, got {limit_db}")
        if highs not in HIGHS:
            raise InputError(f"highs must be {' or '.join(HIGHS)}, got {highs!r}")
        self.engine, self._limit_db, self._highs, self._level = engine, limit_db, highs, level

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = pretrained.DEFAULT,
        device: str = "cpu",
        engine: str = "auto",
        threads: int | None = None,
        **processing: Any,
    ) -> Enhancer:
        """Return an Enhancer with trained weights.

        Args:
            name_or_path, engine, device, threads: as for :func:`sase.engines.load`.
            processing: ``limit_db``, ``highs``, ``level``, as for the class.

        Raises:
            InputError: no such model, engine or device, or a corrupt or incompatible file.
        """
        return cls(engines.load(name_or_path, engine, device, threads), **processing)

    @property
    def model(self) -> SASE:
        """The network of the engine ``torch``, for inference alone; other engines raise AttributeError."""
        from sase.engines.torch import TorchEngine

        if not isinstance(self.engine, TorchEngine):
            raise AttributeError(f"the engine {self.engine.name} has no model; load with engine='torch'")
        return self.engine.model

    @property
    def sample_rate(self) -> int:
        """The sample rate of the network in Hz."""
        return self.engine.sample_rate

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
        blocks = self._aligned(sample_rate, len(noisy), whole=True).through(iter([noisy]))
        enhanced = np.concatenate(list(blocks), axis=1).reshape(wav.shape)
        if isinstance(wav, np.ndarray):
            return enhanced.astype(wav.dtype, copy=False)
        return sys.modules["torch"].from_numpy(enhanced).to(wav.device, wav.dtype)

    def stream(self, sample_rate: int, num_channels: int = 1) -> EnhancerStream:
        """Return a stream that enhances a signal block by block.

        Args:
            sample_rate: of the signal, in Hz.
            num_channels: of the signal.

        Raises:
            InputError: an invalid rate or number of channels, or a network that needs the whole signal.
        """
        _check_rate(sample_rate)
        if not 1 <= num_channels <= audio.MAX_CHANNELS:
            raise InputError(f"num_channels must be 1 to {audio.MAX_CHANNELS}, got {num_channels}")
        return EnhancerStream(self._aligned(sample_rate, num_channels), num_channels)

    def enhance_file(
        self,
        source: str | Path,
        target: str | Path | BinaryIO,
        on_block: Callable[[float], None] | None = None,
        *,
        subtype: str | None = None,
        salvage: bool = False,
    ) -> float:
        """Enhance a sound file; in bounded memory if the network is causal.

        Sample rate, channels, channel layout, length, sample format and tags are preserved as far as the kind of the
        output file allows.

        Args:
            source: a file that libsndfile reads, such as WAV, FLAC, OGG or MP3; or one that ffmpeg reads.
            target: output file with a suffix of :data:`sase.audio.CONTAINERS`; appears once it is complete. Or a binary
                stream, such as a pipe, to which a WAV file of unknown length is written.
            on_block: called after each block with the number of seconds written.
            subtype: sample format, such as ``PCM_24`` or ``FLOAT``; None: as in the source.
            salvage: read what is there of a truncated or damaged file.

        Returns:
            The duration in seconds.

        Raises:
            InputError: a missing, unreadable, truncated or empty file, samples that are not finite, or an output that
                cannot be written.
        """
        if isinstance(target, (str, Path)) and os.path.realpath(source) == os.path.realpath(target):
            raise InputError(f"{target}: same as the input; inputs are never overwritten")
        num_samples = 0
        with ExitStack() as stack:
            sound = stack.enter_context(audio.open_any(source, salvage))
            rate, num_channels = sound.info.sample_rate, sound.info.num_channels
            blocks = audio.blocks_of(sound, _BLOCK_S)
            if isinstance(target, (str, Path)):
                kind = sound.kind.written_as(Path(target), subtype)
                put = stack.enter_context(audio.open_writer(target, rate, num_channels, kind))
            else:
                put = audio.wav_writer(target, rate, num_channels, sound.kind.written_as(Path("output.wav"), subtype))
            aligned = self._aligned(rate, num_channels, whole=not self.engine.causal)
            for enhanced in aligned.through(blocks):
                put(enhanced)
                num_samples += enhanced.shape[1]
                if on_block is not None:
                    on_block(enhanced.shape[1] / rate)
        return num_samples / rate

    def _aligned(self, sample_rate: int, num_channels: int, whole: bool = False) -> _Aligned:
        """Return the whole processing of a signal: the network between two resamplers.

        Args:
            sample_rate, num_channels: of the signal.
            whole: collect the signal and process it at its end; otherwise the network must be causal.
        """
        rate = self.sample_rate
        stages: list[Stage] = [Whole(self.engine) if whole else Streams(self.engine, num_channels)]
        if self._level:
            engine = self.engine
            hop_s = engine.latency_s - engine.delay / rate if engine.causal else _OFFLINE_HOP_S
            level = Level(rate, round(hop_s * rate), num_channels)
            stages = [level.scale, *stages, level.restore]
        down, up = (audio.Resampler(*rates, num_channels) for rates in ((sample_rate, rate), (rate, sample_rate)))
        if self._highs == "keep" and sample_rate > rate:
            highs = Highs(sample_rate, rate, num_channels)
            stages = [highs.split, down, highs.tap, *stages, highs.difference, up, highs.join]
        else:
            stages = [down, *stages, up]
        if self._limit_db is not None:
            limit = Limit(self._limit_db, num_channels)
            stages = [limit.tap, *stages, limit.mix]
        # The silence makes up for what rounding of lengths would truncate.
        padding = 0 if sample_rate == rate else math.ceil(_PAD_S * sample_rate)
        return _Aligned(Chain(stages), num_channels, padding)


class EnhancerStream:
    """Enhances one signal block by block; the concatenated output equals that of a file, and is as long as the input.

    Args:
        aligned: the processing.
        num_channels: of the signal.
    """

    def __init__(self, aligned: _Aligned, num_channels: int) -> None:
        self._aligned, self._num_channels, self._flushed = aligned, num_channels, False

    def feed(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples; return those that are ready, possibly none.

        Args:
            block: floats in [-1, 1], (n,) for a single channel or (channels, n), n ≥ 0.

        Returns:
            float32 (m,) or (channels, m), as the block, m ≥ 0.

        Raises:
            InputError: samples that are NaN, infinite, integers or beyond 1e12; the stream is unchanged.
            ValueError: another shape, or a stream that has been flushed; the stream is unchanged.
        """
        if self._flushed:
            raise ValueError("the stream has been flushed; open another one for the next signal")
        samples, loudest = _samples(block)
        channels = samples[np.newaxis] if samples.ndim == 1 else samples
        if channels.ndim != 2 or len(channels) != self._num_channels:
            raise ValueError(f"feed needs ({self._num_channels}, n) samples, got {samples.shape}")
        if loudest > MAX_SAMPLE:
            raise InputError(f"samples have magnitudes up to {loudest:.0e}; full scale is 1")
        enhanced = self._aligned.feed(channels)
        return enhanced[0] if samples.ndim == 1 else enhanced

    def flush(self) -> np.ndarray:
        """Return the remaining samples, float32 (rest,) for a single channel or (channels, rest); ends the stream."""
        if self._flushed:
            raise ValueError("the stream has been flushed; open another one for the next signal")
        self._flushed = True
        rest = np.concatenate(list(self._aligned.drain()), axis=1)
        return rest[0] if self._num_channels == 1 else rest


class _Aligned:
    """A chain whose output is aligned with its input and of the same total length.

    Args:
        chain: whose output may be longer than its input.
        num_channels: of the signal.
        padding: samples of silence to append to the signal.
    """

    def __init__(self, chain: Chain, num_channels: int, padding: int) -> None:
        self._chain, self._num_channels, self._padding = chain, num_channels, padding
        self._missing = 0  # samples received and not yet returned

    def feed(self, wav: np.ndarray) -> np.ndarray:
        self._missing += wav.shape[1]
        return self._trimmed(self._chain.feed(wav))

    def drain(self) -> Iterator[np.ndarray]:
        yield self._trimmed(self._chain.feed(np.zeros((self._num_channels, self._padding), np.float32)))
        for wav in self._chain.drain():
            yield self._trimmed(wav)

    def through(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the whole output for the whole input."""
        yield from map(self.feed, blocks)
        yield from self.drain()

    def _trimmed(self, wav: np.ndarray) -> np.ndarray:
        wav = wav[:, : self._missing]
        self._missing -= wav.shape[1]
        return wav


def _checked(wav: Any, sample_rate: float) -> np.ndarray:
    """Return samples as float32 numpy of the same shape, or raise as documented in :meth:`Enhancer.enhance`."""
    noisy, _ = _samples(wav)
    if noisy.ndim not in (1, 2) or 0 in noisy.shape:
        raise ValueError(f"enhance needs (time,) or (channels, time), time ≥ 1, got {noisy.shape}")
    if noisy.ndim == 2 and noisy.shape[0] > max(_MANY_CHANNELS, noisy.shape[1]):
        raise ValueError(f"enhance needs (channels, time), got {noisy.shape}: is it (time, channels)?")
    _check_rate(sample_rate)
    return noisy


def _check_rate(sample_rate: float) -> None:
    if not audio.MIN_RATE <= sample_rate <= audio.MAX_RATE:
        raise InputError(f"sample_rate must be {audio.MIN_RATE} to {audio.MAX_RATE} Hz, got {sample_rate}")


def _samples(wav: Any) -> tuple[np.ndarray, float]:
    """Return a numpy array or torch tensor as float32 numpy, and its peak; raise InputError unless all is finite."""
    torch = sys.modules.get("torch")  # a caller with a tensor has imported it
    if torch is not None and isinstance(wav, torch.Tensor):
        is_float, noisy = wav.is_floating_point(), wav.detach().float().cpu().numpy()
    elif isinstance(wav, np.ndarray):
        is_float, noisy = wav.dtype.kind == "f", np.asarray(wav)
    else:
        raise InputError(f"samples must be a numpy array or a torch tensor, got {type(wav).__name__}")
    if not is_float:
        raise InputError(f"samples must be floats in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768")
    noisy = np.asarray(noisy, dtype=np.float32)
    loudest = peak(noisy)
    if not math.isfinite(loudest):
        raise InputError("samples contain NaN or infinity")
    return noisy, loudest

"""Enhance signals while they arrive: from a pipe to a pipe, or from the microphone to the loudspeaker."""

from __future__ import annotations

import os

from sase.audio.pcm import PcmFormat, read_wav_header
from sase.enhancer import Enhancer
from sase.errors import InputError

_NAME = "standard input"
_READ_BYTES = 1 << 16  # at most; less as soon as less is there
_MAX_CHUNK_BYTES = 1 << 24  # behind the samples of a WAV file; what looks like a name, but is samples, declares more
_NO_PORTAUDIO = "PortAudio cannot be loaded; install it (Debian: libportaudio2)"


def enhance_pipe(enhancer: Enhancer, source: int, target: int, raw: PcmFormat, may_be_wav: bool = True) -> float:
    """Enhance samples from one file descriptor to another; whatever can be written is written at once.

    Args:
        enhancer: with a causal network.
        source: raw samples, or a WAV file; read without waiting for more than is there.
        target: gets the enhanced samples in the format of the source, as many as the source had.
        raw: the format of raw samples.
        may_be_wav: take an input that starts as a WAV file for one; the output then is one too.

    Returns:
        The duration in seconds.

    Raises:
        InputError: a WAV file with other samples, an offline network, samples that are NaN or infinite, or an input
            that ends within a sample, before or behind its declared end; all output up to there has then been written.
    """
    pipe = _Input(source)
    is_wav = may_be_wav and pipe.starts_as_wav()
    pcm, to_read = read_wav_header(pipe.take, _NAME) if is_wav else (raw, None)
    stream = enhancer.stream(pcm.sample_rate, pcm.num_channels)
    if is_wav:
        _write(target, pcm.wav_header())
    num_bytes, rest = 0, b""
    while data := pipe.read(_READ_BYTES if to_read is None else to_read - num_bytes):
        num_bytes += len(data)
        data = rest + data
        whole = len(data) // pcm.frame_bytes * pcm.frame_bytes
        rest = data[whole:]
        _write(target, pcm.encode(stream.feed(pcm.decode(data[:whole]))))
    _write(target, pcm.encode(stream.flush().reshape(pcm.num_channels, -1)))
    if to_read is not None and num_bytes < to_read:
        raise InputError(f"{_NAME}: truncated: {to_read - num_bytes} bytes are missing")
    if rest:
        raise InputError(f"{_NAME}: ends within a sample")
    if to_read is not None and not pipe.only_chunks_follow():
        raise InputError(f"{_NAME}: its header declares {to_read} bytes of audio, but more follow")
    return num_bytes / pcm.frame_bytes / pcm.sample_rate


def enhance_microphone(enhancer: Enhancer, sample_rate: int, num_channels: int = 1) -> None:
    """Play what the default microphone records, enhanced, on the default output, until the process is interrupted.

    Args:
        enhancer: with a causal network.
        sample_rate, num_channels: of both devices.

    Raises:
        ModuleNotFoundError: no sounddevice.
        InputError: no PortAudio, no such device, or an offline network.
    """
    try:
        import sounddevice
    except OSError:
        raise InputError(_NO_PORTAUDIO) from None
    stream = enhancer.stream(sample_rate, num_channels)
    hop = max(1, round((enhancer.engine.latency_s - enhancer.engine.delay / enhancer.sample_rate) * sample_rate))
    try:
        with sounddevice.Stream(sample_rate, hop, channels=num_channels, dtype="float32", latency="low") as device:
            while True:
                block, _ = device.read(hop)
                enhanced = stream.feed(block.T)
                device.write(enhanced.T.copy())
    except sounddevice.PortAudioError as error:
        raise InputError(f"audio devices cannot be used: {error}") from None


class _Input:
    """A file descriptor that is read as data arrive.

    Args:
        descriptor: open for reading.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._ahead = descriptor, b""

    def starts_as_wav(self) -> bool:
        """Return whether the next bytes are the beginning of a WAV file; they are not consumed."""
        while len(self._ahead) < 12 and b"RIFF".startswith(self._ahead[:4]):
            data = os.read(self._descriptor, 12 - len(self._ahead))
            if not data:
                break
            self._ahead += data
        return len(self._ahead) == 12 and self._ahead.startswith(b"RIFF") and self._ahead.endswith(b"WAVE")

    def read(self, limit: int) -> bytes:
        """Return what is there, at least a byte and at most ``limit``; nothing at the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:limit], self._ahead[limit:]
            return data
        return os.read(self._descriptor, min(limit, _READ_BYTES))

    def only_chunks_follow(self) -> bool:
        """Return whether there is nothing else, zeros, or a chunk; what decides is consumed."""
        head = b""
        while len(head) < 8 and (data := self.read(8 - len(head))):
            head = (head + data).lstrip(b"\0")
        name, size = head[:4], int.from_bytes(head[4:], "little")
        is_name = name.isascii() and name.decode().isprintable() and name != b"RIFF"
        return not head or (is_name and size < _MAX_CHUNK_BYTES)

    def take(self, num_bytes: int) -> bytes:
        """Return exactly the next bytes; raise InputError if there are fewer."""
        taken = bytearray()
        while len(taken) < num_bytes:
            data = self.read(num_bytes - len(taken))
            if not data:
                raise InputError(f"{_NAME}: ends within the header of a WAV file")
            taken += data
        return bytes(taken)


def _write(descriptor: int, data: bytes) -> None:
    """Write everything: a pipe takes a part when it is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

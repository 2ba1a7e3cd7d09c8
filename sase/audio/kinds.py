"""Kinds of sound files that can be written: container, sample format, channel layout and tags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from sase.errors import InputError

CONTAINERS = {  # suffix to libsndfile's name of the container that is written
    ".wav": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".oga": "OGG",
    ".opus": "OGG",
    ".mp3": "MP3",
    ".aif": "AIFF",
    ".aiff": "AIFF",
    ".aifc": "AIFF",
    ".au": "AU",
    ".snd": "AU",
    ".caf": "CAF",
    ".rf64": "RF64",
    ".w64": "W64",
}
FORMATS = tuple(dict.fromkeys(suffix[1:] for suffix in CONTAINERS))
_FAMILIES = {"WAV": ("WAV", "WAVEX", "RF64"), "RF64": ("RF64",)}  # a file of that suffix may be any of these
_LOSSY = {".mp3": "MPEG_LAYER_III", ".opus": "OPUS", ".ogg": "VORBIS", ".oga": "VORBIS"}
_DEPTHS = {  # bits that a sample format resolves
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "FLOAT": 32,
    "DOUBLE": 64,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}
_TAGS = ("title", "copyright", "artist", "comment", "date", "album", "license", "tracknumber", "genre")
_GET_CHANNEL_MAP, _SET_CHANNEL_MAP = 0x1100, 0x1101  # of sf_command


@dataclass(frozen=True)
class Kind:
    """What a sound file is, apart from its rate, number of channels and samples.

    Attributes:
        container: libsndfile's name, such as ``WAV`` or ``FLAC``; empty for one that libsndfile does not read.
        subtype: libsndfile's name of the sample format, such as ``PCM_24``.
        endian: ``FILE``, ``LITTLE`` or ``BIG``.
        layout: the speaker position of each channel as libsndfile numbers them; empty if the file does not say.
        tags: name to text, of those that libsndfile knows.
    """

    container: str = ""
    subtype: str = "PCM_16"
    endian: str = "FILE"
    layout: tuple[int, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: soundfile.SoundFile) -> Kind:
        """Return the kind of an open file."""
        tags = {name: text for name in _TAGS if (text := getattr(file, name))}
        return cls(file.format, file.subtype, file.endian, _layout(file), tags)

    def written_as(self, path: Path, subtype: str | None = None) -> Kind:
        """Return the kind for a file of this name: the same as far as its container allows.

        Args:
            path: whose suffix decides on the container.
            subtype: the sample format that is wanted; None: the same, or the nearest that the container has.

        Raises:
            InputError: an unknown suffix, or a sample format that the container does not have.
        """
        suffix = path.suffix.lower()
        container = container_of(path)
        same = self.container in _FAMILIES.get(container, (container,))
        container = self.container if same else container
        if subtype is not None:
            subtype = subtype.upper()
            if not soundfile.check_format(container, subtype):
                known = " ".join(name for name in soundfile.available_subtypes(container))
                raise InputError(f"{path}: {container} has no sample format {subtype}; use one of {known}")
        elif same and soundfile.check_format(container, self.subtype) and suffix != ".opus":
            subtype = self.subtype
        else:
            subtype = _LOSSY.get(suffix) or _nearest(container, self.subtype)
        endian = self.endian if soundfile.check_format(container, subtype, self.endian) and same else "FILE"
        return Kind(container, subtype, endian, self.layout, self.tags)

    def apply(self, file: soundfile.SoundFile) -> None:
        """Write the channel layout and the tags to a file that has no samples yet."""
        if self.layout:
            _command(file, _SET_CHANNEL_MAP, list(self.layout))
        for name, text in self.tags.items():
            setattr(file, name, text)


def container_of(path: Path) -> str:
    """Return the container that a file of this name is written as; raise InputError if there is none."""
    if path.suffix.lower() not in CONTAINERS:
        raise InputError(f"{path}: cannot write '{path.suffix}' files; use one of {' '.join(CONTAINERS)}")
    return CONTAINERS[path.suffix.lower()]


def create(path: Path, partial: Path, sample_rate: int, num_channels: int, kind: Kind) -> soundfile.SoundFile:
    """Open a file of this kind for writing; raise InputError, naming ``path``, if libsndfile cannot write it."""
    try:
        file = soundfile.SoundFile(
            os.fsencode(partial), "w", sample_rate, num_channels, kind.subtype, kind.endian, kind.container
        )
    except soundfile.SoundFileError as error:
        reason = f"{kind.container} files ({kind.subtype}) of {sample_rate} Hz and {num_channels} channels"
        text = getattr(error, "error_string", error)
        raise InputError(f"{path}: {reason} cannot be written ({text}); choose another format") from None
    kind.apply(file)
    return file


def _nearest(container: str, subtype: str) -> str:
    """Return the sample format of a container that resolves as much as another one, or as much as it can.

    Compressed formats count as 16 bits.
    """
    depth = _DEPTHS.get(subtype, 16)
    if subtype in ("FLOAT", "DOUBLE") and soundfile.check_format(container, subtype):
        return subtype
    fitting = [name for name in ("PCM_16", "PCM_24", "PCM_32") if soundfile.check_format(container, name)]
    return next((name for name in fitting if _DEPTHS[name] >= depth), fitting[-1] if fitting else "PCM_16")


def _layout(file: soundfile.SoundFile) -> tuple[int, ...]:
    return tuple(_command(file, _GET_CHANNEL_MAP, [0] * file.channels) or ())


def _command(file: soundfile.SoundFile, command: int, values: list[int]) -> list[int] | None:
    """Call libsndfile's ``sf_command`` with an array of integers, which soundfile has no function for.

    Returns:
        The array afterwards; None if the file has no such information.
    """
    data = soundfile._ffi.new("int[]", values)
    done = soundfile._snd.sf_command(file._file, command, data, soundfile._ffi.sizeof(data))
    return list(data) if done else None

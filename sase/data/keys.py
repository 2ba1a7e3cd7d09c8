"""Keys of utterances and speakers, which later stages make names of files of: checked where they enter."""

import re
from pathlib import Path

from sase.errors import InputError

_MAX_PART_BYTES, _MAX_KEY_BYTES = 200, 1000  # of 255 and 4096 of file systems; temporary files need some
_UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_key(where: str | Path, key: str) -> None:
    """Raise InputError, naming ``where``, unless a key can name a file below any folder.

    Keys may contain ``/``, but not point outside the folder (``../a``, ``/a``), contain control characters, or be
    longer than names of files can be.
    """
    long = len(key) > _MAX_PART_BYTES // 4 and (
        len(key.encode("utf-8", "replace")) > _MAX_KEY_BYTES
        or max(len(part.encode("utf-8", "replace")) for part in key.split("/")) > _MAX_PART_BYTES
    )
    if long or _UNSAFE.search(key):
        shown = ascii(key if len(key) <= 60 else f"{key[:60]}...")
        raise InputError(f"{where}: the key {shown} cannot name a file: too long, outside its folder, or unprintable")

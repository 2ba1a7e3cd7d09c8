"""Fetch archives over HTTP, gone on with after a break, verified, and unpacked without stepping out of their folder."""

import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tqdm import tqdm

from sase import __version__
from sase.atomic import atomic_folder, write_text
from sase.errors import InputError

# Some servers turn away clients that do not look like a browser.
HEADERS = {"User-Agent": f"Mozilla/5.0 (compatible; sase/{__version__})", "Accept-Encoding": "identity"}
TIMEOUT_S = 30.0
# Waits before trying again: after a break in the middle, and where nothing has come yet (mostly for want of a network).
WAITS_BREAK_S = (1.0, 2.0, 4.0, 8.0, 16.0)
WAITS_START_S = (1.0,)
BLOCK_BYTES = 1 << 20
WAYS_OUT = (
    "run.sh takes a copy that you have with '--corpus_dir DIR', "
    "and with '--mini true' generates a stand-in that needs no network"
)


@dataclass(frozen=True)
class Archive:
    """A zip file on a server; it is unpacked to a folder of its name."""

    name: str
    addresses: tuple[str, ...]
    md5: str | None = None
    num_bytes: int | None = None


class _Transient(Exception):
    """The transfer broke; what came stays and the rest is asked for again."""


class _Refused(Exception):
    """This address (or the file that was there) does not give what is wanted; another one may."""


def download_archives(archives, target, remove_zips=False):
    """Fetch, verify and unpack archives; ``target/NAME/`` and a marker beside it stand for one that is finished.

    Args:
        archives: :class:`Archive` objects.
        target: the folder for the zip files and the unpacked folders.
        remove_zips: delete each zip file once it is unpacked.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        marker = target / f".{archive.name}.done"
        if marker.exists() and (target / archive.name).is_dir():
            print(f"{target / archive.name}: is there (delete it to unpack it again)", flush=True)
            continue
        marker.unlink(missing_ok=True)
        try:
            file, md5 = fetch(archive, target)
            unpack(file, target / archive.name)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise InputError(
                f"{target}: the disk is full; make room and run this again, it goes on where it stopped"
            ) from None
        write_text(marker, f"{md5}\n")
        if remove_zips:
            file.unlink()


def fetch(archive, folder):
    """Return the path of a complete, verified zip file in ``folder``, and its MD5; download what is missing of it.

    A file that is not the published one is kept aside as ``NAME.zip.wrong``, and the next address is asked.

    Raises:
        InputError: when no address gives the file, with each one's reason.
    """
    file, partial = folder / f"{archive.name}.zip", folder / f"{archive.name}.zip.partial"
    failures = []
    for address in (None, *archive.addresses):  # None: the file that may be there already
        try:
            if address:
                _transfer(address, partial, archive)
                os.replace(partial, file)
            elif not file.exists():
                continue
            md5 = _verify(archive, file)
        except _Refused as error:
            failures.append(f"{urlsplit(address).netloc}: {error}" if address else str(error))
            print(f"{file.name}: {failures[-1]}", file=sys.stderr, flush=True)
        else:
            print(f"{file}: MD5 {md5}, {'as published' if archive.md5 else 'none is published to compare'}", flush=True)
            return file, md5
    reasons = "; ".join(dict.fromkeys(failures))
    raise InputError(f"{file.name} cannot be downloaded ({reasons}). Run this again later, or: {WAYS_OUT}")


def unpack(file, folder):
    """Unpack a zip file to ``folder``, whole or not at all; a single top folder of the same name is left out.

    Raises:
        InputError: for a damaged archive, or a member that points outside the folder or is a link.
    """
    folder = Path(folder)
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if _is_wanted(file, member)]
            _require_space(folder.parent, sum(member.file_size for member in members), file)
            with atomic_folder(folder) as partial, _progress(f"unpacking {file.name}", len(members), "file") as advance:
                for member in members:
                    parts = PurePosixPath(member.filename).parts
                    path = partial.joinpath(*(parts[1:] if parts[0] == folder.name and len(parts) > 1 else parts))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, open(path, "wb") as sink:
                        shutil.copyfileobj(source, sink, BLOCK_BYTES)
                    advance(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise InputError(f"{file}: the archive is damaged ({error}); delete it and run this again") from None


def _is_wanted(file, member):
    """True for a plain file to unpack; raise InputError when it would land elsewhere."""
    name, parts = member.filename, PurePosixPath(member.filename).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{file}: holds '{name}', which points outside its folder; nothing was unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{file}: holds the link '{name}'; nothing was unpacked")
    return not member.is_dir() and parts[0] != "__MACOSX"


def _verify(archive, file):
    """Return the MD5 of a complete file; put it aside and raise _Refused when it is not the published one."""
    size, digest = file.stat().st_size, hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as source:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
    md5 = digest.hexdigest()
    if archive.num_bytes is not None and size != archive.num_bytes:
        fault = f"{size} bytes came, the file has {archive.num_bytes}"
    elif archive.md5 is not None and md5 != archive.md5:
        fault = f"the wrong bytes came, MD5 {md5}, published is {archive.md5}"
    elif not zipfile.is_zipfile(file):
        fault = f"what came is no zip file ({size} bytes)"
    else:
        return md5
    aside = file.with_name(file.name + ".wrong")
    os.replace(file, aside)
    raise _Refused(f"{fault}, kept as {aside.name}")


def _transfer(address, partial, archive):
    """Download to ``partial`` and go on after breaks, as long as anything comes; raise _Refused when nothing does."""
    attempt, waits = 0, WAITS_START_S
    while True:
        before = _size(partial)
        try:
            return _receive(address, partial, archive)
        except _Transient as error:
            if _size(partial) > before:
                attempt, waits = 0, WAITS_BREAK_S
            if attempt == len(waits):
                raise _Refused(error) from None
            print(f"{archive.name}.zip: {error}; again in {waits[attempt]:.0f} s", file=sys.stderr, flush=True)
            time.sleep(waits[attempt])
            attempt += 1


def _receive(address, partial, archive):
    """Ask once for what is missing of ``partial`` and append it."""
    offset = _size(partial)
    request = urllib.request.Request(address, headers=HEADERS)
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.headers.get_content_type() == "text/html":  # before anything is written over
                raise _Refused("answers with a page, not with the file")
            if offset and not _goes_on_at(response, offset):
                print(f"{archive.name}.zip: the server cannot go on in the middle: from the start", file=sys.stderr)
                offset = 0
            announced = response.headers.get("Content-Length")
            total = offset + int(announced) if announced and announced.isdigit() else None
            if archive.num_bytes is not None and total is not None and total != archive.num_bytes:
                raise _Refused(f"announces {total} bytes, the file has {archive.num_bytes}")
            _require_space(partial.parent, (total or offset) - offset, partial)
            _append(response, partial, offset, total, archive)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing is left to send: the file is complete, or of an older version
            if error.headers.get("Content-Range", "").endswith(f"/{offset}"):
                return
            partial.unlink()
            raise _Transient("the server has another length now: from the start") from None
        if error.code in (408, 429) or error.code >= 500:
            raise _Transient(f"HTTP {error.code} {error.reason}") from None
        raise _Refused(f"HTTP {error.code} {error.reason}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Transient(f"the connection broke ({type(error).__name__})") from None
    except urllib.error.URLError as error:
        raise _Transient(f"no connection ({error.reason})") from None


def _append(response, partial, offset, total, archive):
    """Copy a response's body to ``partial`` from ``offset`` on; raise _Transient when it ends early."""
    with open(partial, "ab") as sink, _progress(f"{archive.name}.zip", total, "B", offset) as advance:
        sink.truncate(offset)
        # read1 gives what has come; read(n) would wait for n bytes and lose them all when the connection breaks.
        while block := response.read1(BLOCK_BYTES):
            sink.write(block)
            advance(len(block))
        size = sink.tell()
    if total is not None and size < total:
        raise _Transient(f"the connection broke after {size} of {total} bytes")


def _goes_on_at(response, offset):
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == offset


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _require_space(folder, num_bytes, what):
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(f"{what}: needs {num_bytes / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB; make room first")


@contextmanager
def _progress(name, total, unit, initial=0):
    """Yield ``advance(n)``: a bar on a terminal, elsewhere a plain line at every tenth."""
    if sys.stderr.isatty():
        scaled = {"unit_scale": True, "unit_divisor": 1000} if unit == "B" else {}
        with tqdm(desc=name, total=total, initial=initial, unit=unit, **scaled) as bar:
            yield bar.update
        return
    done, step = initial, max(1, (total or 1 << 30) // 10)

    def advance(count):
        nonlocal done
        if (done + count) // step > done // step:
            text = f"{(done + count) / 1e6:.1f} MB" if unit == "B" else f"{done + count} {unit}s"
            share = f" ({100 * (done + count) // total} %)" if total else ""
            print(f"{name}: {text}{share}", file=sys.stderr, flush=True)
        done += count

    yield advance

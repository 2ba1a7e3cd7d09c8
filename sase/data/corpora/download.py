"""Download archives over HTTP with resuming and verification, and unpack them safely."""

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from sase import __version__
from sase.atomic import atomic_folder, write_text
from sase.data.corpora import watched
from sase.data.keys import check_key
from sase.errors import InputError, one_line
from sase.progress import progress_bar
from sase.zipfiles import DAMAGES, is_zip_file

# Some servers reject clients that do not look like a browser.
HEADERS = {"User-Agent": f"Mozilla/5.0 (compatible; sase/{__version__})", "Accept-Encoding": "identity"}
TIMEOUT_S = 30.0
# Waits before retries: after an interruption, and if no data has arrived yet (usually because there is no network).
WAITS_BREAK_S = (1.0, 2.0, 4.0, 8.0, 16.0)
WAITS_START_S = (1.0,)
BLOCK_BYTES = 1 << 20
MAX_BYTES = 100_000_000_000  # of an archive whose length is not published
MIN_BYTES_PER_S, SLOW_S = 1000, 120.0  # a server that stays below this for so long is given up
_MAX_RATIO = 100  # of unpacked to packed bytes; sound hardly shrinks
WAYS_OUT = "run.sh uses an existing copy with '--corpus_dir DIR', and generates a stand-in offline with '--mini true'"


@dataclass(frozen=True)
class Archive:
    """A zip file on a server; it is unpacked to a folder of the same name."""

    name: str
    addresses: tuple[str, ...]
    md5: str | None = None
    num_bytes: int | None = None


class _InterruptedError(Exception):
    """The transfer was interrupted and can be resumed."""


class _RejectedError(Exception):
    """This address (or the existing file) is not the wanted file; another address may be."""


def download_archives(archives: Sequence[Archive], target: str | Path, remove_zips: bool = False) -> None:
    """Download, verify and unpack archives; one with ``target/NAME/`` and a marker beside it is complete and skipped.

    Args:
        archives: to be downloaded.
        target: the folder for the zip files and the unpacked folders.
        remove_zips: delete each zip file after unpacking.

    Raises:
        InputError: the disk is full, or as :func:`fetch` and :func:`unpack`.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        marker = target / f".{archive.name}.done"
        if marker.exists() and (target / archive.name).is_dir():
            print(f"{target / archive.name}: exists (delete it to unpack it again)", flush=True)
            continue
        marker.unlink(missing_ok=True)
        try:
            file, md5 = fetch(archive, target)
            unpack(file, target / archive.name)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise InputError(f"{target}: the disk is full; free some space and run this again to resume") from None
        write_text(marker, f"{md5}\n")
        if remove_zips:
            file.unlink()


def fetch(archive: Archive, folder: Path) -> tuple[Path, str]:
    """Return the path of a complete, verified zip file in ``folder`` and its MD5; download the missing part.

    A file other than the published one is renamed to ``NAME.zip.wrong``, and the next address is tried.

    Raises:
        InputError: no address provides the file; with the reason of each.
    """
    file, partial = folder / f"{archive.name}.zip", folder / f"{archive.name}.zip.partial"
    failures = []
    for address in (None, *archive.addresses):  # None: an existing file
        try:
            if address:
                _transfer(address, partial, archive)
                os.replace(partial, file)
            elif not file.exists():
                continue
            md5 = _verify(archive, file)
        except _RejectedError as error:
            failures.append(f"{urlsplit(address).netloc}: {error}" if address else str(error))
            print(f"{file.name}: {failures[-1]}", file=sys.stderr, flush=True)
        else:
            print(
                f"{file}: MD5 {md5}, {'as published' if archive.md5 else 'no published value to compare'}", flush=True
            )
            return file, md5
    reasons = "; ".join(dict.fromkeys(failures))
    raise InputError(f"{file.name} cannot be downloaded ({reasons}). Run this again later, or: {WAYS_OUT}")


def unpack(file: Path, folder: str | Path) -> None:
    """Unpack a zip file to ``folder``, atomically; a top-level folder of the same name is stripped.

    Raises:
        InputError: a damaged archive, or a member that is a link or points outside the folder.
    """
    folder = Path(folder)
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if _is_regular_file(file, member)]
            if any(member.header_offset < 0 for member in archive.infolist()):
                raise zipfile.BadZipFile("its beginning is missing")
            unpacked, packed = sum(member.file_size for member in members), file.stat().st_size
            if unpacked > _MAX_RATIO * packed:
                raise InputError(f"{file}: {packed} bytes that unpack to {unpacked} are no archive of audio")
            _require_space(folder.parent, unpacked, file)
            with (
                atomic_folder(folder) as partial,
                progress_bar(f"unpacking {file.name}", len(members), "file", _log) as bar,
            ):
                for member in members:
                    parts = PurePosixPath(member.filename).parts
                    path = partial.joinpath(*(parts[1:] if parts[0] == folder.name and len(parts) > 1 else parts))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, open(path, "wb") as sink:
                        shutil.copyfileobj(source, sink, BLOCK_BYTES)
                    bar.update()
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{file}: contains a file and a folder of one name ({error.strerror})") from None
    except DAMAGES as error:
        raise InputError(f"{file}: the archive is damaged ({error}); delete it and run this again") from None


def _is_regular_file(file: Path, member: zipfile.ZipInfo) -> bool:
    """Return whether a member is a file to unpack; raise InputError if it is a link or points outside the folder."""
    name, parts = member.filename, PurePosixPath(member.filename).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{file}: contains {name!a}, which points outside its folder; nothing was unpacked")
    check_key(file, name.rstrip("/"))
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{file}: contains the link {name!a}; nothing was unpacked")
    return not member.is_dir() and parts[0] != "__MACOSX"


def _verify(archive: Archive, file: Path) -> str:
    """Return the MD5 of a complete file; rename it and raise _RejectedError if it is not the published one."""
    size, digest = file.stat().st_size, hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as source:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
    md5 = digest.hexdigest()
    if archive.num_bytes is not None and size != archive.num_bytes:
        fault = f"received {size} bytes, expected {archive.num_bytes}"
    elif archive.md5 is not None and md5 != archive.md5:
        fault = f"wrong content, MD5 {md5}, published {archive.md5}"
    elif not is_zip_file(file):
        fault = f"not a zip file ({size} bytes)"
    else:
        return md5
    aside = file.with_name(file.name + ".wrong")
    os.replace(file, aside)
    raise _RejectedError(f"{fault}, kept as {aside.name}")


def _transfer(address: str, partial: Path, archive: Archive) -> None:
    """Download to ``partial``, resuming after interruptions as long as data arrives; else raise _RejectedError."""
    attempt = 0
    waits: Sequence[float] = WAITS_START_S
    while True:
        before = _size(partial)
        try:
            return _receive(address, partial, archive)
        except _InterruptedError as error:
            if _size(partial) > before:
                attempt, waits = 0, WAITS_BREAK_S
            if attempt == len(waits):
                raise _RejectedError(error) from None
            print(f"{archive.name}.zip: {error}; retrying in {waits[attempt]:.0f} s", file=sys.stderr, flush=True)
            time.sleep(waits[attempt])
            attempt += 1


def _receive(address: str, partial: Path, archive: Archive) -> None:
    """Request the missing part of ``partial`` once, and append it."""
    offset = _size(partial)
    request = urllib.request.Request(address, headers=HEADERS)
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        with watched.urlopen(request, TIMEOUT_S) as response:
            if response.headers.get_content_type() == "text/html":  # before overwriting anything
                raise _RejectedError("responds with a web page instead of the file")
            if offset and not _resumes_at(response, offset):
                print(f"{archive.name}.zip: the server cannot resume: starting over", file=sys.stderr)
                offset = 0
            announced = response.headers.get("Content-Length", "")
            total = offset + int(announced) if re.fullmatch("[0-9]{1,18}", announced) else None
            if total is not None and total > MAX_BYTES:
                raise _RejectedError(f"announces {total} bytes, more than {MAX_BYTES}")
            if archive.num_bytes is not None and total is not None and total != archive.num_bytes:
                raise _RejectedError(f"announces {total} bytes, expected {archive.num_bytes}")
            _require_space(partial.parent, (total or offset) - offset, partial)
            _append(response, partial, offset, total, archive)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing left to send: the file is complete, or the server's file changed
            if error.headers.get("Content-Range", "").endswith(f"/{offset}"):
                return
            partial.unlink()
            raise _InterruptedError("the length on the server changed: starting over") from None
        if error.code in (408, 429) or error.code >= 500:
            raise _InterruptedError(f"HTTP {error.code} {one_line(error.reason, 200)}") from None
        raise _RejectedError(f"HTTP {error.code} {one_line(error.reason, 200)}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _InterruptedError(f"connection lost ({type(error).__name__})") from None
    except urllib.error.URLError as error:
        raise _InterruptedError(f"no connection ({one_line(error.reason, 200)})") from None
    except ValueError as error:  # of urllib, for a redirection to no valid address
        raise _RejectedError(f"responds with an invalid header ({one_line(error, 200)})") from None


def _append(
    response: http.client.HTTPResponse, partial: Path, offset: int, total: int | None, archive: Archive
) -> None:
    """Copy a response's body to ``partial`` from ``offset``.

    Raises:
        _InterruptedError: the body is truncated.
        _RejectedError: it is longer than the archive can be, or arrives too slowly to be worth waiting for.
    """
    limit = total if total is not None else archive.num_bytes or MAX_BYTES
    size, seen, since = offset, offset, time.monotonic()
    with open(partial, "ab") as sink, progress_bar(f"{archive.name}.zip", total, "B", _log, initial=offset) as bar:
        sink.truncate(offset)
        for block in watched.blocks(response, BLOCK_BYTES):
            size += len(block)
            if size > limit:
                sink.truncate(offset)
                raise _RejectedError(f"sends more than the {limit} bytes that the archive can have")
            sink.write(block)
            bar.update(len(block))
            if (seconds := time.monotonic() - since) > SLOW_S:
                if size - seen < MIN_BYTES_PER_S * seconds:
                    raise _RejectedError(f"sent {size - seen} bytes in {seconds:.0f} s, too slow")
                seen, since = size, time.monotonic()
    if total is not None and size < total:
        raise _InterruptedError(f"connection lost after {size} of {total} bytes")


def _resumes_at(response: http.client.HTTPResponse, offset: int) -> bool:
    match = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == offset


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_space(folder: Path, num_bytes: int, what: str | Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(f"{what}: needs {num_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; free some space first")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

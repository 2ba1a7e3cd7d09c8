"""Archives over HTTP: servers that break off, lie, send something else; archives that reach out of their folder."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import struct
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sase.data.corpora import download, voicebank_demand, watched
from sase.data.corpora.download import Archive, download_archives
from sase.errors import InputError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "WAITS_BREAK_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "WAITS_START_S", (0.0,))
    monkeypatch.setattr(download, "BLOCK_BYTES", 1000)
    monkeypatch.setenv("no_proxy", "*")


def zip_bytes(members, **attributes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return buffer.getvalue()


GOOD = zip_bytes({"set/": b"", "set/p1_1.wav": os.urandom(7000), "set/p1_2.wav": b"two", "__MACOSX/set/._p1_1": b"x"})


class Server:
    """Answers GET with ``content``, in the ways that its fields say."""

    def __init__(self, content=GOOD):
        self.content, self.requests = content, []
        self.break_after = []  # bytes of body after which the n-th answer breaks off
        self.ranges, self.announce, self.status, self.type = True, None, 200, "application/zip"
        self.reason, self.drips_after = None, None
        self.headers, self.endless, self.pause_s = [], False, 0.0

    def answer(self, handler):
        self.requests.append(dict(handler.headers))
        if begin := self.drips_after:
            handler.wfile.write(begin)
            with contextlib.suppress(OSError):
                while self.drips_after:
                    handler.wfile.write(b"0")
                    time.sleep(0.01)
            return None
        if self.status != 200:
            handler.send_response(self.status, self.reason)
            for name, value in self.headers:
                handler.send_header(name, value)
            return handler.end_headers()
        start, status = 0, 200
        if self.ranges and "Range" in handler.headers:
            start, status = int(handler.headers["Range"][6:-1]), 206
        if start >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            return handler.end_headers()
        body = self.content[start:]
        handler.send_response(status)
        for name, value in self.headers:
            handler.send_header(name, value)
        if self.endless:
            handler.end_headers()
            while self.endless:
                handler.wfile.write(body)
                time.sleep(self.pause_s)
            return None
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(self.announce or len(body)))
        handler.send_header("Content-Type", self.type)
        handler.end_headers()
        handler.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)


@contextmanager
def serving(server):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self)

        def log_message(self, *args):
            """Keep the test's output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/set.zip"
    finally:
        http.shutdown()
        http.server_close()


def archive_at(*addresses, content=GOOD, **changes):
    return Archive(**{"name": "set", "addresses": addresses, "md5": hashlib.md5(content).hexdigest(), **changes})


def assert_unpacked(folder):
    assert (folder / "set/p1_2.wav").read_bytes() == b"two"
    assert sorted(path.name for path in (folder / "set").iterdir()) == ["p1_1.wav", "p1_2.wav"]
    assert (folder / "set.zip").read_bytes() == GOOD
    assert sorted(path.name for path in folder.iterdir()) == [".set.done", "set", "set.zip"]


def test_fetch_verify_unpack_and_do_nothing_again(tmp_path, capsys):
    server = Server()
    with serving(server) as address:
        for _ in range(2):
            download_archives([archive_at(address, num_bytes=len(GOOD))], tmp_path)
    assert_unpacked(tmp_path)
    assert len(server.requests) == 1
    assert "Mozilla" in server.requests[0]["User-Agent"]
    assert "as published" in capsys.readouterr().out


def test_a_deleted_folder_is_unpacked_again_without_the_network(tmp_path):
    with serving(Server()) as address:
        download_archives([archive_at(address)], tmp_path)
    shutil.rmtree(tmp_path / "set")
    download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)
    (tmp_path / ".set.done").unlink()
    download_archives([archive_at(address)], tmp_path, remove_zips=True)
    assert not (tmp_path / "set.zip").exists()
    assert (tmp_path / "set/p1_2.wav").exists()


def test_without_a_published_md5_it_is_printed(tmp_path, capsys):
    with serving(Server()) as address:
        download_archives([archive_at(address, md5=None)], tmp_path)
    assert_unpacked(tmp_path)
    assert hashlib.md5(GOOD).hexdigest() in capsys.readouterr().out


def test_goes_on_after_breaks_from_where_it_stopped(tmp_path, capsys):
    server = Server()
    server.break_after = [1500, 1, 2000]
    with serving(server) as address:
        download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)
    assert [request.get("Range") for request in server.requests] == [None, "bytes=1500-", "bytes=1501-", "bytes=3501-"]
    assert "lost after 1500 of" in capsys.readouterr().err


def test_goes_on_in_a_later_run(tmp_path):
    server = Server()
    (tmp_path / "set.zip.partial").write_bytes(GOOD[:3000])
    with serving(server) as address:
        download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)
    assert server.requests[0]["Range"] == "bytes=3000-"


def test_killed_between_the_last_byte_and_the_renaming(tmp_path):
    (tmp_path / "set.zip.partial").write_bytes(GOOD)
    with serving(Server()) as address:
        download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)


def test_a_partial_file_longer_than_the_servers_starts_over(tmp_path):
    (tmp_path / "set.zip.partial").write_bytes(GOOD + b"old")
    with serving(Server()) as address:
        download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)


def test_a_server_that_ignores_range_starts_over(tmp_path, capsys):
    server = Server()
    server.ranges, server.break_after = False, [4000]
    with serving(server) as address:
        download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)
    assert "starting over" in capsys.readouterr().err


def test_a_stale_partial_file_is_found_out_and_the_next_address_asked(tmp_path):
    (tmp_path / "set.zip.partial").write_bytes(bytes(3000))
    with serving(Server()) as address:
        download_archives([archive_at(address, address)], tmp_path)
    assert (tmp_path / "set.zip.wrong").read_bytes()[:3000] == bytes(3000)
    (tmp_path / "set.zip.wrong").unlink()
    assert_unpacked(tmp_path)


@pytest.mark.parametrize(
    ("announce", "known", "words"),
    [
        (len(GOOD) + 500, True, f"announces {len(GOOD) + 500} bytes, expected {len(GOOD)}"),
        (len(GOOD) - 500, True, f"announces {len(GOOD) - 500} bytes"),
        (len(GOOD) - 500, False, "wrong content"),
    ],
)
def test_a_server_that_lies_about_the_length(tmp_path, announce, known, words):
    server = Server()
    server.announce = announce
    with serving(server) as address, pytest.raises(InputError, match=f"set.zip cannot be downloaded .*{words}"):
        download_archives([archive_at(address, num_bytes=len(GOOD) if known else None)], tmp_path)
    assert len(server.requests) == 1
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.zip").exists()


def test_a_server_that_promises_more_than_there_is(tmp_path):
    """Asked for the rest, it says that there is none; the MD5 then decides."""
    server = Server()
    server.announce = len(GOOD) + 500
    with serving(server) as address:
        download_archives([archive_at(address)], tmp_path)
    assert_unpacked(tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_a_server_that_never_ends(tmp_path, monkeypatch, known):
    server = Server(bytes(5000))
    server.endless = True
    monkeypatch.setattr(download, "MAX_BYTES", 50000)
    (tmp_path / "set.zip.partial").write_bytes(bytes(100))
    with serving(server) as address, pytest.raises(InputError, match="sends more than the .* bytes"):
        download_archives([archive_at(address, num_bytes=len(GOOD) if known else None)], tmp_path)
    server.endless = False
    assert len(server.requests) == 1
    assert (tmp_path / "set.zip.partial").stat().st_size <= 50000


def test_a_server_that_drips(tmp_path, monkeypatch):
    server = Server(b"x")
    server.endless, server.pause_s = True, 0.01
    monkeypatch.setattr(download, "SLOW_S", 0.3)
    with serving(server) as address, pytest.raises(InputError, match="bytes in .* s, too slow"):
        download_archives([archive_at(address)], tmp_path)
    server.endless = False
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "begin",
    [
        b"HTTP/1.0 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=",
    ],
    ids=["headers", "size of a chunk", "extension of a chunk"],
)
def test_a_server_that_drips_its_headers_or_the_size_of_a_chunk(tmp_path, monkeypatch, begin):
    server = Server()
    server.drips_after = begin
    monkeypatch.setattr(watched, "HEADERS_S", 0.2)
    with serving(server) as address, pytest.raises(InputError, match="set.zip cannot be downloaded .*connection lost"):
        download_archives([archive_at(address)], tmp_path)
    server.drips_after = None
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "reason", "headers"),
    [
        (200, None, [("Content-Length", "9" * 5000)]),
        (200, None, [("Content-Length", "-5")]),
        (200, None, [("Content-Length", "\xb2")]),
        (200, None, [("Content-Type", "text\x1b[2J; charset=\xff")]),
        (200, None, [(f"X-{i}", "y") for i in range(200)]),
        (200, None, [("X", "y" * 70000)]),
        (200, None, [("Transfer-Encoding", "chunked")]),
        (206, None, [("Content-Range", "bytes " + "9" * 5000 + "-")]),
        (302, None, [("Location", "//[")]),
        (302, None, [("Location", "file:///etc/passwd")]),
        (302, None, [("Location", "http://" + "a" * 300 + "/")]),
        (302, None, [("Location", "/set.zip")]),
        (404, "\x1b[2JGone \x07" + "z" * 1000, []),
        (416, None, [("Content-Range", "\xff")]),
        (500, "\x1b]0;title", []),
    ],
    ids=lambda value: ascii(value)[:30] if isinstance(value, list) else str(value)[:5],
)
def test_strange_headers_are_one_line(tmp_path, status, reason, headers):
    server = Server(b"no zip file")
    server.status, server.reason, server.headers = status, reason, headers
    if status == 206:
        server.status = 200
        (tmp_path / "set.zip.partial").write_bytes(bytes(3))
    with serving(server) as address, pytest.raises(InputError, match="set.zip cannot be downloaded") as error:
        download_archives([archive_at(address)], tmp_path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000
    assert not (tmp_path / "set").exists()


def test_an_archive_that_claims_to_hold_far_too_much(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/a.wav", bytes(30_000_000))
    content = buffer.getvalue()
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(InputError, match=f"{len(content)} bytes that unpack to 30000000 are no archive of audio"):
        download_archives([archive_at(content=content)], tmp_path)
    assert not (tmp_path / "set").exists()


def test_wrong_bytes_are_kept_aside(tmp_path):
    with serving(Server(b"<html>please log in</html>")) as address:
        with pytest.raises(InputError, match="wrong content, MD5 .* published") as error:
            download_archives([archive_at(address)], tmp_path)
        assert "--corpus_dir" in str(error.value)
        assert "--mini true" in str(error.value)
        with pytest.raises(InputError, match="not a zip file"):
            download_archives([archive_at(address, md5=None)], tmp_path)
    several_disks = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2) + b"PK\x05\x06" + bytes(18)
    with serving(Server(several_disks)) as address, pytest.raises(InputError, match="not a zip file"):
        download_archives([archive_at(address, md5=None)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip.wrong"]


def test_a_page_does_not_overwrite_what_has_come(tmp_path):
    page, good = Server(b"<html>please log in</html>"), Server()
    page.type, page.ranges = "text/html; charset=utf-8", False
    (tmp_path / "set.zip.partial").write_bytes(GOOD[:3000])
    with serving(page) as first, serving(good) as second:
        with pytest.raises(InputError, match="responds with a web page instead of the file"):
            download_archives([archive_at(first)], tmp_path)
        download_archives([archive_at(first, second)], tmp_path)
    assert_unpacked(tmp_path)
    assert good.requests[0]["Range"] == "bytes=3000-"


def test_the_next_address_is_asked(tmp_path, capsys):
    gone, good = Server(), Server()
    gone.status = 404
    with serving(gone) as first, serving(good) as second:
        download_archives([archive_at(first, second)], tmp_path)
    assert_unpacked(tmp_path)
    assert len(gone.requests) == 1
    assert "HTTP 404" in capsys.readouterr().err


def test_a_busy_server_is_asked_again(tmp_path):
    server = Server()
    server.status = 503
    with serving(server) as address, pytest.raises(InputError, match="HTTP 503"):
        download_archives([archive_at(address)], tmp_path)
    assert len(server.requests) == 2


def test_without_a_network_both_alternatives_are_named(tmp_path):
    with serving(Server()) as address:
        pass  # nobody listens there any more
    with pytest.raises(InputError, match="no connection") as error:
        download_archives([archive_at(address)], tmp_path)
    assert all(words in str(error.value) for words in ("set.zip", "127.0.0.1", "--corpus_dir", "--mini true"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("members", "attributes"),
    [
        ({"set/a": b"1", "../outside": b"2"}, {}),
        ({"set/../../outside": b"2"}, {}),
        ({"/outside": b"2"}, {}),
        ({"C:/outside": b"2"}, {}),
        ({"set/" + "a" * 300: b"2"}, {}),
        ({"set//b\x1b[2J": b"2"}, {}),
        ({"set/link": b"/etc/passwd"}, {"create_system": 3, "external_attr": (stat.S_IFLNK | 0o777) << 16}),
    ],
)
def test_archives_that_reach_out_of_their_folder(tmp_path, members, attributes):
    content = zip_bytes(members, **attributes)
    (tmp_path / "in").mkdir()
    with (
        serving(Server(content)) as address,
        pytest.raises(InputError, match="nothing was unpacked|cannot name"),
    ):
        download_archives([archive_at(address, content=content)], tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["set.zip"]


def test_a_damaged_archive_leaves_no_half_folder(tmp_path):
    content = bytearray(GOOD)
    content[100] ^= 0xFF
    with serving(Server(bytes(content))) as address, pytest.raises(InputError, match="the archive is damaged"):
        download_archives([archive_at(address, md5=None)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_an_archive_without_its_beginning_or_with_members_that_exclude_each_other(tmp_path):
    (tmp_path / "set.zip").write_bytes(GOOD[1:])
    with pytest.raises(InputError, match="the archive is damaged .its beginning is missing"):
        download.unpack(tmp_path / "set.zip", tmp_path / "set")
    (tmp_path / "set.zip").write_bytes(zip_bytes({"a": b"1", "a/b": b"2"}))
    with pytest.raises(InputError, match="contains a file and a folder of one name"):
        download.unpack(tmp_path / "set.zip", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_a_full_disk(tmp_path, monkeypatch):
    with serving(Server()) as address:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
        with pytest.raises(InputError, match="free some space first"):
            download_archives([archive_at(address)], tmp_path)
        monkeypatch.undo()
        monkeypatch.setenv("no_proxy", "*")

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(download, "_append", full)
        with pytest.raises(InputError, match="the disk is full; .* run this again to resume"):
            download_archives([archive_at(address)], tmp_path)


def test_the_official_archives():
    names = [archive.name for archive in voicebank_demand.ARCHIVES]
    assert len(set(names)) == 7
    for archive in voicebank_demand.ARCHIVES:
        assert archive.md5 is None or len(archive.md5) == 32
        assert all(address.startswith("https://datashare.ed.ac.uk/") for address in archive.addresses)


def test_the_training_set_is_chosen(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(voicebank_demand, "download_archives", lambda given, *_: chosen.append([a.name for a in given]))
    voicebank_demand.download(tmp_path)
    voicebank_demand.download(tmp_path, trainset="56spk")
    tests = ["clean_testset_wav", "noisy_testset_wav"]
    for names, size in zip(chosen, ("28spk", "56spk")):
        assert names == [*tests, f"clean_trainset_{size}_wav", f"noisy_trainset_{size}_wav", "logfiles"]
    with pytest.raises(InputError, match="28spk, 56spk"):
        voicebank_demand.download(tmp_path, trainset="57spk")

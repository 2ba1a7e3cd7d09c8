"""``sase doctor``: every check finds its fault, with a remedy in one line, and a healthy machine passes."""

import hashlib
import json
import resource
import shutil
import socket
import sys
import threading
import time
from base64 import b64decode, b64encode
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from helpers.doctor import by_check
from sase.bin.main import main
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated import connection
from sase.federated.certificates import make_certificates, make_silo_key
from sase.federated.doctor import machine
from sase.federated.doctor import server as server_checks
from sase.federated.doctor.credentials import check_credentials
from sase.federated.doctor.diagnosis import diagnose
from sase.federated.doctor.findings import FAILED, OK, WARNING, guarded, validity
from sase.federated.doctor.server import check_server, clock_finding, version_findings
from sase.federated.flower.listener import PublicPort, Server, private_socket, start_in_thread
from sase.federated.onboarding import Membership
from sase.federated.versions import installed_versions


async def app(scope, receive, send):
    """ASGI application that is healthy and does nothing else, as Flower's is to strangers."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    return await send({"type": "http.response.body", "body": b'{"status": "ok"}'})


def signer(headers):
    """Return the public key (PEM) that signed the time in these headers, verified without Flower; None if none did."""
    try:
        pem, signature = (b64decode(headers[f"flwr-{name}"]) for name in ("public-key", "signature"))
        key = serialization.load_pem_public_key(pem)
        key.verify(signature, headers["flwr-timestamp"].encode(), ec.ECDSA(hashes.SHA256()))
    except KeyError:
        return None
    age = datetime.now(UTC) - datetime.fromisoformat(headers["flwr-timestamp"])
    return pem if abs(age) < timedelta(seconds=60) else None


@contextmanager
def serving(folder, certificates, registered=("silo0",), **about):
    """Serve the port of a deployment that knows the keys of these silos; yield HOST:PORT."""
    folder.mkdir(mode=0o700, exist_ok=True)
    known = {}
    for name in registered:
        key = serialization.load_ssh_public_key((certificates / f"server/{name}.pub").read_bytes())
        known[key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)] = name
    port = free_port()
    files = str(certificates / "server/server.crt"), str(certificates / "server/server.key")
    public = PublicPort("127.0.0.1", port, *files, lambda headers: known.get(signer(headers)), about)
    server = Server(app, public)
    thread = start_in_thread(server, private_socket(folder / "socket"))
    try:
        yield f"localhost:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "ours", ["localhost"], 2)
    make_certificates(folder / "others", ["localhost"], 1)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, certificates):
    with serving(tmp_path_factory.mktemp("server"), certificates / "ours", sample_rate=16000) as address:
        yield address


def test_a_healthy_machine_passes_and_nothing_is_written(silos_dir, certificates, server, tmp_path):
    shutil.copytree(silos_dir / "silo0", tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    found = by_check(diagnose(Membership(0, server), tmp_path / "data", tmp_path / "state", certificates / "ours"))
    assert sorted(tmp_path.rglob("*")) == before
    assert FAILED not in {finding.status for finding in found.values()}
    assert set(found) == {
        *("data", "hours", "speech", "pauses", "noise", "order", "test set", "disk", "device"),
        *("certificate", "key", "keys of silos", "server", "server's certificate", "clock", "registration", "versions"),
        "sample rate",
    }
    assert "2 utterances of 2 speakers" in found["data"].message
    assert found["hours"].message == "0.00 h"
    assert found["sample rate"].message == "16000 Hz, as the server says"
    assert found["test set"].status == WARNING  # the fixture tests on what it trains on
    assert f"sase {installed_versions()['sase']}" in found["versions"].message


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_a_line_per_check_or_json_and_fails(
    silos_dir, certificates, tmp_path, monkeypatch, capsys, as_json
):
    words = ["doctor", "--silo", "0", "--data-dir", str(silos_dir / "silo0"), "--server", f"localhost:{free_port()}"]
    words += ["--certificates", str(certificates / "ours"), "--state-dir", str(tmp_path / "state")]
    monkeypatch.setattr(sys, "argv", ["sase", *words, *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    printed = capsys.readouterr().out
    if as_json:
        failed = [finding for finding in json.loads(printed) if finding["status"] == "failed"]
        assert [finding["check"] for finding in failed] == ["server"]
        assert "firewalls" in failed[0]["remedy"]
    else:
        failed = [line for line in printed.splitlines() if line.startswith("failed")]
        assert len(failed) == 1
        assert "cannot be reached (Connection refused); check that it runs" in failed[0]


@pytest.mark.parametrize(
    ("says", "given", "bundle", "rate", "source"),
    [
        (48000, 8000, 16000, 48000, "as the server says"),
        (None, 8000, 16000, 8000, "as given with --sample-rate"),
        (None, None, 8000, 8000, "as the bundle says"),
    ],
)
def test_the_sample_rate_is_that_of_who_knows_it_best(
    silos_dir, certificates, tmp_path, says, given, bundle, rate, source
):
    with serving(tmp_path / "server", certificates / "ours", sample_rate=says) as address:
        about = Membership(0, address, sample_rate=bundle)
        findings = diagnose(about, silos_dir / "silo0", tmp_path, certificates / "ours", sample_rate=given)
        found = by_check(findings)
    assert found["sample rate"].message == f"{rate} Hz, {source}"
    assert (found["data"].status, f"the network {rate} Hz" in found["data"].message) == (FAILED, True)
    assert found["data"].remedy == "run stage 2 with its --sample-rate"


def test_disk_and_device(tmp_path, monkeypatch):
    assert by_check(machine.check_disk(tmp_path / "new/state"))["disk"].status == OK
    assert not (tmp_path / "new").exists()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a full disk fails in the same place
    try:
        found = by_check(diagnose(Membership(0, "localhost:1"), tmp_path, tmp_path / "state", None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found["disk"].status == FAILED
    assert f"{tmp_path}: cannot be written to" in found["disk"].message
    assert found["disk"].remedy == "free 1 GB, or name another folder with --state-dir"
    free = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: free)
    assert by_check(machine.check_disk(tmp_path))["disk"].status == FAILED
    (tmp_path / "file").write_text("")
    found = by_check(diagnose(Membership(0, "localhost:1"), tmp_path, tmp_path / "file/state", None))
    assert found["disk"].status == FAILED
    assert by_check(machine.check_device("cpu"))["device"].status == OK
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    found = by_check(machine.check_device("cuda"))["device"]
    assert found.status == FAILED
    assert "--device cpu" in found.remedy


def test_keys_that_are_open_to_others_of_another_kind_or_of_another_pair(certificates, tmp_path):
    shutil.copytree(certificates / "ours/silo0", tmp_path / "silo")
    assert {finding.status for finding in check_credentials(tmp_path / "silo", 0)} == {OK}
    (tmp_path / "silo/silo.key").chmod(0o640)
    (bad,) = [finding for finding in check_credentials(tmp_path / "silo", 0) if finding.status == FAILED]
    assert bad.remedy == f"run: chmod 600 {tmp_path}/silo/silo.key"
    (tmp_path / "silo/silo.key").chmod(0o600)
    make_silo_key(tmp_path / "other")
    shutil.copy(tmp_path / "other/silo.pub", tmp_path / "silo/silo.pub")
    (bad,) = [finding for finding in check_credentials(tmp_path / "silo", 0) if finding.status == FAILED]
    assert "not the public key of silo.key" in bad.message
    for name, message in (("silo.key", "not a key of"), ("ca.crt", "not a certificate")):
        original = (tmp_path / f"silo/{name}").read_bytes()
        (tmp_path / f"silo/{name}").write_bytes(b"nonsense")
        with pytest.raises(InputError, match=message):
            list(check_credentials(tmp_path / "silo", 0))
        (tmp_path / f"silo/{name}").write_bytes(original)


def test_the_fingerprint_of_a_key_is_that_of_its_openssh_line(certificates):
    """By the definition in ssh-keygen(1), from the text of the file."""
    blob = b64decode((certificates / "ours/silo0/silo.pub").read_text().split()[1])
    expected = "SHA256:" + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    (found,) = [finding for finding in check_credentials(certificates / "ours/silo0", 0) if finding.check == "key"]
    assert found.message.endswith(f"fingerprint {expected}")


def test_the_list_of_keys_for_secure_sums_must_have_this_silos(certificates, tmp_path):
    shutil.copytree(certificates / "ours/silo0", tmp_path / "silo")
    assert "2 silos, fingerprint" in by_check(check_credentials(tmp_path / "silo", 0))["keys of silos"].message
    for change, message in (
        (lambda keys: shutil.copy(keys / "silo1.pub", keys / "silo0.pub"), "two silos have the same key"),
        (lambda keys: (keys / "silo1.pub").unlink(), r"silo0.pub: is not the key of this silo"),
        (lambda keys: (keys / "silo0.pub").rename(keys / "silo7.pub"), r"silo0.pub: is missing"),
        (lambda keys: (keys / "silo7.pub").unlink(), "no keys of silos"),
    ):
        change(tmp_path / "silo/silos")
        found = by_check(guarded("keys of silos", "", lambda: check_credentials(tmp_path / "silo", 0)))
        assert found["keys of silos"].status == FAILED
        assert message in str(found["keys of silos"])


def test_without_a_key_the_server_is_not_asked(certificates, server, tmp_path):
    shutil.copytree(certificates / "ours/silo0", tmp_path / "silo")
    (tmp_path / "silo/silo.key").unlink()
    found = by_check(diagnose(Membership(0, server), tmp_path, tmp_path, tmp_path / "silo"))
    assert "silo.key: no such file" in found["key"].message
    assert found["server"].remedy == "fix the key first"


def test_a_key_that_may_not_be_read_is_named_with_a_remedy():
    def check():
        raise PermissionError(13, "Permission denied", "silo.key")
        yield

    (finding,) = guarded("key", "make it", check)
    assert finding.status == FAILED
    assert "silo.key" in finding.message
    assert "chown" in finding.remedy


@pytest.mark.parametrize("days, status", [(-1, FAILED), (10, WARNING), (100, OK)])
def test_expiry(days, status):
    now = datetime.now(UTC)
    times = {"not_valid_before_utc": now - timedelta(days=9), "not_valid_after_utc": now + timedelta(days=days)}
    finding = validity("certificate", "it", SimpleNamespace(**times), "renew it")
    assert finding.status == status
    assert bool(finding.remedy) == (status != OK)


def test_an_unregistered_silo_learns_no_versions(certificates, server):
    found = by_check(check_server(Membership(1, server), certificates / "ours/silo1"))
    assert found["registration"].status == FAILED
    assert "silo.pub" in found["registration"].remedy
    assert "versions" not in found
    assert connection.ask_server(server, certificates / "ours/ca.crt").versions == {}


def test_a_key_that_is_registered_for_another_silo(certificates, server):
    found = by_check(check_server(Membership(1, server), certificates / "ours/silo0"))
    assert found["registration"].status == FAILED
    assert "as that of silo0, not of silo1" in found["registration"].message


@pytest.mark.parametrize(("offset_days", "said"), [(-1000, "has expired"), (1000, "not yet valid")])
def test_certificates_of_another_time_are_named_with_this_machines_clock(tmp_path, monkeypatch, offset_days, said):
    now = datetime.now(UTC)
    shifted = SimpleNamespace(now=lambda zone: now + timedelta(days=offset_days))
    times = SimpleNamespace(datetime=shifted, timedelta=timedelta, UTC=UTC)
    with monkeypatch.context() as patch:
        patch.setattr("sase.federated.certificates.datetime", times)
        make_certificates(tmp_path / "old", ["localhost"], 1)
    with serving(tmp_path / "server", tmp_path / "old") as address:
        found = by_check(diagnose(Membership(0, address), tmp_path, tmp_path, tmp_path / "old"))
    assert found["certificate"].status == FAILED
    assert found["server"].status == FAILED
    assert said in found["server"].message
    assert f"{now:%Y-%m-%d}" in found["server"].message
    assert "clock" in found["server"].remedy
    if offset_days > 0:
        assert "not valid before" in found["certificate"].message
        assert "clock" in found["certificate"].remedy


def test_another_name_of_the_server_and_another_web_server(certificates, server, tmp_path):
    other = Membership(0, server.replace("localhost", "127.1"))  # the same address by another name
    with pytest.raises(InputError, match="for other names .*; use a name in its --hosts"):
        list(check_server(other, certificates / "ours/silo0"))
    with pytest.raises(InputError, match="or --certificates if it has TLS"):
        list(check_server(Membership(0, server), None))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=r"no federation server is listening there \(HTTP status 404\)"):
            list(check_server(Membership(0, f"127.0.0.1:{web.server_port}"), None))
        web.shutdown()


def test_another_certificate_another_protocol_and_no_server(certificates, server, tmp_path):
    with pytest.raises(InputError, match="rejected, its certificate is not signed by"):
        list(check_server(Membership(0, server), certificates / "others/silo0"))
    with pytest.raises(InputError, match="HOST:PORT"):
        list(check_server(Membership(0, "nowhere"), None))
    assert by_check(check_server(Membership(0, "no.such.host.invalid:1"), None))["server"].status == FAILED
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            for _ in range(2):
                with listener.accept()[0] as client:
                    client.recv(1)
                    client.sendall(b"220 mail.example.org ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(InputError, match="no federation server is listening there"):
            list(check_server(Membership(0, address), None))
        with pytest.raises(InputError, match="no TLS there"):
            list(check_server(Membership(0, address), certificates / "ours/silo0"))


@pytest.mark.parametrize(
    "ahead_s, status", [(0.0, OK), (-4.0, WARNING), (-6.0, FAILED), (100.0, WARNING), (310.0, FAILED), (None, WARNING)]
)
def test_clocks_are_compared_with_what_flower_accepts(ahead_s, status):
    assert clock_finding(ahead_s).status == status


def test_a_wrong_clock_is_measured_and_named_before_the_key(certificates, server, monkeypatch):
    # Of this machine alone: the server runs in the same process.
    monkeypatch.setattr(connection, "time", SimpleNamespace(time=lambda: time.time() + 3600))
    monkeypatch.setattr(server_checks, "signed_headers", lambda key: {})  # whose time the server would not accept
    found = by_check(check_server(Membership(0, server), certificates / "ours/silo0"))
    assert found["clock"].status == FAILED
    seconds = int(found["clock"].message.split(" s ahead of the server's")[0])
    assert abs(seconds - 3600) <= 5  # the header's second, and a busy machine
    assert found["registration"].remedy == "set the clock first"


def test_versions_that_differ():
    ours = installed_versions()
    assert [finding.status for finding in version_findings(ours)] == [OK]
    (found,) = version_findings({**ours, "flwr": "1.26.0"})
    assert (found.status, "1.26.0 on the server" in found.message) == (FAILED, True)
    (found,) = version_findings({**ours, "torch": "1.0.0"})
    assert found.status == WARNING
    assert [finding.status for finding in version_findings({**ours, "numpy": ours["numpy"] + ".post1"})] == [OK]
    without = {name: version for name, version in ours.items() if name != "flwr"}
    assert [finding.status for finding in version_findings(without)] == [FAILED]

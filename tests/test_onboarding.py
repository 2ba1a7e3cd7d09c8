"""Bundles with which silos join a federation: no private key travels, and nothing but a bundle is accepted."""

import json
import sys
import zipfile

import pytest
from cryptography.hazmat.primitives import serialization

from sase.bin.main import main
from sase.errors import InputError
from sase.federated.certificates import make_silo_key, read_private_key, silo_credentials
from sase.federated.flower.deployment import _server_credentials
from sase.federated.flower.patches import node_public_key
from sase.federated.onboarding import RECORD, join, membership_of, read_membership, register_silo, write_bundles
from sase.federated.versions import installed_versions

HOSTS = ["fl.example.org", "10.0.0.5"]


@pytest.fixture
def sase(monkeypatch, capsys):
    """``sase(*words)`` runs a command; returns its status and what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sase", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        status = end.value.code or 0
        return (status, capsys.readouterr().out) if isinstance(status, int) else (1, status)

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server") / "certificates"
    write_bundles(folder, HOSTS, 2, 18000)
    return folder


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_command_on_each_side_and_no_private_key_travels(sase, tmp_path):
    ours, silo = tmp_path / "server/certificates", tmp_path / "silo"
    status, printed = sase("certificates", "--out", ours, "--hosts", "fl.example.org", "--silos", 2, "--bundle")
    assert status == 0
    authority = printed.split()[1]
    assert not list(ours.rglob("silo.key"))
    assert [path.name for path in sorted((ours / "bundles").iterdir())] == ["silo0.zip", "silo1.zip"]
    for path, content in everything(ours / "bundles").items():
        with zipfile.ZipFile(path) as bundle:
            assert sorted(bundle.namelist()) == ["README.txt", "ca.crt", RECORD]
            content = b"".join(bundle.read(name) for name in bundle.namelist())
        assert b"PRIVATE" not in content
        assert authority.encode() in content
    status, printed = sase("certificates", "--join", ours / "bundles/silo1.zip", "--out", silo)
    assert status == 0
    assert f"authority {authority}" in printed
    assert "silo 1 of the federation at fl.example.org:18000" in printed
    fingerprint = printed.split("key ")[1].split()[0]
    assert (silo / "silo.key").stat().st_mode & 0o777 == 0o600
    status, printed = sase("certificates", "--out", ours, "--register", silo / "silo.pub")
    assert (status, printed.split()[:4]) == (0, ["silo", "1:", "key", fingerprint + ","])
    # What is registered is the key of the silo, in the form in which the server reads it.
    private = read_private_key(silo / "silo.key").public_key()
    pem = private.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert node_public_key((ours / "server/silo1.pub").read_bytes()) == pem
    secret = (silo / "silo.key").read_bytes()
    assert all(secret not in content for content in everything(ours).values())
    assert _server_credentials(ours) == ours / "server"
    assert silo_credentials(silo, 1) == silo


def test_a_new_bundle_keeps_the_key_and_updates_the_server(server, tmp_path):
    assert join(server / "bundles/silo0.zip", tmp_path / "silo").server == "fl.example.org:18000"
    key = (tmp_path / "silo/silo.key").read_bytes()
    write_bundles(server, ["elsewhere.example.org"], 2, 18001)
    assert join(server / "bundles/silo0.zip", tmp_path / "silo").server == "elsewhere.example.org:18001"
    assert (tmp_path / "silo/silo.key").read_bytes() == key
    write_bundles(server, ["2001:db8::5"], 2, 18000)
    assert join(server / "bundles/silo0.zip", tmp_path / "silo").server == "[2001:db8::5]:18000"
    with pytest.raises(InputError, match="belongs to silo 0, not 1"):
        join(server / "bundles/silo1.zip", tmp_path / "silo")
    with pytest.raises(InputError, match="needs --hosts"):
        write_bundles(tmp_path / "none", [], 2, 18000)


def test_keys_are_registered_once_and_by_name(server, tmp_path):
    for silo in (0, 1):
        join(server / f"bundles/silo{silo}.zip", tmp_path / f"silo{silo}")
    public = [tmp_path / f"silo{silo}/silo.pub" for silo in (0, 1)]
    assert register_silo(server, public[0])[0] == 0
    assert register_silo(server / "server", public[0])[0] == 0  # again, in the folder itself
    line = public[0].read_text()
    (tmp_path / "as1.pub").write_text(line.replace(" silo0", " silo1"))
    with pytest.raises(InputError, match="registered as silo0; every silo needs its own"):
        register_silo(server, tmp_path / "as1.pub")
    (tmp_path / "as0.pub").write_text(public[1].read_text().replace(" silo1", " silo0"))
    with pytest.raises(InputError, match="silo0 has another key already"):
        register_silo(server, tmp_path / "as0.pub")
    for comment in ("", " me@host", " silo", " silo-1", " silo01", " ../silo1"):
        (tmp_path / "odd.pub").write_text(line.replace(" silo0", comment))
        with pytest.raises(InputError, match="does not say which silo's it is"):
            register_silo(server, tmp_path / "odd.pub")
    (tmp_path / "nonsense.pub").write_text("ssh-rsa AAAA silo1\n")
    with pytest.raises(InputError, match="not a public key"):
        register_silo(server, tmp_path / "nonsense.pub")
    with pytest.raises(InputError, match="not a public key"):
        register_silo(server, tmp_path / "silo0/silo.key")
    with pytest.raises(InputError, match=r"no server\.crt"):
        register_silo(tmp_path, public[1])


def write_zip(path, **files):
    with zipfile.ZipFile(path, "w") as bundle:
        for name, text in files.items():
            bundle.writestr(name.replace("_", "."), text)
    return path


def test_damaged_and_foreign_bundles_are_refused_and_make_no_key(server, tmp_path):
    with zipfile.ZipFile(server / "bundles/silo0.zip") as bundle:
        record, authority = bundle.read(RECORD).decode(), bundle.read("ca.crt").decode()
    (tmp_path / "text.zip").write_text("nonsense")
    whole = (server / "bundles/silo0.zip").read_bytes()
    (tmp_path / "truncated.zip").write_bytes(whole[: len(whole) // 2])
    changed = json.dumps({**json.loads(record), "server": "no port"})
    bundles = {
        "text.zip": "not a bundle",
        "truncated.zip": "not a bundle",
        write_zip(tmp_path / "a.zip", federation_json=record): "not a bundle",
        write_zip(tmp_path / "b.zip", federation_json=record[:-9], ca_crt=authority): "not valid JSON",
        write_zip(tmp_path / "c.zip", federation_json=changed, ca_crt=authority): "names silo 0 and server no port",
        write_zip(tmp_path / "d.zip", federation_json='{"code": "x"}', ca_crt=authority): "code",
        write_zip(tmp_path / "e.zip", federation_json=record, ca_crt="nonsense"): "not a certificate",
    }
    for name, message in bundles.items():
        with pytest.raises(InputError, match=message):
            join(tmp_path / name, tmp_path / "silo")
        assert not (tmp_path / "silo").exists(), name


def test_a_silo_needs_neither_its_number_nor_the_server(server, tmp_path, sase):
    membership = join(server / "bundles/silo1.zip", tmp_path / "silo")
    assert membership == read_membership(tmp_path / "silo")
    assert membership.versions == installed_versions()
    assert membership_of(str(tmp_path / "silo"), None, None) == membership
    assert membership_of(str(tmp_path / "silo"), 1, "elsewhere:1").server == "elsewhere:1"
    with pytest.raises(InputError, match="--silo 0: .* has the key of silo 1"):
        membership_of(str(tmp_path / "silo"), 0, None)
    make_silo_key(tmp_path / "plain")
    for certificates in (str(tmp_path / "plain"), None):
        assert membership_of(certificates, 0, "a:1").server == "a:1"
        with pytest.raises(InputError, match="needs --silo and --server"):
            membership_of(certificates, 0, None)
    with pytest.raises(InputError, match="--sample-rate: config: sample_rate must be 1000 or more"):
        write_bundles(tmp_path / "none", HOSTS, 1, 18000, sample_rate=16)
    assert not (tmp_path / "none").exists()
    bundle = write_bundles(tmp_path / "certificates", HOSTS, 1, 18000, sample_rate=48000)[0]
    assert join(bundle, tmp_path / "fast").sample_rate == 48000
    assert membership_of(str(tmp_path / "fast"), None, "elsewhere:1").sample_rate == 48000
    status, said = sase("silo", "--data-dir", tmp_path, "--certificates", tmp_path / "silo")
    assert status == 1
    assert "no folder tr" in said

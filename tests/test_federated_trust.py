"""Trust between server and silos: the apps that a silo runs, certificates and keys."""

import inspect
import re
import socket
import ssl
import threading
import zipfile
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate

from helpers.federation import fed_config, train_config
from sase.endpoints import free_port
from sase.errors import InputError
from sase.federated.certificates import make_certificates, make_silo_key
from sase.federated.flower.app import write_app
from sase.federated.flower.patches import connect_with_fab_check
from sase.federated.flower.processes import find_pids
from sase.federated.flower.silo_process import run_silo
from sase.federated.flower.supernode import is_trusted_fab


def test_a_silo_skips_messages_of_other_apps():
    import flwr.supernode.start_client_internal as node
    from flwr.supercore.run import RunNotRunningException

    @contextmanager
    def connect(address):
        app = SimpleNamespace(content=b"other")
        yield (5, "receive", "send", "get_run", lambda fab_hash, run_id: app, "pull", "push")

    with connect_with_fab_check(connect, is_trusted_fab, "address") as (node_id, *_, get_fab, pull, push):
        assert (node_id, pull, push) == (5, "pull", "push")
        with pytest.raises(RunNotRunningException):
            get_fab("hash", 1)
    # run_supernode() replaces names that Flower uses.
    assert "_init_connection(" in inspect.getsource(node.start_client_internal)
    assert "subprocess.Popen(" in inspect.getsource(node.start_client_internal)


def test_silos_run_only_this_packages_app(tmp_path):
    write_app(tmp_path, train_config(), fed_config(), exp_dir="a 'quoted' \"path\"\\")
    load_and_validate(tmp_path / "app/pyproject.toml")
    bundle = build_fab_from_disk(tmp_path / "app")
    assert is_trusted_fab(bundle)
    assert not is_trusted_fab(b"no zip")

    def changed(old="", new="", extra=None):
        out = BytesIO()
        with zipfile.ZipFile(BytesIO(bundle)) as source, zipfile.ZipFile(out, "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name).decode().replace(old, new))
            if extra:
                target.writestr(extra, "import os")
        return out.getvalue()

    assert is_trusted_fab(changed())
    encrypted = bytearray(changed())
    for entry in re.finditer(b"PK\x01\x02", bytes(encrypted)):
        encrypted[entry.start() + 8] |= 1
    assert not is_trusted_fab(bytes(encrypted))
    assert not is_trusted_fab(changed(extra="sase/federated/flower/client_app.py"))
    assert not is_trusted_fab(changed("sase.federated.client_app:app", "os:system"))
    assert not is_trusted_fab(changed("dependencies = []", 'dependencies = ["evil"]'))
    assert not is_trusted_fab(changed("dependencies = []", f"dependencies = [] # {' ' * 100_000}"))  # packs to nothing


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "ours", ["fl.example.org", "10.0.0.5"], 2)
    make_certificates(folder / "others", ["localhost"], 1)
    return folder


def test_certificates_are_kept_and_private(certificates):
    ours = certificates / "ours"
    names = ("ca.key", "ca.crt", "server/server.crt", "server/server.key", "silo0/silo.key", "server/silo1.pub")
    before = {name: (ours / name).read_bytes() for name in names}
    make_certificates(ours, ["fl.example.org", "10.0.0.5"], 3)
    assert before == {name: (ours / name).read_bytes() for name in names}
    assert (ours / "silo2/silo.key").exists()
    assert (ours / "server/silo2.pub").exists()
    for name in ("ca.key", "server/server.key", "silo0/silo.key"):
        assert (ours / name).stat().st_mode & 0o077 == 0
    make_certificates(ours, ["elsewhere"], 3)
    assert (ours / "server/server.crt").read_bytes() != before["server/server.crt"]
    assert (ours / "ca.crt").read_bytes() == before["ca.crt"]
    with pytest.raises(InputError, match=r"silo\.key"):
        make_silo_key(ours / "silo0")


def test_a_silo_rejects_a_server_with_another_certificate(certificates, silos_dir, tmp_path):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / "others/server/server.crt", certificates / "others/server/server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            for _ in range(2):
                try:
                    with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
                        connection.recv(1)
                except OSError:
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(InputError, match="rejected, its certificate"):
            run_silo(0, silos_dir / "silo0", tmp_path / "state", server, certificates / "ours", wait_s=5)
        context = ssl.create_default_context(cafile=certificates / "others/ca.crt")
        plain = socket.create_connection(listener.getsockname())
        context.wrap_socket(plain, server_hostname="localhost").close()  # a client that trusts that authority connects
        thread.join(5)
    assert not find_pids(tmp_path / "state/flower")


def test_errors_that_stop_a_silo_from_starting_are_reported(silos_dir, tmp_path, certificates):
    with pytest.raises(InputError, match="no folder tr"):
        run_silo(0, tmp_path, tmp_path / "state", "127.0.0.1:1", None)
    with pytest.raises(InputError, match=r"ca\.crt: no such file"):
        run_silo(0, silos_dir / "silo0", tmp_path / "state", "127.0.0.1:1", tmp_path)
    with pytest.raises(InputError, match="HOST:PORT"):
        run_silo(0, silos_dir / "silo0", tmp_path / "state", "nowhere", None)
    with pytest.raises(InputError, match="no server answers there"):
        run_silo(0, silos_dir / "silo0", tmp_path / "state", f"127.0.0.1:{free_port()}", None, wait_s=0)

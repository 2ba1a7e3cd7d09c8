"""The units and the compose file of ``deploy/``: valid for their own tools, and with options that the commands have."""

import inspect
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys

import pytest
import yaml

from helpers.programs import find
from sase.bin.main import main
from sase.federated.flower.processes import terminate_federation

pytestmark = pytest.mark.recipe
ENVIRONMENTS = {"sase-server.service": "server.env", "sase-silo@.service": "silo.env"}


@pytest.fixture
def units(root, tmp_path):
    """Copies of the units for a machine whose /opt/sase is elsewhere: {name: path}."""
    program = tmp_path / "opt/sase/tools/venv/bin/sase"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/true", program)
    copies = {}
    for name in ENVIRONMENTS:
        text = (root / "deploy/systemd" / name).read_text()
        copies[name] = tmp_path / name.replace("@", "@hospital")
        copies[name].write_text(text.replace("/opt/sase", f"{tmp_path}/opt/sase"))
    return copies


def verify(path):
    (program,) = find("systemd-analyze")
    command = [program, "verify", "--man=no", "--recursive-errors=one", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_systemd_accepts_the_units_and_rates_them_as_well_confined(units, name):
    assert verify(units[name]) == (0, "")
    (program,) = find("systemd-analyze")
    command = [program, "security", "--offline=true", "--threshold=20", "--no-pager", units[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    for good, bad in (("RestartSec=30s", "RestartSec=soon"), ("ExecStart=/", "ExecStart="), ("[Install]", "[Instal]")):
        text = units[name].read_text()
        assert good in text
        units[name].write_text(text.replace(good, bad))
        assert verify(units[name])[1], bad
        units[name].write_text(text)


def environment(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def refused(words, monkeypatch, capsys):
    """Run ``sase words``; return its one line about the first file that does not exist here."""
    monkeypatch.setattr(sys, "argv", ["sase", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, str), (words, capsys.readouterr().err)  # 2: an unknown option
    return end.value.code


@pytest.mark.parametrize(("name", "missing"), [("sase-server.service", "certificates"), ("sase-silo@.service", "tr")])
def test_the_commands_of_the_units_have_these_options(root, tmp_path, monkeypatch, capsys, name, missing):
    settings = environment(root / "deploy/systemd" / ENVIRONMENTS[name])
    unit = (root / "deploy/systemd" / name).read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.replace("\\\n", ""), re.M)
    assert set(re.findall(r"\$\{(\w+)\}", line)) | {"OMP_NUM_THREADS"} == set(settings)
    for variable, value in settings.items():
        line = line.replace(f"${{{variable}}}", value)
    line = line.replace("%i", "hospital").replace("/var/lib", str(tmp_path)).replace("/opt/sase", str(root))
    program, *words = shlex.split(line)
    assert program == f"{root}/tools/venv/bin/sase"
    if "silo" in words:
        words += ["--silo", "0", "--server", "localhost:1"]  # what federation.json says
        words[words.index("--certificates") + 1] = joined(tmp_path)
    assert missing in refused(words, monkeypatch, capsys)


def joined(folder):
    """Make the files that a silo has after joining; return their folder."""
    from sase.federated.certificates import make_certificates

    make_certificates(folder / "certificates", ["localhost"], 1)
    return str(folder / "certificates/silo0")


def compose(root, *arguments, **variables):
    (program,) = find("docker-compose")
    command = [program, "-f", root / "deploy/compose.yaml", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SASE_")} | variables
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def test_compose_accepts_the_file_and_its_commands_have_these_options(root, tmp_path, monkeypatch, capsys):
    done = compose(root, "--profile", "server", "--profile", "silo", "config", SASE_DATA="/srv/mine", SASE_TAG="a")
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"server", "silo"}
    assert "/srv/mine:/srv/mine:ro" in services["silo"]["volumes"]
    for service in services.values():
        assert service["read_only"]
        writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
        assert len(writable) == 1  # the experiment, or the silo's state
        assert service["user"] == "1000:1000"
    server, silo = (services[name]["command"] for name in ("server", "silo"))
    conf = root / "egs/commonvoice_noise92/conf"
    server = [word.replace("/conf/train.yaml", f"{conf}/train_small.yaml") for word in server]
    server = [
        word.replace("/conf/fl.yaml", f"{conf}/fl.yaml").replace("=/exp/", f"={tmp_path}/exp/") for word in server
    ]
    assert "certificates" in refused(server, monkeypatch, capsys)
    silo = [word.replace("/joined", joined(tmp_path)).replace("/state", str(tmp_path)) for word in silo]
    assert "no folder tr" in refused([*silo, "--silo", "0", "--server", "localhost:1"], monkeypatch, capsys)


def test_services_end_in_time_and_are_bounded(root):
    """Processes of a federation are killed some seconds after SIGTERM, long before the service is."""
    done = compose(root, "--profile", "server", "--profile", "silo", "config", SASE_MEMORY="8g")
    for service in yaml.safe_load(done.stdout)["services"].values():
        assert (service["init"], service["stop_grace_period"], service["restart"]) == (True, "2m", "on-failure")
        assert service["ulimits"] == {"nofile": 65536}
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}
        assert service["mem_limit"] == "8g"
    for name in ENVIRONMENTS:
        unit = (root / "deploy/systemd" / name).read_text()
        assert {"TimeoutStopSec=2min", "KillMode=mixed", "LimitNOFILE=65536"} <= set(unit.splitlines())
    assert inspect.signature(terminate_federation).parameters["grace_s"].default < 60


def test_a_server_is_healthy_while_its_port_is_open(root):
    services = yaml.safe_load((root / "deploy/compose.yaml").read_text())["services"]
    kind, *command = services["server"]["healthcheck"]["test"]
    assert kind == "CMD"
    assert services["server"]["ports"][0].endswith(":18000")
    assert "--engine-option=port=18000" in services["server"]["command"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, *(word.replace("18000", port) for word in command[1:])]
        assert subprocess.run(command, timeout=60).returncode == 0
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1


def test_the_commands_of_the_readme_have_these_options(root, tmp_path, monkeypatch, capsys):
    text = (root / "deploy/README.md").read_text().replace("\\\n", "")
    found = [line.split("#")[0] for line in text.splitlines() if " doctor " in line or " --join silo0.zip" in line]
    assert len(found) == 3
    for line in found:
        words = re.sub(r"^.*?(doctor|certificates --join)", r"\1", line).split()
        folders = {"/etc/sase/silo": tmp_path, "/joined": tmp_path, "/srv/sase/silo": tmp_path}
        assert "silo" in refused([str(folders.get(word, word)) for word in words], monkeypatch, capsys)


def test_compose_finds_mistakes_and_the_gpu_file_adds_one(root, tmp_path):
    gpu = ["-f", root / "deploy/compose.gpu.yaml", "--profile", "silo", "config"]
    devices = yaml.safe_load(compose(root, *gpu).stdout)["services"]["silo"]["deploy"]["resources"]["reservations"]
    assert devices["devices"][0]["capabilities"] == ["gpu"]
    (tmp_path / "bad.yaml").write_text("services:\n  silo:\n    comand: [silo]\n")
    assert "comand" in compose(root, "-f", tmp_path / "bad.yaml", "config").stderr


def test_the_variables_are_those_of_the_readme(root):
    used = set()
    for name in ("compose.yaml", "compose.gpu.yaml"):
        used |= set(re.findall(r"SASE_\w+", (root / "deploy" / name).read_text()))
    table = {line for line in (root / "deploy/README.md").read_text().splitlines() if line.startswith("| `")}
    assert used == {name for line in table for name in re.findall(r"SASE_\w+", line.split("|")[1])}


def test_the_image_copies_what_exists_and_is_not_ignored(root):
    lines = (root / "deploy/Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]} - {"/opt/sase"}
    copied = {name for name in copied if not name.startswith("--")}
    assert copied
    assert all((root / name).exists() for name in copied)
    kept = {line[1:] for line in (root / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert kept == copied
    needed = {"sase/__init__.py": "sase", "tools/constraints.txt": "tools", "tools/requirements.txt": "tools"}
    assert all((root / name).exists() and folder in copied for name, folder in needed.items())

"""The installation script, in a small repository of its own, with packages made here: no network is needed."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

pytestmark = pytest.mark.recipe

BACKEND = """\
import pathlib, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name, root = "sase-1-py3-none-any.whl", pathlib.Path(__file__).parent
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("sase.pth", str(root))
        wheel.writestr("sase-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: sase\\nVersion: 1\\n")
        wheel.writestr("sase-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("sase-1.dist-info/RECORD", "")
    return name
"""
PACKAGES = {
    "torch": {"torch/__init__.py": "class version:\n    cuda = None\n"},
    "torchaudio": {
        "torchaudio/__init__.py": "import os, torch\nif os.path.isdir(os.path.dirname(__file__) + '/lib'):\n"
        "    raise OSError('libc10_cuda.so: cannot open shared object file')\n",
        "torchaudio/lib/_torchaudio.so": "of CUDA",
    },
    "small": {"small/__init__.py": "from small.part import whole\n", "small/part.py": "whole = True\n"},
}


def make_wheel(folder, name, files):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


@pytest.fixture
def house(tmp_path, root):
    """A repository with install.sh, three small packages and an index of them."""
    for name, files in PACKAGES.items():
        (tmp_path / "wheels").mkdir(exist_ok=True)
        make_wheel(tmp_path / "wheels", name, files)
    house = tmp_path / "house"
    (house / "tools").mkdir(parents=True)
    (house / "sase").mkdir()
    (house / "sase/__init__.py").write_text("")
    shutil.copy(root / "tools/install.sh", house / "tools")
    lines = [f"{name}==1.0  # {name}: a reason\n" for name in PACKAGES]
    (house / "tools/requirements.txt").write_text("# A comment\n" + "".join(lines))
    (house / "tools/constraints.txt").write_text("".join(f"{name}==1.0\n" for name in PACKAGES))
    (house / "setup.py").write_text("")
    build = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (house / "pyproject.toml").write_text("[build-system]\n" + build)
    (house / "backend.py").write_text(BACKEND)
    return house


def start(house, *options, **environment):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "SASE_", "PYTHON"))}
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(house.parent / "wheels"), "PYTHON": sys.executable}
    return subprocess.Popen(
        [house / "tools/install.sh", *options],
        env={**inherited, "PIP_CONFIG_FILE": os.devnull, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def install(house, *options, **environment):
    process = start(house, *options, **environment)
    output, error = process.communicate(timeout=120)
    return process.returncode, output, error


def imports(venv):
    command = [venv / "bin/python", "-c", "import torch, torchaudio, small, sase; print(small.whole)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=venv)
    return done.stdout.strip() == "True"


def site(venv):
    return next(venv.glob("lib/python*/site-packages"))


def test_from_nothing_again_and_when_something_changes(house):
    venv = house / "tools/venv"
    status, output, error = install(house, SASE_PROGRESS_S="0.5")
    assert (status, error) == (0, ""), error
    assert "torch==1.0, torchaudio==1.0: from pip's index" in output
    assert "SASE_TORCH_INDEX" in output
    assert " MB on disk: " in output
    assert "torchaudio: torch is a CPU build, so the CUDA extension was moved" in output
    assert "imports succeed: torch torchaudio small sase" in output
    assert all(line.startswith("install: ") for line in output.splitlines())
    assert imports(venv)

    assert install(house, "--if-needed") == (0, "", "")
    status, output, error = install(house)
    assert (status, error) == (0, "")
    assert "venv: kept" in output
    assert imports(venv)

    with open(house / "tools/requirements.txt", "a") as file:
        file.write("# another comment\n")
    assert "venv: kept" in install(house, "--if-needed")[1]
    assert install(house, "--if-needed") == (0, "", "")

    (site(venv) / "small-1.0.dist-info/RECORD").unlink()
    (site(venv) / "small/part.py").unlink()
    assert not imports(venv)
    status, output, error = install(house)
    assert (status, error) == (0, "")
    assert "small-1.0 was installed only in part; installing it again" in output
    assert imports(venv)


def test_killed_at_any_point_the_next_run_repairs_it(house, tmp_path):
    venv = tmp_path / "venv"
    places = [
        (venv / "pyvenv.cfg").exists,  # pip is not installed yet
        lambda: "pip install torch" in log.read_text() if (log := venv / "install.log").exists() else False,
        lambda: list(venv.glob("lib/python*/site-packages/torch")),
        lambda: list(venv.glob("lib/python*/site-packages/small")),
    ]
    for reached in places:
        process = start(house, SASE_VENV=str(venv))
        deadline = time.monotonic() + 60
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert reached()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    status, _, error = install(house, "--if-needed", SASE_VENV=str(venv))
    assert (status, error) == (0, "")
    assert imports(venv)


def test_two_at_one_time_wait_for_each_other(house):
    processes = [start(house, "--if-needed") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    first, second = sorted(outputs, key=len, reverse=True)
    assert "done" in first
    assert second.count("\n") == 1
    assert "another installation" in second
    assert imports(house / "tools/venv")


def test_a_failure_says_what_pip_said_and_is_not_taken_for_done(house):
    (house.parent / "wheels/small-1.0-py3-none-any.whl").unlink()
    status, _output, error = install(house)
    assert status == 1
    assert "small==1.0" in error
    assert "run tools/install.sh again" in error
    make_wheel(house.parent / "wheels", "small", PACKAGES["small"])
    assert install(house, "--if-needed")[0] == 0
    assert imports(house / "tools/venv")


def test_a_package_that_does_not_import_is_named(house):
    make_wheel(house.parent / "wheels", "small", {"small/__init__.py": "import nowhere\n"})
    status, _, error = install(house)
    assert status == 1
    assert error.startswith("install: small cannot be imported (No module named 'nowhere')")
    assert not (house / "tools/venv/.sase-installed").exists()


def test_what_cannot_be_is_refused_in_one_line(house, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for options, environment, message in (
        (["--if-need"], {}, "no such option: --if-need"),
        ([], {"SASE_VENV": str(tmp_path / "mine")}, "is not a virtual environment"),
        ([], {"PYTHON": str(old)}, "needs Python 3.11 or newer"),
    ):
        status, output, error = install(house, *options, **environment)
        assert (status, output, error.count("\n")) == (1, "", 1)
        assert message in error
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"

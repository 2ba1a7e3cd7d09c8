"""The command ``sase``: help, one line for bad input, exit status, and nothing half written."""

import ast
import json
import os
import pkgutil
import resource
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import sase.bin
from helpers import commands
from helpers.audio import bad_files, noise
from helpers.dumps import dump_all, make_set
from sase import Enhancer, audio, extras, pretrained
from sase.bin.main import main, run
from sase.data import datadir

COMMANDS = sorted(module.name for module in pkgutil.iter_modules(sase.bin.__path__) if module.name != "main")


@pytest.fixture
def command():
    """``command(*words)`` runs ``sase words``; returns exit status, output and errors."""
    threads = torch.get_num_threads()

    def call(*words):
        done = commands.sase(*words)
        return done.returncode, done.stdout, done.stderr

    yield call
    torch.set_num_threads(threads)


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_help_names_every_command_and_needs_no_torch(root):
    script = "import sys; sys.argv = ['sase', '--help']; from sase.bin.main import main\n"
    script += "try: main()\nfinally: assert not {'torch', 'soundfile', 'scipy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0
    assert not done.stderr
    listed = {line[2:15].strip(): line[16:] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert sorted(listed) == [name.replace("_", " ") for name in COMMANDS]
    assert all(listed.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_hold_options_only_and_have_help(root, command, name):
    body = ast.parse((root / f"sase/bin/{name}.py").read_text()).body
    assert [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))] == ["main"]
    imported = {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
    assert not any(module.startswith("sase") for module in imported), "packages are imported in main()"
    status, out, err = command(name, "--help")
    assert status == 0
    assert f"usage: sase {name.replace('_', ' ')}" in out
    assert not err


def test_unknown_commands_and_no_command(command):
    assert command("nonsense")[0] == 1
    assert "no such command: nonsense; choose from ablation" in command("nonsense")[2]
    status, out, _ = command()
    assert status == 1
    assert "usage: sase COMMAND" in out
    assert command("--version")[:2] == (0, f"{sase.__version__}\n")


def test_the_traceback_is_there_when_asked_for(command, monkeypatch):
    monkeypatch.setenv("SASE_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["sase", "enhance", "a.wav", "-o", "b"])
    with pytest.raises(sase.errors.InputError):
        main()


def test_enhance_a_folder(tmp_path, command, model):
    audio.write(tmp_path / "in/a.wav", noise(2, 5000), 44100)
    audio.write(tmp_path / "in/b/c.flac", noise(3000), 16000)
    status, out, err = command("enhance", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert (status, err) == (0, "")
    assert "2 files, 0.3 s of audio" in out
    assert everything_below(tmp_path / "out") == ["a.wav", "b", "b/c.flac"]
    expected = Enhancer.from_pretrained(model).enhance(audio.read(tmp_path / "in/a.wav")[0], 44100)
    np.testing.assert_allclose(audio.read(tmp_path / "out/a.wav")[0], np.clip(expected, -1, 1), atol=2 / 32768)


def test_enhance_one_file_to_one_file(tmp_path, command, model):
    audio.write(tmp_path / "a.flac", noise(5000), 16000)
    assert command("enhance", tmp_path / "a.flac", "-o", tmp_path / "b.wav", "--model", model.parent)[0] == 0
    assert audio.info(tmp_path / "b.wav") == audio.AudioInfo(16000, 5000, 1)


def test_silence_is_fine(tmp_path, command, model):
    audio.write(tmp_path / "a.wav", np.zeros(5000), 16000)
    assert command("enhance", tmp_path / "a.wav", "-o", tmp_path / "b.wav", "--model", model)[0] == 0
    assert not audio.read(tmp_path / "b.wav")[0].any()


@pytest.mark.recipe
def test_bad_files_get_one_line_and_leave_nothing(tmp_path, command, model):
    names = bad_files(tmp_path)
    before = everything_below(tmp_path)
    for name in names.keys() - {"folder.wav"}:
        status, out, err = command("enhance", tmp_path / name, "-o", tmp_path / "out", "--model", model)
        assert status == 1
        assert not out
        assert err.startswith("sase enhance: ")
        assert name in err
        assert err.count("\n") == 1
        status, _, err = command("enhance", tmp_path / name, "-o", tmp_path / "out.wav", "--model", model)
        assert status == 1
        assert err.count("\n") == 1
        assert [name for name in everything_below(tmp_path) if name != "out"] == before


def test_one_bad_file_is_named_and_the_rest_goes_on(tmp_path, command, model):
    for name in "abc":
        audio.write(tmp_path / f"in/{name}.wav", noise(1000), 16000)
    (tmp_path / "in/b.wav").write_text("no sound")
    status, out, err = command("enhance", tmp_path / "in", tmp_path / "d.wav", "-o", tmp_path / "out", "--model", model)
    assert status == 1
    assert "2 files" in out
    lines = sorted(err.splitlines(), key=lambda line: ("failed" in line, line.split("/")[-1]))  # as they were done
    assert len(lines) == 3
    assert "in/b.wav: not a readable" in lines[0]
    assert "d.wav: no such file" in lines[1]
    assert lines[2] == "sase enhance: 2 of 4 failed"
    assert everything_below(tmp_path / "out") == ["a.wav", "c.wav"]


def bad_models(folder, model):
    """Write invalid model files; return {path: expected error}."""
    whole = model.read_bytes()
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "text.pt").write_text("no model")
    torch.save({"weight": torch.zeros(3)}, folder / "other.pt")
    state = torch.load(model, weights_only=True)
    state["model_config"]["recurrent"] = 12
    torch.save(state, folder / "changed.pt")
    (folder / "exp").mkdir()
    return {
        folder / "cut.pt": "not a readable checkpoint",
        folder / "text.pt": "not a readable checkpoint",
        folder / "other.pt": "not a checkpoint of SASE",
        folder / "changed.pt": "do not match the config",
        folder / "exp": "model not found",
        folder / "gone.pt": "model not found",
        "huge": "huge: model not found; give one of",
    }


def test_bad_models_get_one_line(tmp_path, command, model):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    for path, words in bad_models(tmp_path, model).items():
        commands = {
            "enhance": ("enhance", tmp_path / "a.wav", "-o", tmp_path / "out"),
            "decode": ("decode", "--data", tmp_path, "--out", tmp_path / "out"),
            "info": ("info",),
        }
        for name, words_of_command in commands.items():
            status, out, err = command(*words_of_command, "--model", path)
            assert status == 1, err
            assert not out, err
            assert err.startswith(f"sase {name}: "), err
            assert err.count("\n") == 1, err
            assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.recipe
def test_enhance_without_a_model_takes_shipped_weights(tmp_path, command):
    audio.write(tmp_path / "a.wav", 0.1 * noise(8000), 16000)
    status, out, _ = command("enhance", tmp_path / "a.wav", "-o", tmp_path / "b.wav")
    assert status == 0
    assert "1 files" in out
    assert (tmp_path / "b.wav").is_file()
    named = Enhancer.from_pretrained(pretrained.DEFAULT)
    soundfile.write(tmp_path / "c.wav", named.enhance(*soundfile.read(tmp_path / "a.wav", dtype="float32")), 16000)
    np.testing.assert_array_equal(*(audio.read(tmp_path / name)[0] for name in ("b.wav", "c.wav")))
    assert f"| {pretrained.DEFAULT} |" in command("info", "--shipped")[1]
    assert command("info", "--card", pretrained.DEFAULT)[1].startswith(f"# {pretrained.DEFAULT}")


def test_enhance_never_overwrites_an_input(tmp_path, command, model):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    before = (tmp_path / "a.wav").read_bytes()
    status, _, err = command("enhance", tmp_path / "a.wav", "-o", tmp_path, "--model", model)
    assert status == 1
    assert "never overwritten" in err
    assert (tmp_path / "a.wav").read_bytes() == before


def test_a_full_disk_is_reported_in_one_line(tmp_path, command, model):
    audio.write(tmp_path / "a.wav", noise(60000), 16000)
    (tmp_path / "out").mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limit[1]))  # writing fails beyond: what a full disk does
    try:
        status, out, err = command("enhance", tmp_path / "a.wav", "-o", tmp_path / "out", "--model", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert status == 1
    assert not out
    assert "is the disk full?" in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_decode_in_jobs(tmp_path, command, model):
    lengths = {f"p1_{i:03d}": 1600 + i for i in range(3)}
    data = dump_all(make_set(tmp_path, lengths, rate=16000), tmp_path / "dump").path
    options = ("decode", "--model", model, "--data", data, "--out", tmp_path / "out", "--nj", 2)
    assert command(*options, "--job", 1)[0] == 0
    status, _, err = command(*options, "--finish")
    assert status == 1
    assert "2 of 3 utterances are missing" in err
    assert err.count("\n") == 1
    assert command(*options, "--job", 2)[0] == 0
    assert command(*options, "--finish")[0] == 0
    table = datadir.read_table(tmp_path / "out/spk1.scp")
    assert {utt: soundfile.info(path).frames for utt, path in table.items()} == lengths
    assert command(*options)[0] == 0  # alone: all shards and the end
    for words, message in ((("--job", 3), "--job 3"), (("--job", 1, "--finish"), "of the two"), (("--nj", 0), "--nj")):
        status, _, err = command(*options, *words)
        assert status
        assert message in err
    (tmp_path / "empty").mkdir()
    status, _, err = command("decode", "--model", model, "--data", tmp_path / "empty", "--out", tmp_path / "o")
    assert status == 1
    assert "cannot be read" in err


@pytest.mark.recipe
def test_info(command, model):
    status, out, _ = command("info")
    assert status == 0
    assert all(f"| {name} |" in out for name in ("small", "paper", "dccrn", "mini"))
    status, out, _ = command("info", "--preset", "dccrn", "--json")
    costs = json.loads(out)["dccrn"]
    assert status == 0
    assert 8.5e9 < costs["macs_per_s"] < 8.8e9
    assert costs["config"]["window"] == 400
    assert 4.7e6 < costs["parameters"] < 4.75e6
    assert costs["latency_s"] == 0.025
    assert command("info", "--model", model)[1].count("\n") == 3
    status, _, err = command("info", "--preset", "large")
    assert status == 1
    assert "unknown preset 'large', must be one of" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("enhance", "--preset", "mini", "--seconds", 0.1, "--repeats", 1),
        ("dump", "--pairs", 1),
        ("secure", "--preset", "mini", "--silos", 4),
    ],
)
def test_bench(command, words):
    status, out, _ = command("bench", *words)
    machine, _, *table = out.splitlines()
    assert status == 0
    assert "cores" in machine
    assert len(table) == 3
    assert table[1].startswith("| -")
    status, out, _ = command("bench", *words, "--json")
    assert status == 0
    assert len(json.loads(out)["rows"]) == 1


@pytest.mark.parametrize(
    ("module", "extra"),
    [("pesq", "recipe"), ("flwr.common", "federated"), ("espeakng_loader", "recipe"), ("hypothesis", "test")],
)
def test_a_missing_package_is_named_with_a_command_that_installs_it(root, module, extra):
    def fail():
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    with pytest.raises(SystemExit) as caught:
        run(fail, "score")
    message, _, command = str(caught.value).partition("; ")
    assert message == f"sase score: the package {module.partition('.')[0]} is not installed"
    pip, install, wanted = shlex.split(command)
    assert (pip, install, wanted) == ("pip", "install", f"{root}[{extra}]")
    setup = (root / "setup.py").read_text()  # pip reads the extras here
    assert f'"{extra}":' in setup


def test_a_package_of_no_extra_is_installed_by_its_own_name(monkeypatch):
    assert extras.missing_package("nowhere.at_all").endswith("pip install nowhere")
    origin = {"url": "https://example.org/sase.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    monkeypatch.setattr(extras.sase, "__file__", "/site-packages/sase/__init__.py")
    monkeypatch.setattr(extras, "distribution", lambda name: Installed(origin))
    assert extras.missing_package("pesq").endswith("install 'sase[recipe] @ git+https://example.org/sase.git@abc'")


class Installed:
    """A distribution that was installed from a repository."""

    requires = ("torch>=2.6", 'pesq>=0.0.4; extra == "recipe"')

    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        return json.dumps(self.origin)


PRINT = """
import sys
from sase.bin.main import run
from sase.errors import InputError
def main():
    print("α × 10 — été \\udcff")
    raise InputError("größer als α")
run(main, "score")
"""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_of_any_encoding_shows_everything(root, encoding):
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True)
    assert done.returncode == 1
    assert done.stdout == ("α × 10 — été \udcff\n").encode(encoding, "backslashreplace")
    assert done.stderr == "sase score: größer als α\n".encode(encoding, "backslashreplace")


WRITE = """
import sys, time
from sase.atomic import atomic_path
from sase.bin.main import run
def main():
    with atomic_path(sys.argv[1]) as partial:
        partial.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
run(main, "enhance")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_terminated_command_leaves_no_temporary_file(root, tmp_path, number):
    command = [sys.executable, "-c", WRITE, str(tmp_path / "a.wav")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert not err
    assert not list(tmp_path.iterdir())

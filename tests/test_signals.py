"""Signals to a recipe reach everything that it started, at every stage, through runners and wrappers."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

MARK = "SASE_TEST_TREE"
STUB = """#!{python}
# Stands for the command sase: a parent with a child, that say so and wait.
import os, subprocess, sys, time
words = sys.argv[1:]
if words[0] == os.environ["STOP_AT"] and "--finish" not in words:
    child = subprocess.Popen(["sleep", "300"])
    with open(os.environ["STARTED"], "a") as file:
        file.write(" ".join(words) + "\\n")
    try:
        time.sleep(300)
    finally:
        child.wait()
"""
STAGES = {  # what waits, and how the recipe is run
    "download": ("download", "0", ()),
    "prepare": ("prepare", "1", ()),
    "dump": ("dump", "2", ()),
    "train": ("train", "3", ()),
    "partition": ("partition", "3", ("--fl", "true")),
    "federate": ("federate", "3", ("--fl", "true")),
    "decode": ("decode", "4", ()),
    "score": ("score", "5", ()),
}


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory):
    """A copy of the recipes with a stand-in for the command sase, and a wrapper around the runner of its jobs."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("egs/voicebank_demand", "egs/commonvoice_noise92", "utils"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("exp", "dump", "mini", "downloads"))
    (copy / "tools").mkdir()
    install, venv = copy / "tools/install.sh", copy / "venv/bin"
    venv.mkdir(parents=True)
    install.write_text("#!/bin/sh\n")
    (venv / "sase").write_text(STUB.format(python=sys.executable))
    (venv / "python3").symlink_to(sys.executable)
    (venv / "wrapper").write_text('#!/bin/bash\n# of a cmd.sh\nrun_local.py "$@" & wait $!\n')
    for path in (install, venv / "sase", venv / "wrapper"):
        path.chmod(0o755)
    return copy


def processes(mark):
    """Return {pid: command line} of the living processes with a mark in their environment."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment, open(f"/proc/{pid}/cmdline", "rb") as line:
                if f"{MARK}={mark}".encode() in environment.read().split(b"\0"):
                    found[int(pid)] = line.read().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended, or is another user's
    return found


def wait_until(true, what):
    """Wait; ``what`` returns, and is asked when that fails, how things are."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def start(copy, tmp_path, mark, stop_at, script, *arguments, **environment):
    environment = {
        **os.environ,
        MARK: mark,
        "STOP_AT": stop_at,
        "STARTED": str(tmp_path / "started"),
        "SASE_VENV": str(copy / "venv"),
        **environment,
    }
    with open(tmp_path / "output", "w") as output:
        return subprocess.Popen([copy / script, *arguments], env=environment, stdout=output, stderr=output)


def waits(tmp_path, count):
    path = tmp_path / "started"
    return path.exists() and len(path.read_text().splitlines()) == count


@pytest.mark.recipe
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_to_a_recipe_ends_everything_that_it_started(copy, tmp_path, stage, number):
    stop_at, at, options = STAGES[stage]
    mark, count = f"{tmp_path}", 2 if stage in ("dump", "decode", "score") else 1
    arguments = ("--stage", at, "--nj", "2", "--tag", tmp_path.name, *options)
    process = start(copy, tmp_path, mark, stop_at, "egs/voicebank_demand/run.sh", *arguments)
    wait_until(lambda: waits(tmp_path, count), (tmp_path / "output").read_text)
    assert sum("sleep 300" in line for line in processes(mark).values()) == count
    process.send_signal(number)  # to run.sh alone, not to its group as a terminal does
    assert process.wait(timeout=30) == 128 + number
    wait_until(lambda: not processes(mark), functools.partial(processes, mark))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_wrappers_of_cmd_sh_and_the_clients_of_a_deployment_are_reached(copy, tmp_path):
    recipe = copy / "egs/commonvoice_noise92"
    cmd = (recipe / "cmd.sh").read_text()
    (recipe / "cmd.sh").write_text(cmd + "\nexport decode_cmd='wrapper --mem 1G'\n")
    runs = {
        "decode": ("egs/commonvoice_noise92/run.sh", "--stage", "4", "--nj", "2"),
        "silo": ("egs/commonvoice_noise92/run-client.sh", "--num_clients", "2", "--insecure", "true"),
    }
    for stop_at, (script, *arguments) in runs.items():
        folder = tmp_path / stop_at
        folder.mkdir()
        process = start(copy, folder, str(folder), stop_at, script, *arguments)
        wait_until(lambda folder=folder: waits(folder, 2), (folder / "output").read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        left = functools.partial(processes, str(folder))
        wait_until(lambda left=left: not left(), left)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_second_signal_kills_and_a_killed_recipe_leaves_no_command(copy, tmp_path):
    stubborn = tmp_path / "stubborn"
    stubborn.write_text("#!/bin/bash\ntrap '' INT TERM\necho train >>\"$STARTED\"\nwhile :; do sleep 0.1; done\n")
    stubborn.chmod(0o755)
    script = tmp_path / "script"
    source = f'. "{copy}/utils/signals.sh"\nexport PATH="{copy}/utils:$PATH"\nforeground "{stubborn}"\n'
    script.write_text(f"#!/bin/bash\nset -euo pipefail\n{source}")
    script.chmod(0o755)
    for numbers in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGKILL,)):
        (tmp_path / "started").unlink(missing_ok=True)
        process = start(copy, tmp_path, str(tmp_path), "train", script)
        wait_until(lambda: waits(tmp_path, 1), lambda: "it has not started")
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        process.wait(timeout=30)
        left = functools.partial(processes, str(tmp_path))
        wait_until(lambda left=left: not [line for line in left().values() if "stubborn" in line], left)


def test_the_exit_status_of_a_command_is_that_of_foreground(copy):
    commands = 'foreground bash -c "exit 7" || echo $?; foreground nowhere'
    script = f'set -eu; PATH="{copy}/utils:$PATH"; . signals.sh; {commands}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=copy / "utils")
    assert done.stdout == "7\n"
    assert (done.returncode, done.stderr) == (1, "nowhere: No such file or directory\n")

"""Locks on folders."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from helpers.commands import sase
from sase import bin as sase_bin
from sase.errors import InputError
from sase.processes import folder_lock


def test_a_folder_is_locked_by_one_or_shared_by_many(tmp_path):
    folder = tmp_path / "exp"
    with folder_lock(folder), pytest.raises(InputError, match="exp: locked by another process"), folder_lock(folder):
        pass
    with folder_lock(folder, shared=True), folder_lock(folder, shared=True):
        with pytest.raises(InputError, match="locked"), folder_lock(folder):
            pass
        with folder_lock(folder, name="lock.1"):
            pass
    with folder_lock(folder), pytest.raises(InputError, match="locked"), folder_lock(folder, shared=True):
        pass
    with folder_lock(folder):
        pass


@pytest.mark.parametrize(("code", "fails"), [(errno.EROFS, False), (errno.EACCES, False), (errno.ENOSPC, True)])
def test_a_folder_that_nobody_can_write_to_needs_no_lock(tmp_path, monkeypatch, code, fails):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("builtins.open", refuse)
    if fails:
        with pytest.raises(OSError, match=r"No space"), folder_lock(tmp_path):
            pass
    else:
        with folder_lock(tmp_path):
            pass


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder_lock(tmp_path):
        pass
    assert "cannot be locked" in caplog.text


WRITERS = {
    "certificates": "certificates --out {out} --hosts localhost",
    "download": "download voicebank_demand --dir {out}",
    "dump": "dump --data {data} --out {out}",
    "dump --finish": "dump --data {data} --out {out} --finish",
    "dump of a shard": "dump --data {data} --out {out} --nj 2 --job 2",
    "partition": "partition --train {data} --out {out} --by speaker --num-silos 2",
    "prepare": "prepare folders --speech {data} --noise {data} --data {out}",
    "release": "release --exp {data} --scores {data} --name a --notes {data} --out {out}",
    "release --refresh": "release --refresh a --out {out}",
    "validate": "validate --fix {out}",
}


@pytest.mark.parametrize("command", WRITERS)
def test_a_command_that_writes_a_folder_refuses_one_that_is_written(tmp_path, command):
    """It reads nothing before, so what it is to read need not be valid."""
    (tmp_path / "data").mkdir()
    words = WRITERS[command].format(out=tmp_path / "out", data=tmp_path / "data").split()
    with folder_lock(tmp_path / "out"):
        done = sase(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{tmp_path}/out: locked by another process that is running; wait for it or stop it" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lock"]


def test_every_command_that_writes_a_folder_is_listed():
    """Every command is either among the writers above, or is here with what protects its output."""
    reasons = {
        "reads": "audit bench bench_scale doctor epsilon info stream",
        "writes one file, atomically": "export inspect report",
        "writes one file per recording, atomically, and refuses or skips one that exists": "enhance",
        "locks, with other tests": "ablation compare decode federate leakage poisoning probe score silo train",
    }
    named = {word.split()[0] for word in WRITERS} | {word for words in reasons.values() for word in words.split()}
    modules = {path.stem for path in Path(sase_bin.__file__).parent.glob("*.py")} - {"__init__", "main"}
    assert modules == named

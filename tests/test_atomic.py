"""Files and folders are either complete or missing."""

import os
import signal
import subprocess
import sys

import pytest

from sase.atomic import atomic_folder, atomic_path, remove_leftovers, write_text


def test_a_file_appears_when_complete(tmp_path):
    path = tmp_path / "new/a.wav"
    with atomic_path(path) as partial:
        assert partial.parent == path.parent
        assert partial.suffix == ".wav"
        assert partial.name.startswith(".")
        partial.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with atomic_path(str(path)) as partial:
        partial.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failing_writer_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old ä\n")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text(encoding="utf-8") == "old ä\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_keeps_the_old_file(tmp_path, root):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    script = (
        "import os, signal, sys; from sase.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], cwd=root)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_two_processes_do_not_share_a_partial_file(tmp_path):
    with atomic_path(tmp_path / "a.txt") as partial:
        assert str(os.getpid()) in partial.name
        partial.write_text("")


def test_a_folder_appears_when_complete(tmp_path):
    path = tmp_path / "new/set"
    with atomic_folder(path) as partial:
        (partial / "a").write_text("one")
        assert not path.exists()
    with atomic_folder(path) as partial:
        (partial / "b").write_text("two")
        assert [file.name for file in path.iterdir()] == ["a"]
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failing_writer_keeps_the_old_folder(tmp_path, error):
    path = tmp_path / "set"
    with atomic_folder(path) as partial:
        (partial / "a").write_text("one")
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial/left").write_text("by a killed writer")
    with pytest.raises(error), atomic_folder(path) as partial:
        assert not list(partial.iterdir())
        raise error
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_only_leftovers_of_killed_writers_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.json") as partial:
        left = partial.with_name(partial.name.replace(".partial", "0.partial"))  # the name another process would use
        left.write_text("half")
        raise KeyboardInterrupt
    (tmp_path / "a.json").write_text("whole")
    (tmp_path / ".hidden").write_text("mine")
    assert left.exists()
    remove_leftovers(tmp_path, tmp_path / "not there")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.json"]

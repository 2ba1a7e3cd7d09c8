"""Locks on folders."""

import errno
import fcntl
import os

import pytest

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

"""Files that other users of the machine cannot access, whatever the umask: of experiments, silos and certificates."""

import os
import subprocess
import sys

import pytest

from helpers.federation import ROOT, configs, sase
from helpers.strangers import exposed
from sase.private import make_private, private_files, public_files


@pytest.mark.recipe
@pytest.mark.parametrize("umask", [0, 0o022])
def test_an_experiment_is_private_whatever_the_umask(umask, tmp_path, silos_dir, dev_set):
    exp = tmp_path / "new/exp"
    arguments = [*configs(tmp_path, num_rounds=1, local_steps=1, scaffold=True), "--dev-set", dev_set, "--exp", exp]
    previous = os.umask(umask)
    try:
        if umask:  # one of an earlier version
            (exp / "silos/silo0").mkdir(parents=True)
            for name in ("server.log", "silos/silo0/state-9.pt"):
                (exp / name).touch(mode=0o644)
        process = sase("federate", *arguments, "--silos", silos_dir, "--engine", "inproc", log=tmp_path / "log")
        assert process.wait(300) == 0, (tmp_path / "log").read_text()
        make = [sys.executable, "-m", "sase.bin.certificates", "--out", tmp_path / "certificates", "--silos", "1"]
        subprocess.run(make, check=True, cwd=ROOT, capture_output=True)
    finally:
        os.umask(previous)
    assert (exp / "server.pt").exists()
    assert list((exp / "silos/silo0").glob("state-1.pt"))
    assert exposed(exp) == []
    assert exposed(tmp_path / "certificates") == []
    if umask:
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755  # the folder of all experiments stays as it is


def test_the_umask_is_restored_and_links_are_not_followed(tmp_path):
    previous = os.umask(0o027)
    try:
        with private_files():
            (tmp_path / "private").touch()
            with public_files():
                (tmp_path / "public").touch()
        (tmp_path / "usual").touch()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert modes == {"private": 0o600, "public": 0o644, "usual": 0o640}
        (tmp_path / "folder/deep").mkdir(parents=True)
        (tmp_path / "folder/link").symlink_to(tmp_path / "public")
        (tmp_path / "folder/to").symlink_to(tmp_path)
        make_private(tmp_path / "folder")
        make_private(tmp_path / "missing")
        assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
        assert (tmp_path / "folder/deep").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(previous)

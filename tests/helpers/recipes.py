"""What the tests of all recipes share: a copy of the repository to run one in, and comparisons of what it leaves."""

import filecmp
import os
import shutil
import signal
import subprocess
import sys
import time

QUICK = {
    "model.preset": "mini",
    "data.batch_size": "4",
    "data.segment_s": "1.0",
    "train.epochs": "3",
    "train.steps_per_epoch": "6",
    "train.warmup_steps": "2",
    "train.select_by": "SI_SNR",
    "train.checkpoint_s": "0",
}
QUICK_ARGS = "--threads 1 " + " ".join(f"--set {name}={value}" for name, value in QUICK.items())


class Recipe:
    """A copy of the repository, and ways to run its recipe."""

    def __init__(self, root, copy, name):
        self.folder = copy / "egs" / name
        self.mini = self.folder / "mini"
        ignore = shutil.ignore_patterns("venv*", "downloads", "data", "dump", "exp", "mini", "__pycache__")
        for name in ("egs", "sase", "tools", "utils"):
            shutil.copytree(root / name, copy / name, ignore=ignore if name != "sase" else None)
        shutil.copy(root / "setup.py", copy)
        self.environment = {**os.environ, "SASE_VENV": sys.prefix}
        # Not from the copy, whose path an editable installation would keep.
        subprocess.run([root / "tools/install.sh", "--if-needed"], env=self.environment, check=True)

    def start(self, *arguments):
        """Start run.sh --mini true in a process group of its own."""
        command = [self.folder / "run.sh", "--mini", "true", *map(str, arguments)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
        return subprocess.Popen(command, cwd="/", env=self.environment, start_new_session=True, **pipes)

    def run(self, *arguments):
        """Run it to the end; return what it prints."""
        process = self.start(*arguments)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        return output

    def run_killed(self, *arguments, when, delay_s=0.0):
        """Start it, kill it and its jobs with SIGKILL ``delay_s`` after ``when()`` is true; return its status."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 120
        while not when() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # its output ends when the last of its processes has
        return process.returncode


def files(folder, without=("logs",)):
    """Return the files below a folder, relative to it, sorted, but for those below folders named in ``without``."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not set(path.parts) & set(without))


def assert_same_files(left, right):
    assert files(left) == files(right)
    different = [str(name) for name in files(left) if not filecmp.cmp(left / name, right / name, shallow=False)]
    assert not different

"""A copy of the repository to run a recipe in, and comparisons of the files it writes."""

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
QUICK_FL_ARGS = "--fl-set local_steps=3 --fl-set dev_s=20"


class Recipe:
    """A copy of the repository, and ways to run its recipe; ``corpus`` is a generated corpus to hard-link into it."""

    def __init__(self, root, copy, name, corpus=None):
        self.folder = copy / "egs" / name
        self.mini = self.folder / "mini"
        ignore = shutil.ignore_patterns("venv*", "downloads", "data", "dump", "exp", "mini", "__pycache__")
        for name in ("egs", "sase", "tools", "utils"):
            source = root / name
            shutil.copytree(source, copy / name, ignore=ignore if name != "sase" else None, dirs_exist_ok=True)
        shutil.copy(root / "setup.py", copy)
        self.environment = {**os.environ, "SASE_VENV": sys.prefix}
        if corpus is not None:
            shutil.copytree(corpus, self.folder / "downloads/mini", copy_function=os.link)
        # Not from the copy, whose path an editable installation would keep.
        subprocess.run([root / "tools/install.sh", "--if-needed"], env=self.environment, check=True)

    def start(self, *arguments):
        """Start run.sh --mini true in a separate process group."""
        command = [self.folder / "run.sh", "--mini", "true", *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd="/",
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *arguments):
        """Run it to the end; return what it prints."""
        process = self.start(*arguments)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        return output

    def run_killed(self, *arguments, when):
        """Start it, kill it and its jobs with SIGKILL once ``when()`` is true; return its exit status."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 120
        while not when() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # the output ends with the last of its processes
        return process.returncode


def keep_few_test_pairs(corpus):
    """Delete four of five test pairs of a copy of the generated corpus: enhancing and scoring all takes a minute."""
    for path in corpus.glob("*_testset_wav/*[!05].wav"):
        path.unlink()


def rewritten(path, times):
    """Return a function that is true once a file has been replaced ``times`` times after it first appeared."""
    seen = []

    def enough():
        if path.exists() and (stamp := path.stat().st_mtime_ns) not in seen:
            seen.append(stamp)
        return len(seen) > times

    return enough


def files(folder, without=("logs",)):
    """Return the files below a folder, relative to it, sorted, but for those below folders named in ``without``."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not set(path.parts) & set(without))


def assert_same_files(left, right):
    assert files(left) == files(right)
    different = [str(name) for name in files(left) if not filecmp.cmp(left / name, right / name, shallow=False)]
    assert not different

import importlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture
def runner(root):
    return [sys.executable, str(root / "utils/run_local.py")]


def run(runner, *arguments, cwd):
    done = subprocess.run([*runner, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=60)
    return done.returncode, done.stdout, done.stderr.strip()


def test_job_is_replaced_in_command_and_log(runner, tmp_path):
    assert run(runner, "JOB=2:4", "log/x.JOB.log", "echo", "job JOB of JOBs", cwd=tmp_path) == (0, "", "")
    logs = sorted((tmp_path / "log").glob("*.log"))
    assert [log.name for log in logs] == ["x.2.log", "x.3.log", "x.4.log"]
    assert "job 3 of 3s\n" in logs[1].read_text()


def test_the_log_has_the_format_of_kaldi(runner, tmp_path):
    run(runner, "--num-threads", "2", "x.log", "bash", "-c", "echo out; echo err >&2", cwd=tmp_path)
    date = r"\w{3} \w{3} \d\d \d\d:\d\d:\d\d \S+ \d{4}"
    expected = (
        rf"# bash -c 'echo out; echo err >&2'\n# Started at {date}\n#\nout\nerr\n"
        rf"# Accounting: time=\d+ threads=2\n# Ended \(code 0\) at {date}, elapsed time \d+ seconds\n"
    )
    assert re.fullmatch(expected, (tmp_path / "x.log").read_text())


def test_all_jobs_run_and_failures_are_counted(runner, tmp_path):
    script = "echo tried JOB; [ JOB != 2 ] && [ JOB != 5 ]"
    status, output, error = run(runner, "JOB=1:8", "log/x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert (status, output) == (1, "")
    assert error.splitlines() == [
        "2 of 8 failed, see log/x.*.log",
        "  log/x.2.log ends with: tried 2 (exit status 1)",
        "  log/x.5.log ends with: tried 5 (exit status 1)",
    ]
    ended = {log.name: log.read_text().splitlines()[-1] for log in (tmp_path / "log").glob("*.log")}
    assert len(ended) == 8
    assert [name for name, line in sorted(ended.items()) if "Ended (code 0)" not in line] == ["x.2.log", "x.5.log"]
    assert "Ended (code 1)" in ended["x.2.log"]


def test_a_missing_program_fails(runner, tmp_path):
    status, _, error = run(runner, "x.log", "no-such-program-here", cwd=tmp_path)
    assert status == 1
    assert error.startswith("1 of 1 failed, see x.log")
    assert "not found" in error


def test_a_killed_job_fails_and_its_signal_is_reported(runner, tmp_path):
    status, _, error = run(runner, "x.log", "bash", "-c", "kill -9 $$", cwd=tmp_path)
    assert status == 1
    assert "1 of 1 failed" in error
    assert "killed by SIGKILL" in error
    assert "# Ended (code 137; signal 9)" in (tmp_path / "x.log").read_text()
    assert (tmp_path / "q/x.log/1.status").read_text() == "137\n"


def test_operators_work_and_everything_else_is_quoted(runner, tmp_path):
    assert run(runner, "x.log", "echo", "a*; b", "$HOME", "|", "tr", "a", "c", cwd=tmp_path)[0] == 0
    assert "\nc*; b $HOME\n" in (tmp_path / "x.log").read_text()
    assert run(runner, "x.log", "false", "|", "cat", cwd=tmp_path)[0] == 1


@pytest.mark.parametrize("options, threads", [((), "1"), (("--num-threads", "3"), "3")])
def test_threads_are_limited(runner, tmp_path, options, threads):
    run(runner, *options, "x.log", "bash", "-c", "echo $OMP_NUM_THREADS $MKL_NUM_THREADS", cwd=tmp_path)
    assert f"\n{threads} {threads}\n" in (tmp_path / "x.log").read_text()


def test_all_options_are_accepted(runner, tmp_path):
    options = ("--mem", "40M", "--gpu", "1", "--time", "4:0:0", "--max-jobs-run", "1")
    assert run(runner, *options, "JOB=1:2", "x.JOB.log", "echo", "--mem", "JOB", cwd=tmp_path)[0] == 0
    assert "--mem 2\n" in (tmp_path / "x.2.log").read_text()


def test_the_number_of_concurrent_jobs_is_limited(runner, tmp_path):
    script = "mkdir running; sleep 0.1; rmdir running"  # mkdir fails while another job runs
    assert run(runner, "--max-jobs-run", "1", "JOB=1:4", "x.JOB.log", "bash", "-ec", script, cwd=tmp_path)[0] == 0


def test_concurrent_jobs_are_limited_by_memory(runner, tmp_path, resources):
    script = "mkdir running; sleep 0.1; rmdir running"
    most = f"{resources.memory_of_machine()[0] // 2**20 * 2 // 3}M"  # two of them exceed the memory
    assert run(runner, "--mem", most, "JOB=1:3", "x.JOB.log", "bash", "-ec", script, cwd=tmp_path)[0] == 0


@pytest.mark.recipe
def test_a_timed_out_job_is_terminated_with_its_children(runner, tmp_path):
    script = "[ JOB = 1 ] || { sleep 300 & echo $! > pid; sleep 300; }"
    status, _, error = run(runner, "--time", "0:1", "JOB=1:2", "x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert status == 1
    assert error.splitlines()[1] == "  x.2.log ends with: no output (timeout after 0:00:01)"
    assert not is_alive(int((tmp_path / "pid").read_text()))
    statuses = [(tmp_path / f"q/x.JOB.log/{job}.status").read_text() for job in (1, 2)]
    assert statuses == ["0\n", "143 timeout after 0:00:01\n"]
    assert "# Ended (code 143; signal 15)" in (tmp_path / "x.2.log").read_text()


def tries(folder):
    return {path.name: len(path.read_text().splitlines()) for path in folder.glob("tried.*")}


@pytest.mark.recipe
def test_pick_failed_skips_finished_jobs_until_their_input_changes(runner, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/table").write_text("1\n")
    arguments = ("JOB=1:3", "log/x.JOB.log", "bash", "-c", "echo >> tried.JOB; [ JOB != 2 ] || [ -e good ]", "sh", "in")
    failing = ("--pick", "failed", *arguments)
    assert run(runner, *failing, cwd=tmp_path)[2].startswith("1 of 3 failed, see log/x.2.log")
    assert run(runner, *failing, cwd=tmp_path)[2].startswith("1 of 3 failed (2 succeeded before), see log/x.2.log")
    assert tries(tmp_path) == {"tried.1": 1, "tried.2": 2, "tried.3": 1}
    (tmp_path / "in/table").write_text("22\n")  # input of the finished jobs
    run(runner, *failing, cwd=tmp_path)
    assert tries(tmp_path) == {"tried.1": 2, "tried.2": 3, "tried.3": 2}
    run(runner, *arguments, cwd=tmp_path)  # all jobs, without --pick
    assert tries(tmp_path) == {"tried.1": 3, "tried.2": 4, "tried.3": 3}
    (tmp_path / "good").touch()
    assert run(runner, *failing, cwd=tmp_path) == (0, "", "")
    assert tries(tmp_path) == {"tried.1": 3, "tried.2": 5, "tried.3": 3}
    assert run(runner, *failing, cwd=tmp_path) == (0, "", "")  # a call without failures starts afresh next time
    assert tries(tmp_path) == {"tried.1": 4, "tried.2": 6, "tried.3": 4}


def test_another_command_runs_all_jobs(runner, tmp_path):
    for word in ("a", "b"):
        script = f"echo {word} >> tried.JOB; [ JOB != 2 ]"
        run(runner, "--pick", "failed", "JOB=1:2", "x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert (tmp_path / "tried.1").read_text() == "a\nb\n"


def test_a_log_locked_by_another_call_is_rejected(runner, tmp_path):
    process = subprocess.Popen([*runner, "x.log", "bash", "-c", "touch started; sleep 60"], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        status, _, error = run(runner, "x.log", "true", cwd=tmp_path)
        assert (status, error) == (1, "run_local.py: x.log: locked by another call that is running")
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def resources(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "utils")
    return importlib.import_module("resources")


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("2", 120),
        ("0:30", 30),
        ("4:0:0", 14400),
        ("1-0", 86400),
        ("1-2:30", 95400),
        ("1-2:30:15", 95415),
        ("100:00:00", 360000),
    ],
)
def test_times_are_parsed_as_by_slurm(resources, text, seconds):
    assert resources.parse_time(text) == seconds
    assert resources.parse_time(resources.format_time(seconds)) == seconds


def test_memory_sizes_are_parsed(resources):
    texts = {"4G": 4 * 2**30, "500M": 500 * 2**20, "500": 500 * 2**20, "1.5g": 3 * 2**29, "2T": 2**41, "8GB": 2**33}
    assert {text: resources.parse_memory(text) for text in texts} == texts


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--mem", "lots", "x.log", "true"), "lots: must be a size such as 4G"),
        (("--mem", "900T", "x.log", "true"), "--mem: each task needs 921600.0 GiB, this machine has"),
        (("--time", "0:0:0", "x.log", "true"), "must be more than zero"),
        (("--time", "1:2:3:4", "x.log", "true"), "must be minutes, minutes:seconds or"),
        (("--time", "1h", "x.log", "true"), "must be minutes, minutes:seconds or"),
        (("JOB=1:4", "JOB/x.log", "true"), "must have JOB in its name"),
        (("JOB=1:4", "x.log", "true"), "must have JOB in its name"),
        (("JOB=4:1", "x.JOB.log", "true"), "is an empty range of jobs"),
        (("x.log",), "a log file and a command are needed"),
        ((), "a log file and a command are needed"),
        (("--num-threads", "0", "x.log", "true"), "must be 1 or more"),
        (("--max-jobs-run", "0", "x.log", "true"), "must be 1 or more"),
        (("/proc/none/x.log", "true"), "run_local.py: "),
        (("--memory", "1", "x.log", "true"), "unrecognized arguments"),
    ],
)
def test_invalid_arguments_are_rejected(runner, tmp_path, arguments, message):
    status, _, error = run(runner, *arguments, cwd=tmp_path)
    assert status != 0
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_signal_is_held_back_until_a_started_job_is_known(root, monkeypatch):
    """Otherwise a job that the runner does not know yet, or its children, would outlive it."""
    monkeypatch.syspath_prepend(root / "utils")
    jobs, before, running = importlib.import_module("jobs"), signal.getsignal(signal.SIGTERM), []
    jobs.interrupt_on(signal.SIGTERM)
    try:
        with pytest.raises(jobs.Interrupted), jobs.held_back(signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)  # to this thread: other threads of the tests do not hold it back
            running.append("job")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert running == ["job"]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_sleepers(runner, folder):
    """Start two jobs, each a shell with one child; return the runner and the four process ids."""
    script = "sleep 300 & echo $$ $! > pids.JOB; wait"
    command = [*runner, "--max-jobs-run", "2", "JOB=1:3", "x.JOB.log", "bash", "-c", script]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
    files = [folder / "pids.1", folder / "pids.2"]
    deadline = time.monotonic() + 20
    while not all(file.exists() and file.read_text().endswith("\n") for file in files) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process, [int(pid) for file in files for pid in file.read_text().split()]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_terminates_jobs_and_their_children(runner, tmp_path, number):
    process, pids = start_sleepers(runner, tmp_path)
    assert len(pids) == 4
    assert all(map(is_alive, pids))
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
    assert "# Ended (code " in (tmp_path / "x.1.log").read_text()
    assert (tmp_path / "q/x.JOB.log/1.status").read_text() in ("143 interrupted\n", "130 interrupted\n")
    assert not (tmp_path / "x.3.log").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_jobs_do_not_outlive_a_killed_runner(runner, tmp_path):
    process, pids = start_sleepers(runner, tmp_path)
    process.kill()
    process.wait(timeout=20)
    shells = pids[::2]
    deadline = time.monotonic() + 10
    while any(map(is_alive, shells)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, shells))
    for child in pids[1::2]:
        os.kill(child, signal.SIGKILL)

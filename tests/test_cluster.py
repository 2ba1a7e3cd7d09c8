"""Cluster runners: Grid Engine with fake commands, Slurm on a real single-node cluster."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from cluster import outcomes

from helpers.recipes import QUICK_ARGS, keep_few_test_pairs
from sase.data.datadir import read_table
from sase.endpoints import free_port
from sase.federated.flower.processes import find_pids
from sase.model import build_model, save_model

QSUB = """\
#!{python}
import os, pathlib, subprocess, sys

expected = {{"-V": 0, "-S": 1, "-sync": 1, "-cwd": 0, "-j": 1, "-o": 1, "-N": 1, "-t": 1, "-tc": 1, "-l": 1, "-pe": 2}}
arguments, options, resources = sys.argv[1:], {{}}, []
while arguments and arguments[0].startswith("-"):
    name = arguments.pop(0)
    if name not in expected or name in options and name != "-l":
        sys.exit(f"qsub: Unknown option {{name}}")
    values = [arguments.pop(0) for _ in range(expected[name])]
    options[name] = values
    resources += values if name == "-l" else []
[script] = arguments
first, last = map(int, options["-t"][0].split("-"))
assert options["-sync"] == ["y"] and options["-j"] == ["y"] and first == 1 and "-cwd" in options, options
assert options["-N"][0][0].isalpha() and not set(options["-N"][0]) & set("/:@*?\\\\ "), options["-N"]
pathlib.Path("qsub.args").write_text(repr((sorted(options), resources, options.get("-pe"), options.get("-tc"))))
if os.environ.get("QSUB_REFUSES"):
    sys.exit("Unable to run job: unknown queue")
print(f"Your job-array 7.{{first}}-{{last}}:1 has been submitted", flush=True)
failed = 0
for task in range(first, last + 1):
    output = options["-o"][0].replace("$TASK_ID", str(task))
    with open(output, "w") as file:
        environment = {{**os.environ, "SGE_TASK_ID": str(task)}}
        failed += 0 != subprocess.call(["bash", script], stdout=file, stderr=file, env=environment)
sys.exit(failed and 1)
"""


@pytest.fixture
def site(tmp_path, root):
    """A folder with conf/, from which runners are called."""
    shutil.copytree(root / "egs/voicebank_demand/conf", tmp_path / "conf")
    with open(tmp_path / "conf/sge.conf", "a") as file:
        file.write("visible 0\n")
    return tmp_path


def run(root, runner, *arguments, cwd, **environment):
    command = [sys.executable, root / f"utils/{runner}.py", *map(str, arguments)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)
    return done.returncode, done.stderr.strip()


@pytest.fixture
def sge(site, root):
    """Return a function that calls run_sge.py with fake qsub, qstat and qdel."""
    fails = "#!/bin/sh\nexit 1\n"
    for name, text in {"qsub": QSUB.format(python=sys.executable), "qstat": fails, "qdel": fails}.items():
        path = site / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    path = f"{site / 'bin'}:{os.environ['PATH']}"
    return lambda *arguments, **environment: run(root, "run_sge", *arguments, cwd=site, PATH=path, **environment)


@pytest.mark.recipe
def test_sge_calls_qsub_with_valid_options(sge, site):
    options = ("--mem", "4G", "--num-threads", "2", "--gpu", "1", "--time", "4:0:0", "--max-jobs-run", "3")
    assert sge(*options, "JOB=0:2", "log/x.JOB.log", "echo", "task", "JOB") == (0, "")
    resources = ["h_vmem=4096M", "gpu=1", "h_rt=4:00:00"]
    names = sorted(["-V", "-S", "-sync", "-cwd", "-j", "-o", "-N", "-t", "-tc", "-l", "-pe"])
    assert (site / "qsub.args").read_text() == repr((names, resources, ["smp", "2"], ["3"]))
    assert [f"task {job}" in (site / f"log/x.{job}.log").read_text().splitlines() for job in range(3)] == [True] * 3
    assert "# Accounting: time=0 threads=2" in (site / "log/x.2.log").read_text()
    assert sge("y.log", "true") == (0, "")
    assert (site / "qsub.args").read_text() == repr((sorted({*names} - {"-tc", "-l", "-pe"}), [], None, None))


@pytest.mark.recipe
def test_sge_reports_failures_and_reruns_only_them(sge, site):
    script = "echo >> tried.JOB; [ JOB != 3 ] || exit 3; [ JOB != 5 ] || [ -e good ] || kill -9 $PPID"
    arguments = ("--pick", "failed", "JOB=2:5", "log/x.JOB.log", "bash", "-c", script)
    status, error = sge(*arguments)
    assert status == 1
    assert error.splitlines() == [
        "2 of 4 failed, see log/x.*.log",
        "  log/x.3.log ends with: no output (exit status 3)",
        "  log/x.5.log ends with: no output (vanished: unknown to the scheduler)",
    ]
    statuses = {path.name: path.read_text().strip() for path in (site / "log/q/x.JOB.log").glob("*.status")}
    assert statuses == {
        "2.status": "0",
        "3.status": "3",
        "4.status": "0",
        "5.status": "vanished unknown to the scheduler",
    }
    (site / "good").touch()
    status, error = sge(*arguments)
    assert status == 1
    assert error.startswith("1 of 4 failed (2 succeeded before), see log/x.3.log")
    assert {path.name: len(path.read_text()) for path in site.glob("tried.*")} == {
        "tried.2": 1,
        "tried.3": 2,
        "tried.4": 1,
        "tried.5": 2,
    }


def test_submission_errors_are_reported_in_one_line(sge, site, root):
    assert sge("x.log", "true", QSUB_REFUSES="1") == (1, "run_sge.py: qsub: Unable to run job: unknown queue")
    assert not (site / "q/x.log/submitted").exists()
    (site / "conf/sge.conf").write_text("command no-such-qsub\n")
    status, error = sge("x.log", "true")
    assert status == 1
    assert error.startswith("run_sge.py: [Errno 2]")
    assert "no-such-qsub" in error


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("command sbatch\noption memory=* --mem $0\n", (), "conf/slurm.conf:2: must be 'option NAME=VALUE ...', NAME"),
        ("command sbatch\npartition main\n", (), "conf/slurm.conf:2: must begin with command, option, default,"),
        ("command sbatch\nvisible soon\n", (), "conf/slurm.conf:2: must be 'visible SECONDS'"),
        ("option mem=* --mem $0\n", (), "conf/slurm.conf: the line 'command'"),
        ("command sbatch\n", ("--gpu", "2"), "--gpu 2 needs a line 'option gpu=* ...'"),
        (None, (), "No such file or directory: 'conf/slurm.conf'"),
    ],
)
def test_bad_site_files_are_reported_in_one_line(site, root, text, options, message):
    (site / "conf/slurm.conf").unlink()
    if text is not None:
        (site / "conf/slurm.conf").write_text(text)
    status, error = run(root, "run_slurm", *options, "x.log", "true", cwd=site)
    assert status == 1
    assert error.count("\n") == 0
    assert message in error


def test_a_site_file_maps_options(site, root):
    (site / "mine.conf").write_text(
        "# of a test\ncommand sh -c 'echo \"$0 $*\" >&2; exit 1' # prints its arguments\n"
        "default time=60\noption time=* --time $0\noption gpu=0 -p cpu\noption gpu=* -p gpu --gres=gpu:$0\n"
    )
    for gpu, expected in (("0", "-p cpu"), ("2", "-p gpu --gres=gpu:2")):
        status, error = run(root, "run_slurm", "--config", "mine.conf", "--gpu", gpu, "x.log", "true", cwd=site)
        assert status == 1
        assert f"run_slurm.py: sh: {expected} --time 60 --wait" in error


def test_the_recipe_knows_its_backends(root, tmp_path):
    text = (root / "egs/voicebank_demand/cmd.sh").read_text()
    assert "\ncmd_backend=local " in text
    for backend, status in (("local", 0), ("slurm", 0), ("sge", 0), ("cloud", 1)):
        (tmp_path / "cmd.sh").write_text(text.replace("cmd_backend=local", f"cmd_backend={backend}"))
        script = ". ./cmd.sh; echo $train_cmd; for cmd in $train_cmd $decode_cmd; do break; done; [ -x $UTILS/$cmd ]"
        environment = {**os.environ, "UTILS": str(root / "utils")}
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (
            done.returncode == status and f"run_{backend}.py" in done.stdout
        ) or "no such cmd_backend" in done.stderr


@pytest.mark.recipe
@pytest.mark.parametrize("name", sorted(outcomes.CASES.keys() - outcomes.SLURM_ONLY))
def test_outcomes_of_tasks_on_this_machine(name, tmp_path):
    outcome, alive = outcomes.run_case(name, "local", tmp_path)
    facts = check_outcome(name, outcome)
    assert all(facts.values()), (facts, outcome)
    assert alive == []


def started_slurm(folder, cpus):
    """Yield once while a single-node Slurm runs; skip if Slurm is missing and cannot be installed."""
    try:
        with outcomes.slurm(folder, cpus):
            yield
    except outcomes.UnavailableError as error:
        pytest.skip(f"no test on a real Slurm: {error}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A single-node Slurm with two CPUs."""
    yield from started_slurm(tmp_path_factory.mktemp("slurm"), 2)


@pytest.fixture
def slurm_of_three(tmp_path):
    """A single-node Slurm that runs three jobs at a time."""
    yield from started_slurm(tmp_path / "slurm", 3)


@pytest.mark.recipe
@pytest.mark.parametrize("name", sorted(outcomes.CASES))
def test_outcomes_of_tasks_on_slurm(slurm, name, tmp_path):
    outcome, alive = outcomes.run_case(name, "slurm", tmp_path)
    facts = check_outcome(name, outcome)
    assert all(facts.values()), (facts, outcome)
    assert alive == []


ALL_SUCCEED = {1: "0", 2: "0", 3: "0", 4: "0"}
REASONS = {  # possible content of the exit status file of task 2
    "one exits with 3": ["3"],
    "one runs a missing program": ["127"],
    "one is killed with SIGKILL": ["137"],
    "one is killed with SIGKILL together with its parent": ["137", "vanished FAILED"],
    "one exceeds its `--time`": ["143 timeout after 0:00:02", "143 TIMEOUT"],
}


def check_outcome(name, outcome):
    """Return {check: passed} of an outcome: failures are recorded and reported, all other tasks finished."""
    message, statuses, expected = outcome.message, outcome.statuses, ALL_SUCCEED
    facts = {"no traceback": "Traceback" not in message}
    if name in REASONS:
        facts["status"] = outcome.status == 1 and message.startswith("1 of 4 failed, see log/x.2.log")
        facts["reason"] = statuses[2] in REASONS[name]
        facts["the others"] = {**statuses, 2: "0"} == expected and outcome.tries == dict.fromkeys(expected, 1)
    elif name == "Ctrl-C while two run and two wait":
        facts["status"] = outcome.status == 128 + signal.SIGINT and "interrupted" in message
        facts["tasks"] = outcome.tries == {1: 1, 2: 1} and statuses.keys() == {1, 2}
        facts["reason"] = all(text.startswith("143") for text in statuses.values())
    elif name in outcomes.SLURM_ONLY:
        facts["status"] = outcome.status == 1 and "4 of 4 failed, see log/x.*.log" in message
        facts["sbatch"] = ("sbatch was killed by signal 9" in message) == ("sbatch" in name)
        facts["tasks"] = outcome.tries == {1: 1, 2: 1} and len(statuses) == 4
        facts["reason"] = all("CANCELLED" in text for text in statuses.values())
        facts["message"] = "x.4.log ends with: not started (vanished: CANCELLED)" in message
    elif name.startswith("more memory"):
        facts["status"] = outcome.status == 1 and message.count("\n") == 0 and outcome.tries == {}
    else:
        if name == "the machine is busy at first":
            expected = {1: "0", 2: "0"}
        facts["status"] = (outcome.status, message, statuses) == (0, "", expected)
        facts["tries"] = not name.startswith("called again") or outcome.tries == {1: 1, 2: 2, 3: 1, 4: 1}
    if "Ctrl-C" not in name:
        facts["logs"] = all((s == "0") == ("Ended (code 0)" in outcome.logs[task]) for task, s in statuses.items())
    return facts


@pytest.mark.recipe
def test_the_recipe_runs_its_stages_on_slurm(slurm, make_recipe, tmp_path):
    """Stages 2, 4 and 5 with another backend in cmd.sh and an untrained network; one shard fails the first time."""
    recipe = make_recipe(tmp_path / "copy", "voicebank_demand")
    keep_few_test_pairs(recipe.folder / "downloads/mini")
    recipe.run("--stage", 1, "--stop-stage", 1)
    path = recipe.folder / "cmd.sh"
    path.write_text(path.read_text().replace("cmd_backend=local", "cmd_backend=slurm"))

    table = read_table(recipe.mini / "data/tt/wav.scp")
    utt = sorted(table)[-1]  # in the last shard
    os.rename(table[utt], tmp_path / "away.wav")
    stage_2 = ("--stage", 2, "--stop-stage", 2, "--nj", 3)
    process = recipe.start(*stage_2)
    output = process.communicate()[0]
    assert process.returncode == 1, output
    assert "1 of 3 failed, see mini/dump/tt/logs/dump.3.log" in output, output
    os.rename(tmp_path / "away.wav", table[utt])
    logs = [recipe.mini / f"dump/tt/logs/dump.{job}.log" for job in (1, 2, 3)]
    before = [log.stat().st_mtime_ns for log in logs]
    recipe.run(*stage_2)
    assert [log.stat().st_mtime_ns == time_ns for log, time_ns in zip(logs, before)] == [True, True, False]

    exp = recipe.mini / "exp/untrained"
    exp.mkdir(parents=True)
    save_model(build_model("mini"), exp / "best.pt")
    recipe.run("--stage", 4, "--stop-stage", 5, "--nj", 3, "--tag", "untrained")
    assert read_table(exp / "enhanced_tt/spk1.scp").keys() == table.keys()
    assert f"{len(table)} scored" in (exp / "enhanced_tt/scoring/RESULTS.md").read_text()
    for logs, name in (("enhanced_tt/logs", "decode"), ("enhanced_tt/scoring/logs", "score")):
        assert (exp / logs / f"q/{name}.JOB.log/submit.out").read_text().strip().isdigit()  # the Slurm job id
        for job in (1, 2, 3):
            lines = (exp / logs / f"{name}.{job}.log").read_text().splitlines()
            assert lines[0].startswith(f"# sase {name} ")
            assert lines[-1].startswith("# Ended (code 0)")


PLAIN = f"{QUICK_ARGS} --set model.norm=layer --set train.optimizer=sgd"


def losses(exp):
    """Return the loss of every epoch."""
    return [json.loads(line)["loss"] for line in (exp / "history.jsonl").open()]


def statuses(exp, log):
    """Return the exit statuses recorded by a call of stage 3."""
    return [path.read_text().strip() for path in sorted((exp / "logs/q" / log).glob("*.status"))]


@pytest.mark.recipe
def test_machines_without_a_scheduler_train_together(make_recipe, tmp_path):
    """The command for each of two machines, here both this one; the result is that of one machine."""
    recipe = make_recipe(tmp_path / "copy", "voicebank_demand", dumped=True)
    stage_3 = ("--stage", 3, "--stop-stage", 3, "--train_args", PLAIN)
    recipe.run(*stage_3, "--tag", "one")
    nodes = ("--num_nodes", 2, "--master_addr", "localhost", "--master_port", free_port())
    processes = [recipe.start(*stage_3, "--tag", "two", *nodes, "--node_rank", rank) for rank in (0, 1)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (losses(recipe.mini / "exp" / tag) for tag in ("one", "two"))
    assert len(two) == 3
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.recipe
def test_the_recipe_trains_on_slurm(slurm_of_three, make_recipe, tmp_path):
    """Training on two nodes equals training on one; a server and two silos are three jobs."""
    recipe = make_recipe(tmp_path / "copy", "voicebank_demand", dumped=True)
    stage_3 = ("--stage", 3, "--stop-stage", 3, "--train_args", PLAIN)
    recipe.run(*stage_3, "--tag", "one")
    process = recipe.start(*stage_3, "--num_nodes", 2)
    assert "cmd.sh names no cluster" in process.communicate()[0]
    assert process.returncode == 1
    path = recipe.folder / "cmd.sh"
    text = path.read_text().replace("cmd_backend=local", "cmd_backend=slurm")
    path.write_text(text.replace("--mem 8G --num-threads 4", "--mem 1G --num-threads 1"))

    recipe.run(*stage_3, "--tag", "two", "--num_nodes", 2)
    one, two = (recipe.mini / "exp" / tag for tag in ("one", "two"))
    assert statuses(two, "train.NODE.log") == ["0", "0"]
    assert len(losses(two)) == 3
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)

    federated = ("--fl", "true", "--num_clients", 2, "--num_rounds", 2, "--tag", "silos")
    federated += ("--fl_args", "--fl-set local_steps=3 --fl-set dev_s=10")
    recipe.run(*stage_3, *federated)
    exp = recipe.mini / "exp/silos"
    assert statuses(exp, "server.log") == ["0"]
    assert statuses(exp, "silo.SILO.log") == ["0", "0"]
    rounds = [json.loads(line) for line in (exp / "rounds.jsonl").open()]
    assert [sorted(entry["silos"]) for entry in rounds] == [["0", "1"], ["0", "1"]]
    assert (exp / "best.pt").exists()
    assert not any(find_pids(home) for home in (exp / "flower", *(exp / f"silos/silo{k}/flower" for k in (0, 1))))
    before = (exp / "rounds.jsonl").read_bytes()
    recipe.run(*stage_3, *federated)  # all rounds are done; no silo is started
    assert (exp / "rounds.jsonl").read_bytes() == before

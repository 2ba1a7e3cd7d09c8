import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sase.losses.loss import build_loss
from sase.model import build_model
from sase.training.config import load_train_config

SCRIPT = """\
set -euo pipefail
stage=0
stop_stage=5
tag=
gain=-3
dev_speakers="p226 p287"
fl=false
train_cmd=run_local.py
{help}
. {root}/utils/parse_options.sh
echo "stage=$stage stop_stage=$stop_stage tag=$tag gain=$gain dev_speakers=$dev_speakers fl=$fl rest=$*"
"""
HELP = 'help_message="--stage --stop-stage --tag --gain --dev_speakers --fl --train_cmd"'
NAMES = ("stage", "stop_stage", "tag", "gain", "dev_speakers", "fl", "rest")
DEFAULTS = dict(zip(NAMES, ("0", "5", "", "-3", "p226 p287", "false", "")))


@pytest.fixture
def parse(root, tmp_path):
    """Return a function that runs a script with arguments and returns its exit status, output and errors."""

    def parse(*arguments, help=HELP):
        script = tmp_path / "script.sh"
        script.write_text(SCRIPT.format(root=root, help=help))
        done = subprocess.run(["bash", script, *arguments], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return parse


def expected(**changes):
    return " ".join(f"{name}={value}" for name, value in {**DEFAULTS, **changes}.items()).strip()


@pytest.mark.parametrize(
    "arguments, changes",
    [
        ((), {}),
        (("--stop-stage", "3"), {"stop_stage": "3"}),
        (("--stop_stage", "3"), {"stop_stage": "3"}),
        (("--stage", "1", "--stage", "2"), {"stage": "2"}),
        (("--fl", "true"), {"fl": "true"}),
        (("--gain", "-7"), {"gain": "-7"}),
        (("--tag", ""), {"tag": ""}),
        (("--tag", "--set a.b=c"), {"tag": "--set a.b=c"}),
        (("--dev-speakers", "p1 p2"), {"dev_speakers": "p1 p2"}),
        (("--tag", "a'b$(exit 9)*"), {"tag": "a'b$(exit 9)*"}),
        (("--stage", "1", "in.wav", "--stage", "2"), {"stage": "1", "rest": "in.wav --stage 2"}),
    ],
)
def test_options_are_set(parse, arguments, changes):
    assert parse(*arguments) == (0, expected(**changes), "")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--stages", "1"), "no such option: --stages; see --help"),
        (("--Stage", "1"), "no such option: --Stage"),
        (("--", "1"), "no such option: --"),
        (("-s", "1"), "no such option: -s"),
        (("--HOME", "x"), "no such option: --HOME"),
        (("--stage=1",), "use '--stage 1' instead of '--stage=1'"),
        (("--nothing=",), "use '--nothing ' instead of '--nothing='"),
        (("--tag",), "--tag needs a value"),
        (("--fl", "yes"), "--fl must be true or false, not 'yes'"),
        (("--fl", ""), "--fl must be true or false, not ''"),
        (("--stage", "two"), "--stage must be an integer, not 'two'"),
        (("--train-cmd", ""), "--train-cmd must name the program"),
        (("--config",), "--config: file not found"),
        (("--config", "nowhere"), "--config: file not found: 'nowhere'"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(parse, arguments, message):
    status, output, error = parse(*arguments)
    assert (status, output, error.count("\n")) == (1, "", 0)
    assert message in error


def test_a_config_is_read_first_and_the_command_line_wins(parse, tmp_path):
    (tmp_path / "my.conf").write_text("stage=2\ntag=mine\n")
    assert parse("--tag", "yours", "--config", "my.conf") == (0, expected(stage="2", tag="yours"), "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed(parse, option):
    assert parse("--stage", "1", option) == (0, HELP.split('"')[1], "")


def test_variables_missing_in_the_help_are_not_options(parse):
    assert "no such option: --gain" in parse("--gain", "1", help='help_message="--stage --gainful"')[2]
    assert parse("--gain", "1", help="") == (0, expected(gain="1"), "")


@pytest.fixture(params=["voicebank_demand", "commonvoice_noise92"])
def run_sh(root, request):
    """Return a function that runs a recipe with arguments that must fail before the first stage."""

    def run_sh(*arguments, cwd=root):
        script = root / "egs" / request.param / "run.sh"
        done = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=cwd, timeout=60)
        return done.returncode, done.stdout, done.stderr.strip()

    run_sh.folder = root / "egs" / request.param
    return run_sh


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--stage=1", "use '--stage 1'"),
        ("--stages 1", "no such option: --stages"),
        ("--recipe x", "no such option: --recipe"),
        ("--mini yes", "--mini must be true or false, not 'yes'"),
        ("--fl 1", "--fl must be true or false"),
        ("--fl true --num_clients 0", "--num_clients must be 1 or more"),
        ("--num-clients few", "--num-clients must be an integer"),
        ("--nj 0", "--nj must be 1 or more"),
        ("--nj many", "--nj must be an integer"),
        ("--stage 4 --stop_stage 3", "--stage 4 is after --stop-stage 3"),
        ("--stage 9", "--stage 9: stages are 0 to 5"),
        ("--stage -1", "--stage -1: stages are 0 to 5"),
        ("--stop_stage -1", "--stage 0 is after --stop-stage -1"),
        ("--tag ../x", "--tag ../x: must be the name of a folder in exp/"),
        ("--tag a/../../x", "must be the name of a folder in exp/"),
        ("--tag /tmp/x", "must be the name of a folder in exp/"),
        ("--tag .", "must be the name of a folder in exp/"),
        ("stage 1", "unexpected argument: stage"),
    ],
)
def test_a_wrong_option_of_a_recipe_is_an_error_of_one_line(run_sh, arguments, message):
    status, output, error = run_sh(*arguments.split())
    assert (status, output, error.count("\n")) == (1, "", 0)
    assert message in error


@pytest.mark.parametrize("recipe, option", [("voicebank_demand", "--corpus_dir"), ("commonvoice_noise92", "--cv_dir")])
def test_the_mini_corpus_and_a_corpus_folder_exclude_each_other(root, recipe, option):
    command = [root / "egs" / recipe / "run.sh", "--mini", "true", option, "somewhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "--mini true" in done.stderr
    assert option in done.stderr


def test_the_help_lists_all_options(run_sh, root, tmp_path):
    status, output, error = run_sh("--help", cwd=tmp_path)
    assert (status, error) == (0, "")
    names = []
    for path, end in ((run_sh.folder / "run.sh", "help_message"), (root / "utils/recipe.sh", "recipe_help")):
        defaults = path.read_text().split(f"\n{end}=")[0]
        pairs = [line.partition("=")[0] for line in defaults.splitlines() if "=" in line]
        names += [name for name in pairs if name.isidentifier() and name not in ("root", "recipe", "command")]
    assert len(names) >= 25
    for name in names:
        assert f"--{name} " in output.replace("--stop-stage", "--stop_stage"), name


@pytest.mark.parametrize("dnsmos", ["true", "false"])
def test_stage_5_passes_the_wish_for_dnsmos_on_to_the_jobs_and_to_the_table(run_sh, root, tmp_path, dnsmos):
    recipe = tmp_path / "egs/copy"
    recipe.mkdir(parents=True)
    for name in ("run.sh", "cmd.sh"):
        (recipe / name).write_bytes((run_sh.folder / name).read_bytes())
    (tmp_path / "utils").symlink_to(root / "utils")
    (tmp_path / "sase").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    (tmp_path / "sase").chmod(0o755)
    (recipe / "path.sh").write_text(f"export PATH={tmp_path}:$root/utils:{Path(sys.executable).parent}:$PATH\n")
    command = ["bash", recipe / "run.sh", "--mini", "true", "--stage", "5", "--nj", "1", "--dnsmos", dnsmos]
    subprocess.run(command, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["score", "score", "report"]
    assert ["--job" in calls[0], "--finish" in calls[1]] == [True, True]
    assert ["--dnsmos" in call.split() for call in calls] == [dnsmos == "true"] * 2 + [False]


def test_the_recipes_are_short(run_sh):
    assert len((run_sh.folder / "run.sh").read_text().splitlines()) < 60


@pytest.mark.recipe
def test_shellcheck_finds_nothing(root):
    patterns = ("egs/*/*.sh", "egs/*/local/*.sh", "utils/*.sh", "tools/*.sh", "tests/*.sh", "tests/cluster/*.sh")
    scripts = [path for pattern in patterns for path in root.glob(pattern)]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts, root / ".ci/run"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout


def test_no_script_silences_an_error(root):
    for path in [path for folder in ("egs", "utils", "tools", "tests") for path in root.glob(f"{folder}/**/*.sh")]:
        if "venv" in path.parts or "exp" in path.parts:
            continue
        text = path.read_text()
        assert "set -euo pipefail" in text or text.startswith("# Sourced by"), path
        assert "|| true" not in text, path
        assert "|| :" not in text, path


def test_validate_data_dir_runs(root, tmp_path):
    command = [root / "utils/validate_data_dir.sh", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SASE_VENV": sys.prefix})
    assert done.returncode == 1
    assert "no such data directory" in done.stderr


def test_every_configuration_of_the_recipes_can_be_built(root):
    configs = sorted(root.glob("egs/*/conf/train_*.yaml"))
    assert configs
    generator = torch.Generator().manual_seed(0)
    clean = 0.1 * torch.randn(3, 16000, generator=generator) * torch.linspace(0, 1, 16000)
    for path in configs:
        config = load_train_config(path)
        assert build_model(config.model).config == config.model
        loss = build_loss(config.loss)
        assert loss.weights == config.loss
        # A scale-invariant objective lets the level drift until the output clips.
        noisy = clean + 0.01 * torch.randn(clean.shape, generator=generator)
        assert loss(noisy, clean)[0] + 0.01 < min(loss(noisy * gain, clean)[0] for gain in (0.2, 5.0)), path

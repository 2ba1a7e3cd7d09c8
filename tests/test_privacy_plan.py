"""``sase epsilon``: ε before training is that which training records, and the noise for a target is the least one."""

import re
from pathlib import Path

import pytest

from helpers.commands import sase
from sase.errors import InputError
from sase.federated.config import FederatedConfig
from sase.federated.privacy import account, published_epsilon, upload_epsilon
from sase.federated.privacy_plan import accounts, noise_for, table

PRIVATE = {"strategy": "uniform", "norm": "none", "dp_clip_norm": 0.5, "num_silos": 10, "min_silos": 10}
POISSON = {"sampling": "poisson", "clients_per_round": 10, "num_silos": 1000, "min_silos": 0}
PAGE = Path(__file__).parents[1] / "docs/privacy.md"


def config(**more):
    return FederatedConfig(**{**PRIVATE, "dp_noise_multiplier": 1.0, **more})


def test_the_account_is_that_of_the_rounds():
    found = accounts(config(), [1, 50])
    assert [of.rounds for of in found] == [1, 50]
    assert found[1].models == published_epsilon(1.0, 10, 50, 1e-5)
    assert found[1].uploads_without == upload_epsilon(1.0, 50, 1e-5, replacement=False)
    assert accounts(config(**POISSON), [50])[0].models == account(config(**POISSON), 50).models


def test_no_noise_and_what_cannot_be_accounted_for_are_refused():
    with pytest.raises(InputError, match="dp_noise_multiplier is 0"):
        accounts(config(dp_noise_multiplier=0.0), [1])
    with pytest.raises(InputError, match="cannot account for ε|strategy"):
        accounts(config(strategy="examples"), [1])


@pytest.mark.parametrize("removal", [False, True])
@pytest.mark.parametrize("more", [{}, {"num_rounds": 200}, {"secure_aggregation": True}, POISSON])
@pytest.mark.parametrize("target", [0.3, 8.0])
def test_the_noise_for_a_target_reaches_it_and_one_digit_less_does_not(more, removal, target):
    name = "models_without" if removal else "models"
    base = config(**{"num_rounds": 50, **more})
    noise = noise_for(base, target, removal)
    digits = f"{noise:.2e}"
    assert float(digits) == pytest.approx(noise, rel=1e-12)
    less = noise - 10.0 ** (int(digits.split("e")[1]) - 2)

    def epsilon(z):
        return getattr(
            accounts(config(**{"num_rounds": 50, **more, "dp_noise_multiplier": z}), [base.num_rounds])[0], name
        )

    assert epsilon(noise) <= target < epsilon(less)


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_is_a_positive_number(target):
    with pytest.raises(InputError, match="must be a positive number"):
        noise_for(config(), target)


def test_a_target_beyond_reach_is_refused():
    with pytest.raises(InputError, match="no dp_noise_multiplier up to 1e"):
        noise_for(config(dp_delta=1e-12, num_rounds=10**6), 1e-9)


def test_against_the_server_draws_decide():
    assert table(config(**POISSON), accounts(config(**POISSON), [5]))[-1].count("–") == 2
    assert "–" not in table(config(), accounts(config(), [5]))[-1]


def test_the_table_of_the_page_comes_from_its_commands(tmp_path):
    text = PAGE.read_text()
    keys = re.search(r"```yaml\n(strategy: uniform.*?)```", text, re.DOTALL)[1]
    path = tmp_path / "private.yaml"
    path.write_text(re.sub("dp_noise_multiplier: .*", "dp_noise_multiplier: 1", keys))
    section = text[text.index("## Amplification by sampling") :]
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", section, re.MULTILINE)
    block = re.search(r"```\n(sase epsilon.*?)```", section, re.DOTALL)[1]
    sampled = re.search('sampled="(.*)"', block)[1]
    commands = [line.replace("$sampled", sampled) for line in block.splitlines() if line.startswith("sase ")]
    assert len(rows) == len(commands) == 3
    for command, expected in zip(commands, rows, strict=True):
        arguments = command.replace("private.yaml", str(path)).split()[1:]
        printed = sase(*arguments).stdout
        assert re.search(rf"^\| 50 \| {expected[0]} \| {expected[1]} \|", printed, re.MULTILINE), printed


def test_the_command_prints_the_noise(tmp_path):
    path = tmp_path / "private.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in PRIVATE.items()) + "fednova: false\n")
    printed = sase("epsilon", "--fl-config", path, "--target", 2, "--rounds", 20, "--removal").stdout
    noise = noise_for(config(num_rounds=FederatedConfig().num_rounds), 2.0, True)
    assert printed.startswith(f"dp_noise_multiplier: {noise:g}\n")
    failed = sase("epsilon", "--fl-config", path)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1

"""ε of whole federations against Google's dp-accounting and autodp, in 42 settings.

``helpers/accountants.csv`` has what the two packages say; where they are installed, they compute it again.
"""

import pytest

from helpers import accountants
from helpers.parameters import quick
from sase.config import from_mapping
from sase.federated.config import FederatedConfig, checked
from sase.federated.privacy import account, require_accountable
from sase.federated.sampling_privacy import SampledRounds

TABLE = accountants.read_table()
EVERYBODY = [(setting, values) for setting, values in TABLE if setting.drawn == setting.silos]
SAMPLED = [(setting, values) for setting, values in TABLE if setting.drawn < setting.silos]


def found(setting, noise=None):
    """What the federation reports."""
    poisson = setting.drawn < setting.silos
    drawn = {"sampling": "poisson", "clients_per_round": setting.drawn} if poisson else {"min_silos": setting.silos}
    values = {
        **{"num_silos": setting.silos, "strategy": "uniform", "norm": "none", "dp_clip_norm": 0.5, **drawn},
        **{"dp_noise_multiplier": noise or setting.noise, "dp_delta": setting.delta},
    }
    config = checked(from_mapping(FederatedConfig, values))
    require_accountable(config)
    return account(config, setting.rounds)


def test_the_table_is_wide():
    assert len({setting for setting, _ in TABLE}) == len(TABLE) == 42
    assert len(EVERYBODY) >= 15
    assert len(SAMPLED) >= 15
    assert {"dp_accounting_removed", "autodp_removed"} <= TABLE[0][1].keys()
    epsilons = [values["dp_accounting_removed"] for _, values in TABLE]
    assert min(epsilons) < 0.05
    assert max(epsilons) > 15


@pytest.mark.parametrize(("setting", "values"), EVERYBODY)
def test_without_sampling_epsilon_is_exact(setting, values):
    """If a silo is removed or added and if its data are replaced, to what autodp's search and a grid in ε leave."""
    models = found(setting)
    # A silo's own noise against the server, if it is as large as that of all silos' sum.
    uploads = found(setting, noise=setting.total)
    for removed, replaced in ((models.models_without, models.models), (uploads.uploads_without, uploads.uploads)):
        assert removed == pytest.approx(values["autodp_removed"], rel=1e-6)
        assert replaced == pytest.approx(values["autodp_replaced"], rel=1e-6)
        assert removed == pytest.approx(values["dp_accounting_removed"], rel=5e-4)
        assert removed == pytest.approx(values["dp_accounting_added"], rel=5e-4)
        assert replaced == pytest.approx(values["dp_accounting_replaced"], rel=5e-4)
    assert models.models > 2 * models.models_without  # the other relation is no mere factor


@pytest.mark.parametrize(("setting", "values"), SAMPLED)
def test_of_poisson_samples_epsilon_is_that_of_dp_accounting(setting, values):
    """Removed and added each by itself; autodp's Rényi accountant and our ε of replacing are upper bounds."""
    models = found(setting)
    removed, added = values["dp_accounting_removed"], values["dp_accounting_added"]
    assert models.models_without == pytest.approx(max(removed, added), rel=1e-3)
    rounds = SampledRounds(setting.total, setting.probability, setting.rounds)
    for epsilon, is_removed in ((removed, True), (added, False)):
        assert rounds.delta(1.002 * epsilon, is_removed) <= setting.delta <= rounds.delta(0.998 * epsilon, is_removed)
    assert models.models_without < values["autodp_removed"]
    # Replacing is bounded by removing and adding, at twice the ε of either and more, and exact in dp-accounting.
    assert values["dp_accounting_replaced"] < models.models < 1.7 * values["dp_accounting_replaced"]
    assert models.models >= models.models_without + min(removed, added)


@pytest.mark.parametrize("every", quick([21, 1]))
@pytest.mark.parametrize("package", ["dp_accounting", "autodp"])
def test_the_packages_say_what_the_table_says(package, every):
    pytest.importorskip(package)
    for setting, values in TABLE[::every]:
        live = getattr(accountants, package)(setting)
        assert live
        for name, epsilon in live.items():
            assert epsilon == pytest.approx(values[f"{package}_{name}"], rel=1e-4), (setting, name)

"""The federated config: validation, and what must match on resume."""

from dataclasses import replace

import pytest
import torch
import yaml

from helpers.federation import fed_config, train_config
from sase.errors import InputError
from sase.federated.config import FederatedConfig, load_federated_config
from sase.federated.inproc import count_silos, run
from sase.federated.server import Server


def test_keys_missing_in_an_older_config_get_their_defaults(silos_dir, dev_set, tmp_path):
    config = train_config()
    run(config, fed_config(num_rounds=1), silos_dir, dev_set, tmp_path, "cpu", {})
    for name, key in (("config.yaml", "init"), ("fl.yaml", "payload")):
        mapping = yaml.safe_load((tmp_path / name).read_text())
        del mapping[key]
        (tmp_path / name).write_text(yaml.safe_dump(mapping))
    state = torch.load(tmp_path / "server.pt", weights_only=True)
    del state["config"]["train"]["init"], state["config"]["federated"]["payload"]
    torch.save(state, tmp_path / "server.pt")
    assert Server(config, fed_config(num_rounds=1), dev_set, tmp_path).finished
    with pytest.raises(InputError, match="init is tiny, was "):
        Server(replace(config, init="tiny"), fed_config(num_rounds=1), dev_set, tmp_path)


def test_resume_rejects_another_config_but_allows_other_timeouts(silos_dir, dev_set, tmp_path):
    run(train_config(), fed_config(num_rounds=1), silos_dir, dev_set, tmp_path / "exp")
    with pytest.raises(InputError, match="fl.yaml: this folder was started with another config .strategy is uniform"):
        Server(train_config(), fed_config(num_rounds=1, strategy="uniform"), dev_set, tmp_path / "exp")
    with pytest.raises(InputError, match="config.yaml: .*train.learning_rate"):
        Server(train_config(learning_rate=0.5), fed_config(num_rounds=1), dev_set, tmp_path / "exp")
    patient = fed_config(num_rounds=1, round_timeout_s=7, min_silos=1)
    assert Server(train_config(), patient, dev_set, tmp_path / "exp").finished
    state = tmp_path / "exp/server.pt"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        Server(train_config(), fed_config(num_rounds=1), dev_set, tmp_path / "exp")


@pytest.mark.parametrize(
    "override, message",
    [
        ("stragety=sase", "unknown key stragety"),
        ("strategy=best", "strategy is 'best'; choose from examples"),
        ("tau=0", "tau must be 1e-06 or more, not 0"),
        ("min_silos=9", "min_silos is 9, more than num_silos .4"),
        ("alpha_min=0.25", None),
        ("dp_noise_multiplier=1", "needs dp_clip_norm"),
        ("dp_clip_norm=1", "norm: none"),
        ("max_norm_ratio=1", "above 1"),
        ("average_decay=1", "0 or more and below 1"),
    ],
)
def test_invalid_federated_configs_are_rejected(tmp_path, override, message):
    path = tmp_path / "fl.yaml"
    path.write_text("num_silos: 4\n")
    assert load_federated_config(path) == FederatedConfig()
    if message is None:
        load_federated_config(path, [override])
        override, message = [override, "strategy=sase"], "below 1/4"
    with pytest.raises(InputError, match=message):
        load_federated_config(path, override if isinstance(override, list) else [override])


def test_norm_none_requires_a_network_without_statistics(dev_set, tmp_path):
    Server(train_config("layer"), fed_config(norm="none"), dev_set, tmp_path / "layer")
    with pytest.raises(InputError, match="use model.norm=layer"):
        Server(train_config("batch"), fed_config(norm="none"), dev_set, tmp_path / "batch")


def test_missing_silo_folders_are_reported(silos_dir, tmp_path):
    assert count_silos(silos_dir) == 3
    (tmp_path / "silo0").mkdir()
    (tmp_path / "silo2").mkdir()
    with pytest.raises(InputError, match="contains silo0, silo2"):
        count_silos(tmp_path)

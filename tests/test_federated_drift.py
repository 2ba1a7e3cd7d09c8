"""Gradient corrections of FedProx and SCAFFOLD."""

import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from helpers.dumps import dumped
from helpers.federation import fed_config, train_config
from sase.data.dataset import PairSet
from sase.data.remix import Mixtures
from sase.errors import InputError
from sase.federated.drift import DriftGuard, control_variate
from sase.federated.inproc import local_silos
from sase.federated.layout import layout_of, to_arrays
from sase.federated.server import Server
from sase.losses.loss import build_loss
from sase.model import build_model
from sase.training.loop import GradientGuard


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    return Mixtures(PairSet(dumped(tmp_path_factory.mktemp("set"))), train_config().data, 0)


def test_gradients_equal_those_of_the_proximal_and_corrected_loss():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    anchor, correction = torch.tensor([0.5, 0.0, 3.0]), torch.tensor([0.1, 0.2, -0.3])
    inputs = torch.tensor([1.0, 2.0, -1.0])
    loss = (weight * inputs).sum().square() + 0.7 / 2 * (weight - anchor).square().sum() + (correction * weight).sum()
    loss.backward()
    expected = weight.grad.clone()
    weight.grad = None
    (weight * inputs).sum().square().backward()
    assert DriftGuard(GradientGuard(1e9, 3), 0.7, [anchor], [correction]).clip_if_finite([weight], ["utt"])
    torch.testing.assert_close(weight.grad, expected)


def test_non_finite_gradients_are_rejected():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([float("nan"), 0.0, 0.0])
    guard = DriftGuard(GradientGuard(1.0, 2), 0.7, [torch.zeros(3)])
    assert not guard.clip_if_finite([weight], ["utt"])
    with pytest.raises(InputError, match="not finite in 2 steps"):
        guard.clip_if_finite([weight], ["utt"])


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_control_variate_is_the_mean_gradient_and_leaves_the_model_unchanged(mixtures, norm):
    config = train_config(norm)
    torch.manual_seed(0)
    model, criterion = build_model(config.model), build_loss(config.loss)
    layout = layout_of(model)
    before = to_arrays(model, layout.names)
    statistics = [name for name in layout.names if name not in layout.weights]
    batches = [mixtures.batch(number) for number in range(3)]
    control = control_variate(model, batches, criterion, GradientGuard(1e9, 3), nullcontext, statistics)
    after = to_arrays(model, layout.names)
    assert all(np.array_equal(before[name], after[name]) for name in layout.names)
    model.zero_grad()
    (sum(criterion(model(b.noisy, b.lengths), b.clean, b.lengths)[0] for b in batches) / 3).backward()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(control[name], parameter.grad.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.recipe
def test_scaffold_corrections_sum_to_zero_and_start_in_the_second_round(tmp_path):
    (tmp_path / "silos").mkdir()
    for index in range(2):
        made = dumped(tmp_path / f"made{index}", [9000, 7000], seed=index)
        (tmp_path / f"silos/silo{index}").mkdir()
        shutil.copytree(made, tmp_path / f"silos/silo{index}/tr")
    made = dumped(tmp_path / "dev", [6000])
    config, arrays = train_config(), {}
    for scaffold in (False, True):
        exp = tmp_path / f"exp{scaffold}"
        server = Server(config, fed_config(num_silos=2, scaffold=scaffold), made, exp)
        silos = local_silos(tmp_path / "silos", 2, exp)
        for number in range(2):
            instruction = server.instruction()
            if scaffold and number:
                own = [silo.personal.read(instruction)["control"] for silo in silos]
                for name, value in instruction.control.items():
                    np.testing.assert_allclose(sum(value - control[name] for control in own), 0.0, atol=1e-6)
            assert server.finish_round([silo.run(instruction) for silo in silos], [])
            arrays[scaffold, number] = server.instruction().model
    name = "network.last.weight_real"
    assert np.array_equal(arrays[False, 0][name], arrays[True, 0][name])
    assert not np.array_equal(arrays[False, 1][name], arrays[True, 1][name])

"""Federated methods against their own papers: fixed points, one-step formulas, and reference optimisers."""

import numpy as np
import pytest
import torch

from helpers.federation import fed_config, train_config
from helpers.parameters import quick
from sase.errors import InputError
from sase.federated.admission import admit
from sase.federated.aggregation import combine_by_layer
from sase.federated.drift import DriftGuard, StepCorrection
from sase.federated.exchange import FIRST, SECOND
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.server import Server
from sase.federated.server_optimiser import ServerOptimiser
from sase.federated.shared_moments import average_moments, check_moments, load_moments, moments_of, restart_factor
from sase.training.loop import GradientGuard


class Point(torch.nn.Module):
    """A network that is a point, with the loss ½ (w − target)ᵀ diag(curvature) (w − target)."""

    def __init__(self, start, target, curvature):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.target, self.curvature = torch.tensor(target), torch.tensor(curvature)

    def backward(self):
        self.zero_grad()
        (0.5 * self.curvature * (self.w - self.target) ** 2).sum().backward()


def test_nesterov_equals_that_of_torch_with_the_update_as_negative_gradient():
    rng = np.random.default_rng(0)
    ours, weights = ServerOptimiser("nesterov", rate=0.7, momentum=0.9), {"w": rng.standard_normal(5)}
    parameter = torch.nn.Parameter(torch.tensor(weights["w"]))
    reference = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(6):
        delta = rng.standard_normal(5)
        weights = ours.step(weights, {"w": weights["w"] + delta}, [], np.ones(0))
        parameter.grad = torch.tensor(-delta)
        reference.step()
        np.testing.assert_allclose(weights["w"], parameter.detach().numpy(), rtol=1e-12)


def local_optimum(start, target, curvature, alpha, dual):
    """Return the minimiser of the local loss with FedDyn's terms, where the guarded gradient vanishes."""
    optimum = (curvature * target + alpha * start + dual) / (curvature + alpha)
    model = Point(optimum, target, curvature)
    model.backward()
    guard = DriftGuard(GradientGuard(1e9, 3), alpha, [torch.tensor(start)], [torch.tensor(-dual)])
    assert guard.clip_if_finite([model.w], [])
    np.testing.assert_allclose(model.w.grad.numpy(), 0.0, atol=1e-12)
    return optimum


def test_feddyn_reaches_the_common_optimum_where_averaging_does_not():
    """With exact local optima its fixed point is that of the mean loss (Acar et al. 2021); FedAvg's is not."""
    targets = np.array([[1.0, -2.0], [3.0, 2.0], [-1.0, 0.5]])
    curvatures = np.array([[1.0, 4.0], [3.0, 1.0], [5.0, 2.0]])
    optimum = (curvatures * targets).sum(axis=0) / curvatures.sum(axis=0)
    alpha, weights, server = 2.0, np.zeros(2), ServerOptimiser("feddyn")
    duals = np.zeros_like(targets)
    for _ in range(60):
        silos = zip(targets, curvatures, duals)
        ends = [local_optimum(weights, target, curvature, alpha, dual) for target, curvature, dual in silos]
        duals -= alpha * (np.array(ends) - weights)
        weights = server.step({"w": weights}, {"w": np.mean(ends, axis=0)}, [], np.ones(0))["w"]
    np.testing.assert_allclose(weights, optimum, atol=1e-3)
    assert np.abs(targets.mean(axis=0) - optimum).max() > 0.3  # where averages of local optima end


def test_layers_are_scaled_to_their_mean_norm_and_keep_their_directions():
    rng = np.random.default_rng(1)
    reference = {"a": rng.standard_normal((3, 2)), "b": rng.standard_normal(4)}
    updates = [{name: 10.0**k * rng.standard_normal(value.shape) for name, value in reference.items()} for k in (0, 1)]
    silos = [{name: reference[name] + update[name] for name in reference} for update in updates]
    shares = np.array([0.25, 0.75])
    combined = combine_by_layer(reference, silos, shares)
    for name in reference:
        norms = [np.linalg.norm(update[name]) for update in updates]
        units = [update[name] / norm for update, norm in zip(updates, norms)]
        expected = reference[name] + (shares @ norms) * (shares[0] * units[0] + shares[1] * units[1])
        np.testing.assert_allclose(combined[name], expected, rtol=1e-12)
    still = [{name: value.copy() for name, value in reference.items()}, silos[1]]
    assert all(np.isfinite(value).all() for value in combine_by_layer(reference, still, shares).values())


def test_step_corrections_move_the_weights_and_do_not_count_as_the_optimiser_s_own():
    model = Point([1.0, -1.0], [0.0, 0.0], [1.0, 1.0])
    optimizer, rates = torch.optim.SGD(model.parameters(), lr=0.5), iter([0.5, 0.25])
    rate, gradients, expected = 0.5, [], np.array([1.0, -1.0])
    added = {"w": np.array([0.5, 0.25])}
    steps = StepCorrection(optimizer, model, added, lambda: rate)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        model.backward()
        gradients.append(model.w.grad.numpy().copy())
        optimizer.step()
        expected += rate * (-gradients[-1] + added["w"])
    np.testing.assert_allclose(model.w.detach().numpy(), expected, rtol=1e-12)
    mean = -(0.5 * gradients[0] + 0.25 * gradients[1]) / 0.75
    np.testing.assert_allclose(steps.mean_direction()["w"], mean, rtol=1e-6)


def test_second_moments_alone_give_the_steps_of_fedadamw():
    """Algorithm 1 of Liu et al. 2025: m starts at 0 and has its own bias correction, v continues with that of t."""
    rng, beta1, beta2, eps, rate, before = np.random.default_rng(2), 0.9, 0.999, 1e-8, 0.01, 7
    model = Point([1.0, -2.0], [0.0, 0.0], [1.0, 1.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    shared = np.array([0.3, 2.0], dtype=np.float32)  # free of bias
    load_moments(model, optimizer, {SECOND + "w": shared}, before)
    m, v, w = np.zeros(2), shared.astype(np.float64) * (1 - beta2**before), np.array([1.0, -2.0])
    for k in range(1, 5):
        gradient = rng.standard_normal(2)
        optimizer.param_groups[0]["lr"] = rate * restart_factor(optimizer, before, k)
        model.w.grad = torch.tensor(gradient)
        optimizer.step()
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        w -= rate * (m / (1 - beta1**k)) / (np.sqrt(v / (1 - beta2 ** (before + k))) + eps)
        np.testing.assert_allclose(model.w.detach().numpy(), w, rtol=1e-6)
    sent = moments_of(model, optimizer, [SECOND])
    np.testing.assert_allclose(sent[SECOND + "w"], v / (1 - beta2 ** (before + 4)), rtol=1e-6)


def test_moments_survive_the_way_to_the_server_and_back():
    model = Point([1.0, -2.0], [0.0, 0.5], [1.0, 3.0])
    optimizer, other = (torch.optim.AdamW(model.parameters()) for _ in range(2))
    for _ in range(3):
        model.backward()
        optimizer.step()
    sent = moments_of(model, optimizer, [FIRST, SECOND])
    load_moments(model, other, average_moments([sent, sent], np.array([0.25, 0.75])), 3)
    for key in ("exp_avg", "exp_avg_sq", "step"):
        there, here = (o.state[model.w][key].double() for o in (other, optimizer))  # sent as float32
        torch.testing.assert_close(there, here, rtol=1e-6, atol=0)


def test_the_median_of_moments_ignores_one_harmful_silo():
    silos = [{SECOND + "w": np.array([1.0, 2.0, 3.0]) + k} for k in range(4)] + [{SECOND + "w": np.full(3, 1e6)}]
    median = average_moments(silos, np.full(5, 0.2), robust=True)[SECOND + "w"]
    np.testing.assert_allclose(median, [3.0, 4.0, 5.0])
    assert median.dtype == np.float32


@pytest.mark.parametrize("payload", quick(["float32", "int8"]))
def test_one_silo_with_shared_moments_trains_as_one_that_keeps_its_own(silos_dir, dev_set, tmp_path, payload):
    models = {}
    for shared in ("none", "both"):
        fed = fed_config(num_silos=1, fresh_optimizer=False, shared_moments=shared, payload=payload)
        server = Server(train_config(), fed, dev_set, tmp_path / shared)
        exchange = local_exchange(local_silos(silos_dir, 1, tmp_path / shared))
        while not server.finished:
            assert server.finish_round(*exchange(server.instruction()))
        models[shared] = server.instruction().model
    assert any(name.startswith(SECOND) for name in server.instruction().arrays)
    for name, value in models["none"].items():
        np.testing.assert_allclose(models["both"][name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_moments_that_no_clipped_gradient_can_have_are_refused(silos_dir, dev_set, tmp_path):
    check_moments({FIRST + "w": np.full(4, 1.0), SECOND + "w": np.full(4, 1.0)}, 1.0)
    with pytest.raises(ValueError, match="adam/second/w is negative"):
        check_moments({SECOND + "w": np.array([1.0, -1e-9])}, 1.0)
    with pytest.raises(ValueError, match=r"moments adam/first/\* are those of gradients of norm 20, .* clipped to 1"):
        check_moments({FIRST + "w": np.full(4, 10.0)}, 1.0)
    fed = fed_config(shared_moments="second")
    server = Server(train_config(), fed, dev_set, tmp_path)
    replies, failures = local_exchange(local_silos(silos_dir, 3, tmp_path))(server.instruction())
    assert not failures
    name = next(name for name in replies[1].arrays if name.startswith(SECOND))
    replies[1].arrays[name][...] = np.nan
    admitted, rejected = admit(replies, server.instruction(), fed, server.layout)
    assert [reply.silo for reply in admitted] == [0, 2]
    assert "NaN" in rejected[1]
    assert name in rejected[1]


def test_shared_moments_need_an_optimiser_that_has_them(dev_set, tmp_path):
    with pytest.raises(InputError, match="shared_moments are those of adamw"):
        Server(train_config(optimizer="sgd"), fed_config(shared_moments="both"), dev_set, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alignment": 0.5}, "alignment needs scaffold_space: steps"),
        ({"feddyn_alpha": 0.1, "scaffold": True}, "feddyn_alpha requires"),
        ({"layerwise": True, "fednova": True}, "layerwise requires"),
        ({"layerwise": True, "aggregation": "median"}, "layerwise requires"),
        ({"shared_moments": "both", "mode": "buffered", "grace_s": 1.0}, "buffered requires"),
        ({"shared_moments": "both", "dp_clip_norm": 1.0, "norm": "none"}, "dp_clip_norm requires"),
        ({"shared_moments": "second", "secure_aggregation": True, "max_drop_db": 0}, "needs shared_moments: none"),
    ],
)
def test_what_does_not_go_together_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        fed_config(**values)


def test_control_variates_of_steps_are_bounded(silos_dir, dev_set, tmp_path):
    fed = fed_config(scaffold=True, scaffold_space="steps")
    server = Server(train_config(), fed, dev_set, tmp_path)
    replies, _ = local_exchange(local_silos(silos_dir, 3, tmp_path))(server.instruction())
    for name, value in replies[0].arrays.items():
        if name.startswith("control/"):
            value *= 1e3
    admitted, rejected = admit(replies, server.instruction(), fed, server.layout)
    assert [reply.silo for reply in admitted] == [1, 2]
    assert "steps have at most" in rejected[0]

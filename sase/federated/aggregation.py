"""The mathematics of a round: dicts of numpy arrays in, dicts of numpy arrays out, in float64.

Nothing here knows of networks, files or engines. Silos come in a fixed order, so that sums are the same every time.
"""

import numpy as np


def softmax(logits):
    """Return ``exp(logits) / Σ exp(logits)`` as float64, without overflow."""
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def silo_weights(strategy, examples, losses=None, gains_db=None, tau=1.0, gamma=1.0, alpha_min=0.0):
    """Return α, how much each silo's update counts; positive, of sum 1.

    Args:
        strategy: ``examples``: ∝ n (McMahan et al. 2017); ``uniform``; ``loss``: ∝ exp(−L/τ) (Gao et al. 2022);
            ``fair``: ∝ exp(+L/τ); ``sase``: α_min + (1 − K·α_min) · softmax(γ ln n + q/τ).
        examples: n of each silo.
        losses: L, the mean loss of each silo's last local epoch.
        gains_db: q, what each silo's update gains in SI-SNR on one common set.
        tau, gamma, alpha_min: as above.

    Returns:
        float64 (silos,)
    """
    examples = np.asarray(examples, dtype=np.float64)
    count = len(examples)
    if strategy == "examples":
        return examples / examples.sum()
    if strategy == "uniform":
        return np.full(count, 1.0 / count)
    if strategy in ("loss", "fair"):
        sign = -1.0 if strategy == "loss" else 1.0
        return softmax(sign * np.asarray(losses, dtype=np.float64) / tau)
    if strategy == "sase":
        chosen = softmax(gamma * np.log(examples) + np.asarray(gains_db, dtype=np.float64) / tau)
        return alpha_min + (1.0 - count * alpha_min) * chosen
    raise ValueError(f"no such strategy: {strategy}")


def nova_factors(alphas, steps):
    """Return FedNova's τ_eff / τ_k with τ_eff = Σ α_k τ_k: what each silo's update is multiplied by (Wang et al. 2020).

    Args:
        alphas: (silos,)
        steps: τ_k, the optimiser steps that each silo took.
    """
    steps = np.asarray(steps, dtype=np.float64)
    return float(np.dot(alphas, steps)) / steps


def combine(reference, silos, factors):
    """Return ``w + Σ_k f_k (w_k − w)`` of float arrays.

    Written as ``(1 − Σ f) w + Σ f_k w_k``: one silo with factor 1 then gives its own weights to the bit.

    Args:
        reference: name to w.
        silos: list of name to w_k, which hold at least the names of ``reference``.
        factors: (silos,)

    Returns:
        name to float64 array.
    """
    rest = 1.0 - float(np.sum(factors))
    result = {}
    for name, value in reference.items():
        total = rest * np.asarray(value, dtype=np.float64)
        for factor, arrays in zip(factors, silos):
            total += factor * np.asarray(arrays[name], dtype=np.float64)
        result[name] = total
    return result


def pool_moments(means, seconds, alphas):
    """Return mean and (co)variance of all silos' data together.

    ``μ = Σ α μ_k``, ``V = Σ α (V_k + μ_k μ_kᵀ) − μ μᵀ``, which is ``Σ α V_k + Σ α (μ_k − μ)(μ_k − μ)ᵀ``: the form used,
    since it cannot lose digits.

    Args:
        means: list of (n,)
        seconds: list of variances (n,), or, of n / 2 complex channels whose means are kept real half first, of
            (3, n / 2): variance of the real part, of the imaginary part, covariance.
        alphas: (silos,)

    Returns:
        Both as float64.
    """
    means = [np.asarray(mean, dtype=np.float64) for mean in means]
    mean = sum(alpha * value for alpha, value in zip(alphas, means))
    second = sum(alpha * np.asarray(value, dtype=np.float64) for alpha, value in zip(alphas, seconds))
    for alpha, value in zip(alphas, means):
        offset = value - mean
        if second.ndim == 1:
            second = second + alpha * offset**2
        else:
            real, imag = np.split(offset, 2)
            second = second + alpha * np.stack([real**2, imag**2, real * imag])
    return mean, second


def update_norm(reference, arrays, names):
    """Return the Euclidean norm of ``arrays − reference`` over the named arrays."""
    differences = (np.asarray(arrays[n], dtype=np.float64) - np.asarray(reference[n], dtype=np.float64) for n in names)
    return float(np.sqrt(sum(float(np.sum(d * d)) for d in differences)))


def aggregate(reference, silos, alphas, layout, optimiser, factors=None, norms_apart=False):
    """Return the next global model.

    Args:
        reference: the last one, name to array.
        silos: each silo's, in the same form.
        alphas: (silos,)
        layout: a :class:`sase.federated.layout.Layout`.
        optimiser: a :class:`sase.federated.server_optimiser.ServerOptimiser`; it moves trained weights alone.
        factors: of each silo's update beside α, such as FedNova's.
        norms_apart: norm layers are the silos' own (FedBN): their plain average is taken.

    Returns:
        name to array, each of the type it has in ``reference``.
    """
    apart = [name for name in layout.weights if norms_apart and name in layout.norms]
    shared = {name: reference[name] for name in layout.weights if name not in apart}
    weighted = alphas if factors is None else alphas * factors
    result = optimiser.step(shared, combine(shared, silos, weighted), silos, weighted)
    result.update(combine({name: reference[name] for name in apart}, silos, alphas))
    for mean, second in layout.moments:
        result[mean], result[second] = pool_moments([s[mean] for s in silos], [s[second] for s in silos], alphas)
    for name in layout.counters:
        result[name] = np.max([silo[name] for silo in silos], axis=0)
    return {name: np.asarray(result[name]).astype(reference[name].dtype) for name in layout.names}


def moving_average(average, newest, decay, layout):
    """Return ``decay · average + (1 − decay) · newest`` of two global models: weights so, statistics pooled so.

    Args:
        average, newest: name to array.
        decay: from 0 to 1.
        layout: a :class:`sase.federated.layout.Layout`.

    Returns:
        name to array, each of the type it has in ``newest``; counters are those of ``newest``.
    """
    both, shares = (average, newest), np.array([decay, 1.0 - decay])
    result = combine({name: newest[name] for name in layout.weights}, both, shares)
    for mean, second in layout.moments:
        result[mean], result[second] = pool_moments([m[mean] for m in both], [m[second] for m in both], shares)
    result.update({name: newest[name] for name in layout.counters})
    return {name: np.asarray(result[name]).astype(newest[name].dtype) for name in layout.names}

"""What differential privacy of whole silos comes to, in ε, when updates are clipped and given Gaussian noise."""

import math

from sase.errors import InputError


def delta_of(epsilon, mu):
    """Return the δ for which a μ-Gaussian mechanism is (ε, δ) private, exactly (Balle and Wang 2018, theorem 8).

    Args:
        epsilon: ≥ 0.
        mu: sensitivity over standard deviation; of T releases together, √T of that of one (Dong et al. 2022).
    """
    # exp(ε) Φ(−x) by the logarithm: both factors run out of range long before their product does.
    log_tail = _log_normal_cdf(-epsilon / mu - mu / 2.0)
    return math.exp(_log_normal_cdf(-epsilon / mu + mu / 2.0)) - math.exp(min(0.0, epsilon + log_tail))


def epsilon_of(mu, delta):
    """Return the smallest ε for which a μ-Gaussian mechanism is (ε, δ) private."""
    if mu <= 0.0 or delta_of(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, mu) > delta:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high


def published_epsilon(noise_multiplier, num_silos, rounds, delta):
    """Return ε of the global models of ``rounds`` rounds, for one silo's whole data being replaced by any other.

    Every silo clips its update to a norm C and adds Gaussian noise of standard deviation ``noise_multiplier · C``; the
    server takes the plain mean of all of them, every round. The mean then moves by at most 2C/K, under noise of
    ``noise_multiplier · C/√K``; what the server does with it later costs nothing.

    Args:
        noise_multiplier: of each silo.
        num_silos: K.
        rounds: how many were published.
        delta: δ.
    """
    if noise_multiplier <= 0.0:
        return math.inf
    return epsilon_of(2.0 * math.sqrt(rounds) / (noise_multiplier * math.sqrt(num_silos)), delta)


def upload_epsilon(noise_multiplier, exchanges, delta):
    """Return ε of a silo's own uploads, against a server that looks at each: sensitivity 2C, its own noise alone."""
    return math.inf if noise_multiplier <= 0.0 else epsilon_of(2.0 * math.sqrt(exchanges) / noise_multiplier, delta)


def require_accountable(config):
    """Raise InputError where no ε can be told: it holds for equal weights and all silos in every round alone.

    Args:
        config: a :class:`sase.federated.config.FederatedConfig` with noise.
    """
    reasons = []
    if config.strategy != "uniform":
        reasons.append(f"strategy is {config.strategy}, not uniform")
    if config.needed_silos != config.num_silos:
        reasons.append(f"min_silos is {config.needed_silos}, not all {config.num_silos}")
    if config.fednova:
        reasons.append("fednova scales updates apart")
    if reasons:
        raise InputError(f"no ε can be told: {'; '.join(reasons)} (it holds for equal weights and full participation)")


def _log_normal_cdf(x):
    """Return ln Φ(x)."""
    if x > -30.0:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2.0)))
    # The first terms of the asymptotic series; the next is below 1e-5 of the sum here.
    return -0.5 * x * x - math.log(-x * math.sqrt(2.0 * math.pi)) + math.log1p(-1.0 / x**2 + 3.0 / x**4)

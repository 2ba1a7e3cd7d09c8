"""Differential privacy at the level of silos: ε of clipped updates with Gaussian noise; see docs/privacy.md."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sase.errors import InputError
from sase.federated.config import SECURE_LEAST, FederatedConfig
from sase.federated.loss_distribution import LEAST_DELTA
from sase.federated.sampling_privacy import SampledRounds


def delta_of(epsilon: float, mu: float) -> float:
    """Return the exact δ for which a μ-Gaussian mechanism is (ε, δ)-private (Balle and Wang 2018, theorem 8).

    Args:
        epsilon: ≥ 0.
        mu: sensitivity divided by standard deviation; T releases compose to √T times the μ of one (Dong et al. 2022).
    """
    # exp(ε) Φ(−x) through its logarithm: both factors leave the float range long before their product does.
    log_tail = _log_normal_cdf(-epsilon / mu - mu / 2.0)
    return math.exp(_log_normal_cdf(-epsilon / mu + mu / 2.0)) - math.exp(min(0.0, epsilon + log_tail))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest ε for which a μ-Gaussian mechanism is (ε, δ)-private."""
    if mu <= 0.0 or delta_of(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, mu) > delta:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high


def published_epsilon(
    noise_multiplier: float, num_silos: int, rounds: int, delta: float, replacement: bool = True
) -> float:
    """Return ε of the global models of ``rounds`` rounds when all data of one silo may be replaced.

    Every silo clips its update to a norm C and adds Gaussian noise of standard deviation ``noise_multiplier · C``; the
    server takes the plain mean over all silos in every round. The mean then moves by at most 2C/K, under noise of
    ``noise_multiplier · C/√K``; post-processing on the server costs nothing.

    Args:
        noise_multiplier: of each silo.
        num_silos: K.
        rounds: number of published models.
        delta: δ.
        replacement: False: when one silo may be added or removed (its update is zero then), which moves the mean by
            half as much.
    """
    if noise_multiplier <= 0.0:
        return math.inf
    return epsilon_of(_moved(replacement) * math.sqrt(rounds) / (noise_multiplier * math.sqrt(num_silos)), delta)


def upload_epsilon(noise_multiplier: float, exchanges: int, delta: float, replacement: bool = True) -> float:
    """Return ε of one silo's uploads against the server, which sees each of them: sensitivity 2C, own noise only.

    With ``replacement`` False the silo may be added or removed: sensitivity C.
    """
    if noise_multiplier <= 0.0:
        return math.inf
    return epsilon_of(_moved(replacement) * math.sqrt(exchanges) / noise_multiplier, delta)


def _moved(replacement: bool) -> float:
    """Return by how much a clipped update may change, in units of the norm to which it is clipped."""
    return 2.0 if replacement else 1.0


@dataclass(frozen=True)
class Account:
    """ε of a silo after some rounds, when its data are replaced, and when it is added or removed.

    Attributes:
        rounds: completed.
        delta: δ.
        models, uploads: in the published models, and against the server, when all data of the silo are replaced.
        models_without, uploads_without: when the silo is added or removed; its clipped update then moves half as far.
        amplified: whether the ε of the models hold only for those who do not know which silos took part in which round.
    """

    rounds: int
    delta: float
    models: float
    uploads: float
    models_without: float
    uploads_without: float
    amplified: bool = False

    def __str__(self) -> str:
        to = " for those who do not know which silos were drawn" if self.amplified else ""
        return (
            f"differential privacy of a silo after {self.rounds} rounds, δ = {self.delta:g}: ε = {self.models:.3g} in "
            f"the models{to}, {self.uploads:.3g} against the server, if its data are replaced; "
            f"{self.models_without:.3g} and {self.uploads_without:.3g} if the silo is added or removed"
        )


def account(config: FederatedConfig, rounds: int, drawn: Sequence[Collection[int]] = ()) -> Account:
    """Return ε of a silo in ``rounds`` rounds of a federation that :func:`require_accountable` accepts.

    With secure aggregation the server sees sums alone, so that ε against it is that of the models. It draws the silos
    of a round with ``sampling: poisson``, so that the random choice protects none from it: ε against it is that of the
    silo for which it is largest.

    Args:
        config: of the federation.
        rounds: completed.
        drawn: the silos of each round, with ``sampling: poisson``.
    """
    if config.sampling == "poisson":
        return _account_of_samples(config, rounds, drawn)
    noise, delta = config.dp_noise_multiplier, config.dp_delta
    models = [published_epsilon(noise, config.num_silos, rounds, delta, replaced) for replaced in (True, False)]
    uploads = models
    if not config.secure_aggregation:
        uploads = [upload_epsilon(noise, rounds, delta, replaced) for replaced in (True, False)]
    return Account(rounds, delta, models[0], uploads[0], models[1], uploads[1])


def _account_of_samples(config: FederatedConfig, rounds: int, drawn: Sequence[Collection[int]]) -> Account:
    least, others, delta = least_drawn(config), config.num_silos - 1, config.dp_delta
    total = config.dp_noise_multiplier * math.sqrt(config.participants)  # of the sum, whichever silos are sampled
    sampled = SampledRounds(total, config.participants / config.num_silos, rounds, least, others)
    # Whoever knew the samples would learn no more than without any sampling.
    replaced = min(sampled.replacement_epsilon(delta), epsilon_of(2.0 * math.sqrt(rounds) / total, delta))
    shares: dict[int, float] = {}  # Σ 1/noise² of each silo's releases to the server
    for silos in drawn:
        if len(silos) >= least:
            own = total if config.secure_aggregation else total / math.sqrt(len(silos))
            shares |= {silo: shares.get(silo, 0.0) + own**-2.0 for silo in silos}
    mu = math.sqrt(max(shares.values(), default=0.0))
    uploads = [epsilon_of(_moved(replacement) * mu, delta) for replacement in (True, False)]
    return Account(rounds, delta, replaced, uploads[0], sampled.epsilon(delta), uploads[1], amplified=True)


def least_drawn(config: FederatedConfig) -> int:
    """Return how many silos must be drawn for a sum of their updates; with fewer, the round has noise only."""
    return SECURE_LEAST if config.secure_aggregation else 1


def require_accountable(config: FederatedConfig) -> None:
    """Raise InputError unless updates have equal weights and all silos, or all that are drawn, must take part.

    The accounting assumes it.

    Args:
        config: a config with noise.
    """
    poisson, reasons = config.sampling == "poisson", []
    if config.strategy != "uniform":
        reasons.append(f"strategy is {config.strategy}, not uniform")
    if config.aggregation != "mean":
        reasons.append(f"aggregation is {config.aggregation}, not mean")
    if poisson and config.min_silos:
        reasons.append(f"min_silos is {config.min_silos}, not 0: all that are drawn must reply")
    elif not poisson and config.participants != config.num_silos:
        reasons.append(
            f"clients_per_round is {config.clients_per_round}, not all {config.num_silos}, and sampling not poisson"
        )
    elif not poisson and config.needed_silos != config.num_silos:
        reasons.append(f"min_silos is {config.needed_silos}, not all {config.num_silos}")
    if poisson and config.dp_delta < LEAST_DELTA:
        reasons.append(f"dp_delta is {config.dp_delta:g}, with sampling: poisson at least {LEAST_DELTA:g}")
    reasons += [f"{name} scales updates individually" for name in ("fednova", "layerwise") if getattr(config, name)]
    if reasons:
        raise InputError(
            f"cannot account for ε: {'; '.join(reasons)} (it requires equal weights and full participation)"
        )


def _log_normal_cdf(x: float) -> float:
    """Return ln Φ(x)."""
    if x > -30.0:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2.0)))
    # First terms of the asymptotic series; here the next term is below 1e-5 of the sum.
    return -0.5 * x * x - math.log(-x * math.sqrt(2.0 * math.pi)) + math.log1p(-1.0 / x**2 + 3.0 / x**4)

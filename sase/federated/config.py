"""The configuration ``conf/fl.yaml`` as a frozen dataclass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sase.config import OneOf, Range, apply_overrides, from_mapping, naming, read_yaml, to_mapping
from sase.errors import InputError
from sase.federated.aggregation import STRATEGIES
from sase.federated.exchange import CONTROL, FIRST, SECOND
from sase.federated.robust import AGGREGATIONS

SERVERS = ("plain", "momentum", "nesterov", "adam", "yogi")
PAYLOADS = ("float32", "bfloat16", "int8")
NORM_POLICIES = ("average", "local", "none")
SCHEDULES = ("cosine", "constant")
SAMPLINGS = ("fixed", "poisson")
CLIP_PER = ("model", "layer", "tensor")
LENGTH = ("federated", "num_rounds")  # may grow when training has finished
MODES = ("sync", "buffered")
SPACES = ("gradients", "steps")
SHARED_MOMENTS = {"none": (), "second": (SECOND,), "both": (FIRST, SECOND)}
# May change on resume.
OPERATIONAL = ("evaluate_every", "min_silos", "grace_s", "max_repeats", "repeat_wait_s", "round_timeout_s")
# Keys that silos of version 0.1 do not know, and need not.
LATER = (
    *("max_weight", "aggregation", "max_poisoned", "max_statistics_ratio", "max_drop_db"),
    *("secure_aggregation", "secure_range"),
    *("clients_per_round", "grace_s", "mode", "max_staleness", "evaluate_every"),
    *("layerwise", "scaffold_space", "alignment", "feddyn_alpha", "shared_moments"),
    *("sampling", "dp_clip_per", "dp_clip_quantile", "dp_clip_lr", "dp_bit_noise"),
)
SECURE_LEAST = 3  # silos in a secure sum: of two updates each silo learns the other's
SECURE_MAX_WEIGHT = 0.75  # of a silo in a secure sum: one that is almost one update hides nothing
SECURE_STRATEGIES = ("examples", "uniform")  # whose weights are settled before training
# What has no effect in a secure sum: limits of single updates, and settings of what a secure sum excludes.
SECURE_UNUSED = (
    *("max_norm_ratio", "max_statistics_ratio", "max_poisoned", "max_staleness"),
    *("tau", "gamma", "alpha_min", "common_dev_s", "control_steps", "scaffold_space"),
)
_LONG_S = 1e8  # three years: what sleeps and timeouts can take
_SERVER_LR = {"plain": 1.0, "momentum": 1.0, "nesterov": 1.0, "adam": 0.01, "yogi": 0.01}


@dataclass(frozen=True)
class FederatedConfig:
    """How silos train one network together. Everything else about local training is in the training config.

    There, ``epochs``, ``steps_per_epoch`` and ``ema_decay`` are ignored in favour of the first keys here.

    Attributes:
        num_silos: number of silos; the command counts the folders.
        num_rounds: number of rounds. A finished training may be resumed with more; the cosine schedule is then that of
            the longer training, as described for ``epochs`` of :class:`sase.training.config.OptimiserConfig`.
        local_epochs: epochs of each silo per round. One epoch has as many batches as the silo's audio fills.
        epoch_share: fraction of the silo's audio in a local epoch; less than 1 for shorter rounds.
        local_steps: batches per local epoch, the same for every silo, instead of ``epoch_share``; 0: not used.
        strategy: weighting of the updates: ``examples``, ``uniform``, ``loss``, ``fair`` or ``sase``.
        tau: temperature; for ``loss`` and ``fair`` in units of the loss, for ``sase`` in dB.
        gamma: for ``sase``: exponent of the number of examples.
        alpha_min: for ``sase``: minimum weight of a silo; less than 1 / ``num_silos``.
        common_dev_s: for ``sase``: seconds of the server's development set on which updates are compared.
        max_weight: no silo of K weighs more than min(1, max(``max_weight``, 1.5 / K)), whatever it reports.
        aggregation: how updates are combined: ``mean`` (weighted by ``strategy``), ``clipped_mean`` (the same, with
            updates scaled down to the median norm), or, regardless of the strategy, ``median``, ``trimmed_mean``,
            ``krum`` or ``geometric_median``.
        max_poisoned: for ``trimmed_mean`` and ``krum``: largest share of the silos that may send harmful updates.
        layerwise: scale the silos' updates of each layer to the same norm, so that no silo dominates a layer; instead
            of ``fednova``.
        server: optimiser of the global model: ``plain``, ``momentum``, ``nesterov``, ``adam`` or ``yogi``.
        server_lr: its learning rate; null for 1 (plain, momentum, nesterov) or 0.01 (adam, yogi).
        momentum: of the server (``momentum``, ``nesterov``), and the decay of the first moment of ``adam`` and
            ``yogi``.
        beta2: decay of the second moment of ``adam`` and ``yogi``.
        adaptivity: added to the root of the second moment in ``adam`` and ``yogi``.
        fedprox_mu: weight of FedProx's proximal term; 0 for none.
        scaffold: correct local training by control variates (SCAFFOLD).
        scaffold_space: what control variates correct: ``gradients``, before the local optimiser, or its ``steps``.
        alignment: FedAdamW's α: each local step is moved by α times the mean step of all silos in the last round; 0 for
            none. Needs ``scaffold_space: steps``.
        feddyn_alpha: weight of FedDyn's dynamic regulariser; 0 for none.
        control_steps: number of batches for a silo's control variate, the mean gradient at the global model; 0: as many
            as in a round.
        fednova: normalise updates by the number of local steps (FedNova), so that longer rounds do not weigh more.
        norm: norm layers: ``average`` their statistics and weights; keep both ``local`` in the silo (FedBN; the global
            model gets their average); ``none``: reject a network whose norm layers keep statistics.
        shared_moments: moments of Adam that silos share: each round starts with their average; ``none``, ``second``
            (FedAdamW, with ``fresh_optimizer``) or ``both``.
        average_decay: decay of the moving average of the global model over rounds. The average is what is scored,
            selected and saved, while silos continue from the newest model; 0 for none.
        fresh_optimizer: reset the local optimiser in each round; else its state is kept by the silo.
        schedule: of the local learning rate: ``cosine`` over all rounds, as in central training, or ``constant``.
        payload: type of the uploaded updates: ``float32``, ``bfloat16`` or ``int8``.
        dev_s: seconds of the development set, evenly spread, on which each round is scored; 0 for all.
        evaluate_every: every so many rounds, and at the end, each silo with a test set scores the global model on it;
            0 for never.
        clients_per_round: number of silos that take part in a round, drawn at random by the seed; 0 for all.
        sampling: how they are drawn: ``fixed``, always as many; ``poisson``, each one independently, with probability
            ``clients_per_round`` / ``num_silos``, by a secret of the server. With noise, this amplifies the privacy of
            the models, see docs/privacy.md.
        min_silos: minimum number of valid replies; with fewer, the round is repeated; 0 for half of the silos that take
            part.
        grace_s: a round ends so many seconds after ``min_silos`` replies have come; 0: it waits for all of them, until
            ``round_timeout_s``. Flower engines only.
        mode: what becomes of replies that arrive after their round has ended: ``sync``, they are dropped; ``buffered``,
            they count in the round in which they arrive, with less weight the older they are (FedBuff).
        max_staleness: for ``buffered``: the largest number of rounds by which a reply may be late.
        max_repeats: retries of one round before training fails.
        repeat_wait_s: seconds before a retry.
        round_timeout_s: timeout for the silos' replies.
        max_norm_ratio: an update whose norm exceeds this multiple of the median is rejected (from three
            replies on; with fewer, of the median of the last rounds). Not with ``secure_aggregation``.
        max_statistics_ratio: a reply whose norm statistics exceed this multiple of the median's is rejected (with fewer
            than three replies, of the global model's). Not with ``secure_aggregation``.
        max_drop_db: a round that lowers the development SI-SNR by more than this below the best so far is computed
            again without the silos that cause it; 0 for no such limit.
        secure_aggregation: the server sees sums of at least three silos' updates and no single one; what that excludes
            is in docs/secure_aggregation.md. The fields in :data:`SECURE_UNUSED` then have no effect: their defaults
            do not apply, and other values are refused.
        secure_range: for ``secure_aggregation``: the largest change of a weight in a round that a silo can send.
        dp_clip_norm: differential privacy: norm to which each silo clips its update; 0 for none.
        dp_clip_per: what is clipped: the whole ``model``, or each ``layer`` or ``tensor`` by itself, all with the same
            bound; the root of the sum of their squares is ``dp_clip_norm``.
        dp_clip_quantile: the norm follows this quantile of the norms of the silos' updates, starting with
            ``dp_clip_norm``; 0: it stays.
        dp_clip_lr: for ``dp_clip_quantile``: by how much at most the logarithm of the norm changes in a round.
        dp_bit_noise: for ``dp_clip_quantile``: standard deviation of the noise on a silo's bit, whether its update was
            within the norm; 0: a twentieth of the square root of the number of silos in a round, but at least twice
            ``dp_noise_multiplier``.
        dp_noise_multiplier: standard deviation of the Gaussian noise on a clipped update, in units of that norm. With
            ``dp_clip_quantile`` the noise is larger by what pays for the bits; with ``sampling: poisson`` n silos scale
            theirs so that the noise of their sum is that of ``clients_per_round`` silos.
        dp_delta: δ for which ε is reported.
    """

    num_silos: Annotated[int, Range(1, most=100_000)] = 4
    num_rounds: Annotated[int, Range(1, most=10**6)] = 20
    local_epochs: Annotated[int, Range(1, most=10**4)] = 1
    epoch_share: Annotated[float, Range(1e-9, 1e4, above=0)] = 1.0
    local_steps: Annotated[int, Range(0, most=10**6)] = 0
    strategy: Annotated[str, OneOf(tuple(STRATEGIES))] = "examples"
    tau: Annotated[float, Range(1e-6, 1e6)] = 1.0
    gamma: Annotated[float, Range(0, most=100.0)] = 1.0
    alpha_min: Annotated[float, Range(0, below=1)] = 0.05
    common_dev_s: Annotated[float, Range(0, most=_LONG_S)] = 30.0
    max_weight: Annotated[float, Range(1e-6, 1, above=0)] = 0.6
    aggregation: Annotated[str, OneOf(tuple(AGGREGATIONS))] = "mean"
    max_poisoned: Annotated[float, Range(0, below=0.5)] = 0.25
    layerwise: bool = False
    server: Annotated[str, OneOf(SERVERS)] = "plain"
    server_lr: Annotated[float, Range(1e-12, 1e3, above=0)] | None = None
    momentum: Annotated[float, Range(0, below=1)] = 0.9
    beta2: Annotated[float, Range(0, below=1)] = 0.99
    adaptivity: Annotated[float, Range(1e-12, 1e3, above=0)] = 1e-3
    fedprox_mu: Annotated[float, Range(0, most=1e6)] = 0.0
    scaffold: bool = False
    scaffold_space: Annotated[str, OneOf(SPACES)] = "gradients"
    alignment: Annotated[float, Range(0, most=1e3)] = 0.0
    feddyn_alpha: Annotated[float, Range(1e-9, 1e6, zero=True)] = 0.0
    control_steps: Annotated[int, Range(0, most=10**6)] = 0
    fednova: bool = False
    norm: Annotated[str, OneOf(NORM_POLICIES)] = "average"
    shared_moments: Annotated[str, OneOf(tuple(SHARED_MOMENTS))] = "none"
    average_decay: Annotated[float, Range(0, below=1)] = 0.0
    fresh_optimizer: bool = True
    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    payload: Annotated[str, OneOf(PAYLOADS)] = "float32"
    dev_s: Annotated[float, Range(0, most=_LONG_S)] = 0.0
    evaluate_every: Annotated[int, Range(0, most=10**6)] = 0
    clients_per_round: Annotated[int, Range(0, most=100_000)] = 0
    sampling: Annotated[str, OneOf(SAMPLINGS)] = "fixed"
    min_silos: Annotated[int, Range(0, most=100_000)] = 0
    grace_s: Annotated[float, Range(0, most=_LONG_S)] = 0.0
    mode: Annotated[str, OneOf(MODES)] = "sync"
    max_staleness: Annotated[int, Range(1, most=10**6)] = 4
    max_repeats: Annotated[int, Range(0, most=10**6)] = 3
    repeat_wait_s: Annotated[float, Range(0, most=_LONG_S)] = 5.0
    round_timeout_s: Annotated[float, Range(0.01, _LONG_S, above=0)] = 3600.0
    max_norm_ratio: Annotated[float, Range(above=1, most=1e100)] = 10.0
    max_statistics_ratio: Annotated[float, Range(above=1, most=1e12)] = 1000.0
    max_drop_db: Annotated[float, Range(0, most=1e3)] = 3.0
    secure_aggregation: bool = False
    secure_range: Annotated[float, Range(1e-6, 1e6, above=0)] = 8.0
    dp_clip_norm: Annotated[float, Range(1e-9, 1e12, zero=True)] = 0.0
    dp_clip_per: Annotated[str, OneOf(CLIP_PER)] = "model"
    dp_clip_quantile: Annotated[float, Range(1e-3, below=1, zero=True)] = 0.0
    dp_clip_lr: Annotated[float, Range(1e-6, 1e3, above=0)] = 0.2
    dp_bit_noise: Annotated[float, Range(1e-6, 1e6, zero=True)] = 0.0
    dp_noise_multiplier: Annotated[float, Range(1e-6, 1e6, zero=True)] = 0.0
    dp_delta: Annotated[float, Range(1e-30, above=0, below=1)] = 1e-5

    @property
    def participants(self) -> int:
        """Number of silos that take part in a round."""
        return min(self.clients_per_round or self.num_silos, self.num_silos)

    @property
    def needed_silos(self) -> int:
        """Number of valid replies that complete a round."""
        return self.min_silos or -(-self.participants // 2)

    @property
    def sends_controls(self) -> bool:
        """Whether silos send control variates."""
        return self.scaffold or self.alignment > 0

    @property
    def companions(self) -> tuple[str, ...]:
        """Prefixes of the arrays that accompany a silo's weights, of :data:`sase.federated.exchange.COMPANIONS`."""
        return (*((CONTROL,) if self.sends_controls else ()), *SHARED_MOMENTS[self.shared_moments])

    @property
    def bit_noise(self) -> float:
        """Standard deviation of the noise on a silo's bit, for ``dp_clip_quantile``."""
        if not self.dp_noise_multiplier:
            return self.dp_bit_noise
        return self.dp_bit_noise or max(math.sqrt(self.participants) / 20.0, 2.0 * self.dp_noise_multiplier)

    @property
    def effective_server_lr(self) -> float:
        """The server's learning rate."""
        return _SERVER_LR[self.server] if self.server_lr is None else self.server_lr


def load_federated_config(path: str | Path, overrides: Sequence[str] = ()) -> FederatedConfig:
    """Read a YAML file, with ``--fl-set`` overrides.

    Raises:
        InputError: an unknown key or choice, or inconsistent values.
    """
    mapping = apply_overrides(read_yaml(path), overrides)
    with naming(path):
        return checked(from_mapping(FederatedConfig, mapping))


def checked(config: FederatedConfig) -> FederatedConfig:
    """Return ``config``, or raise InputError for invalid or inconsistent values."""
    from_mapping(FederatedConfig, to_mapping(config))  # checks the range of every field
    most = config.num_silos if config.sampling == "poisson" else config.participants
    for name, number in {"num_silos": config.num_silos, "clients_per_round": most}.items():
        if config.min_silos > number:
            raise InputError(f"federated config: min_silos is {config.min_silos}, more than {name} ({number})")
    if config.mode == "buffered" and (config.companions or not config.grace_s):
        raise InputError(
            "federated config: mode: buffered requires a grace_s above 0, scaffold: false, alignment: 0 and "
            "shared_moments: none"
        )
    if config.strategy == "sase" and not 0 <= config.alpha_min * config.num_silos < 1:
        raise InputError(f"federated config: alpha_min must be 0 or more and below 1/{config.num_silos}")
    _check_drift(config)
    _check_privacy(config)
    if config.secure_aggregation:
        _check_secure(config)
    return config


def _check_drift(config: FederatedConfig) -> None:
    if config.alignment and config.scaffold_space != "steps":
        raise InputError("federated config: alignment needs scaffold_space: steps")
    if config.feddyn_alpha and (config.scaffold or config.fedprox_mu or config.server != "plain"):
        raise InputError("federated config: feddyn_alpha requires scaffold: false, fedprox_mu: 0 and server: plain")
    if config.layerwise and (config.fednova or config.aggregation not in ("mean", "clipped_mean")):
        raise InputError("federated config: layerwise requires fednova: false and aggregation: mean or clipped_mean")


def _check_privacy(config: FederatedConfig) -> None:
    for name in ("dp_noise_multiplier", "dp_clip_quantile"):
        if getattr(config, name) and not config.dp_clip_norm:
            raise InputError(f"federated config: {name} needs dp_clip_norm, which bounds the sensitivity")
    if config.sampling == "poisson":
        _check_sampling(config)
    if not config.dp_clip_norm:
        return
    if config.payload != "float32" or config.companions or config.norm != "none":
        raise InputError(
            "federated config: dp_clip_norm requires payload: float32, norm: none, scaffold: false, alignment: 0 and "
            "shared_moments: none"
        )
    if config.dp_clip_quantile:
        _check_quantile(config)


def _check_quantile(config: FederatedConfig) -> None:
    """Refuse an adaptive norm where the silos' bits do not say what they should."""
    if config.strategy != "uniform" or config.mode != "sync" or config.dp_clip_per != "model":
        raise InputError(
            "federated config: dp_clip_quantile requires strategy: uniform, mode: sync and dp_clip_per: model: every "
            "silo sends one bit about its whole update and the present norm"
        )
    if config.dp_noise_multiplier and config.bit_noise <= config.dp_noise_multiplier / 2.0:
        raise InputError(
            f"federated config: dp_bit_noise is {config.bit_noise:g}: bits with so little noise alone cost more than "
            f"dp_noise_multiplier allows; above {config.dp_noise_multiplier / 2.0:g}, or 0 for the default"
        )


def _check_sampling(config: FederatedConfig) -> None:
    if not 0 < config.clients_per_round < config.num_silos or not config.dp_noise_multiplier:
        raise InputError(
            "federated config: sampling: poisson requires dp_noise_multiplier and a clients_per_round from 1 to "
            f"{config.num_silos - 1}, the expected number of silos in a round"
        )
    if config.mode != "sync" or config.grace_s:
        raise InputError("federated config: sampling: poisson requires mode: sync and grace_s: 0: all must reply")


def _check_secure(config: FederatedConfig) -> None:
    """Refuse what needs single updates at the server, or numbers that are known only after training."""
    excluded = {
        "num_silos": (config.num_silos >= SECURE_LEAST, f"at least {SECURE_LEAST}"),
        "clients_per_round": (config.participants >= SECURE_LEAST, f"at least {SECURE_LEAST}"),
        "mode": (config.mode == "sync", "sync"),
        "grace_s": (not config.grace_s, "0"),
        "strategy": (config.strategy in SECURE_STRATEGIES, " or ".join(SECURE_STRATEGIES)),
        "aggregation": (config.aggregation == "mean", "mean"),
        "payload": (config.payload == "float32", "float32"),
        "scaffold": (not config.scaffold, "false"),
        "alignment": (not config.alignment, "0"),
        "shared_moments": (config.shared_moments == "none", "none"),
        "layerwise": (not config.layerwise, "false"),
        "max_drop_db": (not config.max_drop_db, "0 (no silo can be left out)"),
        "max_weight": (config.max_weight <= SECURE_MAX_WEIGHT, f"at most {SECURE_MAX_WEIGHT}"),
    }
    for key, (allowed, wanted) in excluded.items():
        if not allowed:
            raise InputError(
                f"federated config: secure_aggregation needs {key}: {wanted}, it is {getattr(config, key)}; "
                "the server sees no single update (docs/secure_aggregation.md)"
            )
    defaults = FederatedConfig()
    for key in SECURE_UNUSED:
        if (value := getattr(config, key)) != getattr(defaults, key):
            raise InputError(
                f"federated config: with secure_aggregation {key} has no effect, it is {value}: leave it out; "
                "the server sees no single update (docs/secure_aggregation.md)"
            )

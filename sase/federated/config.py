"""What ``conf/fl.yaml`` holds, as one frozen dataclass."""

from dataclasses import dataclass

from sase.config import apply_overrides, from_mapping, read_yaml
from sase.errors import InputError

STRATEGIES = ("examples", "uniform", "loss", "fair", "sase")
SERVERS = ("plain", "momentum", "adam", "yogi")
PAYLOADS = ("float32", "bfloat16", "int8")
NORM_POLICIES = ("average", "local", "none")
SCHEDULES = ("cosine", "constant")
OPERATIONAL = ("min_silos", "max_repeats", "repeat_wait_s", "round_timeout_s")  # may change while training goes on
_SERVER_LR = {"plain": 1.0, "momentum": 1.0, "adam": 0.01, "yogi": 0.01}


@dataclass(frozen=True)
class FederatedConfig:
    """How silos train one network together. What a silo does locally beside this is in the training config.

    Of that, ``epochs``, ``steps_per_epoch`` and ``ema_decay`` have no part in it: see the first keys here.

    Attributes:
        num_silos: how many there are; the command counts the folders.
        num_rounds: of training.
        local_epochs: of each silo in a round. One epoch is as many batches as the silo's audio fills.
        epoch_share: of the silo's audio that a local epoch has; less than 1 for shorter rounds.
        local_steps: batches of a local epoch instead of that, the same for every silo; 0 for an epoch.
        strategy: whose update counts how much: ``examples``, ``uniform``, ``loss``, ``fair`` or ``sase``.
        tau: temperature; of ``loss`` and ``fair`` in units of the loss, of ``sase`` in dB.
        gamma: of ``sase``: exponent of the number of examples.
        alpha_min: of ``sase``: the least weight of a silo; less than one in ``num_silos``.
        common_dev_s: of ``sase``: seconds of the server's development set on which updates are judged.
        server: optimiser of the global model: ``plain``, ``momentum``, ``adam`` or ``yogi``.
        server_lr: its learning rate; null for 1 (plain, momentum) or 0.01 (adam, yogi).
        momentum: of the server (``momentum``), and the decay of the first moment of ``adam`` and ``yogi``.
        beta2: decay of the second moment of ``adam`` and ``yogi``.
        adaptivity: what ``adam`` and ``yogi`` add to the root of the second moment.
        fedprox_mu: weight of FedProx's pull to the global model; 0 for none.
        scaffold: correct local gradients by control variates (SCAFFOLD).
        control_steps: batches whose mean gradient at the global model is a silo's control variate; 0 for a round's.
        fednova: count updates by the local step (FedNova), so that longer rounds do not count more.
        norm: of norm layers: ``average`` statistics and weights; keep both ``local`` with the silo (FedBN; their
            average stands in the global model); ``none``: refuse a network whose norms keep statistics.
        average_decay: of the moving average over rounds of the global model, which is then what is scored, chosen and
            kept, while silos go on from the newest; 0 for none.
        fresh_optimizer: local optimisers start anew each round; else its state stays with the silo.
        schedule: of the local learning rate: ``cosine`` over all rounds, as central training has it, or ``constant``.
        payload: type in which silos send updates: ``float32``, ``bfloat16`` or ``int8``.
        dev_s: seconds of the development set that score each round, spread evenly over it; 0 for all.
        min_silos: fewer good replies and the round is repeated; 0 for half of the silos.
        max_repeats: of one round, before training fails.
        repeat_wait_s: between a round and its repetition.
        round_timeout_s: how long the server waits for the silos' replies.
        max_norm_ratio: an update of more than this many times the median norm is refused (from three replies on).
        dp_clip_norm: differential privacy: norm to which each silo clips its update; 0 for none. Flower engines only.
        dp_noise_multiplier: standard deviation of the Gaussian noise on a clipped update, in units of that norm.
        dp_delta: δ of the (ε, δ) that is printed.
    """

    num_silos: int = 4
    num_rounds: int = 20
    local_epochs: int = 1
    epoch_share: float = 1.0
    local_steps: int = 0
    strategy: str = "examples"
    tau: float = 1.0
    gamma: float = 1.0
    alpha_min: float = 0.05
    common_dev_s: float = 30.0
    server: str = "plain"
    server_lr: float | None = None
    momentum: float = 0.9
    beta2: float = 0.99
    adaptivity: float = 1e-3
    fedprox_mu: float = 0.0
    scaffold: bool = False
    control_steps: int = 0
    fednova: bool = False
    norm: str = "average"
    average_decay: float = 0.0
    fresh_optimizer: bool = True
    schedule: str = "cosine"
    payload: str = "float32"
    dev_s: float = 0.0
    min_silos: int = 0
    max_repeats: int = 3
    repeat_wait_s: float = 5.0
    round_timeout_s: float = 3600.0
    max_norm_ratio: float = 10.0
    dp_clip_norm: float = 0.0
    dp_noise_multiplier: float = 0.0
    dp_delta: float = 1e-5

    @property
    def needed_silos(self):
        """How many good replies make a round."""
        return self.min_silos or -(-self.num_silos // 2)

    @property
    def effective_server_lr(self):
        """The server's learning rate."""
        return _SERVER_LR[self.server] if self.server_lr is None else self.server_lr


def load_federated_config(path, overrides=()):
    """Return the :class:`FederatedConfig` of a YAML file, with ``--fl-set`` overrides.

    Raises:
        InputError: for an unknown key or choice, or values that do not go together.
    """
    return checked(from_mapping(FederatedConfig, apply_overrides(read_yaml(path), overrides)))


def checked(config):
    """Return ``config``, or raise InputError where its values make no sense."""
    choices = (
        ("strategy", STRATEGIES),
        ("server", SERVERS),
        ("payload", PAYLOADS),
        ("norm", NORM_POLICIES),
        ("schedule", SCHEDULES),
    )
    for name, known in choices:
        if (value := getattr(config, name)) not in known:
            raise InputError(f"federated config: {name} is {value!r}; there are {', '.join(known)}")
    for name in ("num_silos", "num_rounds", "local_epochs", "epoch_share", "tau", "round_timeout_s", "adaptivity"):
        if not getattr(config, name) > 0:
            raise InputError(f"federated config: {name} must be above 0, is {getattr(config, name)}")
    for name in (
        "local_steps",
        "fedprox_mu",
        "control_steps",
        "dev_s",
        "min_silos",
        "max_repeats",
        "repeat_wait_s",
        "dp_clip_norm",
        "dp_noise_multiplier",
    ):
        if not getattr(config, name) >= 0:
            raise InputError(f"federated config: {name} must be 0 or more, is {getattr(config, name)}")
    if not 0 <= config.average_decay < 1:
        raise InputError(f"federated config: average_decay must be 0 or more and below 1, is {config.average_decay}")
    if config.min_silos > config.num_silos:
        raise InputError(f"federated config: min_silos is {config.min_silos}, but there are {config.num_silos} silos")
    if config.strategy == "sase" and not 0 <= config.alpha_min * config.num_silos < 1:
        raise InputError(f"federated config: alpha_min must be 0 or more and below 1/{config.num_silos}")
    if config.max_norm_ratio <= 1:
        raise InputError(f"federated config: max_norm_ratio must be above 1, is {config.max_norm_ratio}")
    _check_privacy(config)
    return config


def _check_privacy(config):
    if config.dp_noise_multiplier and not config.dp_clip_norm:
        raise InputError("federated config: dp_noise_multiplier needs dp_clip_norm: noise hides only what is bounded")
    if not config.dp_clip_norm:
        return
    if config.payload != "float32" or config.scaffold or config.norm != "none":
        raise InputError("federated config: dp_clip_norm wants payload: float32, scaffold: false and norm: none")
    if not 0 < config.dp_delta < 1:
        raise InputError(f"federated config: dp_delta must lie between 0 and 1, is {config.dp_delta}")

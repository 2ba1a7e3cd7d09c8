"""What ``conf/train_*.yaml`` holds, as one frozen dataclass."""

from dataclasses import dataclass, field

import torch

from sase.config import apply_overrides, from_mapping, read_yaml, to_mapping
from sase.data.dataset import DataConfig
from sase.errors import InputError
from sase.model import model_config
from sase.nn.config import ModelConfig

PRECISIONS = ("float32", "tf32", "bfloat16")
SELECTORS = ("SI_SNR", "PESQ_WB")
OPTIMISERS = ("adamw", "sgd")
OPERATIONAL = ("micro_batch_size", "checkpoint_s")  # of train: may change while training goes on


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights move.

    Attributes:
        epochs: how many; one epoch is ``steps_per_epoch`` batches, or as much audio as the set holds when that is 0.
        optimizer: ``adamw``, or ``sgd``: plain gradient descent, without momentum and decay.
        learning_rate: its peak: it rises from 0 over ``warmup_steps``, then falls along half a cosine to
            ``final_ratio`` of the peak.
        weight_decay: of AdamW.
        micro_batch_size: the most segments of a batch that a process takes through the network at a time; it adds up
            the gradients of such parts before it takes a step. 0: all of its share. Less needs less memory, and the
            step is the same (norms over the batch and the loss ``contrastive`` see one part alone).
        clip_norm: gradients of a larger norm are scaled down to it.
        max_bad_steps: how many steps in a row may have gradients that are not finite before training stops.
        ema_decay: of the averaged weights, which are the ones validated and kept; 0 for none.
        select_by: ``SI_SNR`` or ``PESQ_WB`` on the development set chooses ``best.pt``.
        precision: ``float32``; ``tf32`` on a GPU; ``bfloat16``, on a GPU for what autocast chooses, on a CPU inside of
            convolutions and matrix products alone. Spectra and losses stay float32.
        compile: whether ``torch.compile`` makes the network's training step (a minute at the start, or on a second
            start less); validation is as ever.
        checkpoint_s: seconds between checkpoints within an epoch.
    """

    epochs: int = 50
    steps_per_epoch: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    final_ratio: float = 0.02
    weight_decay: float = 0.01
    micro_batch_size: int = 0
    clip_norm: float = 3.0
    max_bad_steps: int = 20
    ema_decay: float = 0.999
    select_by: str = "SI_SNR"
    precision: str = "float32"
    compile: bool = False
    checkpoint_s: float = 300.0


@dataclass(frozen=True)
class TrainConfig:
    """A whole experiment.

    Attributes:
        model: the network.
        data: how batches are drawn.
        loss: name to weight.
        train: how weights move.
        init: weights to begin with, of the same network: a name that ships with the package, or a saved model. Empty:
            random ones.
        seed: of everything.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: dict[str, float] = field(default_factory=lambda: {"si_snr": 1.0})
    train: OptimiserConfig = field(default_factory=OptimiserConfig)
    init: str = ""
    seed: int = 0


def load_train_config(path, overrides=(), seed=None):
    """Return the :class:`TrainConfig` of a YAML file, with ``--set`` overrides; ``model.preset`` names a preset.

    Raises:
        InputError: for an unknown key, preset or choice, or a value of the wrong type.
    """
    mapping = apply_overrides(read_yaml(path), overrides)
    if seed is not None:
        mapping["seed"] = seed
    model = mapping.pop("model", None)
    if not isinstance(model, dict):
        raise InputError(f"{path}: needs a section 'model:', as in 'model: {{preset: small}}'")
    config = from_mapping(TrainConfig, {**mapping, "model": to_mapping(model_config(model))})
    for name, value, known in (
        ("train.precision", config.train.precision, PRECISIONS),
        ("train.select_by", config.train.select_by, SELECTORS),
        ("train.optimizer", config.train.optimizer, OPTIMISERS),
    ):
        if value not in known:
            raise InputError(f"config: {name} is {value!r}; there are {', '.join(known)}")
    if config.train.micro_batch_size < 0:
        raise InputError(f"config: train.micro_batch_size is {config.train.micro_batch_size}; 0 is for no limit")
    return config


def resume_key(mapping):
    """Return what must stay the same, for training to go on, of a :class:`TrainConfig` as a mapping.

    That is all but :data:`OPERATIONAL`. What an earlier version did not know is what it is by default.
    """
    mapping = to_mapping(from_mapping(TrainConfig, mapping))
    return {**mapping, "train": {name: value for name, value in mapping["train"].items() if name not in OPERATIONAL}}


def build_optimizer(train, parameters, device):
    """Return the optimiser that an :class:`OptimiserConfig` names."""
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=train.learning_rate)
    fused = device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=fused)

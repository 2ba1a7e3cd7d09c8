"""The configuration in ``conf/train_*.yaml`` as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from sase.config import OneOf, Range, Share, apply_overrides, from_mapping, naming, read_yaml, to_mapping
from sase.data.remix import DataConfig
from sase.errors import InputError
from sase.losses.loss import build_loss
from sase.metrics.measures import PESQ_RATE
from sase.model import model_config
from sase.nn.config import ModelConfig

PRECISIONS = ("float32", "tf32", "bfloat16")
SELECTORS = ("SI_SNR", "PESQ_WB")
OPTIMISERS = ("adamw", "sgd")
LENGTH = ("train", "epochs")  # may grow when training has finished
OPERATIONAL = ("micro_batch_size", "checkpoint_s")  # keys of train that may change on resume


@dataclass(frozen=True)
class OptimiserConfig:
    """The section ``train``: optimiser, schedule and how to run them.

    Attributes:
        epochs: number of epochs. A finished training may be resumed with more: the learning rate of a step is then that
            of the longer schedule, so it rises again at first, and the result is not that of a training that was this
            long from the start; it is the same for every resumption at this point, to the bit.
        steps_per_epoch: batches per epoch; 0 for as much audio as the training set has.
        optimizer: ``adamw``, or ``sgd`` without momentum and weight decay.
        learning_rate: peak, reached by linear warm-up from 0.
        warmup_steps: of the learning rate, which then decays along half a cosine.
        final_ratio: last learning rate, as a fraction of the peak.
        weight_decay: of AdamW.
        micro_batch_size: the most segments in one forward pass; gradients are accumulated over the micro-batches of a
            batch, so the step is the same and memory is saved (but batch norms and the loss ``contrastive`` see one
            micro-batch only). 0: the whole shard of the process.
        clip_norm: gradients with a larger norm are scaled down to it.
        max_bad_steps: consecutive steps with non-finite gradients that stop training.
        ema_decay: of the exponential moving average of the weights, which is validated and saved; 0 for none.
        select_by: the score on the development set that selects ``best.pt``: ``SI_SNR`` or ``PESQ_WB``.
        select_tolerance: scores that differ by no more than this count as equal; of these, the one with the highest
            SI-SNR is selected.
        precision: ``float32``; ``tf32`` on a GPU; ``bfloat16``, by autocast on a GPU, inside convolutions and matrix
            products only on a CPU. Spectra, losses, statistics of norms, recurrent layers and sums of attention stay
            float32.
        compile: on a CPU, train the network with ``torch.compile`` (compiling takes about a minute; less once it is
            cached).
        checkpoint_s: seconds between checkpoints within an epoch.
    """

    epochs: Annotated[int, Range(1, most=10**7)] = 50
    steps_per_epoch: Annotated[int, Range(0, most=10**9)] = 0
    optimizer: Annotated[str, OneOf(OPTIMISERS)] = "adamw"
    learning_rate: Annotated[float, Range(1e-12, 1e3, above=0)] = 2e-3
    warmup_steps: Annotated[int, Range(0, most=10**9)] = 200
    final_ratio: Share = 0.02
    weight_decay: Annotated[float, Range(0, most=1e3)] = 0.01
    micro_batch_size: Annotated[int, Range(0, most=10**6)] = 0
    clip_norm: Annotated[float, Range(1e-9, 1e12, above=0)] = 3.0
    max_bad_steps: Annotated[int, Range(1, most=10**9)] = 20
    ema_decay: Annotated[float, Range(0, below=1)] = 0.999
    select_by: Annotated[str, OneOf(SELECTORS)] = "SI_SNR"
    select_tolerance: Annotated[float, Range(0, most=100)] = 0.0
    precision: Annotated[str, OneOf(PRECISIONS)] = "float32"
    compile: bool = False
    checkpoint_s: Annotated[float, Range(0, most=1e8)] = 300.0


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of an experiment.

    Attributes:
        model: the network.
        data: how batches are drawn.
        loss: objective name to weight.
        train: optimiser and schedule.
        init: initial weights, of the same architecture: the name of a pretrained model, or a saved model. Empty:
            random.
        seed: of initialisation and batches.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: dict[str, Annotated[float, Range(1e-9, 1e9, above=0)]] = field(default_factory=lambda: {"si_snr": 1.0})
    train: OptimiserConfig = field(default_factory=OptimiserConfig)
    init: str = ""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0


def load_train_config(path: str | Path, overrides: Iterable[str] = (), seed: int | None = None) -> TrainConfig:
    """Return the configuration in a YAML file, with ``--set`` overrides; ``model.preset`` names a preset.

    Raises:
        InputError: an unknown key, preset, objective or choice, or a value of the wrong type or out of range.
    """
    mapping = apply_overrides(read_yaml(path), overrides)
    if seed is not None:
        mapping["seed"] = seed
    with naming(path):
        return build_train_config(mapping)


def build_train_config(mapping: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration in a mapping such as :func:`load_train_config` reads; raises as it does."""
    model = mapping.get("model")
    if not isinstance(model, dict):
        raise InputError("the section 'model:' is missing; add e.g. 'model: {preset: small}'")
    config = from_mapping(TrainConfig, {**mapping, "model": to_mapping(model_config(model))})
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Raise InputError for objectives or a selector that do not exist or do not fit the network's sample rate."""
    rate = config.model.sample_rate
    build_loss(config.loss, rate)
    if config.train.select_by == "PESQ_WB" and rate != PESQ_RATE:
        raise InputError(
            f"config: train.select_by PESQ_WB is defined at {PESQ_RATE} Hz, but model.sample_rate is {rate}; "
            "select by SI_SNR"
        )


def resume_key(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a :class:`TrainConfig`, given as a mapping, that must match on resume.

    That is all but :data:`OPERATIONAL`. Keys that an earlier version did not have get their defaults.
    """
    mapping = to_mapping(from_mapping(TrainConfig, mapping))
    return {**mapping, "train": {name: value for name, value in mapping["train"].items() if name not in OPERATIONAL}}


def build_optimizer(
    train: OptimiserConfig, parameters: Iterable[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimiser that an :class:`OptimiserConfig` names."""
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=train.learning_rate)
    fused = device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=fused)

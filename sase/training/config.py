"""What ``conf/train_*.yaml`` holds, as one frozen dataclass."""

from dataclasses import dataclass, field

from sase.config import apply_overrides, from_mapping, read_yaml, to_mapping
from sase.dataset import DataConfig
from sase.errors import InputError
from sase.model import ModelConfig, model_config

PRECISIONS = ("float32", "tf32", "bfloat16")
SELECTORS = ("SI_SNR", "PESQ_WB")


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights move.

    Attributes:
        epochs: how many; one epoch is ``steps_per_epoch`` batches, or as much audio as the set holds when that is 0.
        learning_rate: its peak: it rises from 0 over ``warmup_steps``, then falls along half a cosine to
            ``final_ratio`` of the peak.
        weight_decay: of AdamW.
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
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    final_ratio: float = 0.02
    weight_decay: float = 0.01
    clip_norm: float = 3.0
    max_bad_steps: int = 20
    ema_decay: float = 0.999
    select_by: str = "SI_SNR"
    precision: str = "float32"
    compile: bool = False
    checkpoint_s: float = 300.0


@dataclass(frozen=True)
class TrainConfig:
    """A whole experiment: the network, the data, the loss (name to weight), the optimiser and the seed of everything."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: dict[str, float] = field(default_factory=lambda: {"si_snr": 1.0})
    train: OptimiserConfig = field(default_factory=OptimiserConfig)
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
    ):
        if value not in known:
            raise InputError(f"config: {name} is {value!r}; there are {', '.join(known)}")
    return config

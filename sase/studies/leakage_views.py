"""What the server sees of a silo's local training: its update with clipping and noise, a mean of several, or a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from sase.data.remix import Batch
from sase.federated.config import FederatedConfig
from sase.federated.layout import layout_of, to_arrays
from sase.federated.secure.participant import limited
from sase.federated.secure.streams import KEY_BYTES, stream
from sase.federated.secure.update import LOSSES, Format, Update
from sase.losses.loss import build_loss
from sase.studies.leakage_setting import Attack, Exposure, segments, trained_on
from sase.training.config import TrainConfig, build_optimizer
from sase.training.initial import initial_model
from sase.training.loop import GradientGuard, TrainingStep, train_epoch

_LIMIT = 8.0  # of the fixed-point format, the default of ``secure_range``


class Views:
    """The server's views of the victims of an attack; a training that several rows have in common is run once.

    Args:
        attack: the attack.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        model = initial_model(attack.config)
        self._layout = layout_of(model)
        self._before = to_arrays(model, self._layout.names)
        self._updates: dict[tuple[str, int, range], Update] = {}

    def of(self, exposure: Exposure, victim: int, seed: int = 0) -> np.ndarray:
        """Return what the server sees of a victim.

        Args:
            exposure: the row.
            victim: from 0.
            seed: of the silos' noise and masks, from 0.

        Returns:
            float64 (weights,): the direction in which the weights moved, without weight decay.
        """
        number = Format(self._before, self._layout, _LIMIT, exposure.silos)
        updates = []
        for silo in range(exposure.silos):
            update = self._update(exposure, trained_on(exposure, victim, silo))
            norm = float(np.linalg.norm(update.weights)) if exposure.clip else 0.0
            fed = FederatedConfig(dp_clip_norm=norm / 2, dp_noise_multiplier=exposure.noise)
            updates.append(limited(update, fed, generator=np.random.default_rng((seed, victim, silo))).weights)
        seen = np.mean(updates, axis=0)
        if exposure.masked:
            encoded = number.weights.encode(seen, 1.0)
            key = np.random.default_rng((seed, victim)).bytes(KEY_BYTES)
            return number.weights.decode(encoded + stream(key, encoded.size, encoded.dtype.name))
        if exposure.optimizer == "adamw":  # its weight decay is known, but for the change of the weights in the round
            options = self.attack.config.train
            names = self._layout.weights
            weights = np.concatenate([self._before[name].ravel().astype(np.float64) for name in names])
            decay = exposure.steps * options.learning_rate * options.weight_decay
            seen = seen + (0.5 if exposure.clip else 1.0) * decay * weights
        return seen

    def _update(self, exposure: Exposure, numbers: range) -> Update:
        key = exposure.optimizer, exposure.batch, numbers
        if key not in self._updates:
            starts = range(numbers.start, numbers.stop, exposure.batch)
            batches = [segments(self.attack, range(start, start + exposure.batch)) for start in starts]
            arrays = _trained(self.attack.config, exposure.optimizer, batches)
            number = Format(self._before, self._layout, _LIMIT, 1)
            self._updates[key] = number.update(arrays, dict.fromkeys(LOSSES, 0.0))
        return self._updates[key]


def _trained(config: TrainConfig, optimizer: str, batches: Sequence[Batch]) -> Mapping[str, np.ndarray]:
    """Return the arrays of the model after local training at the configured learning rate."""
    model = initial_model(config)
    options = replace(config.train, optimizer=optimizer)
    guard = GradientGuard(options.clip_norm, options.max_bad_steps)
    loss = build_loss(config.loss, config.model.sample_rate)
    stepper = build_optimizer(options, model.parameters(), torch.device("cpu"))
    train_epoch(TrainingStep(model, loss, stepper, guard, lambda: options.learning_rate), batches)
    return to_arrays(model, layout_of(model).names)

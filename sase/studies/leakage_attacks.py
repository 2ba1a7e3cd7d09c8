"""Two attacks on an update by a server that knows the global model, the configuration and the learning rate.

- *inversion* (gradient matching, Geiping et al. 2020, arXiv 2003.14053): noisy and clean audio are optimised, from
  noise, until a training on them would give the update. Several local steps are simulated one after another, so that
  the match is differentiated through all of them (Dimitrov et al. 2022, arXiv 2206.12395);
- *identification*: of a number of recordings that the server has, it names the one whose training step is most similar
  to the update. This needs no inversion, only a guess of what the silo may have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from sase.data.remix import Batch
from sase.losses.loss import Loss, build_loss
from sase.studies.leakage_setting import KNOWN, SPACING, Attack, Exposure, segments
from sase.training.config import OptimiserConfig
from sase.training.initial import initial_model

_START_RMS = 0.05  # of the noise from which an inversion starts
_STEP_SIZE = 0.01  # of the inversion's optimiser, in units of the signal
_SOFTNESS = 0.1  # of AdamW's division in the inversion, in units of the gradient's RMS: a sign has no gradient
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # torch's defaults, which the training uses
_TINY = 1e-300


def invert(
    attack: Attack, exposure: Exposure, view: np.ndarray, truth: Batch | None = None, seed: int = 0
) -> tuple[Batch, float]:
    """Return audio on which a training resembles an update, and how much it does: a mean cosine over the parameters.

    Args:
        attack: the attack.
        exposure: the row.
        view: float64 (weights,), what the server sees.
        truth: the audio; used only with ``known_db``.
        seed: of the noise to start from.

    Returns:
        (``simulated · sought`` segments, in the order of the steps; -1 to 1)
    """
    model, loss = initial_model(attack.config).train(), build_loss(attack.config.loss, attack.config.model.sample_rate)
    count = exposure.simulated * exposure.sought
    samples = round(attack.config.data.segment_s * attack.pairs.sample_rate)
    generator = torch.Generator().manual_seed(seed)
    noisy, clean = (_START_RMS * torch.randn(count, samples, generator=generator) for _ in range(2))
    if truth is not None and exposure.known_db is not None:
        noisy, clean = (_in_noise(*of, exposure.known_db) for of in ((truth.noisy, noisy), (truth.clean, clean)))
    noisy, clean = noisy.requires_grad_(), clean.requires_grad_()
    lengths = torch.full((count,), samples)
    sizes = [parameter.numel() for parameter in model.parameters()]
    target = torch.from_numpy(view).float().split(sizes)
    optimizer = torch.optim.Adam([noisy, clean], lr=_STEP_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, attack.steps)
    best, match = Batch(noisy.detach().clone(), clean.detach().clone(), lengths, []), -math.inf
    with torch.backends.mkldnn.flags(enabled=False):  # its recurrent layers have no second derivative
        for _ in range(attack.steps):
            optimizer.zero_grad()
            parts = zip(noisy.split(exposure.sought), clean.split(exposure.sought), lengths.split(exposure.sought))
            batches = [Batch(first, second, length, []) for first, second, length in parts]
            moved = simulated(model, loss, batches, exposure.optimizer, attack.config.train, soft=True).split(sizes)
            cosines = [torch.cosine_similarity(own, other, 0) for own, other in zip(moved, target)]
            mean = torch.stack(cosines).mean()
            if float(mean.detach()) > match:
                match = float(mean.detach())
                best = Batch(noisy.detach().clone(), clean.detach().clone(), lengths, [])
            (1.0 - mean).backward()
            optimizer.step()
            schedule.step()
    return best, match


def simulated(
    model: torch.nn.Module,
    loss: Loss,
    batches: Sequence[Batch],
    optimizer: str,
    options: OptimiserConfig,
    soft: bool = False,
) -> torch.Tensor:
    """Return the direction in which a training moves the weights of a model, which stays as it is.

    Args:
        model: the global model, in training mode.
        loss: of the training.
        batches: one for each step.
        optimizer: ``sgd`` or ``adamw``.
        options: of the training.
        soft: the result can be differentiated with respect to the audio; AdamW's division is then smoothed.

    Returns:
        float32 (weights,): the sum of the steps, without weight decay, in units of the learning rate.
    """
    names, parameters = zip(*model.named_parameters())
    sizes, shapes = [value.numel() for value in parameters], [value.shape for value in parameters]
    weights = torch.cat([value.detach().reshape(-1) for value in parameters]).requires_grad_()
    total = first = second = torch.zeros_like(weights)
    for number, batch in enumerate(batches, 1):
        values = {name: part.view(of) for name, part, of in zip(names, weights.split(sizes), shapes)}
        enhanced = torch.func.functional_call(model, values, (batch.noisy, batch.lengths))
        value, _ = loss(enhanced, batch.clean, batch.lengths)
        (gradient,) = torch.autograd.grad(value, weights, create_graph=soft)
        norm = gradient.detach().norm()
        gradient = gradient * (options.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        if optimizer == "sgd":
            step = gradient
        else:
            first = _BETAS[0] * first + (1.0 - _BETAS[0]) * gradient
            second = _BETAS[1] * second + (1.0 - _BETAS[1]) * gradient.square()
            mean, square = first / (1.0 - _BETAS[0] ** number), second / (1.0 - _BETAS[1] ** number)
            floor = _SOFTNESS**2 * square.detach().mean() + _TINY if soft else 0.0
            step = mean / ((square + floor).sqrt() + _EPSILON)
        total = total - step
        decay = options.weight_decay if optimizer == "adamw" else 0.0
        weights = weights - options.learning_rate * (step + decay * weights)
        if not soft:
            weights = weights.detach().requires_grad_()
    return total


class Candidates:
    """The recordings that the server has: the first segment of every victim, and others.

    Args:
        attack: the attack.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        numbers = [SPACING * victim for victim in range(attack.victims)]
        numbers += [KNOWN + number for number in range(attack.candidates - attack.victims)]
        self.segments = [segments(attack, [number]) for number in numbers]
        self._steps: dict[str, np.ndarray] = {}

    def rank(self, view: np.ndarray, optimizer: str, victim: int) -> int:
        """Return how many candidates' steps are more similar to a view than that of the victim's first segment."""
        if optimizer not in self._steps:
            self._steps[optimizer] = self._computed(optimizer)
        similarity = self._steps[optimizer] @ view
        return int(np.sum(similarity > similarity[victim]))

    def _computed(self, optimizer: str) -> np.ndarray:
        """Return the training steps on all candidates, each of length 1: float64 (candidates, weights)."""
        config = self.attack.config
        model, loss = initial_model(config).train(), build_loss(config.loss, config.model.sample_rate)
        steps = [
            simulated(model, loss, [batch], optimizer, config.train).detach().double().numpy()
            for batch in self.segments
        ]
        return np.stack([step / max(np.linalg.norm(step), _TINY) for step in steps])


def _in_noise(wav: torch.Tensor, noise: torch.Tensor, snr_db: float) -> torch.Tensor:
    scale = wav.square().mean().sqrt() / noise.square().mean().sqrt() * 10.0 ** (-snr_db / 20.0)
    return wav + scale * noise

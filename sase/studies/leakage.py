"""What an update reveals of the audio that it was trained on, to a server that tries to find out.

Two attacks by a server that knows the global model, the configuration and the learning rate:

- *inversion* (gradient matching, Geiping et al. 2020, arXiv 2003.14053): noisy and clean audio are optimised, from
  noise, until one training step on them would give the update;
- *identification*: of a number of recordings that the server has, it names the one whose training step is most similar
  to the update. This needs no inversion, only a guess of what the silo may have.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sase import jsonfile
from sase.data.dataset import PairSet
from sase.data.remix import Batch, DataConfig, Mixtures
from sase.federated.config import FederatedConfig
from sase.federated.layout import layout_of, to_arrays
from sase.federated.secure.participant import limited
from sase.federated.secure.streams import KEY_BYTES, stream
from sase.federated.secure.update import LOSSES, Format, Update
from sase.losses.loss import Loss, build_loss
from sase.metrics.measures import zero_mean_si_sdr
from sase.training.config import OptimiserConfig, TrainConfig, build_optimizer
from sase.training.initial import initial_model
from sase.training.loop import GradientGuard, TrainingStep, learning_rate, train_epoch

_START_RMS = 0.05  # of the noise from which an inversion starts
_STEP_SIZE = 0.01  # of the inversion's optimiser, in units of the signal
_SOFTNESS = 0.1  # of the sign in the inversion, in units of the gradient's RMS: a hard one has no gradient
_SPACING = 100  # between the numbers of two victims' segments
_OTHERS = 100_000  # number of the first segment that no victim has
_SPECTRUM = 512  # FFT of the averaged spectra

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exposure:
    """What the server sees of a silo.

    Attributes:
        optimizer: of the local training: ``sgd``, whose step is the gradient, or ``adamw``.
        batch: segments in a batch.
        steps: of the local training.
        clip: clip the update to half of its norm.
        noise: multiplier of the noise on the clipped update, as ``dp_noise_multiplier``.
        silos: number of silos in the sum, of which the server sees the mean only.
        masked: the server sees one masked update instead.
        known_db: the inversion starts from the audio in noise of this SNR, a control of the attack; None: from noise.
    """

    optimizer: str = "adamw"
    batch: int = 1
    steps: int = 1
    clip: bool = False
    noise: float = 0.0
    silos: int = 1
    masked: bool = False
    known_db: float | None = None


ROWS = {
    "SGD, one step": Exposure(optimizer="sgd"),
    "AdamW, one step": Exposure(),
    "AdamW, clipped": Exposure(clip=True),
    "AdamW, clipped, noise z = 0.01": Exposure(clip=True, noise=0.01),
    "AdamW, clipped, noise z = 0.1": Exposure(clip=True, noise=0.1),
    "AdamW, clipped, noise z = 1": Exposure(clip=True, noise=1.0),
    "AdamW, one step of 4 segments": Exposure(batch=4),
    "AdamW, a round of 16 steps of 4 segments": Exposure(batch=4, steps=16),
    "masks: the mean of 4 silos, one step each": Exposure(silos=4),
    "masks: one masked update": Exposure(masked=True),
    "SGD, one step; the attack starts from the audio in noise, at 0 dB": Exposure(optimizer="sgd", known_db=0.0),
}


@dataclass(frozen=True)
class Attack:
    """What both attacks know and how hard they try.

    Attributes:
        config: of network and local training.
        pairs: the audio.
        steps: of the inversion.
        candidates: number of recordings of the identification.
        victims: number of updates of the identification.
    """

    config: TrainConfig
    pairs: PairSet
    steps: int = 300
    candidates: int = 50
    victims: int = 10


def run(attack: Attack, out: str | Path, rows: Sequence[str] = tuple(ROWS)) -> dict[str, dict[str, Any]]:
    """Return {row: numbers}; a row that is finished is not computed again.

    Args:
        attack: the attack.
        out: folder for ``ROW.json`` and, of the inversions, ``ROW.npz``.
        rows: of :data:`ROWS`.
    """
    results, candidates = {}, None
    for name in ROWS:
        path = path_of(out, name)
        if name in rows and not path.exists():
            candidates = candidates or _Candidates(attack)
            log.info("%s", name)
            numbers, signals = _run_row(attack, ROWS[name], candidates)
            np.savez(path.with_suffix(".npz"), allow_pickle=False, **signals)
            jsonfile.write(path, {"row": name, **numbers})
        if path.exists():
            results[name] = jsonfile.read(path)
    return results


def path_of(out: str | Path, row: str) -> Path:
    """Return the file with the numbers of a row; with the suffix ``.npz`` its signals."""
    return Path(out) / f"{'-'.join(re.findall('[0-9A-Za-z]+', row))}.json"


def _run_row(
    attack: Attack, exposure: Exposure, candidates: _Candidates
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    ranks = []
    for victim in range(attack.victims):
        view, _ = observe(attack, exposure, victim)
        ranks.append(candidates.rank(view, exposure, victim))
    view, truth = observe(attack, exposure, 0)
    found, match = invert(attack, exposure, view, truth)
    others = segments(attack, range(2 * _OTHERS, 2 * _OTHERS + len(truth.clean)))
    numbers: dict[str, Any] = {
        "match": match,
        "identified": float(np.mean([rank == 0 for rank in ranks])),
        "identified_chance": 1.0 / attack.candidates,
        "rank": float(np.median(ranks)) + 1.0,
        **scores(found, truth),
        **{f"{name}_chance": value for name, value in scores(found, others).items()},
    }
    signals = {"noisy": truth.noisy, "clean": truth.clean, "found_noisy": found.noisy, "found_clean": found.clean}
    return numbers, {name: value.numpy() for name, value in signals.items()}


def segments(attack: Attack, numbers: Sequence[int] | range) -> Batch:
    """Return segments of the set: each number names one, always the same."""
    batches = [_mixtures(attack, 1).batch(number) for number in numbers]
    noisy, clean = torch.cat([batch.noisy for batch in batches]), torch.cat([batch.clean for batch in batches])
    return Batch(noisy, clean, torch.cat([b.lengths for b in batches]), [utt for b in batches for utt in b.utts])


def observe(attack: Attack, exposure: Exposure, victim: int) -> tuple[np.ndarray, Batch]:
    """Return what the server sees of a victim, and the victim's audio of the first step.

    Args:
        attack: the attack.
        exposure: the row.
        victim: from 0; its segments are those from ``100 · victim`` on.

    Returns:
        (float64 (weights,): the direction in which the weights moved, without weight decay; the audio)
    """
    model = initial_model(attack.config)
    layout = layout_of(model)
    before = to_arrays(model, layout.names)
    number = Format(before, layout, 8.0, exposure.silos)
    updates, count = [], exposure.batch * exposure.steps
    for silo in range(exposure.silos):
        first = _SPACING * victim + count * silo
        starts = range(first, first + count, exposure.batch)
        batches = [segments(attack, range(start, start + exposure.batch)) for start in starts]
        arrays = _trained(attack.config, exposure, batches)
        update = number.update(arrays, dict.fromkeys(LOSSES, 0.0))
        norm = float(np.linalg.norm(update.weights)) if exposure.clip else 0.0
        fed = FederatedConfig(dp_clip_norm=norm / 2, dp_noise_multiplier=exposure.noise)
        updates.append(limited(Update(update.weights, update.statistics), fed).weights)
    seen = np.mean(updates, axis=0)
    if exposure.masked:
        encoded = number.weights.encode(seen, 1.0)
        mask = stream(np.random.default_rng(victim).bytes(KEY_BYTES), encoded.size, encoded.dtype.name)
        return number.weights.decode(encoded + mask), segments(attack, [_SPACING * victim])
    if exposure.optimizer == "adamw" and exposure.steps == 1:
        options = attack.config.train
        weights = np.concatenate([before[name].ravel().astype(np.float64) for name in layout.weights])
        scale = 0.5 if exposure.clip else 1.0
        seen = seen + scale * _rate(options) * options.weight_decay * weights
    return seen, segments(attack, range(_SPACING * victim, _SPACING * victim + exposure.batch * exposure.silos))


def invert(
    attack: Attack, exposure: Exposure, view: np.ndarray, truth: Batch | None = None, seed: int = 1
) -> tuple[Batch, float]:
    """Return audio whose training step resembles an update, and how much it does: a mean cosine over the parameters.

    Args:
        attack: the attack.
        exposure: the row.
        view: what :func:`observe` returned.
        truth: the audio; used only with ``known_db``.
        seed: of the noise to start from.
    """
    model, loss = initial_model(attack.config).train(), build_loss(attack.config.loss, attack.config.model.sample_rate)
    count, samples = exposure.batch * exposure.silos, round(attack.config.data.segment_s * attack.pairs.sample_rate)
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
            step = _step(model, loss, Batch(noisy, clean, lengths, []), exposure, soft=True).split(sizes)
            cosines = [torch.cosine_similarity(own, other, 0) for own, other in zip(step, target)]
            mean = torch.stack(cosines).mean()
            if float(mean.detach()) > match:
                match = float(mean.detach())
                best = Batch(noisy.detach().clone(), clean.detach().clone(), lengths, [])
            (1.0 - mean).backward()
            optimizer.step()
            schedule.step()
    return best, match


def scores(found: Batch, truth: Batch) -> dict[str, float]:
    """Return how similar recovered audio is to audio: the best of all pairs of segments.

    Returns:
        ``noisy``, ``clean``: SI-SDR in dB; ``spectrum``: correlation, over frequency, of the clean audio's averaged
        log spectra.
    """

    def best(own: torch.Tensor, other: torch.Tensor, measure: Any) -> float:
        return max(measure(a.numpy(), b.numpy()) for a in other for b in own)

    return {
        "noisy": best(found.noisy, truth.noisy, zero_mean_si_sdr),
        "clean": best(found.clean, truth.clean, zero_mean_si_sdr),
        "spectrum": best(found.clean, truth.clean, _spectral_correlation),
    }


class _Candidates:
    """The recordings that the server has: the first segment of every victim, and others."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        numbers = [_SPACING * victim for victim in range(attack.victims)]
        numbers += [_OTHERS + number for number in range(attack.candidates - attack.victims)]
        self.segments = [segments(attack, [number]) for number in numbers]
        self._steps: dict[str, np.ndarray] = {}

    def rank(self, view: np.ndarray, exposure: Exposure, victim: int) -> int:
        """Return how many candidates' steps are more similar to a view than that of the victim's first segment."""
        if exposure.optimizer not in self._steps:
            self._steps[exposure.optimizer] = self._computed(exposure)
        similarity = self._steps[exposure.optimizer] @ view
        return int(np.sum(similarity > similarity[victim]))

    def _computed(self, exposure: Exposure) -> np.ndarray:
        """Return the training steps on all candidates, each of length 1: float64 (candidates, weights)."""
        config = self.attack.config
        model, loss = initial_model(config).train(), build_loss(config.loss, config.model.sample_rate)
        steps = [_step(model, loss, batch, exposure, soft=False).double().numpy() for batch in self.segments]
        return np.stack([step / max(np.linalg.norm(step), 1e-300) for step in steps])


def _trained(config: TrainConfig, exposure: Exposure, batches: Sequence[Batch]) -> Mapping[str, np.ndarray]:
    """Return the arrays of the model after local training."""
    model = initial_model(config)
    options = replace(config.train, optimizer=exposure.optimizer)
    optimizer = build_optimizer(options, model.parameters(), torch.device("cpu"))
    guard = GradientGuard(options.clip_norm, options.max_bad_steps)
    loss = build_loss(config.loss, config.model.sample_rate)
    train_epoch(TrainingStep(model, loss, optimizer, guard, lambda: _rate(options)), batches)
    return to_arrays(model, layout_of(model).names)


def _step(model: torch.nn.Module, loss: Loss, batch: Batch, exposure: Exposure, soft: bool) -> torch.Tensor:
    """Return the direction of the first training step on a batch, differentiable if ``soft``: (weights,)."""
    value, _ = loss(model(batch.noisy, batch.lengths), batch.clean, batch.lengths)
    parts = torch.autograd.grad(value, list(model.parameters()), create_graph=soft)
    gradient = torch.cat([part.reshape(-1) for part in parts])
    if exposure.optimizer == "sgd":
        return -gradient
    floor = _SOFTNESS * gradient.detach().square().mean().sqrt() if soft else 1e-8
    return -gradient / (gradient.abs() + floor)


def _rate(options: OptimiserConfig) -> float:
    return learning_rate(0, options.learning_rate, options.warmup_steps, 1, options.final_ratio)


def _in_noise(wav: torch.Tensor, noise: torch.Tensor, snr_db: float) -> torch.Tensor:
    scale = wav.square().mean().sqrt() / noise.square().mean().sqrt() * 10.0 ** (-snr_db / 20.0)
    return wav + scale * noise


def _mixtures(attack: Attack, batch: int) -> Mixtures:
    data: DataConfig = replace(attack.config.data, batch_size=batch)
    return Mixtures(attack.pairs, data, attack.config.seed)


def _spectral_correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(_spectrum(first), _spectrum(second))[0, 1])


def _spectrum(wav: np.ndarray) -> np.ndarray:
    """Return the averaged log power spectrum."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, _SPECTRUM)[:: _SPECTRUM // 2] * np.hanning(_SPECTRUM)
    return np.log(np.square(np.abs(np.fft.rfft(frames))).mean(axis=0) + 1e-10)

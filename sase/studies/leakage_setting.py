"""What the server sees of silos in each row of the study of leakage, and the audio that the silos train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sase.data.dataset import PairSet
from sase.data.remix import Batch, DataConfig, Mixtures
from sase.errors import InputError
from sase.training.config import TrainConfig

SPACING = 1000  # between the numbers of two victims' segments
KNOWN = 100_000  # number of the first segment that the server has and no victim trained on
UNSEEN = 200_000  # number of the first segment that neither trains, for the level of chance


@dataclass(frozen=True)
class Exposure:
    """What the server sees of a silo, and what an inversion looks for in it.

    Attributes:
        optimizer: of the local training: ``sgd``, whose step is the gradient, or ``adamw``.
        batch: segments in a batch.
        steps: of the local training.
        clip: clip each silo's update to half of its norm.
        noise: multiplier of the noise on each silo's clipped update, as ``dp_noise_multiplier``.
        silos: number of silos in the sum, of which the server sees the mean only.
        masked: the server sees one masked update instead.
        simulated: steps that the inversion simulates, each with audio of its own: all ``steps``, or 1, which takes the
            update for one step on one batch.
        known_db: the inversion starts from the audio in noise of this SNR, a control of the attack; None: from noise.
    """

    optimizer: str = "adamw"
    batch: int = 1
    steps: int = 1
    clip: bool = False
    noise: float = 0.0
    silos: int = 1
    masked: bool = False
    simulated: int = 1
    known_db: float | None = None

    @property
    def trained(self) -> int:
        """Number of segments on which each silo trains."""
        return self.batch * self.steps

    @property
    def sought(self) -> int:
        """Number of segments in each step that the inversion simulates; silos whose mean is seen count as one batch."""
        return self.batch * self.silos if self.simulated == self.steps else self.batch


_SHORT = Exposure(steps=4, simulated=4)
_ROUND = Exposure(batch=4, steps=16)
_PRIVATE = {"clip": True, "noise": 1.0}
ROWS = {
    "SGD, one step": Exposure(optimizer="sgd"),
    "AdamW, one step": Exposure(),
    "AdamW, clipped": Exposure(clip=True),
    "AdamW, clipped, noise z = 0.01": Exposure(clip=True, noise=0.01),
    "AdamW, clipped, noise z = 0.1": Exposure(clip=True, noise=0.1),
    "AdamW, clipped, noise z = 1": Exposure(clip=True, noise=1.0),
    "AdamW, one step of 4 segments": Exposure(batch=4),
    "masks: the mean of 4 silos, one step each": Exposure(silos=4),
    "masks: one masked update": Exposure(masked=True),
    "SGD, one step; the attack starts from the audio in noise, at 0 dB": Exposure(optimizer="sgd", known_db=0.0),
    "4 steps": _SHORT,
    "4 steps, clipped": replace(_SHORT, clip=True),
    "4 steps, clipped, noise z = 0.1": replace(_SHORT, clip=True, noise=0.1),
    "4 steps, clipped, noise z = 1": replace(_SHORT, clip=True, noise=1.0),
    "4 steps, masks: the mean of 4 silos": replace(_SHORT, silos=4),
    "a round": _ROUND,
    "a round, clipped": replace(_ROUND, clip=True),
    "a round, clipped, noise z = 0.1": replace(_ROUND, clip=True, noise=0.1),
    "a round, clipped, noise z = 1": replace(_ROUND, clip=True, noise=1.0),
    "a round, masks: the mean of 4 silos": replace(_ROUND, silos=4),
    "a round, masks, clipped, noise z = 1: the mean of 4 silos": replace(_ROUND, silos=4, clip=True, noise=1.0),
    "a round, masks: one masked update": replace(_ROUND, masked=True),
}


@dataclass(frozen=True)
class Attack:
    """What both attacks know and how hard they try.

    Attributes:
        config: of network and local training.
        pairs: the audio.
        steps: of an inversion.
        candidates: number of recordings of the identification.
        victims: number of silos whose updates are identified.
        inverted: number of them whose updates are inverted as well; at most ``victims``.
        seeds: number of repetitions with other noise, of the silos and of the inversion's start.
    """

    config: TrainConfig
    pairs: PairSet
    steps: int = 40
    candidates: int = 50
    victims: int = 10
    inverted: int = 3
    seeds: int = 2

    def __post_init__(self) -> None:
        if min(self.steps, self.inverted, self.seeds) < 1 or not self.inverted <= self.victims <= self.candidates:
            raise InputError(
                "steps, inverted and seeds must be 1 or more, victims between inverted and candidates: they are "
                f"{self.steps}, {self.inverted}, {self.seeds}, {self.victims} and {self.candidates}"
            )


def segments(attack: Attack, numbers: Sequence[int] | range) -> Batch:
    """Return segments of the set: each number names one, always the same."""
    data: DataConfig = replace(attack.config.data, batch_size=1)
    mixtures = Mixtures(attack.pairs, data, attack.config.seed)
    batches = [mixtures.batch(number) for number in numbers]
    noisy, clean = torch.cat([batch.noisy for batch in batches]), torch.cat([batch.clean for batch in batches])
    return Batch(noisy, clean, torch.cat([b.lengths for b in batches]), [utt for b in batches for utt in b.utts])


def trained_on(exposure: Exposure, victim: int, silo: int = 0) -> range:
    """Return the numbers of the segments on which a silo trains, in their order; silo 0 is the victim itself."""
    first = SPACING * victim + exposure.trained * silo
    return range(first, first + exposure.trained)

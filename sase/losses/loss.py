"""The training loss: a weighted sum of objectives, of a whole batch or of a part of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from sase.errors import InputError
from sase.losses.objectives import OBJECTIVES, SAMPLE_RATE
from sase.losses.pair import Lengths, Pair


def _evaluate(name: str, pair: Pair, totals: BatchTotals | None = None) -> torch.Tensor:
    objective = OBJECTIVES[name]
    with torch.autocast(pair.clean.device.type, enabled=False):
        values = objective.function(pair)
    if not objective.needs_reference and not objective.needs_silence:
        return values.mean() if totals is None else values.sum() / totals.utterances
    audible = pair.audible.sum() if totals is None else totals.audible
    if objective.needs_reference:
        return values.masked_fill(~pair.audible, 0.0).sum() / audible.clamp(min=1)
    utterances = len(values) if totals is None else totals.utterances
    return values.masked_fill(pair.audible, 0.0).sum() / (utterances - audible).clamp(min=1)


def _as_function(name: str) -> Callable[..., torch.Tensor]:
    def loss(enhanced: torch.Tensor, clean: torch.Tensor, lengths: Lengths = None) -> torch.Tensor:
        return _evaluate(name, Pair(enhanced, clean, lengths))

    loss.__name__ = name
    loss.__doc__ = f"Return the objective {name}, a scalar to be minimised; see :func:`build_loss`."
    return loss


LOSSES = {name: _as_function(name) for name in OBJECTIVES}


@dataclass(frozen=True)
class BatchTotals:
    """Counts of a whole batch that normalise the loss of each of its parts.

    Attributes:
        utterances: in the batch.
        audible: scalar tensor, utterances whose reference is not silent.
    """

    utterances: int
    audible: torch.Tensor

    @classmethod
    def of(cls, clean: torch.Tensor, lengths: Lengths = None) -> BatchTotals:
        """Count a whole batch: clean (batch, time), lengths (batch,)."""
        return cls(len(clean), Pair(clean, clean, lengths).audible.sum())


class Loss:
    """The weighted sum of named objectives, see :func:`build_loss`.

    Attributes:
        weights: dict name -> weight.
        silent_references: scalar tensor, utterances of the last call whose reference was silent (they are excluded from
            the objectives relative to the level of the reference, and included in the others).
    """

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.silent_references = torch.tensor(0)

    def __call__(
        self, enhanced: torch.Tensor, clean: torch.Tensor, lengths: Lengths = None, totals: BatchTotals | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compare enhanced with clean speech.

        Args:
            enhanced: (batch, time) at 16 kHz.
            clean: (batch, time)
            lengths: (batch,) valid samples per utterance; the padding is ignored, whatever its values.
            totals: of the whole batch, if these utterances are a part of one: the result is then the part's share, and
                the shares of all parts sum to the loss of the batch (except ``contrastive``, whose negatives come from
                the part alone).

        Returns:
            The total to be minimised, a scalar tensor, and a dict name -> detached, unweighted scalar tensor.
        """
        pair = Pair(enhanced, clean, lengths)
        terms = {name: _evaluate(name, pair, totals) for name in self.weights}
        self.silent_references = (~pair.audible).sum()
        weighted = [weight * terms[name] for name, weight in self.weights.items()]
        total = sum(weighted[1:], weighted[0])
        return total, {name: term.detach() for name, term in terms.items()}

    def __repr__(self) -> str:
        return f"Loss({self.weights})"


def build_loss(weights: Mapping[str, float], sample_rate: int = SAMPLE_RATE) -> Loss:
    """Return the weighted sum of objectives, a :class:`Loss`.

    Args:
        weights: mapping name -> positive weight, as in ``{"si_snr": 1.0, "compressed_spectral": 0.5}``.
        sample_rate: of the speech, in Hz.

    Raises:
        InputError: for no objective, an unknown one or one that needs another sample rate, or a weight that is not a
            positive number.
    """
    known = ", ".join(sorted(OBJECTIVES))
    if not weights:
        raise InputError(f"loss: names no objective; known: {known}")
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            raise InputError(f"loss: unknown objective {name!r}; known: {known}")
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 < weight < math.inf:
            raise InputError(f"loss: the weight of {name} must be a positive number, got {weight!r}")
        if OBJECTIVES[name].needs_rate and sample_rate != SAMPLE_RATE:
            raise InputError(f"loss: {name} is defined at {SAMPLE_RATE} Hz, but model.sample_rate is {sample_rate}")
    return Loss({name: float(weight) for name, weight in weights.items()})

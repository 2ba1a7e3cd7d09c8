"""A causal network as a function of one hop: samples and states in, samples and new states out."""

from __future__ import annotations

import torch
from torch import nn

from sase.export.fourier import FourierTransform
from sase.model import SASE
from sase.nn.frozen import frozen

PAST, OVERLAP = "stft.past", "stft.overlap"  # names of the transform's states, beside those of the network


class HopStep(nn.Module):
    """Enhance one hop of one signal; the output lags by ``window − hop`` samples.

    Args:
        model: a causal network.

    Attributes:
        names: of the states, in the order of :meth:`forward`.

    Raises:
        InputError: the network is offline.
    """

    def __init__(self, model: SASE) -> None:
        super().__init__()
        self.model = frozen(model)
        self.fourier = FourierTransform(model.config.fft)
        self._network_names = tuple(self.model.initial_state())
        self.names = (PAST, OVERLAP, *self._network_names)

    def initial_state(self) -> list[torch.Tensor]:
        """Return the states at the start of a signal, in the order of ``names``: all zeros."""
        context = torch.zeros(1, self.model.stft.context)
        return [context, context.clone(), *self.model.initial_state().values()]

    def forward(self, noisy: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Enhance a hop.

        Args:
            noisy: (1, hop)
            states: of the previous hop, or :meth:`initial_state`.

        Returns:
            The enhanced hop (1, hop) and the new states. Output t belongs to input ``t − (window − hop)``; the first
            ``window − hop`` samples precede the signal.
        """
        past, overlap, *values = states
        stft, state = self.model.stft, dict(zip(self._network_names, values))
        samples = torch.cat([past, noisy], dim=1)
        frame = torch.cat([samples * stft.analysis, samples.new_zeros(1, stft.fft - stft.window)], dim=1)
        bins = self.model.enhance_map(self.fourier(frame)[..., None], state)[..., 0]
        sound = self.fourier.inverse(bins)[:, : stft.window] * stft.synthesis
        sound = sound + torch.cat([overlap, torch.zeros_like(noisy)], dim=1)
        return (
            sound[:, : stft.hop],
            samples[:, stft.hop :],
            sound[:, stft.hop :],
            *(state[name] for name in self._network_names),
        )

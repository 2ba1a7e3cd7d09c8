"""Signals through a causal network block by block, by overlapping and adding the frames at the blocks' ends."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sase.nn.stft import STFT
from sase.nn.streaming import StreamState


class Stream:
    """Enhances signals block by block, without gradients; the concatenated output equals one pass (1e-5).

    Args:
        enhance_spec: ``(spec, state) -> spec``, the causal network; it updates its state in place.
        stft: of the spectra.
        state: of the network, at the start of the signals.
        batch: number of signals.
        check: reject samples that are not finite, which would stay in the state.
    """

    def __init__(
        self,
        enhance_spec: Callable[[torch.Tensor, StreamState], torch.Tensor],
        stft: STFT,
        state: StreamState,
        batch: int = 1,
        check: bool = True,
    ) -> None:
        self._enhance_spec, self._stft, self._state, self._check = enhance_spec, stft, state, check
        device = stft.analysis.device
        self._pending = torch.zeros(batch, self._stft.context, device=device)
        self._overlap = torch.zeros(batch, self._stft.context, device=device)
        self._num_fed = self._num_returned = 0
        self._to_drop = self._stft.context  # output samples that precede the signal
        self._flushed = False

    @torch.no_grad()
    def feed(self, wav: torch.Tensor) -> torch.Tensor:
        """Process the next samples (batch, n); return the enhanced samples available so far, (batch, m), m ≥ 0.

        Raises:
            ValueError: another shape or type, samples that are NaN or infinite, or a stream that has been flushed; the
                state of the stream is unchanged.
        """
        batch, pending = len(self._pending), self._pending
        if wav.dim() != 2 or len(wav) != batch or not wav.is_floating_point():
            raise ValueError(f"feed needs floats ({batch}, n), got {wav.dtype} {tuple(wav.shape)}")
        if self._flushed:
            raise ValueError("the stream has been flushed; open another one for the next signal")
        if self._check and not torch.isfinite(wav).all():
            raise ValueError("samples contain NaN or infinity")
        self._num_fed += wav.shape[1]
        return self._advance(wav.to(pending.device, pending.dtype))

    @torch.no_grad()
    def flush(self) -> torch.Tensor:
        """Return the remaining samples, (batch, rest), so that the output is as long as the input; ends the stream."""
        missing = max(0, self._num_fed - self._num_returned)
        hops = -(-(missing + self._to_drop) // self._stft.hop)
        silence = torch.zeros(len(self._pending), hops * self._stft.hop, device=self._pending.device)
        self._flushed = True
        return self._advance(silence)[:, :missing]

    def _advance(self, wav: torch.Tensor) -> torch.Tensor:
        pending = torch.cat([self._pending, wav], dim=1)
        frames = (pending.shape[1] - self._stft.context) // self._stft.hop
        if frames == 0:
            self._pending = pending
            return wav[:, :0]
        used = frames * self._stft.hop
        spec = self._enhance_spec(self._stft(pending[:, : used + self._stft.context]), self._state)
        self._pending = pending[:, used:]
        sound = self._stft.inverse(spec)
        sound = torch.cat([sound[:, : self._stft.context] + self._overlap, sound[:, self._stft.context :]], dim=1)
        self._overlap = sound[:, used:]
        enhanced = sound[:, self._to_drop : used]
        self._to_drop = max(0, self._to_drop - used)
        self._num_returned += enhanced.shape[1]
        return enhanced

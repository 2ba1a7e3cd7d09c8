"""Recurrence over time: unidirectional with a streaming state if causal, bidirectional otherwise."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sase.nn.precision import outside_autocast
from sase.nn.streaming import StreamingLayer, StreamState


class TimeLSTM(StreamingLayer):
    """LSTM layers over time.

    Args:
        in_features, out_features: widths.
        layers: number of layers.
        causal: unidirectional; otherwise bidirectional, each direction of half the width.
    """

    def __init__(self, in_features: int, out_features: int, layers: int = 1, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        width = out_features if causal else out_features // 2
        self.lstm = nn.LSTM(in_features, width, layers, batch_first=True, bidirectional=not causal)

    @outside_autocast  # the cell state is a sum over frames; and not every CPU has an LSTM in half precision
    def forward(
        self, x: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map (batch, time, in_features) to (batch, time, out_features).

        Args:
            x: (batch, time, in_features)
            state: streaming state, see :mod:`sase.nn`.
            valid: (batch, time), 0 for padding; required if not causal.
        """
        if not self.causal and valid is not None:
            lengths = valid.sum(-1).long().cpu()
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        hidden, cell = self.key("hidden"), self.key("cell")
        before = None if state is None or hidden not in state else (state[hidden], state[cell])
        y, (last_hidden, last_cell) = self.lstm(x, before)
        if state is not None:
            state[hidden], state[cell] = last_hidden, last_cell
        return y

"""The configuration of a network: what both architectures are built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sase.config import OneOf, Range


@dataclass(frozen=True)
class ModelConfig:
    """What a network is built from.

    Attributes:
        network: a key of :data:`sase.model.NETWORKS`.
        causal: use no future frames (the latency is one window); otherwise the whole utterance.
        window, hop, fft: of the STFT, in samples at ``sample_rate``; the DC bin is excluded.
        root_window: square root of the Hann window (for 50 % overlap).
        compression: exponent applied to the magnitude of the network's input.
        channels: complex channels of each unit or level of the encoder.
        bands, blocks: of ``band_recurrent``: the number of frequency bands and of recurrent blocks.
        recurrent: hidden size of the recurrent layers.
        heads: of the attention over time.
        norm: ``batch`` (complex batch norm) or ``layer`` (per frame).
        gates, time_attention, frequency_attention: the paper's TF-GA, SA-GOEA and SA-GUEA, each on or off.
        attention: ``sigmoid`` (the paper's), or ``softmax`` of the same size in both places, as a baseline.
        learned_sigmoids: whether the sigmoids' slopes, scales and centres (α, β, c) are learned or constant.
        omega: ``random`` features (orthogonal, unitary), or the ``identity``.
        attention_memory_s: memory of the attention over time: the initial value in SA-GOEA, the window in softmax.
        mask: a key of :data:`sase.model.MASKS`.
    """

    network: str = "encoder_decoder"
    sample_rate: Annotated[int, Range(1000, 768000)] = 16000
    causal: bool = True
    window: Annotated[int, Range(2, 2**20)] = 400
    hop: Annotated[int, Range(1, 2**20)] = 100
    fft: Annotated[int, Range(2, 2**20)] = 512
    root_window: bool = False
    compression: Annotated[float, Range(0.01, 1, above=0)] = 1.0
    channels: Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Range(1, 16)] = (16, 32, 64, 128, 128, 128)
    bands: Annotated[int, Range(1, 4096)] = 32
    blocks: Annotated[int, Range(1, 64)] = 2
    recurrent: Annotated[int, Range(1, 4096)] = 256
    heads: Annotated[int, Range(1, 256)] = 4
    norm: Annotated[str, OneOf(("batch", "layer"))] = "batch"
    gates: bool = True
    time_attention: bool = True
    frequency_attention: bool = True
    attention: Annotated[str, OneOf(("sigmoid", "softmax"))] = "sigmoid"
    learned_sigmoids: bool = True
    omega: Annotated[str, OneOf(("random", "identity"))] = "random"
    attention_memory_s: Annotated[float, Range(1e-3, 1e6, above=0)] = 4.0
    mask: str = "polar"

    @property
    def frames_per_s(self) -> float:
        return self.sample_rate / self.hop

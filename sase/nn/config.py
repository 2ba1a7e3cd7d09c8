"""The configuration of a network: what both architectures are built from."""

from __future__ import annotations

from dataclasses import dataclass


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
    sample_rate: int = 16000
    causal: bool = True
    window: int = 400
    hop: int = 100
    fft: int = 512
    root_window: bool = False
    compression: float = 1.0
    channels: tuple[int, ...] = (16, 32, 64, 128, 128, 128)
    bands: int = 32
    blocks: int = 2
    recurrent: int = 256
    heads: int = 4
    norm: str = "batch"
    gates: bool = True
    time_attention: bool = True
    frequency_attention: bool = True
    attention: str = "sigmoid"
    learned_sigmoids: bool = True
    omega: str = "random"
    attention_memory_s: float = 4.0
    mask: str = "polar"

    @property
    def frames_per_s(self) -> float:
        return self.sample_rate / self.hop

"""The SASE network: noisy waveform in, enhanced waveform out; presets, masks, streaming, saved models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sase.atomic import atomic_path
from sase.config import from_mapping, to_mapping
from sase.errors import DiskFullError, InputError
from sase.nn.attention import OMEGAS
from sase.nn.band_recurrent import BandRecurrent
from sase.nn.complex import bound_magnitude, complex_multiply
from sase.nn.config import ModelConfig
from sase.nn.encoder_decoder import EncoderDecoder
from sase.nn.stft import STFT
from sase.nn.streaming import StreamState

ATTENTIONS = ("sigmoid", "softmax")
NETWORKS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "encoder_decoder": EncoderDecoder,
    "band_recurrent": BandRecurrent,
}


_PAPER = ModelConfig()
_SMALL = ModelConfig(
    network="band_recurrent",
    window=512,
    hop=256,
    root_window=True,
    compression=0.3,
    channels=(16, 16),
    recurrent=48,
    heads=1,
    bands=32,
    blocks=2,
    mask="residual",
    gates=False,  # their gain did not justify their cost: egs/voicebank_demand/RESULTS.md
)
PRESETS = {
    "paper": _PAPER,
    "dccrn": replace(_PAPER, gates=False, time_attention=False, frequency_attention=False),
    "small": _SMALL,
    "tiny": replace(_SMALL, channels=(12, 12), recurrent=24, bands=24),
    "mini": replace(_SMALL, channels=(4, 4), recurrent=8, bands=16, blocks=1),
}


def _mask_complex(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return complex_multiply(z, mask)


def _mask_polar(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return complex_multiply(z, bound_magnitude(mask))


def _mask_parts(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return z * mask


def _mask_residual(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return complex_multiply(z, mask, offset=1.0)  # a mask near zero, as at initialisation, passes the input


MASKS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "complex": _mask_complex,
    "polar": _mask_polar,
    "parts": _mask_parts,
    "residual": _mask_residual,
}
FORMAT = "sase-1"
_BLOCK_S = 1.0  # a causal network processes longer input in blocks whose maps fit in the caches of a CPU
_OFFLINE_BLOCK_S, _OFFLINE_FADE_S = 10.0, 2.0


class SASE(nn.Module):
    """Speech enhancement in the complex domain with TF-GA, SA-GOEA and SA-GUEA.

    Args:
        config: of the network.

    Raises:
        InputError: for an unknown choice or a memory that is not positive.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        choices = (("network", NETWORKS), ("mask", MASKS), ("attention", ATTENTIONS), ("omega", OMEGAS))
        for name, known in choices:
            if getattr(config, name) not in known:
                raise InputError(
                    f"config: model.{name} is {getattr(config, name)!r}, must be one of {', '.join(known)}"
                )
        if not config.attention_memory_s > 0:
            raise InputError(f"config: model.attention_memory_s must be above 0, got {config.attention_memory_s:g}")
        self.config = config
        self.stft = STFT(config.window, config.hop, config.fft, config.root_window)
        self.network = NETWORKS[config.network](config, config.fft // 2)

    @property
    def latency_s(self) -> float:
        """The algorithmic latency in seconds; infinite if the network is not causal."""
        return self.config.window / self.config.sample_rate if self.config.causal else float("inf")

    def forward(self, noisy: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Enhance.

        Args:
            noisy: float (batch, time), any time ≥ 1.
            lengths: (batch,) samples per utterance; the padding is ignored, and zero in the output.

        Returns:
            (batch, time)
        """
        if noisy.dim() != 2 or noisy.shape[1] < 1:
            raise ValueError(f"SASE needs (batch, time ≥ 1), got {tuple(noisy.shape)}")
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=noisy.device)
            valid = torch.arange(noisy.shape[1], device=noisy.device) < lengths[:, None]
            noisy = noisy * valid
        block_s = _BLOCK_S if self.config.causal else _OFFLINE_BLOCK_S
        if self.training or noisy.shape[1] <= block_s * self.config.sample_rate:
            enhanced = self._forward_whole(noisy, lengths)
        elif self.config.causal:
            stream = self.stream(len(noisy))
            blocks = noisy.split(int(block_s * self.config.sample_rate), dim=1)
            enhanced = torch.cat([*(stream.feed(block) for block in blocks), stream.flush()], dim=1)
        else:
            enhanced = torch.zeros_like(noisy)
            for row, wav in enumerate(noisy):  # the blocks of an utterance must not depend on its batch
                num_samples = noisy.shape[1] if lengths is None else int(lengths[row])
                enhanced[row, :num_samples] = self._forward_cross_faded(wav[:num_samples])
        return enhanced if lengths is None else enhanced * valid

    def enhance_spec(
        self, spec: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Enhance a spectrum.

        Args:
            spec: complex (batch, fft // 2 + 1, frames)
            state: streaming state, see :mod:`sase.nn`.
            valid: (batch, frames), 0 for padding.

        Returns:
            Of the shape of ``spec``, zero at DC and in padding.
        """
        z = torch.view_as_real(spec[:, 1:]).permute(0, 3, 1, 2)  # (B, F, T, 2) -> (B, 2, F, T)
        if valid is not None:
            z = z * valid[:, None, None]
        mask = self.network(self._compress(z), state, valid)
        z = MASKS[self.config.mask](z, mask)
        if valid is not None:
            z = z * valid[:, None, None]
        z = F.pad(z, (0, 0, 1, 0))  # DC
        return torch.view_as_complex(z.permute(0, 2, 3, 1).contiguous())

    def stream(self, batch: int = 1) -> Stream:
        """Return a :class:`Stream` that enhances ``batch`` signals block by block; causal networks only."""
        return Stream(self, batch)

    def _compress(self, z: torch.Tensor) -> torch.Tensor:
        if self.config.compression == 1.0:
            return z
        power = z.square().sum(1, keepdim=True)
        return z * (power + 1e-10) ** ((self.config.compression - 1.0) / 2.0)

    def _forward_whole(self, noisy: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Enhance (batch, time) in one pass."""
        num_samples = noisy.shape[1]
        frames, valid = self.stft.num_frames(num_samples), None
        if lengths is not None and not self.config.causal:
            # A causal network needs no mask: samples of the utterance do not depend on frames in the padding.
            count = self.stft.num_frames(lengths)
            valid = (torch.arange(frames, device=noisy.device) < count[:, None]).to(noisy.dtype)
        padded = F.pad(noisy, (self.stft.context, frames * self.stft.hop - num_samples))
        spec = self.enhance_spec(self.stft(padded), valid=valid)
        return self.stft.inverse(spec)[:, self.stft.context :][:, :num_samples]

    def _forward_cross_faded(self, wav: torch.Tensor) -> torch.Tensor:
        """Enhance one long signal (time,) in overlapping blocks that are cross-faded."""
        block, fade = (int(s * self.config.sample_rate) for s in (_OFFLINE_BLOCK_S, _OFFLINE_FADE_S))
        ramp = torch.linspace(0.0, 1.0, fade, device=wav.device)
        enhanced = torch.zeros_like(wav)
        for start in range(0, max(1, len(wav) - fade), block - fade):
            part = self._forward_whole(wav[None, start : start + block], None)[0]
            if start > 0:
                part[:fade] *= ramp[: len(part)]
            if start + block < len(wav):
                part[-fade:] *= 1.0 - ramp
            enhanced[start : start + block] += part
        return enhanced


class Stream:
    """Enhances signals block by block; the concatenated output equals one pass (1e-5).

    Args:
        model: a causal network in eval mode.
        batch: number of signals.
    """

    def __init__(self, model: SASE, batch: int = 1) -> None:
        if not model.config.causal:
            raise InputError("the network is offline: it needs the whole utterance and cannot stream")
        self._model, self._stft = model, model.stft
        self._state: StreamState = {}
        device = model.stft.analysis.device
        self._pending = torch.zeros(batch, self._stft.context, device=device)
        self._overlap = torch.zeros(batch, self._stft.context, device=device)
        self._num_fed = self._num_returned = 0
        self._to_drop = self._stft.context  # output samples that precede the signal

    def feed(self, wav: torch.Tensor) -> torch.Tensor:
        """Process the next samples (batch, n); return the enhanced samples available so far, (batch, m), m ≥ 0."""
        self._num_fed += wav.shape[1]
        return self._advance(wav)

    def flush(self) -> torch.Tensor:
        """Return the remaining samples, (batch, rest), so that the output is as long as the input."""
        missing = max(0, self._num_fed - self._num_returned)
        hops = -(-(missing + self._to_drop) // self._stft.hop)
        silence = torch.zeros(len(self._pending), hops * self._stft.hop, device=self._pending.device)
        return self._advance(silence)[:, :missing]

    def _advance(self, wav: torch.Tensor) -> torch.Tensor:
        pending = torch.cat([self._pending, wav], dim=1)
        frames = (pending.shape[1] - self._stft.context) // self._stft.hop
        if frames == 0:
            self._pending = pending
            return wav[:, :0]
        used = frames * self._stft.hop
        spec = self._model.enhance_spec(self._stft(pending[:, : used + self._stft.context]), self._state)
        self._pending = pending[:, used:]
        sound = self._stft.inverse(spec)
        sound = torch.cat([sound[:, : self._stft.context] + self._overlap, sound[:, self._stft.context :]], dim=1)
        self._overlap = sound[:, used:]
        enhanced = sound[:, self._to_drop : used]
        self._to_drop = max(0, self._to_drop - used)
        self._num_returned += enhanced.shape[1]
        return enhanced


def build_model(preset_or_config: str | ModelConfig | Mapping[str, Any]) -> SASE:
    """Return a new :class:`SASE` network.

    Args:
        preset_or_config: a key of ``PRESETS``, a :class:`ModelConfig`, or a mapping with its fields and optionally
            ``preset``, whose values they override.

    Raises:
        InputError: for an unknown preset or key.
    """
    if isinstance(preset_or_config, str):
        preset_or_config = {"preset": preset_or_config}
    if not isinstance(preset_or_config, ModelConfig):
        preset_or_config = model_config(preset_or_config)
    return SASE(preset_or_config)


def model_config(mapping: Mapping[str, Any]) -> ModelConfig:
    """Return the :class:`ModelConfig` of a mapping such as ``{"preset": "small", "gates": False}``."""
    fields = dict(mapping)
    preset = fields.pop("preset", None)
    if preset is None:
        return from_mapping(ModelConfig, fields, "model")
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}, must be one of {', '.join(PRESETS)}")
    return from_mapping(ModelConfig, {**to_mapping(PRESETS[preset]), **fields}, "model")


def save_model(model: SASE, path: str | Path) -> None:
    """Save the config and the weights of ``model``, for :func:`load_model`."""
    write_tensors(path, {"format": FORMAT, "model_config": to_mapping(model.config), "model": model.state_dict()})


def write_tensors(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain types, for :func:`read_checkpoint`, atomically.

    Raises:
        OSError: the disk is full.
    """
    with atomic_path(path) as partial:
        try:
            torch.save(dict(state), partial)
        except RuntimeError as error:  # PyTorch's writer, which does not say why
            reason = str(error).splitlines()[0]
            raise DiskFullError(f"{path}: cannot be written ({reason}); is the disk full?") from None


def load_model(path: str | Path, device: str | torch.device = "cpu") -> SASE:
    """Return a saved network, in eval mode.

    Args:
        path: a ``best.pt`` or ``checkpoint.pt``, or an experiment folder with a ``best.pt``.
        device: where to load it.

    Raises:
        InputError: if the file is not found, corrupt, or the checkpoint of another network.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    state = read_checkpoint(path)
    model = build_model(from_mapping(ModelConfig, state["model_config"], "model"))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise InputError(
            f"{path}: the weights do not match the config ({' '.join(str(error).split())[:200]})"
        ) from None
    return model.eval().to(device)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a file written by :func:`save_model`, or in a training checkpoint, a superset of it.

    Raises:
        InputError: if the file is not found, corrupt, or not a checkpoint of SASE.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: model not found; give an experiment folder or its best.pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for truncated and foreign files
        raise InputError(f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of SASE")
    return state

"""The SASE network: noisy waveform in, enhanced waveform out; presets, masks, streaming, saved models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sase import weightfile
from sase.atomic import atomic_path
from sase.config import from_mapping, naming, to_mapping
from sase.errors import DiskFullError, InputError
from sase.nn.band_recurrent import BandRecurrent
from sase.nn.complex import bound_magnitude, complex_multiply
from sase.nn.config import ModelConfig
from sase.nn.encoder_decoder import EncoderDecoder
from sase.nn.precision import float32
from sase.nn.stft import STFT
from sase.nn.stream import Stream
from sase.nn.streaming import StreamState, name_streaming_layers
from sase.weightfile import FORMAT

NETWORKS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "encoder_decoder": EncoderDecoder,
    "band_recurrent": BandRecurrent,
}


_PAPER = ModelConfig(mask="polar_offset")
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
    "base": replace(_SMALL, channels=(32, 32), recurrent=80, heads=2, bands=48, blocks=3),
    "small": _SMALL,
    "tiny": replace(_SMALL, channels=(12, 12), recurrent=24, bands=24),
    "mini": replace(_SMALL, channels=(4, 4), recurrent=8, bands=16, blocks=1),
}


def _mask_complex(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return complex_multiply(z, mask)


def _mask_polar(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return complex_multiply(z, bound_magnitude(mask))


def _mask_polar_offset(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # With an output of any phase at first, the network may learn the speech upside down: SI-SNR does not see the sign.
    return complex_multiply(z, bound_magnitude(mask, offset=1.0))


def _mask_parts(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return z * mask


def _mask_residual(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return complex_multiply(z, mask, offset=1.0)  # a mask near zero, as at initialisation, passes the input


MASKS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "complex": _mask_complex,
    "polar": _mask_polar,
    "polar_offset": _mask_polar_offset,
    "parts": _mask_parts,
    "residual": _mask_residual,
}
_BLOCK_S = 1.0  # a causal network processes longer input in blocks whose maps fit in the caches of a CPU
_OFFLINE_BLOCK_S, _OFFLINE_FADE_S = 10.0, 2.0


class SASE(nn.Module):
    """Speech enhancement in the complex domain with TF-GA, SA-GOEA and SA-GUEA.

    Args:
        config: of the network.

    Raises:
        InputError: for an unknown choice, or fields that are out of range or do not fit together.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        from_mapping(ModelConfig, to_mapping(config), "model")  # checks the range of every field
        for name, known in (("network", NETWORKS), ("mask", MASKS)):  # which a program may extend
            if getattr(config, name) not in known:
                raise InputError(f"config: model.{name} is {getattr(config, name)!r}; choose from {', '.join(known)}")
        self.config = config
        try:
            self.stft = STFT(config.window, config.hop, config.fft, config.root_window)
            self.network = NETWORKS[config.network](config, config.fft // 2)
        except ValueError as error:  # fields that do not fit together
            raise InputError(f"config: model: {error}") from None
        name_streaming_layers(self.network)

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
        whole = torch.is_grad_enabled() and self.config.causal  # a stream has no gradients
        if self.training or whole or noisy.shape[1] <= block_s * self.config.sample_rate:
            enhanced = self.forward_whole(noisy, lengths)
        elif self.config.causal:
            stream = Stream(self.enhance_spec, self.stft, self.initial_state(len(noisy)), len(noisy), check=False)
            blocks = noisy.split(int(block_s * self.config.sample_rate), dim=1)
            enhanced = torch.cat([*(stream.feed(block) for block in blocks), stream.flush()], dim=1)
        else:
            enhanced = torch.zeros_like(noisy)
            for row, wav in enumerate(noisy):  # the blocks of an utterance must not depend on its batch
                num_samples = noisy.shape[1] if lengths is None else int(lengths[row])
                enhanced[row, :num_samples] = self._forward_cross_faded(wav[:num_samples])
        return enhanced if lengths is None else enhanced * valid

    def forward_whole(self, noisy: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Enhance in one pass, whatever the length; arguments and result as for :meth:`forward`."""
        num_samples = noisy.shape[1]
        frames, valid = self.stft.num_frames(num_samples), None
        if lengths is not None and not self.config.causal:
            # A causal network needs no mask: samples of the utterance do not depend on frames in the padding.
            count = self.stft.num_frames(lengths)
            valid = (torch.arange(frames, device=noisy.device) < count[:, None]).to(noisy.dtype)
        padded = F.pad(noisy, (self.stft.context, frames * self.stft.hop - num_samples))
        spec = self.enhance_spec(self.stft(padded), valid=valid)
        return self.stft.inverse(spec)[:, self.stft.context :][:, :num_samples]

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
        z = F.pad(self.enhance_map(z, state, valid), (0, 0, 1, 0))  # DC
        return torch.view_as_complex(z.permute(0, 2, 3, 1).contiguous())

    def enhance_map(
        self, z: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the enhanced spectrum as a map (batch, 2, fft // 2, frames), real and imaginary part without DC.

        Args:
            z: the noisy spectrum, of the same shape.
            state, valid: as for :meth:`enhance_spec`.
        """
        if valid is not None:
            z = z * valid[:, None, None]
        mask = float32(self.network(self._compress(z), state, valid))  # in half precision under autocast
        z = MASKS[self.config.mask](z, mask)
        return z if valid is None else z * valid[:, None, None]

    def initial_state(self, batch: int = 1) -> StreamState:
        """Return the streaming state at the start of ``batch`` signals: every tensor by its name, all zeros.

        Raises:
            InputError: the network is offline.
            ValueError: the network is in training mode, in which the norms' statistics would change.
        """
        if not self.config.causal:
            raise InputError("the network is offline: it needs the whole utterance and cannot stream")
        if self.training:
            raise ValueError("a network in training mode cannot stream; call eval() first")
        state: StreamState = {}
        with torch.no_grad():
            self.enhance_map(torch.zeros(batch, 2, self.config.fft // 2, 1, device=self.stft.analysis.device), state)
        return {name: torch.zeros_like(tensor) for name, tensor in state.items()}

    def stream(self, batch: int = 1) -> Stream:
        """Return a :class:`Stream` that enhances ``batch`` signals block by block; causal networks only."""
        return Stream(self.enhance_spec, self.stft, self.initial_state(batch), batch)

    def _compress(self, z: torch.Tensor) -> torch.Tensor:
        if self.config.compression == 1.0:
            return z
        power = z.square().sum(1, keepdim=True)
        return z * (power + 1e-10) ** ((self.config.compression - 1.0) / 2.0)

    def _forward_cross_faded(self, wav: torch.Tensor) -> torch.Tensor:
        """Enhance one long signal (time,) in overlapping blocks that are cross-faded."""
        block, fade = (int(s * self.config.sample_rate) for s in (_OFFLINE_BLOCK_S, _OFFLINE_FADE_S))
        ramp = torch.linspace(0.0, 1.0, fade, device=wav.device)
        enhanced = torch.zeros_like(wav)
        for start in range(0, max(1, len(wav) - fade), block - fade):
            part = self.forward_whole(wav[None, start : start + block], None)[0]
            if start > 0:
                part[:fade] *= ramp[: len(part)]
            if start + block < len(wav):
                part[-fade:] *= 1.0 - ramp
            enhanced[start : start + block] += part
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
    if not isinstance(preset, str) or preset not in PRESETS:
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
    return model_of(path, state.get("model_config"), state.get("model")).to(device)


def model_of(path: str | Path, config: Any, weights: Any) -> SASE:
    """Return a network in eval mode from what a file holds, whatever its format.

    Args:
        path: of the file, for messages.
        config: :class:`ModelConfig` as a mapping.
        weights: name to tensor.

    Raises:
        InputError: an invalid config, or weights that are damaged or do not match it.
    """
    with naming(path):
        model_config = from_mapping(ModelConfig, config, "model")
        _require_tensors(weights)
        weightfile.check_size(model_config, weights)
        model = build_model(model_config)
        check_weights(weights, model.state_dict())
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the weights do not match the config ({reason})") from None
    return model.eval()


def check_weights(weights: Any, expected: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError, with the tensor, for weights that are not dense tensors of real numbers, or NaN, or infinite.

    Args:
        weights: name to tensor, from a file.
        expected: those of a new network; integer tensors (counters) are allowed where it has them.
    """
    _require_tensors(weights)
    for name, value in weights.items():
        like = expected.get(name)
        if like is not None and like.is_floating_point() != value.is_floating_point():
            raise InputError(f"{name} has type {str(value.dtype).removeprefix('torch.')}, weights are real numbers")
        if not bool(value.isfinite().all()):
            raise InputError(f"{name} contains NaN or infinity: the weights are damaged")


def _require_tensors(weights: Any) -> None:
    if not isinstance(weights, Mapping):
        raise InputError("contains no weights")
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{name} is not a tensor but {type(value).__name__}")
    weightfile.check_stored(weights)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a file written by :func:`save_model`, or in a training checkpoint, a superset of it.

    Raises:
        InputError: if the file is not found, corrupt, or not a checkpoint of SASE, or holds tensors that are not dense.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: model not found; give an experiment folder or its best.pt")
    weightfile.check_records(Path(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for truncated and foreign files
        raise InputError(f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of SASE")
    with naming(path):
        weightfile.check_stored(state)
    return state

"""The SASE network assembled from its parts: noisy waveform in, enhanced waveform out; presets, masks, saved models."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sase.atomic import atomic_path
from sase.config import from_mapping, to_mapping
from sase.errors import InputError
from sase.nn.attention import OMEGAS
from sase.nn.band_recurrent import BandRecurrent
from sase.nn.complex import bound, complex_multiply
from sase.nn.encoder_decoder import EncoderDecoder
from sase.nn.stft import STFT

ATTENTIONS = ("sigmoid", "softmax")
NETWORKS = {"encoder_decoder": EncoderDecoder, "band_recurrent": BandRecurrent}


@dataclass(frozen=True)
class ModelConfig:
    """What a network is built from.

    Attributes:
        network: a key of ``NETWORKS``.
        causal: use no frames to come (the latency is one window); else the whole utterance.
        window, hop, fft: of the STFT, in samples at ``sample_rate``; the DC bin is left out.
        root_window: square root of the Hann window (for windows overlapping by half).
        compression: exponent of the magnitude that the network sees.
        channels: complex channels of each unit or level of the encoder.
        bands, blocks: of ``band_recurrent``: frequency bands, and recurrent blocks on them.
        recurrent: width of the recurrence.
        heads: of the attention over time.
        norm: ``batch`` (complex batch norm) or ``layer`` (per frame).
        gates, time_attention, frequency_attention: the paper's TF-GA, SA-GOEA and SA-GUEA, each on or off.
        attention: ``sigmoid`` (the paper's), or ``softmax`` of the same width in both places, to compare with.
        learned_sigmoids: whether the sigmoids' slopes, heights and centres (α, β, c) are learned or stay as they begin.
        omega: ``random`` features (orthogonal, unitary), or the ``identity``.
        attention_memory_s: what attention over time remembers: a first value, in SA-GOEA; the softmax's limit.
        mask: a key of ``MASKS``.
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
    def frames_per_s(self):
        return self.sample_rate / self.hop


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
    gates=False,  # they did not earn their time: egs/voicebank_demand/RESULTS.md
)
PRESETS = {
    "paper": _PAPER,
    "dccrn": replace(_PAPER, gates=False, time_attention=False, frequency_attention=False),
    "small": _SMALL,
    "tiny": replace(_SMALL, channels=(12, 12), recurrent=24, bands=24),
    "mini": replace(_SMALL, channels=(4, 4), recurrent=8, bands=16, blocks=1),
}


def _mask_complex(z, mask):
    return complex_multiply(z, mask)


def _mask_polar(z, mask):
    return complex_multiply(z, bound(mask))


def _mask_parts(z, mask):
    return z * mask


def _mask_residual(z, mask):
    return complex_multiply(z, mask, one=1.0)  # a network that gives nothing yet passes its input


MASKS = {"complex": _mask_complex, "polar": _mask_polar, "parts": _mask_parts, "residual": _mask_residual}
FORMAT = "sase-1"
_BLOCK_S = 1.0  # a causal network takes longer input in such blocks: their maps stay in the caches of a processor
_OFFLINE_BLOCK_S, _OFFLINE_FADE_S = 10.0, 2.0


class SASE(nn.Module):
    """Speech enhancement in the complex domain with TF-GA, SA-GOEA and SA-GUEA.

    Args:
        config: a :class:`ModelConfig`.
    """

    def __init__(self, config):
        super().__init__()
        choices = (("network", NETWORKS), ("mask", MASKS), ("attention", ATTENTIONS), ("omega", OMEGAS))
        for name, known in choices:
            if getattr(config, name) not in known:
                raise InputError(f"config: model.{name} is {getattr(config, name)!r}; there are {', '.join(known)}")
        if not config.attention_memory_s > 0:
            raise InputError(f"config: model.attention_memory_s must be above 0, not {config.attention_memory_s:g}")
        self.config = config
        self.stft = STFT(config.window, config.hop, config.fft, config.root_window)
        self.network = NETWORKS[config.network](config, config.fft // 2)

    @property
    def latency_s(self):
        """How much later than its input an output sample of a causal network can be told, in seconds."""
        return self.config.window / self.config.sample_rate if self.config.causal else float("inf")

    def forward(self, noisy, lengths=None):
        """Enhance.

        Args:
            noisy: float (batch, time), any time ≥ 1.
            lengths: (batch,) samples of each utterance; what lies behind them is ignored, and zero in the output.

        Returns:
            (batch, time)
        """
        if noisy.dim() != 2 or noisy.shape[1] < 1:
            raise ValueError(f"SASE needs (batch, time ≥ 1), got {tuple(noisy.shape)}")
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=noisy.device)
            inside = torch.arange(noisy.shape[1], device=noisy.device) < lengths[:, None]
            noisy = noisy * inside
        block_s = _BLOCK_S if self.config.causal else _OFFLINE_BLOCK_S
        if self.training or noisy.shape[1] <= block_s * self.config.sample_rate:
            enhanced = self._forward_whole(noisy, lengths)
        elif self.config.causal:
            stream = self.stream(len(noisy))
            parts = [stream.feed(block) for block in noisy.split(int(block_s * self.config.sample_rate), dim=1)]
            enhanced = torch.cat([*parts, stream.flush()], dim=1)
        else:
            enhanced = torch.zeros_like(noisy)
            for row, wav in enumerate(noisy):  # the blocks of an utterance must not depend on its batch
                num_samples = noisy.shape[1] if lengths is None else int(lengths[row])
                enhanced[row, :num_samples] = self._forward_cross_faded(wav[:num_samples])
        return enhanced if lengths is None else enhanced * inside

    def enhance_spec(self, spec, state=None, valid=None):
        """Enhance a spectrum.

        Args:
            spec: complex (batch, fft // 2 + 1, frames)
            state: of the running stream, see :mod:`sase.nn`.
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

    def stream(self, batch=1):
        """Return a :class:`Stream` that enhances ``batch`` signals while they come in; causal networks only."""
        return Stream(self, batch)

    def _compress(self, z):
        if self.config.compression == 1.0:
            return z
        power = z.square().sum(1, keepdim=True)
        return z * (power + 1e-10) ** ((self.config.compression - 1.0) / 2.0)

    def _forward_whole(self, noisy, lengths):
        num_samples = noisy.shape[1]
        frames, valid = self.stft.num_frames(num_samples), None
        if lengths is not None and not self.config.causal:
            # A causal network needs no mask: frames in the padding do not reach samples of the utterance.
            count = self.stft.num_frames(lengths)
            valid = (torch.arange(frames, device=noisy.device) < count[:, None]).to(noisy.dtype)
        padded = F.pad(noisy, (self.stft.context, frames * self.stft.hop - num_samples))
        spec = self.enhance_spec(self.stft(padded), valid=valid)
        return self.stft.inverse(spec)[:, self.stft.context :][:, :num_samples]

    def _forward_cross_faded(self, wav):
        """Enhance one long signal (time,) in overlapping blocks, each heard in full but for its fades."""
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
    """Enhances signals while they come in; what comes out, joined, is what one pass gives (1e-5).

    Args:
        model: a causal :class:`SASE` in eval mode.
        batch: signals side by side.
    """

    def __init__(self, model, batch=1):
        if not model.config.causal:
            raise InputError("this network is offline: it needs the whole utterance and cannot run as a stream")
        self._model, self._stft, self._state = model, model.stft, {}
        device = model.stft.analysis.device
        self._pending = torch.zeros(batch, self._stft.context, device=device)
        self._overlap = torch.zeros(batch, self._stft.context, device=device)
        self._fed = self._given = 0
        self._early = self._stft.context  # samples before the beginning, still to be dropped

    def feed(self, wav):
        """Take the next samples (batch, n) of each signal; return those that are ready, (batch, m), m ≥ 0."""
        self._fed += wav.shape[1]
        return self._advance(wav)

    def flush(self):
        """Return what is left, (batch, rest): in all as many samples have come out as were fed."""
        missing = max(0, self._fed - self._given)
        hops = -(-(missing + self._early) // self._stft.hop)
        silence = torch.zeros(len(self._pending), hops * self._stft.hop, device=self._pending.device)
        return self._advance(silence)[:, :missing]

    def _advance(self, wav):
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
        ready = sound[:, self._early : used]
        self._early = max(0, self._early - used)
        self._given += ready.shape[1]
        return ready


def build_model(preset_or_config):
    """Return a new :class:`SASE` network.

    Args:
        preset_or_config: a key of ``PRESETS``, a :class:`ModelConfig`, or a mapping with its fields and, perhaps,
            ``preset``, whose fields they then replace.

    Raises:
        InputError: for an unknown preset or key.
    """
    if isinstance(preset_or_config, str):
        preset_or_config = {"preset": preset_or_config}
    if not isinstance(preset_or_config, ModelConfig):
        preset_or_config = model_config(preset_or_config)
    return SASE(preset_or_config)


def model_config(mapping):
    """Return the :class:`ModelConfig` of a mapping such as ``{"preset": "small", "gates": False}``."""
    fields = dict(mapping)
    preset = fields.pop("preset", None)
    if preset is None:
        return from_mapping(ModelConfig, fields, "model")
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return from_mapping(ModelConfig, {**to_mapping(PRESETS[preset]), **fields}, "model")


def save_model(model, path):
    """Write what :func:`load_model` needs to rebuild ``model``: its config and its weights."""
    state = {"format": FORMAT, "model_config": to_mapping(model.config), "model": model.state_dict()}
    with atomic_path(path) as partial:
        torch.save(state, partial)


def load_model(path, device="cpu"):
    """Return the network of a saved model, in eval mode.

    Args:
        path: a ``best.pt`` or ``checkpoint.pt``, or an experiment folder that holds one.
        device: where to.

    Raises:
        InputError: no such file, a corrupt file, or the checkpoint of another network.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    state = load_checked(path)
    model = build_model(from_mapping(ModelConfig, state["model_config"], "model"))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not fit its config ({' '.join(str(error).split())[:200]})") from None
    return model.eval().to(device)


def load_checked(path):
    """Return the mapping in a file of :func:`save_model` (or a training checkpoint, which holds more).

    Raises:
        InputError: no such file, a corrupt file, or not one of SASE.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such model; give an experiment folder or its best.pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a file that is cut short or of another kind
        raise InputError(f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of SASE")
    return state

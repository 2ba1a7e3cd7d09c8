"""SA-GOEA and SA-GUEA: attention whose scores are products of learned sigmoids of random orthogonal features.

The sigmoids keep every score positive, so the sum over keys factors and the cost is linear in the length. This is our
reading of "learnable sigmoid on query and key, Gaussian orthogonal ensemble, value": after the paper, whose exact text
is not public.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from sase.nn.complex import bound_magnitude, complex_multiply
from sase.nn.frozen import DerivingLayer
from sase.nn.precision import float32, outside_autocast
from sase.nn.streaming import StreamingLayer, StreamState

_EPS = 1e-6  # in the normaliser
CHUNK = 32  # frames


class TimeAttention(DerivingLayer, StreamingLayer):
    """Base class of the attentions over time: layer norm, projection to heads, and the output ``h ⊙ 2σ(Wo y)``.

    Args:
        features: width D of the input.
        heads: number of heads, of width e = features / heads.
        causal: attend to the current and past frames only.
    """

    def __init__(self, features: int, heads: int, causal: bool) -> None:
        super().__init__()
        if features % heads:
            raise ValueError(f"{type(self).__name__} needs features divisible by heads, got {features} and {heads}")
        self.heads, self.causal = heads, causal
        self.norm = nn.LayerNorm(features)
        self.to_qkv = nn.Linear(features, 3 * features, bias=False)
        self.to_out = nn.Linear(features, features)

    def qkv_weights(self) -> torch.Tensor:
        """Return the weights of the queries, keys and values of each head, (3, heads, e, features)."""
        return self.to_qkv.weight.unflatten(0, (3, self.heads, -1))

    def project_qkv(self, h: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return queries, keys and values, float32 (3, batch, heads, time, e).

        Args:
            h: (batch, time, features)
            weights: (3, heads, e, features)
        """
        qkv = float32(F.linear(self.norm(h), weights.flatten(0, 2))).unflatten(-1, (3, self.heads, -1))
        return qkv.permute(2, 0, 3, 1, 4)  # (B, T, 3, H, e) -> (3, B, H, T, e)

    def gate(self, h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the output ``h ⊙ 2σ(Wo y)``, of the shape of ``h``, for y (batch, heads, time, e)."""
        y = y.transpose(1, 2).flatten(2).to(h.dtype)  # (B, H, T, e) -> (B, T, D)
        return h * (2.0 * torch.sigmoid(self.to_out(y)))


class SAGOEA(TimeAttention):
    """Self-adaptive Gaussian-orthogonal-ensemble attention over time.

    ``φ(x) = β σ(α (Ω x) / √e)``, ``y_t = Σ_s λ^(t−s) (φ(q_t)·φ(k_s)) v_s / Σ_s λ^(t−s) φ(q_t)·φ(k_s)``, and the output
    is ``h ⊙ 2σ(Wo y)``. Ω holds the eigenvectors of a matrix of the Gaussian orthogonal ensemble (so Haar-distributed)
    times Gaussian row norms, drawn once. If causal, λ is learned per head; otherwise λ = 1 and s runs over all frames.

    Args:
        features: width D of the input.
        heads: number of heads, of width e = features / heads.
        frames_per_s: frame rate, which converts ``memory_s`` to frames.
        causal: attend to the current and past frames only.
        seed: of Ω.
        memory_s: initial time constant of λ.
        learned: whether α and β are learned; otherwise they keep their initial values.
        omega: ``random``, or ``identity`` for √e times the identity, whose rows are as long as those of the random one.
    """

    alpha: torch.Tensor
    beta: torch.Tensor
    omega: torch.Tensor

    def __init__(
        self,
        features: int,
        heads: int,
        frames_per_s: float,
        causal: bool = True,
        seed: int = 0,
        memory_s: float = 4.0,
        learned: bool = True,
        omega: str = "random",
    ) -> None:
        super().__init__(features, heads, causal)
        size = features // heads
        _register(self, learned, alpha=torch.full((heads, 1, size), 1.6), beta=torch.full((heads, 1, size), 1.2))
        if causal:
            self.log_memory = nn.Parameter(torch.full((heads,), math.log(memory_s * frames_per_s)))
        generator = torch.Generator().manual_seed(seed)
        draw = {"random": _orthogonal_features, "identity": _identity_features}[omega]
        self.register_buffer("omega", torch.stack([draw(size, generator) for _ in range(heads)]))

    def decay(self) -> torch.Tensor:
        """Return λ of each head, (heads,), in (0, 1)."""
        return torch.exp(-torch.exp(-self.log_memory))

    def queries_keys_values(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return φ(q), φ(k) and v, each (batch, heads, time, e), of the input (batch, time, features).

        β² is applied to the keys alone: φ is used only in the scores, which stay the same.
        """
        weights, scale, *_ = self.derived()
        query, key, value = self.project_qkv(h, weights)
        return torch.sigmoid(query), scale * torch.sigmoid(key), value

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return the projections (3, heads, e, features) with Ω and α in them, β² and, if causal, λ."""
        # Ω and α directly follow the projections of queries and keys: one matrix product does all.
        weights = self._feature_weights(self.qkv_weights())
        return (weights, self.beta.square(), *([self.decay()] if self.causal else []))

    def forward(
        self, h: torch.Tensor, state: StreamState | None = None, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            h: (batch, time, features)
            state: streaming state, see :mod:`sase.nn`.
            valid: (batch, time), 0 for padding; required if not causal.

        Returns:
            Of the shape of ``h``.
        """
        query, key, value = self.queries_keys_values(h)
        if not self.causal and valid is not None:
            key = key * valid[:, None, :, None]
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)  # the last column sums the scores
        if self.causal:
            decay, name = self.derived()[2], self.key("memory")
            total, memory = causal_linear_attention(
                query, key, value, decay, None if state is None else state.get(name)
            )
            if state is not None:
                state[name] = memory
        else:
            total = _linear_attention(query, key, value)
        return self.gate(h, total[..., :-1] / (total[..., -1:] + _EPS))

    @outside_autocast
    def _feature_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the weights of Ωq and Ωk, scaled by α / √e, and of v; (3, heads, e, features) to the same shape."""
        query, key, value = weights
        project = self.alpha.transpose(-1, -2) / math.sqrt(value.shape[1]) * self.omega
        return torch.stack([project @ query, project @ key, value])


@outside_autocast
def causal_linear_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, memory: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``y_t = Σ_{s≤t} λ^(t−s) (q_t·k_s) v_s`` with cost linear in time, chunk by chunk with a recurrent state.

    Args:
        query, key: (batch, heads, time ≥ 1, e), float32.
        value: (batch, heads, time, d)
        decay: λ, (heads,)
        memory: ``S = Σ_s λ^(−1−s) k_s v_sᵀ`` of the frames s < 0, (batch, heads, e, d); None at the start of a signal.

    Returns:
        y (batch, heads, time, d) and the memory after the last frame.
    """
    if query.shape[2] == 1:  # the frame of a stream: no sum over the chunk
        added = key.transpose(-1, -2) @ value
        memory = added if memory is None else added + decay[:, None, None] * memory
        return query @ memory, memory
    lag = torch.arange(CHUNK + 1, device=query.device)
    powers = decay[:, None] ** lag  # (heads, chunk + 1): λ^0 ...
    difference = lag[:-1, None] - lag[:-1]
    within = torch.where(difference >= 0, powers[:, difference.clamp(min=0)], 0.0)  # (heads, chunk, chunk)
    parts = []
    for q, k, v in zip(query.split(CHUNK, 2), key.split(CHUNK, 2), value.split(CHUNK, 2)):
        size = q.shape[2]
        y = ((q @ k.transpose(-1, -2)) * within[:, :size, :size]) @ v
        if memory is not None:
            y = y + (q * powers[:, 1 : size + 1, None]) @ memory
        added = (k * powers[:, :size].flip(-1)[..., None]).transpose(-1, -2) @ v
        memory = added if memory is None else added + memory * powers[:, size, None, None]
        parts.append(y)
    assert memory is not None
    return torch.cat(parts, dim=2), memory


@outside_autocast
def _linear_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return ``y_t = Σ_s (q_t·k_s) v_s``, (..., queries, d), of (..., queries, e), (..., keys, e), (..., keys, d)."""
    return query @ (key.transpose(-1, -2) @ value)


class FrequencyAttention(DerivingLayer):
    """Base class of the attentions over frequency: complex projections of normalised input, ``z ⊙ (1 + polar(Wo y))``.

    Args:
        channels: complex channels e.
        num_freq: frequency positions of the map.
    """

    def __init__(self, channels: int, num_freq: int) -> None:
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(num_freq, channels))
        limit = math.sqrt(3.0 / (2.0 * channels))
        self.qkv_real = nn.Parameter(torch.empty(3, channels, channels).uniform_(-limit, limit))
        self.qkv_imag = nn.Parameter(torch.empty(3, channels, channels).uniform_(-limit, limit))
        self.out_real = nn.Parameter(torch.empty(channels, channels).uniform_(-limit, limit))
        self.out_imag = nn.Parameter(torch.empty(channels, channels).uniform_(-limit, limit))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Attend over frequency.

        Args:
            z: (..., freq, 2 · channels), the real half first.

        Returns:
            Of the shape of ``z``.
        """
        raise NotImplementedError

    def weights(self, z: torch.Tensor) -> torch.Tensor:
        """Return the attention weights, (..., freq of queries, freq of keys), rows of sum 1."""
        raise NotImplementedError

    def qkv_weights(self) -> torch.Tensor:
        """Return the complex weights of the queries, keys and values, (3, e, e)."""
        return torch.complex(self.qkv_real, self.qkv_imag)

    def projections(self) -> torch.Tensor:
        """Return the n stacked complex projections of the normalised input, (n · e, e)."""
        return self.qkv_weights().flatten(0, 1)

    def derive(self) -> tuple[torch.Tensor, ...]:
        """Return the real matrices of projections (n · 2e, 2e) and output (2e, 2e), and the gain of both halves."""
        out = torch.complex(self.out_real, self.out_imag)
        return _block_matrix(self.projections()), _block_matrix(out), self.gain.repeat(1, 2)

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """Return the :meth:`projections` of the normalised input (..., freq, 2 · e), float32 (..., freq, n · 2 · e)."""
        projections, _, gain = self.derived()
        return float32(self._normalise(z, gain) @ projections.T)

    def apply_mask(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the output ``z ⊙ (1 + polar(Wo y))``; all are (..., freq, 2 · e)."""
        mask = y @ self.derived()[1].T
        return complex_multiply(z, bound_magnitude(float32(mask), dim=-1), dim=-1, offset=1.0)

    @outside_autocast
    def _normalise(self, z: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(2.0 * z.square().mean(-1, keepdim=True) + 1e-8)  # 1 / rms over channels of |z|
        return z * gain * scale


class SAGUEA(FrequencyAttention):
    """Self-adaptive Gaussian-unitary-ensemble attention over frequency, per frame: complex in, complex out.

    ``u = g_f ⊙ z / rms_c|z|`` with g_f real, learned per frequency and channel; q, k, v complex linear maps of u;
    ``φ(x) = β σ(α (|Ωx|/√e − c))``; scores and normaliser real, y complex; the output is ``z ⊙ (1 + polar(Wo y))``
    with ``polar(M) = M · tanh|M| / |M|``. Ω is Haar unitary times Gaussian row norms, drawn once.

    Args:
        channels: complex channels e.
        num_freq: frequency positions of the map.
        seed: of Ω.
        learned: whether α, β and c are learned; otherwise they keep their initial values.
        omega: as for :class:`SAGOEA`.
    """

    alpha: torch.Tensor
    beta: torch.Tensor
    centre: torch.Tensor
    omega: torch.Tensor

    def __init__(
        self, channels: int, num_freq: int, seed: int = 0, learned: bool = True, omega: str = "random"
    ) -> None:
        super().__init__(channels, num_freq)
        centre = torch.full((channels,), math.sqrt(math.pi) / 2.0)
        _register(self, learned, alpha=torch.full((channels,), 4.0), beta=torch.ones(channels), centre=centre)
        draw = {"random": _unitary_features, "identity": _identity_features}[omega]
        features = draw(channels, torch.Generator().manual_seed(seed)).to(torch.complex64)
        self.register_buffer("omega", torch.view_as_real(features))

    def queries_keys_values(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return φ(q) and φ(k), (..., freq, e), and v, (..., freq, 2 · e), of the input (..., freq, 2 · e)."""
        projected, value = self.project(z).split([4 * self.channels, 2 * self.channels], dim=-1)
        query, key = self.features(projected.unflatten(-1, (2, 2 * self.channels))).unbind(-2)
        return query, key, value

    def projections(self) -> torch.Tensor:
        """Return Ωq, Ωk and v as matrices (3 · e, e): Ω directly follows the projections, so one product does both."""
        return self._feature_weights(self.qkv_weights())

    def features(self, projected: torch.Tensor) -> torch.Tensor:
        """Return φ, positive (..., e), of Ωx given as (..., 2 · e), the real half first."""
        power = projected.unflatten(-1, (2, self.channels)).square().sum(-2)
        size = ((power + 1e-12) / self.channels).sqrt()
        return self.beta.abs() * torch.sigmoid(torch.addcmul(-self.alpha * self.centre, self.alpha, size))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Attend over frequency; see :meth:`FrequencyAttention.forward`."""
        return self.apply_mask(z, self._attend(*self.queries_keys_values(z)))

    def weights(self, z: torch.Tensor) -> torch.Tensor:
        """Return the attention weights, (..., freq of queries, freq of keys), rows of sum 1."""
        query, key, _ = self.queries_keys_values(z)
        return self._weights(query, key)

    @outside_autocast
    def _feature_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the weights of Ωq, Ωk and v, complex (3, e, e) to (3 · e, e)."""
        omega = torch.view_as_complex(self.omega)
        return torch.cat([omega @ weights[0], omega @ weights[1], weights[2]])

    @outside_autocast
    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of the values of each frequency, (..., freq, 2 · e)."""
        if query.shape[-2] < self.channels:  # the quadratic form then costs less than the linear one
            scores = query @ key.transpose(-1, -2)  # (..., freq, freq)
            total, normaliser = scores @ value, scores.sum(-1, keepdim=True)
        else:
            total, normaliser = query @ (key.transpose(-1, -2) @ value), query @ key.sum(-2)[..., None]
        return total / (normaliser + _EPS)

    @outside_autocast
    def _weights(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        scores = query @ key.transpose(-1, -2)
        return scores / (scores.sum(-1, keepdim=True) + _EPS)


def _register(module: nn.Module, learned: bool, **tensors: torch.Tensor) -> None:
    """Register tensors with ``module``, as parameters if they are learned and as buffers if not."""
    for name, tensor in tensors.items():
        if learned:
            module.register_parameter(name, nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor)


def _block_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return the real block matrix [[Wr, −Wi], [Wi, Wr]] of each of n stacked square complex matrices.

    (n · e, e) complex -> (n · 2e, 2e) real, each of the n blocks as [real e, imag e].
    """
    size = weight.shape[-1]
    real, imag = weight.real.unflatten(0, (-1, size)), weight.imag.unflatten(0, (-1, size))
    rows = torch.cat([torch.cat([real, -imag], dim=-1), torch.cat([imag, real], dim=-1)], dim=1)
    return rows.flatten(0, 1)


def _orthogonal_features(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a Haar-orthogonal (size, size): eigenvectors of a GOE matrix, rows scaled to norms of Gaussian vectors."""
    gauss = torch.randn(size, size, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.eigh(gauss + gauss.T).eigenvectors
    signs = torch.randint(0, 2, (size,), generator=generator) * 2 - 1  # eigh's signs are not random
    norms = torch.randn(size, size, generator=generator, dtype=torch.float64).norm(dim=1)
    return (norms[:, None] * (vectors * signs).T).float()


def _unitary_features(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a Haar-unitary (size, size): QR of a complex Gaussian without the phases of diag R, rows scaled alike."""

    def gaussian() -> torch.Tensor:
        return torch.randn(size, size, generator=generator, dtype=torch.complex128)

    unitary, triangle = torch.linalg.qr(gaussian())
    phase = triangle.diagonal() / triangle.diagonal().abs()
    norms = gaussian().norm(dim=1)
    return (norms[:, None] * unitary * phase).to(torch.complex64)


def _identity_features(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return √size times the identity: directions are not mixed, and rows are as long as Gaussian ones."""
    return math.sqrt(size) * torch.eye(size)

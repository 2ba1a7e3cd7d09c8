"""SA-GOEA and SA-GUEA: attention whose scores are products of learned sigmoids of random orthogonal features.

The sigmoids keep every score positive, so the sum over keys factors and the cost is linear in the length. This is our
reading of "learnable sigmoid on query and key, Gaussian orthogonal ensemble, value": after the paper, whose exact text
is not public.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sase.nn.complex import bound, complex_multiply

_EPS = 1e-6  # in the normaliser
CHUNK = 32  # frames
OMEGAS = ("random", "identity")


class OverTime(nn.Module):
    """What every attention over time is made of: a norm, maps to heads, and the output ``h ⊙ 2σ(Wo y)``.

    Args:
        features: width D of the input.
        heads: e = features / heads.
        causal: look back only.
    """

    def __init__(self, features, heads, causal):
        super().__init__()
        if features % heads:
            raise ValueError(f"{type(self).__name__} needs features divisible by heads, got {features} and {heads}")
        self.heads, self.causal = heads, causal
        self.norm = nn.LayerNorm(features)
        self.to_qkv = nn.Linear(features, 3 * features, bias=False)
        self.to_out = nn.Linear(features, features)

    def maps(self):
        """Return the weights that make queries, keys and values of each head, (3, heads, e, features)."""
        return self.to_qkv.weight.unflatten(0, (3, self.heads, -1))

    def mapped(self, h, maps):
        """Return what ``maps`` make of ``h`` (batch, time, features): three float32 of (batch, heads, time, e)."""
        qkv = F.linear(self.norm(h), maps.flatten(0, 2)).float().unflatten(-1, (3, self.heads, -1))
        return qkv.permute(2, 0, 3, 1, 4)  # (B, T, 3, H, e) -> 3 × (B, H, T, e)

    def gated(self, h, y):
        """Return the output, of the shape of ``h``, given y as (batch, heads, time, e)."""
        y = y.transpose(1, 2).flatten(2).to(h.dtype)  # (B, H, T, e) -> (B, T, D)
        return h * (2.0 * torch.sigmoid(self.to_out(y)))


class SAGOEA(OverTime):
    """Self-adaptive Gaussian-orthogonal-ensemble attention over time.

    ``φ(x) = β σ(α (Ω x) / √e)``, ``y_t = Σ_s λ^(t−s) (φ(q_t)·φ(k_s)) v_s / Σ_s λ^(t−s) φ(q_t)·φ(k_s)``, and the output
    is ``h ⊙ 2σ(Wo y)``. Ω holds the eigenvectors of a matrix of the Gaussian orthogonal ensemble (so Haar-distributed)
    times Gaussian row norms, drawn once. Causal, λ is learned per head; else λ = 1 and the sum is over all frames.

    Args:
        features: width D of the input.
        heads: e = features / heads.
        frames_per_s: frame rate, in which the memory is counted.
        causal: look back only.
        seed: of Ω.
        memory_s: how far λ looks back at first.
        learned: whether α and β are; else they stay what they are at first.
        omega: ``random``, or ``identity`` for √e times the identity, whose rows are as long as those of the random one.
    """

    def __init__(self, features, heads, frames_per_s, causal=True, seed=0, memory_s=4.0, learned=True, omega="random"):
        super().__init__(features, heads, causal)
        size = features // heads
        _hold(self, learned, alpha=torch.full((heads, 1, size), 1.6), beta=torch.full((heads, 1, size), 1.2))
        if causal:
            self.log_memory = nn.Parameter(torch.full((heads,), math.log(memory_s * frames_per_s)))
        generator = torch.Generator().manual_seed(seed)
        draw = {"random": _orthogonal_features, "identity": _identity_features}[omega]
        self.register_buffer("omega", torch.stack([draw(size, generator) for _ in range(heads)]))

    def decay(self):
        """Return λ of each head, (heads,), in (0, 1)."""
        return torch.exp(-torch.exp(-self.log_memory))

    def queries_keys_values(self, h):
        """Return φ(q), φ(k) and v, each (batch, heads, time, e), of the input (batch, time, features).

        β² stands with the keys alone: in the scores, which is all that φ is for, that is the same.
        """
        query, key, value = self.maps()
        # Ω and α act on queries and keys right after their own map: one product does all.
        project = self.alpha.transpose(-1, -2) / math.sqrt(value.shape[1]) * self.omega
        query, key, value = self.mapped(h, torch.stack([project @ query, project @ key, value]))
        return torch.sigmoid(query), self.beta.square() * torch.sigmoid(key), value

    def forward(self, h, state=None, valid=None):
        """Attend.

        Args:
            h: (batch, time, features)
            state: of the running stream, see :mod:`sase.nn`.
            valid: (batch, time), 0 for padding; needed where not causal.

        Returns:
            Of the shape of ``h``.
        """
        query, key, value = self.queries_keys_values(h)
        if not self.causal and valid is not None:
            key = key * valid[:, None, :, None]
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)  # the last column sums the scores
        if self.causal:
            total, memory = causal_linear_attention(
                query, key, value, self.decay(), None if state is None else state.get(self)
            )
            if state is not None:
                state[self] = memory
        else:
            total = query @ (key.transpose(-1, -2) @ value)
        return self.gated(h, total[..., :-1] / (total[..., -1:] + _EPS))


def causal_linear_attention(query, key, value, decay, memory=None):
    """Return ``y_t = Σ_{s≤t} λ^(t−s) (q_t·k_s) v_s`` with cost linear in time, in chunks with the state between them.

    Args:
        query, key: (batch, heads, time, e), float32.
        value: (batch, heads, time, d)
        decay: λ, (heads,)
        memory: ``S = Σ_s λ^(−1−s) k_s v_sᵀ`` of the frames s < 0, (batch, heads, e, d); None where there are none.

    Returns:
        y (batch, heads, time, d) and the memory after the last frame.
    """
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
    return torch.cat(parts, dim=2), memory


class OverFrequency(nn.Module):
    """What every attention over frequency is made of: complex maps of normalised input, and ``z ⊙ (1 + polar(Wo y))``.

    Args:
        channels: complex channels e.
        num_freq: frequency positions of the map.
    """

    def __init__(self, channels, num_freq):
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(num_freq, channels))
        bound = math.sqrt(3.0 / (2.0 * channels))
        self.qkv_real = nn.Parameter(torch.empty(3, channels, channels).uniform_(-bound, bound))
        self.qkv_imag = nn.Parameter(torch.empty(3, channels, channels).uniform_(-bound, bound))
        self.out_real = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))
        self.out_imag = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))

    def maps(self):
        """Return the complex weights that make queries, keys and values, (3, e, e)."""
        return torch.complex(self.qkv_real, self.qkv_imag)

    def mapped(self, z, maps):
        """Return what stacked ``maps`` (n · e, e) make of normalised ``z`` (..., freq, 2 · e): (..., n · 2 · e)."""
        scale = torch.rsqrt(2.0 * z.square().mean(-1, keepdim=True) + 1e-8)  # 1 / rms over channels of |z|
        return (z * self.gain.repeat(1, 2) * scale) @ _block(maps).T

    def masked(self, z, y):
        """Return the output, of the shape of ``z`` and y, (..., freq, 2 · e)."""
        mask = y @ _block(torch.complex(self.out_real, self.out_imag)).T
        return complex_multiply(z, bound(mask, dim=-1), dim=-1, one=1.0)


class SAGUEA(OverFrequency):
    """Self-adaptive Gaussian-unitary-ensemble attention over frequency, per frame: complex in, complex out.

    ``u = g_f ⊙ z / rms_c|z|`` with g_f real, learned per frequency and channel; q, k, v complex linear maps of u;
    ``φ(x) = β σ(α (|Ωx|/√e − c))``; scores and normaliser real, y complex; the output is ``z ⊙ (1 + polar(Wo y))``
    with ``polar(M) = M · tanh|M| / |M|``. Ω is Haar unitary times Gaussian row norms, drawn once.

    Args:
        channels: complex channels e.
        num_freq: frequency positions of the map.
        seed: of Ω.
        learned: whether α, β and c are; else they stay what they are at first.
        omega: as for :class:`SAGOEA`.
    """

    def __init__(self, channels, num_freq, seed=0, learned=True, omega="random"):
        super().__init__(channels, num_freq)
        centre = torch.full((channels,), math.sqrt(math.pi) / 2.0)
        _hold(self, learned, alpha=torch.full((channels,), 4.0), beta=torch.ones(channels), centre=centre)
        draw = {"random": _unitary_features, "identity": _identity_features}[omega]
        features = draw(channels, torch.Generator().manual_seed(seed)).to(torch.complex64)
        self.register_buffer("omega", torch.view_as_real(features))

    def queries_keys_values(self, z):
        """Return φ(q) and φ(k), (..., freq, e), and v, (..., freq, 2 · e), of the input (..., freq, 2 · e)."""
        omega, maps = torch.view_as_complex(self.omega), self.maps()
        # Ω acts on queries and keys right after their own map: one product does both.
        mapped = self.mapped(z, torch.cat([omega @ maps[0], omega @ maps[1], maps[2]]))
        projected, value = mapped.split([4 * self.channels, 2 * self.channels], dim=-1)
        query, key = self.features(projected.unflatten(-1, (2, 2 * self.channels))).unbind(-2)
        return query, key, value

    def features(self, projected):
        """Return φ, positive (..., e), of Ωx given as (..., 2 · e), the real half first."""
        power = projected.unflatten(-1, (2, self.channels)).square().sum(-2)
        size = ((power + 1e-12) / self.channels).sqrt()
        return self.beta.abs() * torch.sigmoid(torch.addcmul(-self.alpha * self.centre, self.alpha, size))

    def forward(self, z):
        """Attend over frequency.

        Args:
            z: (..., freq, 2 · channels), the real half first.

        Returns:
            Of the shape of ``z``.
        """
        query, key, value = self.queries_keys_values(z)
        if z.shape[-2] < self.channels:  # all scores are then fewer than the sums over keys, and give the same
            scores = query @ key.transpose(-1, -2)  # (..., freq, freq)
            total, normaliser = scores @ value, scores.sum(-1, keepdim=True)
        else:
            total, normaliser = query @ (key.transpose(-1, -2) @ value), query @ key.sum(-2)[..., None]
        return self.masked(z, total / (normaliser + _EPS))

    def weights(self, z):
        """Return how much each frequency looks at each other one, (..., freq, freq), rows of sum 1."""
        query, key, _ = self.queries_keys_values(z)
        scores = query @ key.transpose(-1, -2)
        return scores / (scores.sum(-1, keepdim=True) + _EPS)


def _hold(module, learned, **values):
    """Give ``module`` these tensors, as parameters where they are learned and else as buffers."""
    for name, value in values.items():
        if learned:
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


def _block(weight):
    """Real block matrix [[Wr, −Wi], [Wi, Wr]], one below the other for several stacked square complex matrices.

    (n · e, e) complex -> (n · 2e, 2e) real, each of the n blocks as [real e, imag e].
    """
    size = weight.shape[-1]
    real, imag = weight.real.unflatten(0, (-1, size)), weight.imag.unflatten(0, (-1, size))
    rows = torch.cat([torch.cat([real, -imag], dim=-1), torch.cat([imag, real], dim=-1)], dim=1)
    return rows.flatten(0, 1)


def _orthogonal_features(size, generator):
    """Haar-orthogonal (size, size), as eigenvectors of a GOE matrix, rows scaled to norms of Gaussian vectors."""
    gauss = torch.randn(size, size, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.eigh(gauss + gauss.T).eigenvectors
    signs = torch.randint(0, 2, (size,), generator=generator) * 2 - 1  # eigh fixes signs in its own way
    norms = torch.randn(size, size, generator=generator, dtype=torch.float64).norm(dim=1)
    return (norms[:, None] * (vectors * signs).T).float()


def _unitary_features(size, generator):
    """Haar-unitary (size, size), by QR of a complex Gaussian without the phases of diag R, rows of Gaussian norms."""

    def gaussian():
        return torch.randn(size, size, generator=generator, dtype=torch.complex128)

    unitary, triangle = torch.linalg.qr(gaussian())
    phase = triangle.diagonal() / triangle.diagonal().abs()
    norms = gaussian().norm(dim=1)
    return (norms[:, None] * unitary * phase).to(torch.complex64)


def _identity_features(size, generator):
    """√size times the identity: no direction is mixed with another, and rows are as long as Gaussian ones."""
    return math.sqrt(size) * torch.eye(size)

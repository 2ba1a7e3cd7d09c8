"""Layers of the network against their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from sase.nn.attention import SAGOEA, SAGUEA, _orthogonal_features, _unitary_features, causal_linear_attention
from sase.nn.complex import (
    ComplexBatchNorm,
    ComplexConv2d,
    ComplexConvTranspose2d,
    ConvNorm,
    FrameNorm,
    PReLU,
    bound_magnitude,
    complex_multiply,
    concat,
)
from sase.nn.frozen import frozen
from sase.nn.gates import TFGA
from sase.nn.recurrent import TimeLSTM
from sase.nn.softmax_attention import SoftmaxFrequencyAttention, SoftmaxTimeAttention
from sase.nn.stft import STFT
from sase.nn.streaming import decayed_sum


def random_map(batch=2, channels=3, freq=8, time=11, seed=0):
    return torch.randn(batch, 2 * channels, freq, time, generator=torch.Generator().manual_seed(seed))


def as_complex(z, dim=1):
    real, imag = z.chunk(2, dim)
    return torch.complex(real, imag)


def in_blocks(layer, z, sizes, **options):
    """Run a causal layer block by block along the last axis."""
    state, parts = {}, []
    for block in z.split(sizes, dim=-1):
        parts.append(layer(block, state=state, **options))
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [((5, 2), 2, 2), ((8, 1), 4, 2), ((3, 1), 1, 1)])
def test_complex_convolution_equals_four_real_ones(kernel, stride, padding):
    conv, z = ComplexConv2d(3, 4, kernel, stride, padding), random_map(freq=16)
    real, imag = F.pad(z, (kernel[1] - 1, 0)).chunk(2, 1)

    def apply(x, weight):
        return F.conv2d(x, weight, stride=(stride, 1), padding=(padding, 0))

    wr, wi = conv.weight_real, conv.weight_imag
    expected = torch.cat([apply(real, wr) - apply(imag, wi), apply(imag, wr) + apply(real, wi)], 1)
    torch.testing.assert_close(conv(z), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding", "more"), [((5, 2), 2, 2, 1), ((8, 1), 4, 2, 0)])
def test_transposed_complex_convolution_equals_four_real_ones(kernel, stride, padding, more):
    conv, z = ComplexConvTranspose2d(3, 4, kernel, stride, padding, more), random_map()
    real, imag = z.chunk(2, 1)

    def apply(x, weight):
        y = F.conv_transpose2d(x, weight, stride=(stride, 1), padding=(padding, 0), output_padding=(more, 0))
        return y[..., : z.shape[-1]]  # causal: the first frames

    wr, wi = conv.weight_real, conv.weight_imag
    expected = torch.cat([apply(real, wr) - apply(imag, wi), apply(imag, wr) + apply(real, wi)], 1)
    out = conv(z)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert out.shape[2] == stride * z.shape[2]


def test_complex_convolution_commutes_with_a_rotation_of_the_phase():
    conv, z = ComplexConv2d(3, 4, (5, 2), 2, 2), random_map(freq=16)
    turn = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    turned = as_complex(z) * turn
    expected = as_complex(conv(z)) * turn
    actual = as_complex(conv(torch.cat([turned.real, turned.imag], 1)))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_concat_keeps_real_halves_together():
    a, b = random_map(seed=1), random_map(channels=2, seed=2)
    joined = torch.cat([as_complex(a), as_complex(b)], 1)
    torch.testing.assert_close(as_complex(concat(a, b)), joined)


def test_batch_norm_whitens_real_and_imaginary_part():
    norm = ComplexBatchNorm(3)
    z = random_map(batch=8, time=60)
    z[:, 3:] = 0.8 * z[:, :3] + 0.1 * z[:, 3:] + 2.0  # strongly correlated, off centre
    out = as_complex(norm(z)).permute(1, 0, 2, 3).flatten(1)
    parts = torch.stack([out.real, out.imag], 1)
    parts = parts - parts.mean(-1, keepdim=True)
    cov = parts @ parts.transpose(1, 2) / parts.shape[-1]
    # gain √½ on whitened parts: a unit of power in all.
    torch.testing.assert_close(cov, 0.5 * torch.eye(2).expand(3, 2, 2), atol=2e-3, rtol=0)
    assert out.mean(-1).abs().max() < 1e-4


def test_batch_norm_keeps_running_statistics_and_uses_them_in_eval():
    norm, z = ComplexBatchNorm(2, momentum=1.0), random_map(batch=4, channels=2, time=50) + 3.0
    trained = norm(z)
    norm.eval()
    torch.testing.assert_close(norm(z), trained, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.running_mean, z.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    half = norm(z[:1])
    torch.testing.assert_close(half, norm(z)[:1])  # independent of the rest of the batch


def test_batch_norm_of_equal_parts_and_of_silence_is_finite():
    norm = ComplexBatchNorm(2)
    equal = random_map(channels=1).repeat(1, 2, 1, 1).requires_grad_()
    norm(equal).sum().backward()
    assert torch.isfinite(equal.grad).all()
    silence = torch.zeros(2, 4, 8, 5, requires_grad=True)
    norm(silence).sum().backward()
    assert torch.isfinite(silence.grad).all()


def test_frame_norm_normalises_each_frame_alone():
    norm, z = FrameNorm(3), random_map()
    out = norm(z)
    torch.testing.assert_close(out.mean((1, 2)), torch.zeros(2, 11), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm(z[..., 4:5]), out[..., 4:5])


@pytest.mark.parametrize("transposed", [False, True])
def test_norm_folded_into_the_convolution_changes_nothing_and_follows_the_weights(transposed):
    kind = ComplexConvTranspose2d if transposed else ComplexConv2d
    layer, z = ConvNorm(kind(3, 4, (5, 2), 2, 2), 4, "batch"), random_map()
    for _ in range(3):
        layer(z)
    layer.eval()
    for _ in range(2):
        expected = layer(z)  # with gradients enabled nothing is folded
        with torch.no_grad():
            torch.testing.assert_close(layer(z), expected.detach(), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(frozen(layer)(z), expected.detach(), atol=1e-5, rtol=1e-5)
            layer.conv.weight_real.mul_(1.5)
            layer.norm.running_mean.add_(0.3)


def test_prelu_equals_that_of_torch():
    ours, theirs, x = PReLU(6), torch.nn.PReLU(6), random_map()
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_bound_is_a_polar_tanh_with_a_finite_gradient_at_zero():
    z, mask = random_map(seed=1), random_map(seed=2)
    m = as_complex(mask)
    expected = as_complex(z) * torch.polar(torch.tanh(m.abs()), m.angle())
    torch.testing.assert_close(as_complex(complex_multiply(z, bound_magnitude(mask))), expected, atol=1e-5, rtol=1e-4)
    zero = torch.zeros(1, 2, 3, 4, requires_grad=True)
    complex_multiply(random_map(1, 1, 3, 4), bound_magnitude(zero)).sum().backward()
    assert torch.isfinite(zero.grad).all()
    assert zero.grad.abs().max() > 0


@pytest.mark.parametrize("num_frames", [1, 63, 64, 65, 200])
def test_decayed_sum_equals_its_definition_and_streams(num_frames):
    x, decay = torch.randn(2, 3, num_frames, 4, generator=torch.Generator().manual_seed(0)), 0.97
    expected, total = [], torch.zeros(2, 3, 4)
    for t in range(num_frames):
        total = decay * total + x[:, :, t]
        expected.append(total)
    expected = torch.stack(expected, 2)
    torch.testing.assert_close(decayed_sum(x, decay), expected, atol=1e-5, rtol=1e-5)
    state = {}
    parts = [decayed_sum(part, decay, state, "x") for part in x.split(37, dim=2)]
    torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-5, rtol=1e-5)


def quadratic(query, key, value, decay):
    """The attention by its definition: every score, then the sums."""
    lag = torch.arange(query.shape[2])[:, None] - torch.arange(query.shape[2])
    weight = torch.where(lag >= 0, decay[:, None, None] ** lag.clamp(min=0), 0.0)
    return (query @ key.transpose(-1, -2) * weight) @ value


@pytest.mark.parametrize("num_frames", [1, 31, 32, 33, 150])
def test_causal_linear_attention_equals_its_quadratic_form(num_frames):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.rand(2, 3, num_frames, 5, generator=generator) for _ in range(2))
    value = torch.randn(2, 3, num_frames, 4, generator=generator)
    decay = torch.tensor([0.5, 0.95, 0.999])
    out, _ = causal_linear_attention(query, key, value, decay)
    torch.testing.assert_close(out, quadratic(query, key, value, decay), atol=1e-4, rtol=1e-4)


def goea_by_definition(layer, h):
    """SA-GOEA straight from its formula, with φ of queries and keys alike."""
    heads, size = layer.heads, h.shape[-1] // layer.heads
    q, k, v = F.linear(layer.norm(h), layer.to_qkv.weight).unflatten(-1, (3, heads, size)).permute(2, 0, 3, 1, 4)

    def phi(x):
        return layer.beta * torch.sigmoid(layer.alpha * (x @ layer.omega.transpose(-1, -2)) / math.sqrt(size))

    scores = phi(q) @ phi(k).transpose(-1, -2)
    if layer.causal:
        lag = torch.arange(h.shape[1])[:, None] - torch.arange(h.shape[1])
        scores = scores * torch.where(lag >= 0, layer.decay()[:, None, None] ** lag.clamp(min=0), 0.0)
    y = scores @ v / (scores.sum(-1, keepdim=True) + 1e-6)
    return h * 2 * torch.sigmoid(layer.to_out(y.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("causal", [True, False])
def test_goea_equals_its_formula(causal):
    torch.manual_seed(0)
    layer, h = SAGOEA(24, 3, frames_per_s=50, causal=causal), torch.randn(2, 90, 24)
    torch.testing.assert_close(layer(h), goea_by_definition(layer, h), atol=1e-4, rtol=1e-4)


def test_goea_streams_exactly():
    torch.manual_seed(0)
    layer, h = SAGOEA(24, 3, frames_per_s=50), torch.randn(2, 90, 24)
    state = {}
    parts = [layer(part, state) for part in h.split(17, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), layer(h), atol=1e-5, rtol=1e-5)


def test_goea_offline_ignores_padding():
    torch.manual_seed(0)
    layer, h = SAGOEA(24, 3, frames_per_s=50, causal=False), torch.randn(1, 40, 24)
    padded, valid = F.pad(h, (0, 0, 0, 9), value=7.0), F.pad(torch.ones(1, 40), (0, 9))
    torch.testing.assert_close(layer(padded, valid=valid)[:, :40], layer(h), atol=1e-5, rtol=1e-5)


def guea_by_definition(layer, z):
    """SA-GUEA straight from its formula, in complex numbers: (..., freq, 2 · e)."""
    z = as_complex(z, -1)
    u = layer.gain * z / z.abs().square().mean(-1, keepdim=True).sqrt()
    weights, omega = torch.complex(layer.qkv_real, layer.qkv_imag), torch.view_as_complex(layer.omega)
    q, k, v = (u @ weight.T for weight in weights)

    def phi(x):
        size = (x @ omega.T).abs() / math.sqrt(layer.channels)
        return layer.beta * torch.sigmoid(layer.alpha * (size - layer.centre))

    scores = phi(q) @ phi(k).transpose(-1, -2)
    y = scores.to(v.dtype) @ v / (scores.sum(-1, keepdim=True) + 1e-6)
    m = y @ torch.complex(layer.out_real, layer.out_imag).T
    out = z * (1 + torch.polar(torch.tanh(m.abs()), m.angle()))
    return torch.cat([out.real, out.imag], -1)


@pytest.mark.parametrize("num_freq", [16, 4])  # by sums over keys, and by scores
def test_guea_equals_its_formula(num_freq):
    torch.manual_seed(0)
    layer, z = SAGUEA(6, num_freq), torch.randn(2, 5, num_freq, 12)
    torch.nn.init.uniform_(layer.gain, 0.5, 1.5)
    torch.testing.assert_close(layer(z), guea_by_definition(layer, z), atol=1e-4, rtol=1e-4)


def test_omega_has_orthogonal_rows_of_gaussian_norms_and_comes_from_its_seed():
    for draw in (_orthogonal_features, _unitary_features):
        omega = draw(32, torch.Generator().manual_seed(3)).to(torch.complex128)
        gram = omega @ omega.conj().T
        assert (gram - gram.diagonal().diag()).abs().max() < 1e-4
        assert 0.8 < gram.diagonal().real.mean() / 32 < 1.2
        torch.testing.assert_close(omega, draw(32, torch.Generator().manual_seed(3)).to(torch.complex128))


def test_fixed_sigmoids_equal_learned_ones_of_the_same_values():
    torch.manual_seed(0)
    for make in (lambda learned: SAGOEA(24, 3, 50, learned=learned), lambda learned: SAGUEA(6, 16, learned=learned)):
        learned, fixed = make(True), make(False)
        names = {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()}
        assert names == {"alpha", "beta", "centre"} & {name for name, _ in fixed.named_buffers()}
        assert "alpha" in names
        fixed.load_state_dict(learned.state_dict())  # the same names and values: one can be made from the other
        x = torch.randn(2, 16, 24 if isinstance(fixed, SAGOEA) else 12)
        assert torch.equal(fixed(x), learned(x))


def test_identity_has_rows_as_long_as_random_ones_on_average():
    for layer in (SAGOEA(24, 3, 50, omega="identity"), SAGUEA(8, 16, omega="identity")):
        size = layer.omega.shape[1]
        omega = layer.omega if isinstance(layer, SAGOEA) else torch.view_as_complex(layer.omega)[None]
        torch.testing.assert_close(omega, math.sqrt(size) * torch.eye(size).to(omega.dtype).expand_as(omega))
    torch.testing.assert_close(layer(z := torch.randn(2, 16, 16)), guea_by_definition(layer, z), atol=1e-4, rtol=1e-4)


def softmax_by_definition(layer, h):
    """Softmax attention over the last ``layer.past_frames`` frames and this one, from all scores."""
    size = h.shape[-1] // layer.heads
    maps = layer.to_qkv.weight.unflatten(0, (3, layer.heads, size))
    q, k, v = (torch.einsum("btf,hef->bhte", layer.norm(h), weight) for weight in maps)
    scores = q @ k.transpose(-1, -2) / math.sqrt(size)
    if layer.causal:
        lag = torch.arange(h.shape[1])[:, None] - torch.arange(h.shape[1])
        scores = torch.where((lag >= 0) & (lag <= layer.past_frames), scores, -math.inf)
    y = scores.softmax(-1) @ v
    return h * 2 * torch.sigmoid(layer.to_out(y.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(("causal", "memory_s"), [(True, 0.02), (True, 0.5), (True, 9.0), (False, 0.5)])
@pytest.mark.parametrize("num_frames", [1, 31, 33, 90])
def test_softmax_over_time_equals_its_formula(causal, memory_s, num_frames):
    torch.manual_seed(0)
    layer, h = SoftmaxTimeAttention(24, 3, 50, causal, memory_s), torch.randn(2, num_frames, 24)
    torch.testing.assert_close(layer(h), softmax_by_definition(layer, h), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 17, 40])
def test_softmax_over_time_streams_exactly_with_a_bounded_state(size):
    torch.manual_seed(0)
    layer, h = SoftmaxTimeAttention(24, 3, 50, memory_s=0.5), torch.randn(2, 90, 24)
    state = {}
    parts = [layer(part, state) for part in h.split(size, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), layer(h), atol=1e-5, rtol=1e-5)
    assert state["past"].shape[-1] == layer.past_frames == 24


def test_softmax_over_time_offline_ignores_padding():
    torch.manual_seed(0)
    layer, h = SoftmaxTimeAttention(24, 3, 50, causal=False), torch.randn(1, 40, 24)
    padded, valid = F.pad(h, (0, 0, 0, 9), value=7.0), F.pad(torch.ones(1, 40), (0, 9))
    torch.testing.assert_close(layer(padded, valid=valid)[:, :40], layer(h), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [SAGUEA, SoftmaxFrequencyAttention])
def test_returned_weights_over_frequency_give_the_output(kind):
    torch.manual_seed(0)
    layer, z = kind(6, 16), torch.randn(2, 5, 16, 12)
    torch.nn.init.uniform_(layer.gain, 0.5, 1.5)
    weights = layer.weights(z)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, 16), atol=1e-4, rtol=0)
    u = layer.gain * as_complex(z, -1) / as_complex(z, -1).abs().square().mean(-1, keepdim=True).sqrt()
    q, k, v = (u @ weight.T for weight in torch.complex(layer.qkv_real, layer.qkv_imag))
    if kind is SoftmaxFrequencyAttention:
        expected = ((q @ k.conj().transpose(-1, -2)).real / math.sqrt(6)).softmax(-1)
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)
    m = weights.to(v.dtype) @ v @ torch.complex(layer.out_real, layer.out_imag).T
    out = as_complex(z, -1) * (1 + torch.polar(torch.tanh(m.abs()), m.angle()))
    torch.testing.assert_close(layer(z), torch.cat([out.real, out.imag], -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_gates_keep_the_phase_and_lie_between_zero_and_one(causal):
    gate, z = TFGA(50, causal), random_map(time=30)
    frequency, time = gate.gates(z)
    assert frequency.min() > 0
    assert frequency.max() < 1
    assert time.min() > 0
    assert time.max() < 1
    out = as_complex(gate(z)) / as_complex(z)
    assert out.imag.abs().max() < 1e-5
    torch.testing.assert_close(out.real[:, :1], (frequency * time).expand(2, 1, 8, 30), atol=1e-5, rtol=1e-4)


def test_gate_of_a_constant_map_is_constant():
    gate = TFGA(50)
    steady = random_map(time=1).expand(-1, -1, -1, 40)
    frequency, _ = gate.gates(steady)
    torch.testing.assert_close(frequency, frequency[..., :1].expand_as(frequency), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [1, 7, 20])
def test_causal_layers_stream_exactly(sizes):
    torch.manual_seed(0)
    z = random_map(time=45)
    for layer in (ComplexConv2d(3, 4, (5, 2), 2, 2), ComplexConvTranspose2d(3, 4, (5, 2), 2, 2, 1), TFGA(50)):
        torch.testing.assert_close(in_blocks(layer, z, sizes), layer(z), atol=1e-5, rtol=1e-5)
    lstm, x = TimeLSTM(6, 5), torch.randn(2, 45, 6)
    state = {}
    parts = [lstm(part, state) for part in x.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), lstm(x), atol=1e-5, rtol=1e-5)


def test_two_way_lstm_ignores_padding():
    torch.manual_seed(0)
    lstm, x = TimeLSTM(6, 8, causal=False), torch.randn(2, 20, 6)
    valid = torch.ones(2, 20)
    valid[1, 13:] = 0
    torch.testing.assert_close(lstm(x, valid=valid)[1:, :13], lstm(x[1:, :13]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("window", "hop", "fft", "root"), [(400, 100, 512, False), (512, 256, 512, True)])
@pytest.mark.parametrize("num_samples", [1, 99, 1000, 1024])
def test_stft_reconstructs_to_the_last_sample(window, hop, fft, root, num_samples):
    stft = STFT(window, hop, fft, root)
    wav = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(0))
    frames = stft.num_frames(num_samples)
    padded = F.pad(wav, (stft.context, frames * hop - num_samples))
    spec = stft(padded)
    assert spec.shape == (2, fft // 2 + 1, frames)
    back = stft.inverse(spec)[:, stft.context :][:, :num_samples]
    torch.testing.assert_close(back, wav, atol=1e-5, rtol=1e-5)


def test_stft_rejects_invalid_windows():
    with pytest.raises(ValueError, match="k · hop"):
        STFT(400, 150, 512)

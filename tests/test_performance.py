"""Training in bfloat16 and compiled training: nearly equal results, without side effects."""

import pytest
import torch

from sase.errors import InputError
from sase.model import build_model
from sase.training.performance import autocast, compile_network, eager, training_precision

CPU = torch.device("cpu")


def test_bfloat16_on_a_cpu_is_limited_to_the_context():
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    exact = a @ b
    with training_precision("bfloat16", CPU):
        rounded = a @ b
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.3, rtol=0.02)
    torch.testing.assert_close(a @ b, exact, atol=0, rtol=0)
    with pytest.raises(ZeroDivisionError), training_precision("bfloat16", CPU):
        raise ZeroDivisionError
    torch.testing.assert_close(a @ b, exact, atol=0, rtol=0)
    with training_precision("float32", CPU):
        torch.testing.assert_close(a @ b, exact, atol=0, rtol=0)


def test_gradients_in_bfloat16_have_the_same_direction():
    torch.manual_seed(0)
    model, wav = build_model("mini"), 0.1 * torch.randn(2, 4000)

    def gradient(precision):
        model.zero_grad()
        with training_precision(precision, CPU):
            with autocast(precision, CPU):
                loss = (model(wav) - 0.5 * wav).square().mean()
            loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.cosine_similarity(gradient("float32"), gradient("bfloat16"), dim=0) > 0.99


@pytest.mark.recipe
def test_a_compiled_network_trains_like_the_plain_one_and_validates_uncompiled():
    torch.manual_seed(0)
    plain = build_model("mini")
    compiled = build_model("mini")
    compiled.load_state_dict(plain.state_dict())
    compiled.network.compile(dynamic=False)
    wav, gradients = 0.1 * torch.randn(2, 4000), []
    for model in (plain, compiled):
        (model(wav) - 0.5 * wav).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    plain.eval(), compiled.eval()
    with torch.no_grad(), eager():
        for length in (1, 777, 20000):
            torch.testing.assert_close(compiled(wav[:, :length]), plain(wav[:, :length]), atol=1e-5, rtol=0)


def test_compiling_reports_a_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="C\\+\\+ compiler"):
        compile_network(build_model("mini").network, torch.device("cpu"))


def test_a_gpu_trains_the_network_uncompiled(caplog):
    network = build_model("mini").network
    with caplog.at_level("INFO"):
        compile_network(network, torch.device("cuda"))
    assert network._compiled_call_impl is None
    assert "CPUs only" in caplog.text

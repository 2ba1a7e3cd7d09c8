"""A causal network as an ONNX graph that enhances one hop, with everything that a program needs to run it."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sase.atomic import atomic_path
from sase.config import to_mapping
from sase.errors import InputError
from sase.export.step import HopStep
from sase.extras import missing_package
from sase.model import SASE
from sase.weightfile import FORMAT

OPSET = 17
TOLERANCE = 1e-4
NOISY, ENHANCED, NEXT = "noisy", "enhanced", "next."


def export_onnx(model: SASE, path: str | Path, card: str = "", fingerprint: str = "") -> float:
    """Write a streaming graph, after comparing it with the network.

    The graph maps ``noisy`` (1, hop) and one tensor per state to ``enhanced`` (1, hop) and ``next.`` + the name of each
    state; a signal starts with states of zeros. Metadata: ``format``, ``sample_rate``, ``hop``, ``delay`` (samples by
    which the output lags behind the input), ``latency_s``, ``states`` (a JSON list of names), ``model_config`` (JSON)
    ``card`` (Markdown) and ``fingerprint``.

    Args:
        model: a causal network.
        path: output file.
        card: the model card.
        fingerprint: of the file of weights that the network was loaded from.

    Returns:
        The largest absolute difference from the network over two seconds of test signal.

    Raises:
        InputError: the network is offline, a package is missing, or the graph differs from the network by more than
            ``TOLERANCE``; nothing is written then.
    """
    try:
        import onnx
    except ImportError:
        raise InputError(f"export to ONNX: {missing_package('onnx')}") from None

    model = model.cpu()
    step = HopStep(model).eval()
    graph = onnx.load_model_from_string(_graph(step))
    config = model.config
    onnx.helper.set_model_props(
        graph,
        {
            "format": FORMAT,
            "sample_rate": str(config.sample_rate),
            "hop": str(config.hop),
            "delay": str(model.stft.context),
            "latency_s": str(model.latency_s),
            "states": json.dumps(step.names),
            "model_config": json.dumps(to_mapping(config)),
            "card": card,
            "fingerprint": fingerprint,
        },
    )
    serialized = graph.SerializeToString()
    difference = _difference(step, serialized)
    if not difference <= TOLERANCE:
        raise InputError(f"{path}: not written, since the graph differs from the network by {difference:.1e}")
    with atomic_path(path) as partial:
        partial.write_bytes(serialized)
    return difference


def _graph(step: HopStep) -> bytes:
    """Return the exported graph, without metadata."""
    with tempfile.TemporaryDirectory() as folder, _quiet(), torch.no_grad():
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            step,
            (torch.zeros(1, step.model.config.hop), *step.initial_state()),
            path,
            input_names=[NOISY, *step.names],
            output_names=[ENHANCED, *(NEXT + name for name in step.names)],
            opset_version=OPSET,
            dynamo=False,  # the other exporter needs ten times as long and adds 170 kB of metadata
        )
        return path.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ignore the exporter's warnings: it is deprecated, and the sizes that it traces as constants are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _difference(step: HopStep, serialized: bytes) -> float:
    """Return the largest difference between a graph and its network over noise, a tone, silence and a click."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"export to ONNX: {missing_package('onnxruntime')}") from None

    config = step.model.config
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    expected = step.initial_state()
    actual = [state.numpy() for state in expected]
    worst = 0.0
    with torch.no_grad():
        for hop in _test_signal(config.sample_rate).split(config.hop, dim=1):
            if hop.shape[1] < config.hop:
                break
            enhanced, *expected = step(hop, *expected)
            output, *actual = session.run(None, dict(zip([NOISY, *step.names], [hop.numpy(), *actual])))
            difference = float(np.abs(enhanced.numpy() - output).max())
            worst = difference if math.isnan(difference) else max(worst, difference)
            if math.isnan(worst):
                break
    return worst


def _test_signal(sample_rate: int) -> torch.Tensor:
    """Return two seconds (1, samples): noise, a tone, silence, and a click."""
    half = sample_rate // 2
    noise = 0.1 * torch.randn(half, generator=torch.Generator().manual_seed(0))
    tone = 0.3 * torch.sin(2.0 * math.pi * 440.0 / sample_rate * torch.arange(half))
    click = torch.zeros(half)
    click[half // 2] = 1.0
    return torch.cat([noise, tone, torch.zeros(half), click])[None]

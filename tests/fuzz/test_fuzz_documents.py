"""Files of nested values, with values that belong to another place: configurations, weights, records of state."""

import io
import json
import math
import struct

import pytest
import torch
import yaml
from hypothesis import strategies as st

from helpers.fuzzing import changes, hammer, outcome
from sase import jsonfile, pretrained
from sase.config import read_yaml, to_mapping
from sase.federated.config import FederatedConfig, load_federated_config
from sase.model import PRESETS, build_model, save_model
from sase.studies.ablation import load_ablation
from sase.studies.comparison import load_comparison
from sase.studies.poisoning import load_poisoning
from sase.training.config import TrainConfig, load_train_config

SHARE = 0.2 / 7
TEXTS = (
    *("", " ", "nan", "-inf", "1e999", "-1", "0x10", "9" * 40, "..", "../x", "/etc/passwd", "a/b", "\x00", "\ufeff"),
    *("a\u0308", "\u2028", "\x1b[31m", '"', "\\", "%s", "{}", "\r", "[", "&a [*a]", "!!python", "x" * 5000),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, 0.0, -0.5, 1e300, float("nan"), float("inf")]),
    st.sampled_from(TEXTS),
    st.sampled_from([[], {}, [[]], {"a": 1}, [1, "2", None]]),
)


def paths(value, path=()):
    """Yield the path of every node of a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def replaced(value, path, new):
    """A document with the node at ``path`` replaced, or removed if ``new`` is Ellipsis."""
    if not path:
        return new
    head, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is ...:
        del copy[head]
    else:
        copy[head] = replaced(copy[head], rest, new)
    return copy


@st.composite
def damaged(draw, value):
    """A document with up to three nodes replaced, removed or added."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(value))))
        value = replaced(value, path, draw(VALUES | st.just(...) if path else VALUES))
        if isinstance(value, dict) and draw(st.booleans()):
            value = {**value, draw(st.sampled_from(TEXTS)): draw(VALUES)}
    return value


def as_yaml(value):
    return yaml.safe_dump(value).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("mini").eval()


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["train", "federated", "model"])
def test_configurations(tmp_path, record_property, name):
    document, load = {
        "train": (
            {**to_mapping(TrainConfig(loss={"sdr": 1.0})), "model": {"preset": "mini", "norm": "layer"}},
            load_train_config,
        ),
        "federated": (to_mapping(FederatedConfig(num_silos=4)), load_federated_config),
        "model": (to_mapping(PRESETS["mini"]), lambda path: build_model(read_yaml(path))),
    }[name]
    path = tmp_path / "c.yaml"

    def check(value):
        path.write_bytes(as_yaml(value))
        outcome(load, path)

    hammer(check, damaged(document), SHARE, record_property)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["ablation", "compare_strategies", "poisoned_silos"])
def test_plans_of_studies(tmp_path, record_property, root, name):
    load = {"ablation": load_ablation, "compare_strategies": load_comparison, "poisoned_silos": load_poisoning}[name]
    (example,) = root.glob(f"egs/*/conf/{name}.yaml")
    document, path = read_yaml(example), tmp_path / "c.yaml"
    document["rows"] = dict(list(document["rows"].items())[:3])

    def check(value):
        path.write_bytes(as_yaml(value))
        outcome(load, path)

    hammer(check, damaged(document), SHARE / 3, record_property)


@pytest.mark.fuzz
def test_metadata_of_safetensors(tmp_path, record_property, model):
    path = tmp_path / "a.safetensors"
    pretrained.save(model, path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    config = json.loads(header["__metadata__"]["model_config"])
    with_config = damaged(config).map(
        lambda value: {**header, "__metadata__": {**header["__metadata__"], "model_config": json.dumps(value)}}
    )

    def check(value):
        text = json.dumps(value).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)
        outcome(pretrained.load, path)

    hammer(check, with_config | damaged(header), SHARE, record_property)


@pytest.mark.fuzz
def test_checkpoints(tmp_path, record_property, model):
    path = tmp_path / "best.pt"
    save_model(model, path)
    state = torch.load(path, weights_only=True)

    @st.composite
    def damaged_state(draw):
        name = draw(st.sampled_from(sorted(state["model"])))
        weight = state["model"][name]
        others = [
            *(torch.full_like(weight, math.nan), weight * 1e38 * 1e38, weight.to(torch.complex64)),
            *(weight.to(torch.int32), weight.to(torch.bfloat16), weight.flatten()[:1], weight[None], "text", None),
        ]
        kind = draw(st.sampled_from(["weight", "missing", "more", "config", "key"]))
        if kind == "weight":
            return {**state, "model": {**state["model"], name: draw(st.sampled_from(others))}}
        if kind == "missing":
            return {**state, "model": {key: value for key, value in state["model"].items() if key != name}}
        if kind == "more":
            return {**state, "model": {**state["model"], "extra": weight}}
        if kind == "config":
            return {**state, "model_config": draw(damaged(state["model_config"]))}
        return {**state, draw(st.sampled_from(sorted(state))): draw(VALUES)}

    def check(value):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        path.write_bytes(buffer.getvalue())
        loaded = outcome(pretrained.load, path)
        assert loaded is None or all(torch.isfinite(tensor).all() for tensor in loaded.state_dict().values())

    hammer(check, damaged_state(), SHARE, record_property)


@pytest.mark.fuzz
def test_records(tmp_path, record_property):
    epoch = {"epoch": 1, "steps": 6, "bad_steps": 0, "loss": -3.5, "dev_SI_SNR": 4.25, "best": True}
    lines = (json.dumps(epoch) + "\n").encode() * 3
    path = tmp_path / "history.jsonl"

    def check(example):
        path.write_bytes(example[1])
        outcome(jsonfile.read_jsonl, path)
        outcome(jsonfile.read, path)

    hammer(check, changes(lines, (b"{", b":"), (b"NaN", b"{", b"[" * 2000, b"9" * 5000, b'"')), SHARE, record_property)

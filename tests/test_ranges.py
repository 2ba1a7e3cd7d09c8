"""Every field of every config has a range; values outside it are one line that names file and key."""

import dataclasses
import math
import types
import typing
from typing import Annotated

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sase.config import Ascending, OneOf, Range, Share, from_mapping, to_mapping
from sase.data.remix import DataConfig
from sase.errors import InputError
from sase.federated.config import FederatedConfig, load_federated_config
from sase.federated.privacy import upload_epsilon
from sase.federated.server_optimiser import ServerOptimiser
from sase.model import PRESETS, build_model
from sase.nn.config import ModelConfig
from sase.studies.ablation import Ablation
from sase.studies.comparison import Comparison
from sase.studies.poisoning import Federation, Poisoning
from sase.training.config import OptimiserConfig, TrainConfig, load_train_config

CONFIGS = (ModelConfig, DataConfig, OptimiserConfig, TrainConfig, FederatedConfig)
HINTS = [
    (config, name, hint)
    for config in CONFIGS
    for name, hint in typing.get_type_hints(config, include_extras=True).items()
    if not dataclasses.is_dataclass(hint)
]
PLANS = (Ablation, Comparison, Poisoning, Federation)
UNCONSTRAINED = {"network", "mask", "init"}  # the first two may be extended by a program, and are checked when built


def parts(hint):
    """Yield (type without constraints, its constraints) of a hint and of the values in it."""
    constraints = ()
    if typing.get_origin(hint) is Annotated:
        hint, *constraints = typing.get_args(hint)
    yield hint, constraints
    for inner in typing.get_args(hint):
        if inner not in (Ellipsis, type(None), str):
            yield from parts(inner)


def outside(hint):
    """Return a strategy for values that a hint does not allow."""
    constraints = ()
    if typing.get_origin(hint) is Annotated:
        hint, *constraints = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return outside(typing.get_args(hint)[0])
    if typing.get_origin(hint) is dict:
        return st.builds(lambda value: {"sdr": value}, outside(typing.get_args(hint)[1]))
    if typing.get_origin(hint) is tuple:
        inner, size = typing.get_args(hint)[0], len(typing.get_args(hint))
        return st.builds(lambda value: [value] * size, outside(inner)) | st.just([]) | st.just("1, 2")
    bad = [st.sampled_from([math.nan, math.inf, -math.inf, ".nan", "x\ny", [], {}, {1: 2}, None, "a" * 1000])]
    if hint is bool:
        bad.append(st.integers() | st.text())
    for constraint in constraints:
        if isinstance(constraint, OneOf):
            bad.append(st.text().filter(lambda text, names=constraint.names: text not in names))
        if isinstance(constraint, Range):
            bad += _beyond(hint, constraint)
    return st.one_of(bad)


def _beyond(hint, bounds):
    number = st.integers if hint is int else st.floats
    for low in {bounds.least, bounds.above} - {None}:
        yield number(max_value=low - 1 if hint is int or bounds.above is None else min(low, bounds.above))
    if bounds.zero or (bounds.least is not None and bounds.above is not None):
        yield number(min_value=math.nextafter(0, 1), max_value=math.nextafter(bounds.least, 0))
    for high in {bounds.most, bounds.below} - {None}:
        beyond = high + 1 if hint is int else max(high + 1, math.nextafter(high, math.inf))
        yield number(min_value=high if hint is float and bounds.below is not None else beyond)


def test_every_number_and_every_choice_has_a_constraint():
    for config, name, hint in HINTS:
        for plain, constraints in parts(hint):
            if plain in (int, float, str) and name not in UNCONSTRAINED:
                assert constraints, f"{config.__name__}.{name}"


# Of the numbers that may be as small as one likes, the smallest does the same as 0.
HARMLESS_NEAR_ZERO = {
    *("DataConfig.tilt_db", "DataConfig.equaliser_db", "OptimiserConfig.final_ratio", "OptimiserConfig.weight_decay"),
    *(
        "OptimiserConfig.ema_decay",
        "OptimiserConfig.checkpoint_s",
        "OptimiserConfig.select_tolerance",
        "FederatedConfig.gamma",
        "FederatedConfig.alpha_min",
    ),
    *(
        "FederatedConfig.alpha_min",
        "FederatedConfig.common_dev_s",
        "FederatedConfig.dev_s",
        "FederatedConfig.max_poisoned",
    ),
    *("FederatedConfig.momentum", "FederatedConfig.beta2", "FederatedConfig.average_decay"),
    *("FederatedConfig.fedprox_mu", "FederatedConfig.alignment", "FederatedConfig.max_drop_db"),
    *("FederatedConfig.grace_s", "FederatedConfig.repeat_wait_s", "Ablation.macs_tolerance"),
    *(f"DataConfig.{name}" for config, name, hint in HINTS if config is DataConfig and hint == Share),
}


def numbers(*kinds):
    """Return (field, range) of every number in a config or a plan, of the elements if it is a collection."""
    return [
        (f"{config.__name__}.{name}", constraint)
        for config in (*CONFIGS, *PLANS)
        for name, hint in typing.get_type_hints(config, include_extras=True).items()
        if not dataclasses.is_dataclass(hint)
        for plain, constraints in parts(hint)
        if plain in kinds
        for constraint in constraints or [None]
    ]


@pytest.mark.parametrize(("field", "bounds"), numbers(int, float), ids=str)
def test_every_number_is_bounded_above_and_below(field, bounds):
    """Sleeps, sizes and exponentials of huge numbers would fail long after the config has been read."""
    assert isinstance(bounds, Range)
    assert bounds.most is not None or bounds.below is not None
    assert bounds.least is not None or bounds.above is not None


@pytest.mark.parametrize(("field", "bounds"), numbers(float), ids=str)
def test_no_number_may_be_absurdly_close_to_0(field, bounds):
    """Reciprocals, squares and logarithms of it would not be finite, long after the config has been read."""
    if bounds.error(-1.0) and not bounds.error(1e-300):
        assert field in HARMLESS_NEAR_ZERO
        assert bounds.error(0.0) == ""


def test_a_guard_against_tiny_numbers_is_named_to_those_who_gave_one():
    guarded, optional = Range(1e-6, 1e6, above=0), Range(1e-6, 1e6, zero=True)
    assert guarded.error(0.0) == "must be above 0, not 0.0"
    assert guarded.error(-1.0) == "must be above 0, not -1.0"
    assert guarded.error(1e-9) == "must be 1e-06 or more and above 0, not 1e-09"
    assert guarded.error(1e7) == "must be above 0 and 1000000.0 or less, not 10000000.0"
    assert [guarded.error(value) for value in (1e-6, 1.0, 1e6)] == ["", "", ""]
    assert [optional.error(value) for value in (0.0, 1e-6, 1e6)] == ["", "", ""]
    assert optional.error(1e-9) == "must be 0, or 1e-06 or more, not 1e-09"
    assert optional.error(-1.0) == "must be 0, or 1e-06 or more, not -1.0"


def test_the_smallest_numbers_that_are_allowed_are_computed_with():
    least = {field.split(".")[1]: bounds.least for field, bounds in numbers(float) if "FederatedConfig" in field}
    start, moved = {"weight": np.zeros(3)}, {"weight": np.array([0.0, 1e-6, 1.0])}
    for name in ("adam", "yogi"):
        optimiser = ServerOptimiser(name, least["server_lr"], adaptivity=least["adaptivity"])
        for _ in range(3):
            assert np.isfinite(optimiser.step(start, moved, [], np.ones(1))["weight"]).all()
    assert math.isfinite(upload_epsilon(least["dp_noise_multiplier"], 10**6, least["dp_delta"]))


def test_defaults_and_presets_are_within_their_ranges():
    for value in (*(config() for config in CONFIGS), *PRESETS.values()):
        assert from_mapping(type(value), to_mapping(value)) == value


@pytest.mark.parametrize(
    ("config", "name", "hint"),
    [case for case in HINTS if case[1] not in UNCONSTRAINED],
    ids=lambda value: getattr(value, "__name__", value) if isinstance(value, (str, type)) else "",
)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_values_outside_are_one_line_with_the_key(config, name, hint, data):
    value = data.draw(outside(hint))
    if value is None and type(None) in typing.get_args(hint):
        return
    with pytest.raises(InputError, match=name) as error:
        from_mapping(config, {name: value}, "section")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("model: {preset: []}", r"unknown preset \[\]"),
        ("train: {epochs: 0}", "train.epochs must be 1 or more, not 0"),
        ("train: {ema_decay: 2}", "train.ema_decay must be 0 or more and below 1"),
        ("train: {clip_norm: -1}", "train.clip_norm must be above 0"),
        ("train: {learning_rate: .inf}", "train.learning_rate must be float"),
        ("train: {learning_rate: 1" + "0" * 400 + "}", "train.learning_rate must be float"),
        ("data: {babble: 2}", "data.babble must be 0 or more and 1 or less"),
        ("data: {snr_db: [5, -5]}", "data.snr_db must be .lowest, highest"),
        ("seed: -1", "seed must be 0 or more"),
        ("model: {preset: tiny, hop: 0}", "model.hop must be 1 or more"),
        ("model: {preset: tiny, norm: foo}", "model.norm is 'foo'; choose from batch, layer"),
        ("model: {preset: tiny, blocks: 1000000}", "model.blocks must be 1 or more and 64 or less"),
        ("model: {preset: tiny, channels: []}", "model.channels must have 1 or more and 16 or less values"),
        ("model: {preset: tiny, sample_rate: 8000}\nloss: {stoi: 1}", "stoi is defined at 16000 Hz"),
        ("model: {preset: tiny, sample_rate: 8000}\ntrain: {select_by: PESQ_WB}", "PESQ_WB is defined at 16000 Hz"),
        ("loss: {si_snr: .nan}", "loss.si_snr must be float"),
        ("loss: {si_snr: 0}", "loss.si_snr must be above 0"),
        ("loss: {no_such: 1}", "unknown objective 'no_such'"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("1: 2\nfoo: 3", "unknown key"),
        ("seed: 2020-99-99", "not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_files_with_bad_values(tmp_path, line, key):
    path = tmp_path / "train.yaml"
    path.write_text(line if "model" in line else f"model: {{preset: tiny}}\n{line}\n")
    with pytest.raises(InputError, match=f"train.yaml: .*{key}") as error:
        load_train_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("server_lr: .nan", "server_lr must be float"),
        ("server_lr: 0", "server_lr must be above 0"),
        ("max_norm_ratio: .nan", "max_norm_ratio must be float"),
        ("num_rounds: 0", "num_rounds must be 1 or more"),
        ("momentum: 1", "momentum must be 0 or more and below 1"),
        ("min_silos: 9", "min_silos is 9, more than num_silos"),
    ],
)
def test_federated_files_with_bad_values(tmp_path, line, key):
    path = tmp_path / "fl.yaml"
    path.write_text(line)
    with pytest.raises(InputError, match=f"fl.yaml: .*{key}") as error:
        load_federated_config(path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "train.yaml"
    for content in (bytes(range(256)), b"\xff\xfea\x00", "a: ü".encode("latin-1")):
        path.write_bytes(content)
        with pytest.raises(InputError, match="train.yaml: not UTF-8 text") as error:
            load_train_config(path)
        assert "\n" not in str(error.value)


def test_overrides_that_are_no_yaml(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"model": {"preset": "tiny"}}))
    with pytest.raises(InputError, match=r"--set seed=\[1: not valid YAML") as error:
        load_train_config(path, ["seed=[1"])
    assert "\n" not in str(error.value)


def test_fields_that_do_not_fit_together_are_one_line():
    for change in ({"window": 500, "hop": 300}, {"fft": 256}, {"channels": [4, 8]}, {"recurrent": 7, "heads": 2}):
        with pytest.raises(InputError, match="config: model") as error:
            build_model({"preset": "mini", **change})
        assert "\n" not in str(error.value)


def test_bounds_of_pairs():
    assert Ascending().error((1.0, 1.0)) == ""
    assert Range(above=0, most=1).error(1.0) == ""
    assert Range(above=0, most=1).error(0.0) == "must be above 0 and 1 or less, not 0.0"

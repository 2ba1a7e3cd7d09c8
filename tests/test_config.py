"""Configs: YAML to dataclasses and back; errors name the key."""

from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sase.config import apply_overrides, from_mapping, read_yaml, to_mapping, to_yaml
from sase.errors import InputError


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3
    steps: int = 10
    widths: tuple[int, ...] = (1, 2)
    span: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    loss: dict[str, float] = field(default_factory=dict)
    name: str = "a"
    flag: bool = False
    limit: int | None = None


def test_values_take_the_types_of_their_fields():
    config = from_mapping(
        Outer,
        {
            "inner": {"rate": "1e-4", "steps": 3.0, "widths": [4, 5, 6], "span": [-2, 17]},
            "loss": {"si_snr": 1},
            "flag": True,
            "limit": 7,
        },
    )
    assert config == Outer(Inner(1e-4, 3, (4, 5, 6), (-2.0, 17.0)), {"si_snr": 1.0}, "a", True, 7)
    assert isinstance(config.inner.steps, int)
    assert isinstance(config.loss["si_snr"], float)
    assert from_mapping(Outer, {"limit": None}) == from_mapping(Outer, {}) == Outer()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"nam": "b"}, "unknown key nam; known here: flag, inner, limit, loss, name"),
        ({"inner": {"step": 1}}, "unknown key inner.step"),
        ({"inner": 3}, "inner must be a section"),
        ({"inner": {"steps": 1.5}}, "inner.steps must be int"),
        ({"inner": {"steps": True}}, "inner.steps must be int"),
        ({"inner": {"rate": "fast"}}, "inner.rate must be float"),
        ({"inner": {"rate": True}}, "inner.rate must be float"),
        ({"inner": {"rate": None}}, "inner.rate must be float"),
        ({"inner": {"widths": 3}}, "inner.widths"),
        ({"inner": {"widths": [1, "x"]}}, "inner.widths must be int"),
        ({"inner": {"span": [1]}}, "inner.span needs 2 values"),
        ({"loss": [1]}, "loss"),
        ({"loss": {"a": "b"}}, "loss.a must be float"),
        ({"name": 3}, "name must be str"),
        ({"flag": "yes"}, "flag must be bool"),
        ({"flag": 1}, "flag must be bool"),
        ([1], "must be a section"),
    ],
)
def test_invalid_values_are_reported_by_key(mapping, message):
    with pytest.raises(InputError, match=message) as error:
        from_mapping(Outer, mapping)
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Shelf:
    width: int
    books: dict[str, Inner]
    label: str = ""


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "config: width is missing"),
        ({"width": 1}, "config: books is missing"),
        ({"rows": {"a": {"width": 1}}}, "config: rows.a.books is missing"),
    ],
)
def test_a_key_without_default_that_is_missing_is_named(mapping, message):
    @dataclass(frozen=True)
    class Shelves:
        rows: dict[str, Shelf]

    with pytest.raises(InputError, match=f"^{message}$"):
        from_mapping(Shelves if "rows" in mapping else Shelf, mapping)


@settings(deadline=None, max_examples=30)
@given(
    st.builds(
        Outer,
        inner=st.builds(
            Inner,
            rate=st.floats(allow_nan=False, allow_infinity=False),
            steps=st.integers(),
            widths=st.lists(st.integers(), max_size=3).map(tuple),
        ),
        loss=st.dictionaries(st.sampled_from("abc"), st.floats(-1e9, 1e9)),
        name=st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"])),
        flag=st.booleans(),
        limit=st.none() | st.integers(),
    )
)
def test_yaml_round_trip(config):
    assert from_mapping(Outer, yaml.safe_load(to_yaml(config))) == config
    assert from_mapping(Outer, to_mapping(config)) == config


def test_file_round_trip(tmp_path):
    (tmp_path / "c.yaml").write_text(to_yaml(Outer(name="ä")), encoding="utf-8")
    assert from_mapping(Outer, read_yaml(tmp_path / "c.yaml")) == Outer(name="ä")


def test_bad_yaml_is_rejected(tmp_path):
    path = tmp_path / "c.yaml"
    for text, message in (("a: [1", "not valid YAML"), ("- 1\n", "holds a list"), ("word", "holds a str")):
        path.write_text(text)
        with pytest.raises(InputError, match=f"c.yaml: .*{message}") as error:
            read_yaml(path)
        assert "\n" not in str(error.value)
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def laughs(depth, merge):
    """YAML of a kilobyte that stands for 9^depth values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, depth):
        names = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {{<<: [{names}]}}" if merge else f"a{level}: &a{level} [{names}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(30, merge=False),
        laughs(30, merge=True),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 300,
        "{a: " * 300,
        "a: " + "9" * 5000,
        "a: 2026-13-45",
        "a: !!timestamp x",
        "a: !!int x",
        "a: !!python/object/apply:os.system [true]",
        "? [1]\n: 2",
        "a: \x00",
        "# " + "x" * 300000,
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_is_none_or_stands_for_too_much_is_one_line(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="c.yaml: ") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    if "\n" not in text and len(text) < 300000:
        with pytest.raises(InputError, match="--set"):
            apply_overrides({}, [f"b={text[3:] if text.startswith('a: ') else text}"])


@pytest.mark.parametrize(
    "mapping",
    [
        {"name": ["x"] * 10**5},
        {"limit": "9" * 10**5},
        {"inner": {"rate": 10**4000}},
        {"inner": "x" * 10**5},
        {"x" * 10**5: 1, 2: 3, None: 4},
        {"loss": {"mse": "y" * 10**5}},
    ],
    ids=lambda mapping: str(mapping)[:20],
)
def test_values_of_any_size_make_short_messages(mapping):
    with pytest.raises(InputError, match="config: ") as error:
        from_mapping(Outer, mapping)
    assert len(str(error.value)) < 1000


def test_aliases_within_reason_are_kept(tmp_path):
    (tmp_path / "c.yaml").write_text("base: &base {a: 1, b: [1, 2]}\nx: {<<: *base, a: 2}\ny: *base\n")
    base = {"a": 1, "b": [1, 2]}
    assert read_yaml(tmp_path / "c.yaml") == {"base": base, "x": {"a": 2, "b": [1, 2]}, "y": base}


def test_text_that_is_not_utf8_is_one_line(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(InputError, match=r"c.yaml: not UTF-8 text \(byte 3\)"):
        read_yaml(tmp_path / "c.yaml")


def test_overrides():
    mapping = {"train": {"lr": 1.0, "keep": 1}, "seed": 0}
    overrides = ["train.lr=1e-4", "train.on=true", "seed=3", "new.a.b=[1, 2]", "x=null", "y=a=b"]
    changed = apply_overrides(mapping, overrides)
    train = {"lr": "1e-4", "keep": 1, "on": True}  # YAML 1.1 reads 1e-4 as text; from_mapping makes it a number
    assert changed == {"train": train, "seed": 3, "new": {"a": {"b": [1, 2]}}, "x": None, "y": "a=b"}
    assert mapping == {"train": {"lr": 1.0, "keep": 1}, "seed": 0}


@pytest.mark.parametrize("override", ["train.lr", "=3", "", "seed.x=1"])
def test_bad_overrides_are_rejected(override):
    with pytest.raises(InputError, match="--set"):
        apply_overrides({"train": {"lr": 1.0}, "seed": 0}, [override])

"""YAML files to frozen dataclasses and back; an unknown key is an error, ``a.b=c`` overrides.

The values that a field may have are part of its type: ``epochs: Annotated[int, Range(1)]``. Floats are always finite.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from sase import yamlfile
from sase.errors import InputError

Config = TypeVar("Config")
_GUARD = 1e4  # upper bounds from here on are no choice that anybody makes


@dataclasses.dataclass(frozen=True)
class Range:
    """Constraint of a number: bounds that are allowed values, ``least`` and ``most``, or not, ``above`` and ``below``.

    Of a tuple, it constrains the number of values. With ``above`` too, ``least`` is a guard: numbers so small are no
    choice that anybody makes, and their reciprocals or squares are not finite. With ``zero``, 0 is allowed besides.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    zero: bool = False

    def error(self, value: Any) -> str:
        """Return what is wrong with a value, to follow the name of its field; an empty string if nothing is."""
        number = len(value) if isinstance(value, tuple) else value
        least = f"{'0, or ' if self.zero else ''}{self.least} or more"
        bounds = {
            least: self.least is None or number >= self.least or (self.zero and number == 0),
            f"above {self.above}": self.above is None or number > self.above,
            f"{self.most} or less": self.most is None or number <= self.most,
            f"below {self.below}": self.below is None or number < self.below,
        }
        if all(bounds.values()):
            return ""
        # What only guards against absurd numbers is named to those who gave one.
        guard = f"{self.most} or less" if self.most is not None and self.most >= _GUARD else ""
        guards = {guard: bounds.get(guard, True)}
        if self.above is not None:
            guards[least] = bounds[least] or number <= self.above
        named = (text for text, kept in bounds.items() if "None" not in text and not guards.get(text, False))
        needed = " and ".join(named)
        what = f"have {needed} values" if isinstance(value, tuple) else f"be {needed}"
        return f"must {what}, not {_short(value)}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Constraint of a text, or of every key of a section: one of several names."""

    names: Collection[str]

    def error(self, value: Any) -> str:
        """Return what is wrong with a value; see :meth:`Range.error`."""
        for name in value if isinstance(value, dict) else [value]:
            if name not in self.names:
                verb = "has" if isinstance(value, dict) else "is"
                return f"{verb} {_short(name)}; choose from {', '.join(self.names)}"
        return ""


@dataclasses.dataclass(frozen=True)
class Ascending:
    """Constraint of a pair of numbers: the first is not above the second."""

    def error(self, value: Any) -> str:
        """Return what is wrong with a value; see :meth:`Range.error`."""
        return "" if value[0] <= value[1] else f"must be [lowest, highest], not {_short(list(value))}"


Share = Annotated[float, Range(0, 1)]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raise InputError, with the file name, if it is missing or invalid."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    mapping = yamlfile.parse(text, str(path))
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: must hold 'key: value' lines, holds a {type(mapping).__name__}")
    return mapping


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a nested mapping with ``["train.lr=1e-4", ...]`` set in it.

    Values are parsed as YAML, so ``true``, ``3``, ``1e-4``, ``[1, 2]`` and ``null`` mean the same as in the file.
    """
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise InputError(f"--set {override}: must be name=value, as in train.lr=1e-4")
        *parents, leaf = name.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"--set {override}: {parent} is a value, not a section")
        node[leaf] = yamlfile.parse(text, f"--set {override}")
    return result


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Prefix InputErrors of a block with the name of the file whose content they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def from_mapping(cls: type[Config], mapping: Any, where: str = "") -> Config:
    """Build a (nested) frozen dataclass from a mapping.

    Args:
        cls: a dataclass whose fields are plain types, dataclasses, tuples or ``dict[str, TYPE]``; ``object`` is for
            anything.
        mapping: what YAML gave.
        where: the name of the section, for messages.

    Raises:
        InputError: for an unknown key, a missing one, or a value of another type than the field's or outside its
            constraints.
    """
    if not isinstance(mapping, dict):
        raise InputError(
            f"config: {where or 'the file'} must be a section of 'key: value' lines, not {_short(mapping)}"
        )
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    hints = typing.get_type_hints(cls, include_extras=True)
    unknown = sorted(set(mapping) - set(fields), key=str)
    if unknown:
        known = ", ".join(sorted(fields))
        raise InputError(f"config: unknown key {_join(where, _short(unknown[0], str))}; known here: {known}")
    for name, field in fields.items():
        if name not in mapping and field.default is dataclasses.MISSING is field.default_factory:
            raise InputError(f"config: {_join(where, name)} is missing")
    return cls(**{key: _convert(hints[key], value, _join(where, key)) for key, value in mapping.items()})


def to_mapping(config: Any) -> Any:
    """Return a dataclass as plain dicts, lists and scalars: what YAML and a checkpoint can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_mapping(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(value) for value in config]
    return config


def to_yaml(config: Any) -> str:
    """Return a dataclass as YAML text that :func:`from_mapping` reads back to an equal one."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        result = _convert(arguments[0], value, where)
        for constraint in arguments[1:]:
            if error := constraint.error(result):
                raise InputError(f"config: {where} {error}")
        return result
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise InputError(f"config: {where} needs {len(arguments)} values, got {_short(value)}")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_convert(h, v, where) for h, v in zip(inner, value))
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(arguments[1], v, _join(where, key)) for key, v in value.items()}
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)  # YAML reads 1e-4 as text
            if math.isfinite(number):
                return number
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is object or (hint in (int, str, bool) and type(value) is hint):
        return value
    if origin is dict:
        raise InputError(f"config: {where} must be a section of 'key: value' lines, not {_short(value)}")
    raise InputError(f"config: {where} must be {getattr(hint, '__name__', hint)}, got {_short(value)}")


def _short(value: Any, show: Callable[[Any], str] = repr) -> str:
    """Return a value on one line, shortened if it is long."""
    text = " ".join(show(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."

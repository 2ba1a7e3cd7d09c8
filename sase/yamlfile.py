"""YAML text to plain values, in memory and time that follow the length of the text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from sase.errors import InputError

MAX_CHARACTERS = 1 << 18
_MAX_DEPTH = 50
_MAX_VALUES = 100_000  # once every alias is replaced by what it stands for


def parse(text: str, where: str) -> Any:
    """Return what YAML text holds: mappings, lists and scalars.

    Args:
        text: at most 262,144 characters; aliases may not multiply it to more than 100,000 values.
        where: the file or option, for messages.

    Raises:
        InputError: the text is no YAML, or too large.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where}: has {len(text)} characters, a configuration has at most {MAX_CHARACTERS}")
    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), where)
        return yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:  # PyYAML raises many kinds of exceptions for scalars that do not fit their tag
        raise InputError(f"{where}: not valid YAML ({' '.join(str(error).split())[:300]})") from None


def _check_size(events: Iterable[yaml.Event], where: str) -> None:
    """Raise InputError if the values are nested too deeply, or are too many once each alias is what it stands for."""
    sizes: dict[str, int] = {}  # number of values of each anchor that is complete
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and number of values before
    total = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, _MAX_VALUES + 1)  # an alias of a value that contains it never ends
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > _MAX_VALUES:
            raise InputError(f"{where}: an alias (*name) stands for too many values, for itself, or for none")
        if len(open_nodes) > _MAX_DEPTH:
            raise InputError(f"{where}: not valid YAML (nested more than {_MAX_DEPTH} deep)")

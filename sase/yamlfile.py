"""YAML text to plain values, in memory and time that follow the length of the text."""

from __future__ import annotations

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
        loader = _Loader(text, where)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except InputError:
        raise
    except Exception as error:  # PyYAML raises many kinds of exceptions for scalars that do not fit their tag
        raise InputError(f"{where}: not valid YAML ({' '.join(str(error).split())[:300]})") from None


class _Loader(yaml.SafeLoader):
    """Raises InputError if the values are nested too deeply, or are too many once each alias is what it stands for.

    Each event is checked when it is composed; values are constructed once all of them are.
    """

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self._where = where
        self._sizes: dict[str, int] = {}  # number of values of each anchor that is complete
        self._open_nodes: list[tuple[str | None, int]] = []  # anchor, and number of values before
        self._total = 0

    def get_event(self) -> yaml.Event:
        event = super().get_event()
        if isinstance(event, yaml.AliasEvent):
            self._total += self._sizes.get(event.anchor, _MAX_VALUES + 1)  # an alias of what contains it never ends
        elif isinstance(event, yaml.ScalarEvent):
            self._total += 1
            if event.anchor:
                self._sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open_nodes.append((event.anchor, self._total))
            self._total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open_nodes.pop()
            if anchor:
                self._sizes[anchor] = self._total - before
        if self._total > _MAX_VALUES:
            raise InputError(f"{self._where}: an alias (*name) stands for too many values, for itself, or for none")
        if len(self._open_nodes) > _MAX_DEPTH:
            raise InputError(f"{self._where}: not valid YAML (nested more than {_MAX_DEPTH} deep)")
        return event

"""How much of a reply the server pulls from the SuperLink, and what it leaves in memory meanwhile."""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sase.federated.flower.garbage import Garbage
from sase.federated.flower.patches_busy import replace


@contextmanager
def bounded_pull(max_bytes: int, max_time_s: float) -> Iterator[None]:
    """Bound what Flower's grid pulls in this block: the bytes of all arrays together, and the time to wait for objects.

    Flower joins an array from chunks by a list of their numbers, which may name one chunk any number of times; and it
    waits for the objects of a reply for up to two hours. Beyond the bounds, it raises or returns an error message. What
    it leaves in memory of each request is freed before the next.
    """
    from flwr.app import Array
    from flwr.supercore.inflatable.inflatable_object import (
        get_object_body,
        get_object_children_ids_from_object_content,
    )

    http_grid = importlib.import_module("flwr.superlink.grid.http_grid")
    inflate, pull_objects, left, garbage = Array.inflate, http_grid.pull_objects, max_bytes, Garbage()

    def bounded_inflate(object_content: bytes, children: Any = None) -> Any:
        nonlocal left
        ids = get_object_children_ids_from_object_content(object_content)
        sizes = [len(children[name].data) for name in ids] if children else []
        left -= sum(sizes[index] for index in json.loads(get_object_body(object_content, Array))["arraychunk_ids"])
        if left < 0:
            raise ValueError(f"its arrays have more than {max_bytes} bytes")
        return inflate(object_content, children=children)

    def pull_and_collect(
        object_ids: list[str], pull_object_fn: Callable[[str], bytes], **options: float
    ) -> dict[str, bytes]:
        def pull(object_id: str) -> bytes:
            content = pull_object_fn(object_id)
            garbage.add(len(content))
            garbage.collect()  # the responses to the requests so far, which take as much again as the objects
            return content

        pulled: dict[str, bytes] = pull_objects(object_ids, pull, max_time=max_time_s, **options)
        return pulled

    replace(Array, "inflate", staticmethod(bounded_inflate))
    replace(http_grid, "pull_objects", pull_and_collect)
    try:
        yield
    finally:
        replace(Array, "inflate", inflate)
        replace(http_grid, "pull_objects", pull_objects)

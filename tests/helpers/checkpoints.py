"""Comparison of checkpoints, to the bit."""

import torch


def assert_equal(left, right, where="checkpoint"):
    """Everything in two checkpoints is equal, tensors to the bit."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right)):
            assert_equal(*pair, f"{where}[{number}]")
    else:
        assert left == right, where


def states(path):
    """Return the values of a checkpoint as a flat mapping."""
    state = torch.load(path, weights_only=True)
    flat = {}

    def walk(prefix, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        elif isinstance(value, (list, tuple)):
            walk(prefix, dict(enumerate(value)))
        else:
            flat[prefix] = value

    walk("", state)
    return flat


def assert_same(first, second):
    """The checkpoints in two files are equal, tensors to the bit."""
    a, b = states(first), states(second)
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name

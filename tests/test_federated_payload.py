"""What silos send, in three types."""

import numpy as np
import pytest
import torch

from sase.federated.payload import decode, encode, num_bytes

COMPRESSED = {"w", "conv", "bias"}


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    reference = {
        "w": generator.standard_normal((64, 33)).astype(np.float32),
        "conv": generator.standard_normal((8, 4, 5, 2)).astype(np.float32),
        "bias": generator.standard_normal(64).astype(np.float32),
        "running_cov": generator.standard_normal((3, 8)).astype(np.float32),
        "count": np.array(3),
    }
    local = {n: (v + 0.01 * generator.standard_normal(v.shape)).astype(v.dtype) for n, v in reference.items()}
    return reference, local


def test_float32_comes_back_to_the_bit(arrays):
    reference, local = arrays
    result = decode("float32", encode("float32", local, reference, COMPRESSED), reference, COMPRESSED)
    assert all(np.array_equal(result[name], local[name]) and result[name].dtype == local[name].dtype for name in local)


@pytest.mark.parametrize("payload, dtype, error", [("bfloat16", np.uint16, 2**-8), ("int8", np.int8, 0.5 / 127)])
def test_compressed_updates_are_near_and_small(arrays, payload, dtype, error):
    reference, local = arrays
    upload = encode(payload, local, reference, COMPRESSED)
    result = decode(payload, upload, reference, COMPRESSED)
    for name in ("w", "conv"):
        update = local[name].astype(np.float64) - reference[name]
        row = np.abs(update).reshape(len(update), -1).max(1).reshape(-1, *[1] * (update.ndim - 1))
        bound = (np.abs(update) if payload == "bfloat16" else row) * error * 1.001
        assert upload[name].dtype == dtype
        assert (np.abs(result[name] - local[name]) <= bound).all()
    for name in ("bias", "running_cov", "count"):  # as they are
        assert np.array_equal(result[name], local[name])


def test_bytes_are_halved_and_quartered():
    big = {"w": np.ones((512, 512), np.float32)}
    reference = {"w": np.zeros_like(big["w"])}
    sizes = {p: num_bytes(encode(p, big, reference, {"w"})) for p in ("float32", "bfloat16", "int8")}
    assert sizes["bfloat16"] / sizes["float32"] == 0.5
    assert sizes["int8"] / sizes["float32"] < 0.253


def test_bfloat16_rounds_as_torch_does():
    generator = np.random.default_rng(0)
    value = (generator.standard_normal((100, 50)) * 10.0 ** generator.uniform(-30, 30, (100, 50))).astype(np.float32)
    value[0, :4] = [0.0, -0.0, np.inf, -np.inf]
    upload = encode("bfloat16", {"w": value}, {"w": np.zeros_like(value)}, {"w"})["w"]
    expected = torch.from_numpy(value).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(upload[0, 2:], expected[0, 2:])
    np.testing.assert_array_equal(upload[1:], expected[1:])


@pytest.mark.parametrize("payload", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(arrays, payload, bad):
    reference, local = arrays
    local["w"][5, 5] = bad
    result = decode(payload, encode(payload, local, reference, COMPRESSED), reference, COMPRESSED)
    assert not np.isfinite(result["w"][5, 5])
    assert np.isfinite(result["conv"]).all()


@pytest.mark.parametrize("payload", ["float32", "bfloat16", "int8"])
def test_bad_uploads_are_named(arrays, payload):
    reference, local = arrays
    upload = encode(payload, local, reference, COMPRESSED)
    for change, message in (
        ({"w": upload["w"][:, :5]}, r"w has shape \(64, 5\), expected \(64, 33\)"),
        ({"w": upload["w"].astype(np.float64)}, "w has type float64"),
        ({"x": upload["w"]}, "x is not part of the model"),
    ):
        with pytest.raises(ValueError, match=message):
            decode(payload, {**upload, **change}, reference, COMPRESSED)
    del upload["bias"]
    with pytest.raises(ValueError, match="bias is missing"):
        decode(payload, upload, reference, COMPRESSED)

"""Encoding and decoding of uploads in float32, bfloat16 and int8."""

import numpy as np
import pytest

from sase.federated.payload import Upload, encode, num_bytes

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


def test_float32_is_lossless(arrays):
    reference, local = arrays
    result = Upload("float32", encode("float32", local, reference, COMPRESSED), reference, COMPRESSED)
    assert all(np.array_equal(result[name], local[name]) and result[name].dtype == local[name].dtype for name in local)


@pytest.mark.parametrize("payload, dtype, error", [("bfloat16", np.uint16, 2**-8), ("int8", np.int8, 0.5 / 127)])
def test_compressed_updates_are_close_and_small(arrays, payload, dtype, error):
    reference, local = arrays
    upload = encode(payload, local, reference, COMPRESSED)
    result = Upload(payload, upload, reference, COMPRESSED)
    for name in ("w", "conv"):
        update = local[name].astype(np.float64) - reference[name]
        row = np.abs(update).reshape(len(update), -1).max(1).reshape(-1, *[1] * (update.ndim - 1))
        bound = (np.abs(update) if payload == "bfloat16" else row) * error * 1.001
        assert upload[name].dtype == dtype
        assert (np.abs(result[name] - local[name]) <= bound).all()
    for name in ("bias", "running_cov", "count"):  # never compressed
        assert np.array_equal(result[name], local[name])


def test_sizes_are_a_half_and_a_quarter():
    big = {"w": np.ones((512, 512), np.float32)}
    reference = {"w": np.zeros_like(big["w"])}
    sizes = {p: num_bytes(encode(p, big, reference, {"w"})) for p in ("float32", "bfloat16", "int8")}
    assert sizes["bfloat16"] / sizes["float32"] == 0.5
    assert sizes["int8"] / sizes["float32"] < 0.253


def test_bfloat16_rounds_half_to_even():
    cases = {  # float32 to the bits of its bfloat16
        0.0: 0x0000,
        1.0: 0x3F80,
        1.0 + 2.0**-8: 0x3F80,  # halfway: to even, down
        1.0 + 3 * 2.0**-8: 0x3F82,  # halfway: to even, up
        1.0 + 2.0**-8 + 2.0**-23: 0x3F81,
        -(1.0 + 3 * 2.0**-8): 0xBF82,
        2.0**-133: 0x0001,  # the smallest denormal
        float(np.finfo(np.float32).max): 0x7F80,  # rounds to infinity
        np.inf: 0x7F80,
        -np.inf: 0xFF80,
    }
    value = np.array([list(cases)], dtype=np.float32)
    upload = encode("bfloat16", {"w": value}, {"w": np.zeros_like(value)}, {"w"})["w"]
    assert upload[0].tolist() == list(cases.values())


@pytest.mark.parametrize("payload", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_stay_non_finite(arrays, payload, bad):
    reference, local = arrays
    local["w"][5, 5] = bad
    result = Upload(payload, encode(payload, local, reference, COMPRESSED), reference, COMPRESSED)
    assert not np.isfinite(result["w"][5, 5])
    assert np.isfinite(result["conv"]).all()


@pytest.mark.parametrize("payload", ["float32", "bfloat16", "int8"])
def test_invalid_uploads_are_rejected_by_name(arrays, payload):
    reference, local = arrays
    upload = encode(payload, local, reference, COMPRESSED)
    for change, message in (
        ({"w": upload["w"][:, :5]}, r"w has shape \(64, 5\), expected \(64, 33\)"),
        ({"w": upload["w"].astype(np.float64)}, "w has type float64"),
        ({"x": upload["w"]}, "x is not part of the model"),
    ):
        with pytest.raises(ValueError, match=message):
            Upload(payload, {**upload, **change}, reference, COMPRESSED)
    del upload["bias"]
    with pytest.raises(ValueError, match="bias is missing"):
        Upload(payload, upload, reference, COMPRESSED)

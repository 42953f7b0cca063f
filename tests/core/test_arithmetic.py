"""Quantize, dequantize, ranges to scales: against the definition in exact arithmetic, and onnxruntime's integers."""

from fractions import Fraction
from math import floor

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.core import (
    ConfigError,
    StateError,
    TensorQuantizationConfig,
    affine,
    dequantize,
    fake_quantize,
    quantize,
)
from calibrant.core import QuantizationProperty as P
from calibrant.core import RoundingPolicy as R

SYMMETRIC = P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL
ASYMMETRIC = P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL


def grid(bits, signed=True, narrow=False):
    half = 1 << (bits - 1)
    return {
        "num_of_bits": bits,
        "quant_min": (-half + narrow) if signed else 0,
        "quant_max": half - 1 if signed else 2 * half - 1,
    }


def half_even(x: Fraction) -> int:
    low = floor(x)
    rest = x - low
    return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1))


@given(
    x=st.lists(st.integers(-2000, 2000).map(lambda i: i / 8), min_size=1, max_size=20),
    power=st.integers(-4, 3),
    offset=st.integers(-8, 7),
    bits=st.integers(4, 16),
)
def test_quantize_is_its_definition(x, power, offset, bits):
    scale = 2.0**power  # so that x / scale is exact in float32 and ties are real
    config = TensorQuantizationConfig(ASYMMETRIC, scale=scale, offset=offset, **grid(bits))
    expected = [
        min(max(half_even(Fraction(v) / Fraction(scale)) + offset, config.quant_min), config.quant_max) for v in x
    ]
    assert quantize(x, config).tolist() == expected
    assert fake_quantize(x, config).tolist() == [(q - offset) * scale for q in expected]


@pytest.mark.parametrize("signed", [True, False])
def test_onnxruntime_computes_the_same_integers(signed):
    kind = onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    inputs = [
        onnx.helper.make_tensor_value_info("x", 1, [None]),
        onnx.helper.make_tensor_value_info("s", 1, []),
        onnx.helper.make_tensor_value_info("z", kind, []),
    ]
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.helper.make_tensor_value_info("y", kind, [None])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 3, 5000), np.arange(-20, 20) * 0.0175]).astype(np.float32)
    config = TensorQuantizationConfig(ASYMMETRIC, scale=0.035, offset=11, **grid(8, signed))
    zero = np.array(11, np.int8 if signed else np.uint8)
    got = session.run(None, {"x": x, "s": config.scale, "z": zero})[0]
    np.testing.assert_array_equal(quantize(x, config), got)


@given(
    lo=st.floats(-1e6, 1e6, width=32),
    width=st.floats(0, 1e6, width=32),
    bits=st.integers(2, 16),
    signed=st.booleans(),
)
def test_an_asymmetric_range_is_covered_and_holds_zero(lo, width, bits, signed):
    config = TensorQuantizationConfig(ASYMMETRIC, **grid(bits, signed))
    scale, offset = affine(lo, lo + width, config)
    assert config.quant_min <= offset <= config.quant_max
    config.scale, config.offset = scale, offset
    assert dequantize(offset, config) == 0.0
    assert fake_quantize(0.0, config) == 0.0
    ends = np.array([min(lo, 0), max(lo + width, 0)], np.float32)
    off = np.abs(fake_quantize(ends, config).astype(np.float64) - ends)
    assert (off <= scale.astype(np.float64) * (1 + 1e-3) + 1e-30).all()


@given(peak=st.floats(2.0**-100, 2.0**100, width=32), bits=st.integers(2, 16), narrow=st.booleans())
def test_symmetric_ranges_follow_the_formula(peak, bits, narrow):
    signed = TensorQuantizationConfig(SYMMETRIC, **grid(bits, narrow=narrow))
    assert affine(-peak, peak / 2, signed)[0] == np.float32(2 * peak / (signed.quant_max - signed.quant_min))
    unsigned = TensorQuantizationConfig(SYMMETRIC, **grid(bits, signed=False))
    assert affine(0, peak, unsigned)[0] == np.float32(peak / unsigned.quant_max)


@given(peak=st.floats(2.0**-60, 2.0**60, width=32), symmetric=st.booleans())
def test_powers_of_two_are_rounded_up(peak, symmetric):
    plain = SYMMETRIC if symmetric else ASYMMETRIC
    scale = affine(-peak, peak, TensorQuantizationConfig(plain))[0]
    power = affine(-peak, peak, TensorQuantizationConfig(plain | P.POWER_OF_2))[0]
    assert np.log2(power) == np.rint(np.log2(power))
    assert scale <= power * (1 + 1e-6)
    assert power < 2 * scale * (1 + 1e-6)


def test_unsigned_symmetric_refuses_negative_values():
    with pytest.raises(ConfigError, match="make the policy ASYMMETRICAL"):
        affine(-1.0, 1.0, TensorQuantizationConfig(SYMMETRIC, **grid(8, signed=False)))


@pytest.mark.parametrize("peak", [0.0, 1e-44, 1e-39])
def test_nothing_to_scale_gives_scale_one(peak):
    for policy in (SYMMETRIC, ASYMMETRIC):
        config = TensorQuantizationConfig(policy)
        config.scale, config.offset = affine(0.0, peak, config)
        assert config.scale == 1.0
        assert dequantize(quantize(0.0, config), config) == 0.0


def test_ranges_are_arrays_per_channel():
    config = TensorQuantizationConfig(P.PER_CHANNEL | P.LINEAR | P.ASYMMETRICAL, channel_axis=1)
    config.scale, config.offset = affine([-1.02, 0.0, 0.0], [1.53, 255.0, 0.0], config)
    assert config.scale.tolist() == pytest.approx([0.01, 1.0, 1.0])
    x = np.array([[[0.5], [200.0], [9.0]]], np.float32)
    assert quantize(x, config).reshape(-1).tolist() == [50 - 26, 200 - 128, 9 - 128]


def test_what_cannot_be_quantized_is_an_error():
    config = TensorQuantizationConfig(ASYMMETRIC)
    with pytest.raises(StateError, match="calibrate first"):
        quantize(1.0, config)
    config.scale, config.offset = 1.0, 0
    with pytest.raises(ConfigError, match="1 of 2 values"):
        quantize([1.0, np.nan], config)
    with pytest.raises(ConfigError, match="finite"):
        affine(0.0, np.inf, config)
    channels = TensorQuantizationConfig(
        P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL, channel_axis=1, scale=[1, 1], offset=[0, 0]
    )
    with pytest.raises(ConfigError, match="does not fit shape"):
        quantize(np.zeros((2, 3)), channels)


@pytest.mark.parametrize("policy", list(R))
def test_every_rounding_policy_reaches_quantize(policy):
    config = TensorQuantizationConfig(SYMMETRIC, policy, scale=1.0, offset=0)
    from calibrant.core.rounding import round_array

    x = np.arange(-10, 10) / 4
    assert quantize(x, config).tolist() == round_array(x, policy).tolist()


def test_the_largest_power_of_two_is_finite():
    config = TensorQuantizationConfig(SYMMETRIC | P.POWER_OF_2, **grid(2))
    assert affine(-2.55e38, 2.55e38, config)[0] == np.float32(2.0**127)


@pytest.mark.parametrize("rounding", [R.ROUND_HALF_EVEN, R.ROUND_HALF_UP])
@pytest.mark.parametrize(("bits", "low"), [(4, -8), (8, 0), (16, -32768), (16, 0)])
def test_fake_quantize_is_quantize_and_dequantize_bit_for_bit(bits, low, rounding):
    config = TensorQuantizationConfig(
        P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL,
        rounding=rounding,
        num_of_bits=bits,
        quant_min=low,
        quant_max=low + 2**bits - 1,
        scale=0.013,
        offset=low + 7,
    )
    x = np.float32([0, 0.0065, -0.0065, 0.0195, 1e-3, -0.3, 5, 3e38, -3e38, np.inf, -np.inf])
    for values in (x, x.reshape(1, -1, 1), x[3], x[:0]):
        found, wanted = fake_quantize(values, config), dequantize(quantize(values, config), config)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ConfigError, match="cannot quantize NaN"):
        fake_quantize([1.0, np.nan], config)

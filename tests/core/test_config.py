"""Configs: what is accepted, and that what contradicts itself is refused with advice."""

import numpy as np
import pytest

from calibrant.core import (
    ConfigError,
    QuantizationPolicy,
    QuantizationStates,
    TensorQuantizationConfig,
)
from calibrant.core import QuantizationProperty as P

SYMMETRIC = P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL
ASYMMETRIC = P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL
PER_CHANNEL = P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL


def test_or_and_plus_make_the_same_policy():
    assert QuantizationPolicy(P.PER_TENSOR + P.LINEAR + P.SYMMETRICAL) == QuantizationPolicy(SYMMETRIC)
    assert hash(QuantizationPolicy(SYMMETRIC)) == hash(QuantizationPolicy(QuantizationPolicy(SYMMETRIC)))


def test_defaults_are_ppq_s():
    config = TensorQuantizationConfig(SYMMETRIC)
    assert (config.num_of_bits, config.quant_min, config.quant_max) == (8, -128, 127)
    assert (config.scale, config.offset, config.channel_axis) == (None, None, None)
    assert config.observer_algorithm == "minmax"
    assert config.state is QuantizationStates.INITIAL


def test_scales_broadcast_along_the_channel_axis():
    last, second = (
        TensorQuantizationConfig(PER_CHANNEL, channel_axis=-1),
        TensorQuantizationConfig(PER_CHANNEL, channel_axis=1),
    )
    assert TensorQuantizationConfig(SYMMETRIC).parameter_shape(3) == ()
    assert (last.parameter_shape(3), second.parameter_shape(3)) == ((1, 1, -1), (1, -1, 1))
    with pytest.raises(ConfigError, match="channel_axis 1 does not fit a tensor of 1 dimension"):
        second.parameter_shape(1)


def test_a_bias_is_what_has_32_bits():
    wide = TensorQuantizationConfig(SYMMETRIC, num_of_bits=32, quant_min=-(2**31), quant_max=2**31 - 1)
    widest = TensorQuantizationConfig(SYMMETRIC, num_of_bits=16)
    assert (wide.is_bias, widest.is_bias) == (True, False)


@pytest.mark.parametrize(
    ("policy", "kwargs", "words"),
    [
        (P.LINEAR | P.SYMMETRICAL, {}, "either PER_TENSOR or PER_CHANNEL, got neither"),
        (SYMMETRIC | P.ASYMMETRICAL, {}, "either SYMMETRICAL or ASYMMETRICAL, got both"),
        (P.PER_TENSOR | P.FLOATING | P.SYMMETRICAL | P.POWER_OF_2, {}, "replace FLOATING by LINEAR"),
        (0x4000, {}, "not a combination"),
        (SYMMETRIC, {"num_of_bits": 1}, "2 to 16"),
        (SYMMETRIC, {"num_of_bits": 17}, "2 to 16"),
        (SYMMETRIC, {"quant_min": 5, "quant_max": 5}, "less than quant_max"),
        (SYMMETRIC, {"num_of_bits": 4}, r"signed 4-bit integers \[-8, 7\]"),
        (SYMMETRIC, {"quant_min": 1, "quant_max": 200}, "make the policy ASYMMETRICAL"),
        (ASYMMETRIC, {"quant_min": -100, "quant_max": 155}, "cannot hold its zero point"),
        (PER_CHANNEL, {}, "give the channel_axis"),
        (SYMMETRIC, {"channel_axis": 1}, "leave channel_axis out"),
        (PER_CHANNEL, {"channel_axis": 8}, "channel_axis must be an integer"),
        (PER_CHANNEL, {"channel_axis": -9}, "channel_axis must be an integer"),
        (SYMMETRIC, {"scale": 0.0}, "positive and finite"),
        (SYMMETRIC, {"scale": np.nan}, "positive and finite"),
        (SYMMETRIC, {"scale": 1.0, "offset": 3}, "make the policy ASYMMETRICAL"),
        (ASYMMETRIC, {"scale": 1.0, "offset": 0.5}, "whole"),
        (SYMMETRIC, {"scale": [1.0, 2.0]}, "shape"),
    ],
)
def test_contradictions_are_refused_with_advice(policy, kwargs, words):
    with pytest.raises(ConfigError, match=words):
        TensorQuantizationConfig(policy, **kwargs)


def test_parameters_become_float32_of_the_right_shape():
    config = TensorQuantizationConfig(ASYMMETRIC, scale=[0.5], offset=7)
    assert config.scale.dtype == np.float32
    assert config.scale.shape == config.offset.shape == ()
    channels = TensorQuantizationConfig(PER_CHANNEL, channel_axis=1, scale=[1, 2, 3])
    assert channels.scale.shape == (3,)


def test_a_clone_does_not_share_its_arrays_or_detail():
    one = TensorQuantizationConfig(ASYMMETRIC, scale=1.0, offset=1, detail={"a": 1})
    two = one.clone(num_of_bits=16)
    two.scale[...] = 5
    two.detail["a"] = 2
    assert (float(one.scale), one.detail["a"], two.num_of_bits) == (1.0, 1, 16)

"""How the numbers of a setting become configs."""

import numpy as np
import pytest

from calibrant.core import SettingError

WEIGHTS = {"w": (3, 3, 1, 1), "b": (3,)}
CONV = "(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Conv(x, w, b) }"
NET = (
    "(float[N,3,8,8] x) => (float[N,5] y) { c = Conv(x, w, b) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm(f, v) }"
)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("kind", ["int8", "uint8", None])
def test_activation_bits_and_types(quantized, setting, bits, kind):
    setting.quantize_activation_setting.num_of_bits = bits
    setting.quantize_activation_setting.activation_type = kind
    config = quantized(CONV, setting=setting, **WEIGHTS).config_of("x")
    signed = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (config.quant_min, config.quant_max) == (signed if kind == "int8" else (0, 2**bits - 1))
    assert (config.num_of_bits, config.is_symmetric) == (bits, False)


def test_symmetric_activations_are_signed(quantized, setting):
    asked = setting.quantize_activation_setting
    asked.symmetric = True
    for platform in ("ONNXRUNTIME", "OPENVINO_INT8"):
        config = quantized(CONV, platform, setting, **WEIGHTS).config_of("x")
        assert (config.quant_min, config.quant_max, config.is_symmetric) == (-128, 127, True)
    asked.activation_type = "uint8"
    with pytest.raises(SettingError, match="use activation_type int8, or symmetric False"):
        quantized(CONV, setting=setting, **WEIGHTS)


@pytest.mark.parametrize("platform", ["TRT_INT8", "PPL_CUDA_INT8"])
@pytest.mark.parametrize("wish", [{"symmetric": False}, {"activation_type": "uint8"}])
def test_runtimes_without_zero_points_refuse_them(quantized, setting, platform, wish):
    for key, value in wish.items():
        setattr(setting.quantize_activation_setting, key, value)
    with pytest.raises(SettingError, match=f"{platform} takes symmetric int8 activations alone"):
        quantized(CONV, platform, setting, **WEIGHTS)


@pytest.mark.parametrize("what", ["quantize_activation_setting", "quantize_parameter_setting"])
def test_more_bits_than_a_runtime_has_are_refused(quantized, setting, what):
    getattr(setting, what).num_of_bits = 9
    with pytest.raises(SettingError, match=r"OPENVINO_INT8 takes .* of 2 to 8 bits, got 9"):
        quantized(CONV, "OPENVINO_INT8", setting, **WEIGHTS)


def test_sixteen_bits_raise_the_opset_and_eight_do_not(quantized, setting):
    assert quantized(CONV, setting=setting, **WEIGHTS).opset == 17
    setting.quantize_activation_setting.num_of_bits = 16
    graph = quantized(CONV, setting=setting, **WEIGHTS)
    assert graph.opset == 21
    assert "opset 17 raised to 21: 16-bit QuantizeLinear needs it" in graph.report
    assert graph.edges["Conv_0", 1].num_of_bits == 8


def test_sixteen_bits_of_one_value_raise_the_opset_too(quantized, setting):
    setting.overrides = {"y": {"num_of_bits": 16}}
    assert quantized(CONV, setting=setting, **WEIGHTS).opset == 21


def test_a_float16_model_is_planned_as_others_are(quantized):
    text = "(float16[N,4] x) => (float16[N,6] y) { y = Gemm(x, w, b) }"
    graph = quantized(text, w=np.ones((4, 6), np.float16), b=np.ones(6, np.float16))
    assert [g.values for g in graph.groups] == [["x"]]
    assert ("Gemm_0", 2) not in graph.edges
    assert any(line.startswith("1 bias is left in float") for line in graph.report)


def test_methods_options_and_rounding_reach_the_configs(quantized, setting):
    asked = setting.quantize_activation_setting
    asked.calib_algorithm, asked.percentile, asked.ignore_nonfinite = "Percentile", 0.99, True
    asked.rounding, asked.power_of_2 = "ROUND_HALF_UP", True
    setting.quantize_parameter_setting.calib_algorithm = "mse"
    setting.quantize_parameter_setting.power_of_2 = True
    graph = quantized(CONV, setting=setting, **WEIGHTS)
    config, weight = graph.config_of("x"), graph.edges["Conv_0", 1]
    assert config.observer_algorithm == "Percentile"
    assert (config.detail["percentile"], config.detail["ignore_nonfinite"]) == (0.99, True)
    assert (config.rounding.name, config.is_power_of_2) == ("ROUND_HALF_UP", True)
    assert (weight.observer_algorithm, weight.is_power_of_2) == ("mse", True)


def test_weights_reduced_range_bits_and_per_tensor(quantized, setting):
    setting.quantize_activation_setting.reduce_range = True
    weight = quantized(CONV, setting=setting, **WEIGHTS).edges["Conv_0", 1]
    assert (weight.quant_min, weight.quant_max, weight.num_of_bits) == (-64, 64, 8)
    assert 255 * 64 * 2 < 2**15  # two products of uint8 and such weights fit the 16 bits they are added in
    setting.quantize_activation_setting.reduce_range = False
    setting.quantize_parameter_setting.num_of_bits = 4
    setting.quantize_parameter_setting.per_channel = False
    graph = quantized(CONV, setting=setting, **WEIGHTS)
    weight, bias = graph.edges["Conv_0", 1], graph.edges["Conv_0", 2]
    assert (weight.quant_min, weight.quant_max, weight.is_per_channel) == (-7, 7, False)
    assert not bias.is_per_channel


def test_weights_alone(quantized, setting):
    setting.quantize_activation = False
    graph = quantized(NET, setting=setting, **WEIGHTS, v=(3, 5))
    assert (graph.groups, graph.configs) == ([], {})
    assert set(graph.edges) == {("Conv_0", 1), ("Gemm_0", 1)}
    reasons = {node: reason for node, reason in graph.left_in_float.items() if "weights alone" in reason}
    assert set(reasons) == {"GlobalAveragePool_0", "Flatten_0"}


def test_activations_alone(quantized, setting):
    setting.quantize_parameter = False
    graph = quantized(NET, setting=setting, **WEIGHTS, v=(3, 5))
    assert len(graph.groups) == 3
    assert graph.edges == {}


def test_biases_can_be_kept_in_float(quantized, setting):
    setting.quantize_parameter_setting.quantize_passive_parameter = False
    assert set(quantized(CONV, setting=setting, **WEIGHTS).edges) == {("Conv_0", 1)}


def test_per_channel_activations(quantized, setting):
    setting.quantize_activation_setting.per_channel = True
    graph = quantized(NET, setting=setting, **WEIGHTS, v=(3, 5))
    axes = {v: graph.config_of(v).channel_axis for v in ("x", "c", "p", "f")}
    assert axes == {"x": 1, "c": 1, "p": 1, "f": 1}
    # Flatten may move channels: no shared config; and no int32 bias where the input has many scales
    assert graph.config_of("p") is not graph.config_of("f")
    assert ("Conv_0", 2) not in graph.edges
    assert any("left in float" in line for line in graph.report)


def test_per_channel_shares_only_what_keeps_channels_in_place(quantized, setting):
    setting.quantize_activation_setting.per_channel = True
    text = """(float[N,3,8,8] x) => (float[N,6,8,8] y, float[N,3,16,8] z) {
        a = Conv(x, w, b) p = MaxPool <kernel_shape = [1,1]> (a) q = Conv(p, w, b)
        t = Transpose <perm = [0,1,3,2]> (q) y = Concat <axis = 1> (p, t) z = Concat <axis = 2> (p, q)
    }"""
    graph = quantized(text, setting=setting, **WEIGHTS)
    assert [g.values for g in graph.groups] == [["x"], ["a", "p", "q", "z"], ["t"], ["y"]]


def test_a_value_without_a_fixed_number_of_channels_is_per_tensor_and_reported(quantized, setting):
    setting.quantize_activation_setting.per_channel = True
    graph = quantized("(float[N,L] x) => (float[N,5] y) { y = MatMul(x, v) }", setting=setting, v=(3, 5))
    assert not graph.config_of("x").is_per_channel
    assert "per tensor, for want of a fixed number of channels: x" in graph.report

"""Sums of pairs of products, which x86 processors without VNNI keep in 16 bits."""

import pytest

from calibrant.quantizers import wants_vnni

CONV = "(float[1,4,6,6] x) => (float y) { y = Conv(x, w) }"
DEPTHWISE = "(float[1,4,6,6] x) => (float y) { y = Conv <group = 4> (x, w) }"
TWO = "(float[1,4,6,6] x) => (float y) { y = MatMul(x, x) }"


@pytest.mark.parametrize(
    ("text", "weight", "platform", "changes", "wanted"),
    [
        (CONV, (8, 4, 1, 1), "ONNXRUNTIME", {}, True),
        (CONV, (8, 4, 1, 1), "OPENVINO_INT8", {}, True),
        (CONV, (8, 4, 1, 1), "TRT_INT8", {}, False),
        (CONV, (8, 4, 1, 1), "ONNXRUNTIME", {"reduce_range": True}, False),
        (CONV, (8, 4, 1, 1), "ONNXRUNTIME", {"num_of_bits": 16}, False),
        (DEPTHWISE, (4, 1, 3, 3), "ONNXRUNTIME", {}, False),
        (DEPTHWISE, (8, 1, 3, 3), "ONNXRUNTIME", {}, True),
        (TWO, None, "ONNXRUNTIME", {}, False),
    ],
)
def test_what_can_overflow(text, weight, platform, changes, wanted, quantized, setting):
    for name, value in changes.items():
        setattr(setting.quantize_activation_setting, name, value)
    graph = quantized(text, platform, setting, **({"w": weight} if weight else {}))
    assert wants_vnni(graph) is wanted


def test_weights_of_few_bits_and_weights_alone_fit(quantized, setting):
    setting.quantize_parameter_setting.num_of_bits = 4
    assert not wants_vnni(quantized(CONV, setting=setting, w=(8, 4, 1, 1)))
    setting.quantize_parameter_setting.num_of_bits = 8
    setting.quantize_activation = False
    assert not wants_vnni(quantized(CONV, setting=setting, w=(8, 4, 1, 1)))


def test_a_depthwise_convolution_keeps_all_bits(quantized, setting):
    setting.quantize_activation_setting.reduce_range = True
    weight = quantized(DEPTHWISE, setting=setting, w=(4, 1, 3, 3)).edges["Conv_0", 1]
    assert (weight.quant_min, weight.quant_max) == (-127, 127)

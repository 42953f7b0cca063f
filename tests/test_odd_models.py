"""Models with something unusual in them: quantized, exported, and run by onnxruntime, they do what they did."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from calibrant import QuantizationSetting, export_graph
from calibrant.api import quantize
from calibrant.core import ExportError, SettingError, TargetPlatform
from tests.runtime import opened

RNG = np.random.default_rng(9)
SKEW = np.array([1, 30, 0.1, 3, 8, 0.3, 1, 20], np.float32)  # of eight channels


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def built(text, **constants):
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g ' + text)
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(model)
    return model


def sqnr_of(model, samples, tmp_path, setting=None, platform=TargetPlatform.ONNXRUNTIME):
    """The dB of each output, over some of the samples, of the integer run."""
    onnx.save(model, tmp_path / "float.onnx")
    graph, _ = quantize(tmp_path / "float.onnx", samples, platform=platform, setting=setting, threads=1)
    export_graph(graph, platform, tmp_path / "int8.onnx")
    exact, made = (opened(tmp_path / name) for name in ("float.onnx", "int8.onnx"))
    power, error = 0.0, 0.0
    for x in samples[:4]:
        pairs = [session.run(None, {"x": x}) for session in (exact, made)]
        power += np.array([np.square(a, dtype=np.float64).sum() for a in pairs[0]])
        error += np.array([np.square(a - b, dtype=np.float64).sum() for a, b in zip(*pairs, strict=True)])
    return 10 * np.log10(power / np.maximum(error, 1e-30 * power))


def test_a_stream_that_the_models_input_is_added_to_is_not_divided(tmp_path):
    text = """(float[1,8,6,6] x) => (float[1,4,6,6] y) {
        c = Conv <pads = [1,1,1,1]> (x, w, b)
        s = Add(c, x)
        y = Conv(s, w2)
    }"""
    w = normal(8, 8, 3, 3) * SKEW.reshape(8, 1, 1, 1) / 8
    model = built(text, w=w, b=normal(8), w2=normal(4, 8, 1, 1) / SKEW.reshape(1, 8, 1, 1))
    assert sqnr_of(model, [normal(1, 8, 6, 6) for _ in range(20)], tmp_path)[0] > 10


def test_flattening_from_another_axis_mixes_channels(tmp_path):
    text = """(float[1,8,8,1] x) => (float[8,5] y) {
        c = Conv(x, w, b)
        f = Flatten <axis = 2> (c)
        y = Gemm(f, w2)
    }"""
    model = built(text, w=normal(8, 8, 1, 1) * SKEW.reshape(8, 1, 1, 1), b=normal(8), w2=normal(8, 5))
    assert sqnr_of(model, [normal(1, 8, 8, 1) for _ in range(20)], tmp_path)[0] > 15


def test_who_reads_a_value_beside_its_smoothed_form_keeps_its_own_scale(tmp_path):
    text = """(float[1,8,6,6] x) => (float[1,8,6,6] v, float[1,8,6,6] c, float[1,8,6,6] d) {
        s = Sigmoid(x)
        v = Mul(x, s)
        c = Conv <pads = [1,1,1,1]> (v, w)
        d = Conv(v, w1)
    }"""
    loud = (2.0 ** np.arange(8)).astype(np.float32).reshape(1, 8, 1, 1) / 16
    model = built(text, w=normal(8, 8, 3, 3), w1=normal(8, 8, 1, 1))
    _, three, one = sqnr_of(model, [normal(1, 8, 6, 6) * loud for _ in range(20)], tmp_path)
    assert three > 25
    assert one > 25


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (2, 5, 4), (1, 2, 5, 4)])
def test_weights_that_are_stacks_of_matrices_run(shape, tmp_path):
    rank = len(shape)
    sizes = ",".join(map(str, (*shape[:-2], 3, 5))), ",".join(map(str, (*shape[:-2], 3, 4)))
    model = built(f"(float[{sizes[0]}] x) => (float[{sizes[1]}] y) {{ y = MatMul(x, w) }}", w=normal(*shape))
    samples = [normal(*shape[:-2], 3, 5) for _ in range(20)]
    assert sqnr_of(model, samples, tmp_path)[0] > (30 if rank > 2 else 35)


def test_the_indices_of_a_pool_have_no_scale(tmp_path):
    text = """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
        c = Conv(x, w)
        p, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)
        y = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (p, i)
    }"""
    model = built(text, w=normal(4, 3, 1, 1))
    # Not more: of two that are nearly alike another one is the largest, and comes to another place.
    assert sqnr_of(model, [normal(1, 3, 8, 8) for _ in range(20)], tmp_path)[0] > 10


def test_two_roundings_behind_each_other_are_the_same_in_simulation_and_integer_run(tmp_path):
    text = """(float[1,4,6,6] x) => (float[1,3,6,6] y) {
        a = Conv(x, w)
        b = Conv(x, w1)
        c = Concat <axis = 1> (a, b)
        r = Relu(c)
        y = Conv(r, w2)
    }"""
    model = built(text, w=normal(4, 4, 1, 1), w1=3 * normal(4, 4, 1, 1), w2=normal(3, 8, 1, 1))
    samples = [normal(1, 4, 6, 6) for _ in range(20)]
    sqnr_of(model, samples, tmp_path)
    simulated, integer = (opened(tmp_path / "int8.onnx", optimized) for optimized in (False, True))
    for x in samples[:4]:
        np.testing.assert_array_equal(simulated.run(None, {"x": x})[0], integer.run(None, {"x": x})[0])


@pytest.mark.parametrize("body", ["y = Max(c)", "y = Max(c, zero, c)", "y = Min(c, six, zero)"])
@pytest.mark.parametrize("platform", [TargetPlatform.TRT_INT8, TargetPlatform.OPENVINO_INT8])
def test_max_and_min_of_any_number_of_values_stand_behind_a_convolution(body, platform, tmp_path):
    text = "(float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv(x, w) " + body + " }"
    model = built(text, w=normal(4, 4, 1, 1), zero=np.float32(0), six=np.float32(6))
    samples = [normal(1, 4, 6, 6) for _ in range(20)]
    assert sqnr_of(model, samples, tmp_path, platform=platform)[0] > 25


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (3, 3)])
def test_high_effort_makes_do_with_a_few_rows(count, rows, tmp_path):
    model = built("(float[N,6] x) => (float[N,4] y) { y = Gemm(x, w) }", w=normal(6, 4))
    setting = QuantizationSetting()
    setting.effort = "high"
    assert sqnr_of(model, [normal(rows, 6) for _ in range(count)], tmp_path, setting)[0] > 20


def test_a_float16_model_is_refused_before_it_is_calibrated(tmp_path):
    model = built("(float16[1,4] x) => (float16[1,3] y) { y = Gemm(x, w) }", w=normal(4, 3).astype(np.float16))
    samples = iter([normal(1, 4).astype(np.float16)])
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(ExportError, match=r"ONNXRUNTIME: 'x' is FLOAT16, .* give the model in float32"):
        quantize(tmp_path / "half.onnx", samples)
    assert len(list(samples)) == 1


@pytest.mark.parametrize(
    ("platform", "changes", "message"),
    [
        ("TRT_INT8", {"num_of_bits": 4}, "takes 8 bits"),
        ("TRT_INT8", {"reduce_range": True}, "takes 8 bits"),
        ("TRT_INT8", {"per_channel": True}, "one scale per activation"),
        ("OPENVINO_INT8", {"rounding": "ROUND_HALF_UP"}, "rounds half to even"),
        ("PPL_CUDA_INT8", {"rounding": "ROUND_HALF_UP"}, "rounds half to even"),
    ],
)
def test_what_a_platform_cannot_express_is_refused_before_calibration(platform, changes, message, tmp_path):
    onnx.save(
        built("(float[1,4,6,6] x) => (float[1,3,6,6] y) { y = Conv(x, w) }", w=normal(3, 4, 1, 1)), tmp_path / "m"
    )
    setting = QuantizationSetting.from_dict({"quantize_activation_setting": changes})
    samples = iter([normal(1, 4, 6, 6)])
    with pytest.raises(ExportError, match=message):
        quantize(tmp_path / "m", samples, platform=platform, setting=setting)
    assert len(list(samples)) == 1


@pytest.mark.parametrize("method", ["kl", "percentile", "isotone", "auto"])
def test_a_method_for_samples_is_refused_for_a_weight(method, tmp_path):
    onnx.save(built("(float[1,4] x) => (float[1,3] y) { y = Gemm(x, w) }", w=normal(4, 3)), tmp_path / "m")
    setting = QuantizationSetting.from_dict({"overrides": {"w": {"calib_algorithm": method}}})
    with pytest.raises(SettingError, match=f"'{method}' is for what is only sampled"):
        quantize(tmp_path / "m", [normal(1, 4)], setting=setting)


CHANNELS = {"w": (3, 4, 1, 1), "b": (3,), "w2": (3, 3, 1, 1)}


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(x, w)",
        "a = Conv(x, w, b) y = GlobalAveragePool(a)",
        "a = Conv(x, w, b) y = AveragePool <kernel_shape = [2,2]> (a)",
        "a = Conv(x, w, b) s = Sigmoid(a) y = Conv(s, w2)",
        "a = Conv(x, w, b) l = LeakyRelu(a) y = Conv(l, w2, b)",
        "a = Conv(x, w, b) c = Concat <axis = 1> (a, x) m = Mul(a, a) y = Add(m, a)",
    ],
)
def test_what_reads_values_of_one_scale_per_channel_runs(body, tmp_path):
    weights = {name: normal(*shape) for name, shape in CHANNELS.items()}
    setting = QuantizationSetting.from_dict({"quantize_activation_setting": {"per_channel": True}})
    model = built("(float[1,4,6,6] x) => (float[N,C,H,W] y) {" + body + "}", **weights)
    assert sqnr_of(model, [normal(1, 4, 6, 6) for _ in range(12)], tmp_path, setting)[0] > 25


def test_a_product_that_reads_a_value_of_one_scale_per_channel_runs(tmp_path):
    setting = QuantizationSetting.from_dict({"quantize_activation_setting": {"per_channel": True}})
    model = built("(float[2,3,5] x) => (float[2,3,4] y) { y = MatMul(x, w) }", w=normal(5, 4))
    assert sqnr_of(model, [normal(2, 3, 5) for _ in range(12)], tmp_path, setting)[0] > 35


@pytest.mark.parametrize("effort", ["default", "high"])
def test_a_weight_that_is_an_output_too_is_given_out_as_it_is(effort, tmp_path):
    text = "(float[1,4,6,6] x) => (float[1,3,6,6] y, float[3,4,1,1] w, float[3] b) { y = Conv(x, w, b) }"
    setting = QuantizationSetting.from_dict({"effort": effort})
    model = built(text, w=normal(3, 4, 1, 1), b=normal(3))
    assert sqnr_of(model, [normal(1, 4, 6, 6) for _ in range(8)], tmp_path, setting)[1:].tolist() == [300, 300]


def test_a_name_that_smoothing_would_give_is_left_to_who_has_it(tmp_path):
    text = """(float[1,6,8] x) => (float[1,6,4] y, float[1,6,8] n_smoothed) {
        n = LayerNormalization(x, gamma)
        n_smoothed = Relu(n)
        y = MatMul(n, w)
    }"""
    model = built(text, gamma=SKEW, w=normal(8, 4) / SKEW.reshape(8, 1))
    assert sqnr_of(model, [normal(1, 6, 8) for _ in range(8)], tmp_path)[0] > 5


def test_an_empty_weight_has_a_scale(tmp_path):
    model = built("(float[2,0] x) => (float[2,3] y) { y = MatMul(x, w) }", w=np.zeros((0, 3), np.float32))
    onnx.save(model, tmp_path / "float.onnx")
    setting = QuantizationSetting.from_dict({"quantize_activation": False})
    graph, _ = quantize(tmp_path / "float.onnx", None, setting=setting)
    assert graph.edges["MatMul_0", 1].scale.tolist() == [1, 1, 1]


def test_high_effort_has_nothing_to_do_where_nothing_is_quantized(tmp_path):
    setting = QuantizationSetting.from_dict({"effort": "high"})
    model = built("(float[1,4] x) => (float[1,4] y) { y = Softmax(x) }")
    assert sqnr_of(model, [normal(1, 4) for _ in range(4)], tmp_path, setting).tolist() == [300]

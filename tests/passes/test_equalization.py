"""Equalization: the float function stays, the integer model gets better, and a table serves as well as samples."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from calibrant import calibrate, export_graph
from calibrant.api import quantize
from calibrant.core import ObservationError, QuantizationStates, SettingError, TargetPlatform
from calibrant.engines import OnnxruntimeExecutor
from calibrant.graph import load_onnx_graph
from calibrant.graph.rescaling import rescale
from calibrant.graph.streams import Stream, find_streams
from calibrant.passes import RuntimeCalibrationPass
from calibrant.passes.auto import CANDIDATES
from calibrant.passes.equalization import HEADROOM, LEAST, least_factors
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting
from calibrant.sketches import Halves, SketchSpec, TensorSketch
from tests.arrays import run, sqnr

RNG = np.random.default_rng(3)
C = 16
SKEW = 2.0 ** RNG.uniform(-5, 5, C)  # of the channels

# A residual stream without activations, as in MobileNetV2; `a` to `sum` belong to it.
RESIDUAL = """(float[N,3,8,8] x) => (float[N,5,8,8] y) {
    a = Conv(x, w1, b1)
    h = Conv(a, w2, b2)
    r = Relu(h)
    c = Conv(r, w3, b3)
    sum = Add(a, c)
    y = Conv(sum, w4)
}"""
# An activation between: depthwise, as in MobileNetV1.
DEPTHWISE = """(float[N,3,8,8] x) => (float[N,5,8,8] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    d = Conv <group = 16, pads = [1,1,1,1]> (r, wd, bd)
    s = Relu(d)
    y = Conv(s, w4)
}"""
# The same below a ceiling of 6, as in MobileNetV2; the channels come to between a hundredth and half of it.
BELOW_6 = """(float[N,3,8,8] x) => (float[N,5,8,8] y) {
    a = Conv(x, w1, b1)
    r = Clip(a, zero, six)
    d = Conv <group = 16, pads = [1,1,1,1]> (r, wd, bd)
    s = Clip(d, zero, six)
    y = Conv(s, w4)
}"""
FULL = 2.0 ** RNG.uniform(-6, -1, C)  # the largest value of each channel over the ceiling, about
# What the residual of a transformer block does with the output of a LayerNormalization that has outlier channels.
BLOCK = """(float[N,6,16] x) => (float[N,6,16] y) {
    n = LayerNormalization(x, gamma, beta)
    h = MatMul(n, wa)
    e = Erf(h)
    o = MatMul(e, wb)
    y = Add(o, n)
}"""

# Scores of which some are large, that the next layer reads.
GATE = """(float[N,16] x) => (float[N,5] y) {
    h = Gemm(x, wg, bg)
    s = Softmax(h)
    y = Gemm(s, w6)
}"""
# Magnitudes of a spectrum, made in float, whose quiet bins a convolution along time reads beside loud ones.
SPECTRUM = """(float[N,16,12] x) => (float[N,5,12] y) {
    p = Mul(x, x)
    m = Sqrt(p)
    h = Conv <pads = [1,1]> (m, wk, bk)
    r = Relu(h)
    y = Conv(r, w5)
}"""


def skewed(*shape, rows=None, columns=None):
    """Random weights; of Conv, with output channels (rows) times, and input channels (columns) divided by a skew."""
    w = RNG.normal(0, 1, shape)
    if rows is not None:
        w *= rows.reshape(-1, *[1] * (w.ndim - 1))
    if columns is not None:
        w /= columns.reshape(1, -1, *[1] * (w.ndim - 2))
    return w


def weights_of(text):
    if text is BLOCK:
        gamma = np.ones(C)
        gamma[[2, 9]] = 60
        return {"gamma": gamma, "beta": np.zeros(C), "wa": skewed(C, C) / 4, "wb": skewed(C, C) / 4}
    if text is BELOW_6:
        fill = FULL.reshape(-1, 1, 1, 1)
        return {
            "w1": skewed(C, 3, 1, 1) * fill,
            "b1": RNG.normal(0, 1, C) * FULL,
            "wd": skewed(C, 1, 3, 3) / 3,
            "bd": RNG.normal(0, 1, C) * FULL,
            "w4": skewed(5, C, 1, 1) / FULL.reshape(1, -1, 1, 1),
            "zero": np.array(0),
            "six": np.array(6),
        }
    if text is GATE:
        return {"wg": skewed(C, C), "bg": np.log2(SKEW), "w6": skewed(C, 5)}
    if text is SPECTRUM:
        return {"wk": skewed(C, C, 3, columns=SKEW), "bk": RNG.normal(0, 1, C), "w5": skewed(5, C, 1)}
    found = {
        "w1": skewed(C, 3, 1, 1, rows=SKEW),
        "b1": RNG.normal(0, 1, C) * SKEW,
        "w4": skewed(5, C, 1, 1, columns=SKEW),
    }
    if text is RESIDUAL:
        return found | {
            "w2": skewed(C, C, 1, 1, columns=SKEW) / 4,
            "b2": RNG.normal(0, 1, C),
            "w3": skewed(C, C, 1, 1, rows=SKEW) / 4,
            "b3": RNG.normal(0, 1, C),
        }
    return found | {
        "w4": found["w4"] * SKEW.reshape(1, -1, 1, 1),
        "wd": skewed(C, 1, 3, 3) / SKEW[:, None, None, None],
        "bd": RNG.normal(0, 1, C),
    }


def built(text, path, weights=None):
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g ' + text)
    for name, array in (weights or weights_of(text)).items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, path)
    return path


def samples_for(text, count=24):
    shape = {BLOCK: (1, 6, C), SPECTRUM: (1, C, 12)}.get(text, (1, 3, 8, 8))
    rng = np.random.default_rng(4)
    if text is SPECTRUM:
        return [(rng.normal(0, 1, shape) * SKEW[:, None]).astype(np.float32) for _ in range(count)]
    return [rng.normal(0, 1, shape).astype(np.float32) for _ in range(count)]


def exported_sqnr(path, feeds, text, folder, **switches):
    """dB at the output of the exported model, against the float model."""
    setting = QuantizationSetting()
    per_channel = switches.pop("per_channel", True)
    setting.quantize_parameter_setting.per_channel = per_channel
    for name, value in switches.items():
        setattr(setting, name, value)
    graph, summary = quantize(path, samples_for(text), setting=setting)
    export_graph(graph, TargetPlatform.ONNXRUNTIME, folder / "int8.onnx")
    return sqnr(run(path, feeds), run(folder / "int8.onnx", feeds)), summary


@pytest.fixture(autouse=True)
def the_same_weights_in_any_order(monkeypatch):
    """Of the tests: each draws anew."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(5))


@pytest.fixture
def fresh():
    """Samples that nothing was calibrated on."""
    return lambda text: [x * 1.01 for x in samples_for(text, 30)[24:]]


OFF = {"equalization": False, "smooth_quant": False}


@pytest.mark.parametrize(
    ("text", "switches", "gain"),
    [
        (RESIDUAL, {}, 6),
        (DEPTHWISE, {"equalization": True}, 6),
        (DEPTHWISE, {"equalization": True, "per_channel": False}, 10),
        (BELOW_6, {"equalization": True}, 6),
        (BLOCK, {}, 6),
        (SPECTRUM, {}, 6),
        (SPECTRUM, {"smooth_quant": True, "quantize_activation_setting": "mse"}, 6),
        (BLOCK, {"smooth_quant": True, "quantize_activation_setting": "mse"}, 6),
    ],
)
def test_the_integer_model_is_nearer_to_the_float_one(text, switches, gain, fresh, tmp_path):
    path = built(text, tmp_path / "model.onnx")
    asked = QuantizationSetting().quantize_activation_setting
    if "quantize_activation_setting" in switches:
        asked.calib_algorithm = switches.pop("quantize_activation_setting")
    switches = {"quantize_activation_setting": asked} | switches
    before, plain = exported_sqnr(path, fresh(text), text, tmp_path, **(switches | OFF))
    after, summary = exported_sqnr(path, fresh(text), text, tmp_path, **switches)
    assert after > before + gain
    assert any(note.startswith("equalized") for note in summary.notes)
    assert not any("equalized" in note for note in plain.notes)


@pytest.mark.parametrize("text", [RESIDUAL, DEPTHWISE, BELOW_6, BLOCK, SPECTRUM])
def test_the_float_model_computes_what_it_computed_before(text, fresh, tmp_path):
    path = built(text, tmp_path / "model.onnx")
    graph = load_onnx_graph(path)
    setting = QuantizationSetting()
    setting.equalization = setting.smooth_quant = True
    quantize(graph, samples_for(text), setting=setting)
    assert graph.undoing
    graph.save_float(tmp_path / "equalized.onnx")
    wanted, found = run(path, fresh(text)), run(tmp_path / "equalized.onnx", fresh(text))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, setting)
    graph.save_float(tmp_path / "again.onnx")
    assert np.array_equal(run(tmp_path / "again.onnx", fresh(text)), wanted)


def test_with_powers_of_two_it_computes_the_same_bits(fresh, tmp_path):
    path = built(RESIDUAL, tmp_path / "model.onnx")
    graph = load_onnx_graph(path)
    (stream,) = [s for s in find_streams(graph.model.graph) if not s.activations]
    assert stream.values == ("a", "c", "sum")
    graph.save_float(tmp_path / "before.onnx")
    rescale(graph, {stream: np.exp2(np.arange(C) - 8.0)})
    graph.save_float(tmp_path / "equalized.onnx")
    assert np.array_equal(
        run(tmp_path / "equalized.onnx", fresh(RESIDUAL)), run(tmp_path / "before.onnx", fresh(RESIDUAL))
    )


@pytest.mark.parametrize("text", [RESIDUAL, BLOCK, SPECTRUM])
@pytest.mark.parametrize("method", [None, "minmax", "percentile", "mse", "kl", "auto"])
def test_a_table_gives_the_files_that_samples_give(text, method, tmp_path):
    path, samples = built(text, tmp_path / "model.onnx"), samples_for(text)
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = method
    table = calibrate(path, samples)
    table.save(tmp_path / "a.table")
    for name, given in (("data", {"samples": samples}), ("table", {"samples": samples if method == "auto" else None})):
        known = None if name == "data" else type(table).load(tmp_path / "a.table")
        graph, _ = quantize(path, given["samples"], table=known, setting=setting)
        export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / f"{name}.onnx")
    assert (tmp_path / "data.onnx").read_bytes() == (tmp_path / "table.onnx").read_bytes()


@pytest.mark.parametrize("text", [RESIDUAL, BLOCK, SPECTRUM])
@pytest.mark.parametrize("method", CANDIDATES)
def test_auto_tries_what_each_method_alone_would_give(text, method, fresh, tmp_path, monkeypatch):
    """How a graph is equalized depends on the method; and what was tried before leaves no trace."""
    path, samples = built(text, tmp_path / "model.onnx"), samples_for(text)
    monkeypatch.setattr("calibrant.auto.choosing.best_of", lambda models, **_: method)
    found = []
    for name in ("auto", method):
        setting = QuantizationSetting()
        setting.quantize_activation_setting.calib_algorithm = name
        graph, _ = quantize(path, samples, setting=setting)
        export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / "int8.onnx")
        found.append(run(tmp_path / "int8.onnx", fresh(text)))
    assert np.array_equal(*found)


def halves_of(even, odd):
    """Of a value `r` of one channel for each entry, with these largest values in the two halves of the samples."""
    spec = SketchSpec(channel_axis=1)
    sketches = [
        TensorSketch.empty(spec) if top is None else TensorSketch.of(np.float32([top]), spec) for top in (even, odd)
    ]
    return Halves({"r": sketches[0]}, {"r": sketches[1]})


@pytest.mark.parametrize(
    ("even", "odd", "least"),
    [
        (2.4, 2.4, HEADROOM * 0.4),  # the halves agree
        (0.6, 0.9, HEADROOM * 0.15 * 1.5**2),  # one a half larger: as much again, twice
        (0.9, 0.6, HEADROOM * 0.15 * 1.5**2),
        (5.5, 5.5, 1),  # with HEADROOM it comes to the ceiling
        (6, 6, 1),
        (0.01, 0.01, LEAST),
        (0, 0.01, 1),  # a half knows nothing of it
        (0, 0, 1),
    ],
)
def test_a_channel_is_divided_as_far_as_samples_tell_that_the_ceiling_lets_it_through(even, odd, least):
    stream = Stream(("a", "r"), 2, ("c",), ("d",), activations=True, ceilings=(("r", 6.0),))
    found = least_factors(stream, halves_of([even, 3], [odd, 3]))
    np.testing.assert_allclose(found, [least, HEADROOM / 2], rtol=1e-6)
    assert least_factors(replace(stream, ceilings=()), halves_of([even, 3], [odd, 3])) is None


def test_of_one_sample_nothing_is_known_of_ceilings(tmp_path):
    stream = Stream(("a", "r"), 2, ("c",), ("d",), activations=True, ceilings=(("r", 6.0),))
    assert least_factors(stream, halves_of([1, 1], None)).tolist() == [1, 1]
    setting = QuantizationSetting()
    setting.equalization = True
    _, summary = quantize(built(BELOW_6, tmp_path / "model.onnx"), samples_for(BELOW_6, 1), setting=setting)
    assert not any("equalized" in note for note in summary.notes)


def test_ceilings_are_left_alone_where_weights_are_rough(tmp_path):
    setting = QuantizationSetting()
    setting.equalization = True
    for bits in (4, 8):
        setting.quantize_parameter_setting.num_of_bits = bits
        _, summary = quantize(built(BELOW_6, tmp_path / "model.onnx"), samples_for(BELOW_6), setting=setting)
        assert any("equalized" in note for note in summary.notes) == (bits == 8)


def test_like_channels_are_left_alone(tmp_path):
    """Every channel of both streams is the same."""
    rng, bias = np.random.default_rng(6), np.full(C, 0.5)
    like = {"w1": rng.normal(0, 1, (1, 3, 1, 1)), "wd": rng.normal(0, 1, (1, 1, 3, 3))}
    weights = {name: np.repeat(one, C, axis=0) for name, one in like.items()}
    weights |= {"b1": bias, "bd": bias, "w4": np.repeat(rng.normal(0, 1, (5, 1, 1, 1)), C, axis=1)}
    path = built(DEPTHWISE, tmp_path / "model.onnx", weights)
    found = []
    for on in (False, True):
        setting = QuantizationSetting()
        setting.equalization = on
        graph, summary = quantize(path, samples_for(DEPTHWISE), setting=setting)
        assert graph.rescalings == {}
        assert not any("equalized" in note for note in summary.notes)
        found.append({name: float(config.scale) for name, config in graph.configs.items()})
    assert found[0] == found[1]


def test_a_mul_before_a_convolution_has_to_halve_the_noise(tmp_path):
    path = built(SPECTRUM, tmp_path / "model.onnx")
    for skew, divided in ((-0.1, False), (0.1, True)):  # what the noise falls to: 67 and 19 %
        scale = SKEW[:, None] ** (skew - 1)
        graph, _ = quantize(path, [(x * scale).astype(np.float32) for x in samples_for(SPECTRUM)])
        assert any(stream.inserted for stream in graph.rescalings) is divided


@pytest.mark.parametrize(("method", "smooth"), [(None, None), ("mse", True), ("isotone", True)])
def test_what_a_table_keeps_of_rows_changes_nothing(method, smooth, tmp_path):
    """Scores in the middle of a model, of which a table of all methods has the order of each row."""
    path = built(GATE, tmp_path / "model.onnx")
    rng = np.random.default_rng(4)
    samples = [rng.normal(0, 1, (1, C)).astype(np.float32) for _ in range(24)]
    setting = QuantizationSetting(smooth_quant=smooth)
    setting.quantize_activation_setting.calib_algorithm = method
    table = calibrate(path, samples, setting=QuantizationSetting(smooth_quant=smooth))
    assert table.sketches["s"].margins is not None
    for name, given in (("data", {"samples": samples}), ("table", {"samples": None, "table": table})):
        graph, summary = quantize(path, setting=setting, **given)
        assert any(note.startswith("equalized") for note in summary.notes) == (method != "isotone")
        export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / f"{name}.onnx")
    assert (tmp_path / "data.onnx").read_bytes() == (tmp_path / "table.onnx").read_bytes()


@pytest.mark.parametrize(("seen", "is_divided"), [(1, False), (3, True)])
def test_many_channels_that_were_seldom_seen_are_left_alone(seen, is_divided, tmp_path):
    """Their extremes are chance: 32 channels, of each of which 1 or 3 numbers were seen."""
    text = BLOCK.replace("N,6,16]", "N,T,32]")
    rng = np.random.default_rng(8)
    gamma = np.ones(32)
    gamma[[2, 9]] = 60
    weights = {
        "gamma": gamma,
        "beta": np.zeros(32),
        "wa": rng.normal(0, 0.1, (32, 32)),
        "wb": rng.normal(0, 0.1, (32, 32)),
    }
    graph = load_onnx_graph(built(text, tmp_path / "model.onnx", weights))
    quantize(graph, [rng.normal(0, 1, (1, seen, 32)).astype(np.float32)])
    assert bool(graph.rescalings) is is_divided


def test_what_a_table_does_not_know_is_said(tmp_path):
    path = built(DEPTHWISE, tmp_path / "model.onnx")
    setting = QuantizationSetting()
    setting.equalization = True
    table = calibrate(path, samples_for(DEPTHWISE))
    _, summary = quantize(path, None, table=table, setting=setting)
    assert any(note.startswith("not equalized, for want of statistics") for note in summary.notes)
    table = calibrate(path, samples_for(DEPTHWISE), setting=setting)
    _, summary = quantize(path, None, table=table, setting=setting)
    assert any(note.startswith("equalized: the channels of") for note in summary.notes)


def test_weights_that_were_solved_before_are_solved_again(tmp_path):
    path = built(RESIDUAL, tmp_path / "model.onnx")
    graph = load_onnx_graph(path)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    for config in graph.edges.values():
        if config.is_per_channel and config.state is QuantizationStates.INITIAL:
            config.state = QuantizationStates.BAKED
    calibrate(path, samples_for(RESIDUAL)).apply(graph)
    assert graph.streams == []
    assert {graph.edges[n.name, 1].state for n in graph.model.graph if n.op_type == "Conv"} == {
        QuantizationStates.INITIAL
    }


def test_an_error_leaves_the_model_as_it_was(tmp_path):
    path = built(BLOCK, tmp_path / "model.onnx")
    graph = load_onnx_graph(path)
    before = [node.op_type for node in graph.model.graph]
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    streams = graph.streams
    bad = [np.full((1, 6, C), np.nan, np.float32)]
    with pytest.raises(Exception, match="NaN"):
        RuntimeCalibrationPass().optimize(graph, bad, executor_of(graph))
    assert [node.op_type for node in graph.model.graph] == before
    assert graph.streams == streams
    assert set(graph.configs) == {name for group in graph.groups for name in group.values}


def executor_of(graph):
    from calibrant import OnnxruntimeExecutor

    return OnnxruntimeExecutor(graph)


def test_interested_layers_are_all_that_is_touched(tmp_path):
    path = built(BLOCK, tmp_path / "model.onnx")
    graph = load_onnx_graph(path)
    setting = QuantizationSetting()
    setting.smooth_quant_setting.interested_layers = ["MatMul_1"]
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, setting)
    assert [stream.readers for stream in graph.streams] == [("MatMul_1",)]
    setting.smooth_quant_setting.interested_layers = ["MatMul_7"]
    with pytest.raises(SettingError, match="MatMul_7"):
        quantize_graph(graph, TargetPlatform.ONNXRUNTIME, setting)


def test_a_later_calibration_that_fails_leaves_what_an_earlier_one_did(tmp_path):
    path, feeds = built(RESIDUAL, tmp_path / "model.onnx"), samples_for(RESIDUAL)
    graph = load_onnx_graph(path)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, QuantizationSetting())
    executor = OnnxruntimeExecutor(graph, threads=1)
    RuntimeCalibrationPass().optimize(graph, feeds, executor)
    before = graph.constant("w1"), dict(graph.rescalings), list(graph.report)
    assert before[1]
    with pytest.raises(ObservationError):
        RuntimeCalibrationPass(override=True).optimize(graph, [*feeds, np.full_like(feeds[0], 3e38)], executor)
    np.testing.assert_array_equal(graph.constant("w1"), before[0])
    assert (dict(graph.rescalings), list(graph.report)) == before[1:]

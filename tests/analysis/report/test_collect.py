"""What a report says of a model is what is in the model."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import QuantizationSetting, api
from calibrant.analysis import analyse
from calibrant.analysis.report import Subject, collect
from calibrant.analysis.report.advice import WORST
from calibrant.core import fake_quantize
from calibrant.observers import squared_error
from calibrant.sketches import Halves
from calibrant.table.collecting import METHODS
from tests.analysis.report.conftest import halves_of, report_on


def reported(model, samples, setting=None, methods=METHODS, **more):
    graph, summary = api.quantize(model, samples, setting=setting, keep=True)
    sketches = summary.table.sketches if summary.table is not None else Halves({}, {})
    return graph, collect(Subject("m", sketches, methods, graph=graph, **more), threads=2)


def in_decibels(power, error):
    return 10 * np.log10(power / error)


def test_the_operations_in_their_order(small_model, small_samples):
    _, report = reported(small_model, small_samples)
    found = [(o.name, o.op_type, o.fused, o.value) for o in report.operations]
    assert found == [
        ("conv1", "Conv", "relu1", "r1"),
        ("conv2", "Conv", "clip2", "r2"),
        ("conv3", "Conv", "", "c3"),
        ("add", "Add", "", "sum"),
        ("pool", "GlobalAveragePool", "", "pooled"),
        ("flatten", "Flatten", "", "pooled"),  # moves what pool makes, on its scale
        ("fc", "Gemm", "", "logits"),  # whose output the runtime gives in float
    ]
    assert [v.name for v in report.values] == ["x", "r1", "r2", "c3", "sum", "pooled", "logits"]
    assert [list(o.entering) for o in report.operations] == [["x"], [], [], [], [], [], []]
    assert {o.name: list(o.reads) for o in report.operations}["add"] == ["c3", "r1"]
    assert {v.name: v.maker for v in report.values}["x"] == ""
    assert {v.name: v.maker for v in report.values}["c3"] == "conv3"


def test_errors_are_those_of_values_and_weights(small_model, small_samples):
    graph, report = reported(small_model, small_samples)
    table = api.calibrate(small_model, small_samples)
    operation = next(o for o in report.operations if o.name == "conv2")
    error, power = squared_error(graph.config_of("r2"), table.sketches["r2"])
    assert operation.rounding == pytest.approx(in_decibels(power, error), abs=1e-6)
    initializers = {t.name: numpy_helper.to_array(t) for t in onnx.load(small_model).graph.initializer}
    weight = initializers["w2"].astype(np.float64)
    noise = weight - fake_quantize(graph.value("w2").const_value.numpy(), graph.edges["conv2", 1])
    assert operation.weights == pytest.approx(in_decibels((weight**2).sum(), (noise**2).sum()), abs=1e-6)
    assert operation.worst == min(operation.rounding, operation.weights)
    first = report.operations[0]
    error, power = squared_error(graph.config_of("x"), table.sketches["x"])
    assert first.reading == pytest.approx(in_decibels(power, error), abs=1e-6)
    assert first.worst == min(first.rounding, first.reading, first.weights)


def test_the_range_in_use_is_the_graphs(small_model, small_samples):
    graph, report = reported(small_model, small_samples)
    *quantized, output = report.values
    assert (output.name, output.method, output.chosen, output.sqnr) == ("logits", "", None, None)
    for value in quantized:
        config = graph.config_of(value.name)
        assert value.chosen.scale == float(config.scale)
        assert value.method == config.observer_algorithm
        assert value.moved == config.detail["moved"]
        assert set(value.finding.choices) >= {"minmax", "percentile", "mse", "kl"}


def test_values_on_one_scale(tmp_path):
    """A Concat's inputs: each tells what it is itself, and the ranges are those of both together."""
    w = numpy_helper.from_array(np.float32([[[[1.0]]]]), "w")
    info = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 4, 4])
        for name, n in (("a", 1), ("b", 1), ("y", 2))
    ]
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["ca"], "conv_a"),
        helper.make_node("Conv", ["b", "w"], ["cb"], "conv_b"),
        helper.make_node("Concat", ["ca", "cb"], ["y"], "concat", axis=1),
    ]
    graph = helper.make_graph(nodes, "two", info[:2], info[2:], [w])
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    rng = np.random.default_rng(0)
    samples = [tuple(k * rng.normal(size=(1, 1, 4, 4)).astype(np.float32) for k in (1, 10)) for _ in range(16)]
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = "minmax"
    _, report = reported(path, samples, setting)
    values = {value.name: value for value in report.values}
    assert list(values["ca"].shared) == ["cb"]
    assert values["ca"].finding.hi == max(a.max() for a, _ in samples)
    assert values["ca"].finding.elements == 16 * 16
    choices = {name: values[name].finding.choices["minmax"] for name in ("ca", "cb")}
    assert choices["ca"].scale == choices["cb"].scale == values["ca"].chosen.scale
    assert all(choice.sqnr == values[name].sqnr for name, choice in choices.items())  # of the value alone
    assert values["ca"].chosen.high == pytest.approx(max(b.max() for _, b in samples), rel=0.02)
    assert values["ca"].sqnr < values["cb"].sqnr - 10  # the scale is the other's


def test_what_is_left_in_float_and_why(small_model, small_samples):
    setting = QuantizationSetting()
    setting.leave_in_float = ["conv2"]
    _, report = reported(small_model, small_samples, setting)
    reasons = {o.name: o.reason for o in report.operations if o.reason}
    assert reasons["conv2"] == "left in float by the user"
    assert all(o.worst is None for o in report.operations if o.reason)


def test_an_equalized_value_is_told_as_it_is_now(small_model, small_samples, tmp_path):
    proto = onnx.load(small_model)
    for name in ("w1", "b1"):
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        numbers = numpy_helper.to_array(tensor).copy()
        numbers[0] *= 100
        tensor.CopyFrom(numpy_helper.from_array(numbers, name))
    onnx.save(proto, tmp_path / "uneven.onnx")
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = "minmax"
    plain = {v.name: v for v in reported(tmp_path / "uneven.onnx", small_samples, setting)[1].values}
    setting.equalization = True
    graph, report = reported(tmp_path / "uneven.onnx", small_samples, setting)
    assert any("equalized" in note for note in graph.report)
    assert any(v.finding.hi < plain[v.name].finding.hi / 2 for v in report.values)
    for value in report.values:
        if value.chosen is not None:
            assert value.finding.hi == pytest.approx(value.chosen.high, rel=0.02, abs=0.02)


def test_weights_alone(small_model):
    setting = QuantizationSetting()
    setting.quantize_activation = False
    _, report = reported(small_model, None, setting)
    assert not report.values
    assert [s.operation for s in report.suspects] == [
        o.name for o in sorted(report.operations, key=by_weights) if o.weights
    ]


def by_weights(operation):
    return operation.weights or 0.0


def test_a_scale_for_each_channel(small_model, small_samples):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.per_channel = True
    graph, report = reported(small_model, small_samples, setting)
    value = next(v for v in report.values if v.name == "r1")
    assert value.chosen is None  # there is no single range
    assert value.sqnr == pytest.approx(value.finding.choices["mse"].sqnr, abs=1)
    assert value.extremes.channels == graph.config_of("r1").scale.size == 8


def damaged(model, tmp_path, name):
    """The model with a weight in which a few numbers are far larger than the others, which then round to zero."""
    proto = onnx.load(model)
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    weight = numpy_helper.to_array(tensor).copy()
    weight.reshape(len(weight), -1)[:, 0] *= 100
    tensor.CopyFrom(numpy_helper.from_array(weight, name))
    onnx.save(proto, tmp_path / "damaged.onnx")
    return tmp_path / "damaged.onnx"


def test_what_was_measured_comes_before_what_is_estimated(small_model, small_samples):
    graph, _ = api.quantize(small_model, small_samples)
    analysis = analyse(graph, small_samples[:4], at_outputs=True)
    _, report = reported(small_model, small_samples, analysis=analysis)
    assert [s.operation for s in report.suspects] == [error.name for error in analysis.worst()]
    worst = analysis.worst(1)[0]
    assert report.suspects[0].decibels == pytest.approx(worst.at_outputs["logits"].sqnr_db)
    assert report.suspects[0].facts[0].startswith("with this layer alone quantized, the outputs of the model are at")
    accumulated = {error.name: error.accumulated.sqnr_db for error in analysis.operations}
    assert {o.name: o.accumulated for o in report.operations} == accumulated


def test_outputs_that_nothing_moves_rank_nothing(small_model, small_samples):
    graph, _ = api.quantize(small_model, small_samples)
    analysis = analyse(graph, small_samples[:2], at_outputs=True)
    for error in analysis.operations:
        for difference in error.at_outputs.values():
            difference.noise = difference.signal * 1e-20
    _, report = reported(small_model, small_samples, analysis=analysis)
    assert all(o.alone is None for o in report.operations)
    assert any(o.accumulated is not None for o in report.operations)
    assert report.suspects


def test_a_damaged_weight_is_named_first(small_model, small_samples, tmp_path):
    setting = QuantizationSetting()
    setting.quantize_parameter_setting.per_channel = False
    _, sound = reported(small_model, small_samples, setting)
    _, report = reported(damaged(small_model, tmp_path, "w2"), small_samples, setting)
    assert sound.suspects[0].operation != "conv2"
    assert report.suspects[0].operation == "conv2"


def test_steps_name_options_that_exist(small_model, small_samples):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = "percentile"
    setting.quantize_activation_setting.percentile = 0.9  # clips far too much
    _, report = reported(small_model, small_samples, setting)
    options = {step.option for suspect in report.suspects for step in suspect.steps}
    assert "--leave-in-float conv1" in options
    assert any(option.startswith("--override x:method=") for option in options)
    assert "--override r1:bits=16" in options


def test_a_value_that_moves_wants_more_samples_and_uneven_channels_are_told():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 16)).astype(np.float32)
    values[::2] *= 4  # one half of the samples
    values[:, 3] *= 50

    report = collect(Subject("t", halves_of({"v": values}, channel_axis=1), ["minmax"], method="minmax"), 1)
    (suspect,) = report.suspects
    assert any("moves by" in fact for fact in suspect.facts)
    assert any("the widest channel of 'v' ranges" in fact for fact in suspect.facts)
    assert "calibrate on more samples" in [step.text for step in suspect.steps]


def test_the_worst_are_ten_and_in_their_order():
    rng = np.random.default_rng(0)
    values = {f"v{i:02}": (rng.standard_t(1.5 + i / 10, 4000)).astype(np.float32) for i in range(14)}
    report = report_on(values, methods=("minmax",), method="minmax")
    levels = [suspect.decibels for suspect in report.suspects]
    assert len(levels) == WORST == 10
    assert levels == sorted(v.sqnr for v in report.values)[:10]


def test_a_value_without_a_histogram_has_its_range():
    from calibrant.sketches import SketchSpec, TensorSketch

    sketch = TensorSketch.of(np.float32([-1, 2]), SketchSpec(histogram=False))
    (value,) = collect(Subject("t", Halves({"v": sketch}, {"v": sketch}), ["minmax", "mse"], method="minmax")).values
    assert (value.finding.lo, value.finding.hi, value.outline) == (-1.0, 2.0, None)
    assert value.chosen.low == pytest.approx(-1, abs=0.02)
    assert "histogram" in value.finding.refused["mse"]

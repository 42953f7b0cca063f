"""Calls of the API that cannot be meant so: each is refused at once, in words, by a CalibrantError."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from calibrant import QuantizationSetting, TargetPlatform, quantize_onnx_model
from calibrant.api import calibrate, export_graph, load_onnx_graph, quantize
from calibrant.core import DataError, IncompatibleSketches, ObservationError, SettingError, StateError

rng = np.random.default_rng(4)
SAMPLES = [rng.normal(size=(1, 4)).astype(np.float32) for _ in range(16)]
WEIGHTS = {name: rng.normal(size=shape).astype(np.float32) for name, shape in {"w": (4, 8), "v": (8, 5)}.items()}


def saved(path, weight):
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,3] y) { h = Gemm(x, w) y = Relu(h) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("misuse") / "m.onnx", WEIGHTS["w"][:, :3])


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A model that gives the number of a class alone."""
    text = "(float[1,4] x) => (int64[1,1] i) { h = Gemm(x, w) r = Relu(h) g = Gemm(r, v) i = ArgMax <axis = 1> (g) }"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in WEIGHTS.items())
    path = tmp_path_factory.mktemp("misuse") / "classes.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def table(model):
    return calibrate(model, SAMPLES)


def test_a_table_may_be_named_by_its_file(model, table, tmp_path):
    table.save(tmp_path / "t.table")
    named, _ = quantize(model, None, table=tmp_path / "t.table")
    given, _ = quantize(model, None, table=table)
    assert [g.config.scale for g in named.groups] == [g.config.scale for g in given.groups]


@pytest.mark.parametrize("call", [quantize, calibrate], ids=["quantize", "calibrate"])
def test_a_setting_is_a_setting(model, call):
    with pytest.raises(SettingError, match=r"takes a QuantizationSetting, got dict: .*from_dict"):
        call(model, SAMPLES, setting={"effort": "high"})


def test_what_a_list_of_a_setting_was_given_later_is_checked_too(model):
    setting = QuantizationSetting()
    setting.leave_in_float.append(3)
    with pytest.raises(SettingError, match=r"leave_in_float takes list\[str\], got \[3\]"):
        quantize(model, SAMPLES, setting=setting)
    setting = QuantizationSetting()
    setting.equalization_setting.interested_layers.append(None)
    with pytest.raises(SettingError, match="interested_layers takes"):
        quantize(model, SAMPLES, setting=setting)


@pytest.mark.parametrize("steps", ["8", 8.0, 0])
def test_steps_are_a_whole_number(model, steps):
    with pytest.raises(SettingError, match="whole number of at least 1, got"):
        quantize_onnx_model(model, SAMPLES, steps, None, TargetPlatform.ONNXRUNTIME)
    graph = quantize_onnx_model(model, SAMPLES, np.int64(4), None, TargetPlatform.ONNXRUNTIME)
    assert graph.calibrated_samples == 4


def test_without_samples_it_is_said_what_they_are_for(model):
    with pytest.raises(DataError, match=r"there are no samples, .* or a table, or set quantize_activation to False"):
        quantize_onnx_model(model, None, 8, None, TargetPlatform.ONNXRUNTIME)


def test_tables_merge_with_tables(table):
    with pytest.raises(IncompatibleSketches, match=r"cannot merge a table with 3: .*CalibrationTable.load"):
        table.merge(3)


def test_the_keywords_of_solve_change_a_whole_config_as_well(model, table):
    graph, _ = quantize(model, SAMPLES)
    config = graph.groups[0].config
    name = graph.groups[0].values[0]
    wide, _ = table.solve(name, "minmax", config)
    narrow, _ = table.solve(name, "minmax", config, num_of_bits=4, quant_min=0, quant_max=15)
    np.testing.assert_allclose(narrow, wide * 255 / 15, rtol=1e-6)
    with pytest.raises(TypeError, match="bits"):
        table.solve(name, bits=4)


def test_one_method_needs_no_list(model):
    table = calibrate(model, SAMPLES, methods="minmax")
    assert table.settings["methods"] == "minmax"


def test_a_float_graph_is_not_written_as_if_it_were_quantized(model, tmp_path):
    with pytest.raises(StateError, match=r"the graph is in float, .*: quantize it first"):
        export_graph(load_onnx_graph(model), TargetPlatform.ONNXRUNTIME, tmp_path / "f.onnx")
    assert not (tmp_path / "f.onnx").exists()


def never():
    raise AssertionError("a sample was read")
    yield


@pytest.mark.parametrize("call", [quantize, calibrate], ids=["quantize", "calibrate"])
def test_a_weight_that_has_no_scale_is_found_before_any_sample_is_read(call, tmp_path):
    weight = np.ones((4, 3), np.float32)
    weight[1, 2], weight[0, 0] = np.nan, np.inf
    broken = saved(tmp_path / "nan.onnx", weight)
    with pytest.raises(ObservationError, match=r"weight 'w': 2 of 12 values are NaN or Inf.*mend the model"):
        call(broken, never())
    kept = QuantizationSetting()
    kept.quantize_parameter = False
    with pytest.raises(AssertionError, match="a sample was read"):
        call(broken, never(), setting=kept)


@pytest.mark.parametrize("call", [quantize, calibrate], ids=["quantize", "calibrate"])
def test_samples_that_do_not_vary_are_warned_of_once(call, model, caplog):
    call(model, [np.zeros((1, 4), np.float32)] * 20)
    (said,) = [message for message in caplog.messages if "without VNNI" not in message]
    assert "input 'x' is 0 in all samples" in said


@pytest.mark.parametrize("target", [{"target_sqnr": 20.0}, {"most_in_float": 1}], ids=str)
def test_there_is_no_target_in_db_where_outputs_are_integers_alone(classes, target):
    setting = QuantizationSetting(**target)
    with pytest.raises(SettingError, match="floating outputs, and the model has none: give max_drop"):
        quantize(classes, SAMPLES, setting=setting)


def test_auto_goes_by_each_value_where_outputs_are_integers_alone(classes):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = "auto"
    graph, summary = quantize(classes, SAMPLES, setting=setting)
    alone, _ = quantize(classes, None, table=calibrate(classes, SAMPLES), setting=setting)
    assert [g.config.scale for g in graph.groups] == [g.config.scale for g in alone.groups]
    assert "auto: no output is floating, so each value gets the method that errs least on itself" in summary.notes

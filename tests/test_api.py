"""quantize_onnx_model, export_graph and calibrate on a small classifier."""

import json

import numpy as np
import onnx
import pytest

import calibrant
from calibrant import (
    CalibrationTable,
    QuantizationSettingFactory,
    TargetPlatform,
    calibrate,
    export_graph,
    export_ppq_graph,
    quantize_onnx_model,
)
from calibrant.core import DataError, SettingError, StateError
from tests.arrays import run, sqnr

SHAPE = [1, 3, 16, 16]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "kl", "isotone"])
def test_a_quantized_model_is_close_to_the_float_one(small_model, small_samples, tmp_path, method):
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = method
    graph = quantize_onnx_model(small_model, small_samples[:32], 32, SHAPE, TargetPlatform.ONNXRUNTIME, setting=setting)
    export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / "int8.onnx")
    expected, unseen = run(small_model, small_samples[32:]), small_samples[32:]
    assert sqnr(expected, run(tmp_path / "int8.onnx", unseen)) > 20
    model = onnx.load(tmp_path / "int8.onnx")
    kept = {p.key: p.value for p in model.metadata_props}
    assert kept["author"] == "us"
    assert kept["calibrant.version"] == calibrant.__version__
    assert kept["calibrant.samples"] == "32"
    assert json.loads(kept["calibrant.setting"])["quantize_activation_setting"]["calib_algorithm"] == method
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["logits"]


class Reader:
    """The shape of onnxruntime's CalibrationDataReader."""

    def __init__(self, samples):
        self.samples = iter(samples)

    def get_next(self):
        return next(({"x": s} for s in self.samples), None)


def test_every_form_of_samples_gives_the_same_bytes(small_model, small_samples, tmp_path):
    forms = {
        "list": small_samples[:20],
        "generator": (s for s in small_samples[:20]),
        "dicts": [{"x": s} for s in small_samples[:20]],
        "tuples": [(s,) for s in small_samples[:20]],
        "reader": Reader(small_samples[:20]),
        "collated": [{"image": s} for s in small_samples[:20]],
    }
    files = []
    for name, form in forms.items():
        collate = (lambda item: item["image"]) if name == "collated" else None
        graph = quantize_onnx_model(small_model, form, 50, SHAPE, TargetPlatform.ONNXRUNTIME, collate_fn=collate)
        export_ppq_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert len(set(files)) == 1


def test_do_quantize_false_returns_the_float_graph(small_model):
    graph = quantize_onnx_model(small_model, None, 1, SHAPE, TargetPlatform.ONNXRUNTIME, do_quantize=False)
    assert (graph.groups, graph.edges) == ([], {})


def test_weights_only_needs_no_samples(small_model, small_samples, tmp_path):
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation = False
    graph = quantize_onnx_model(small_model, None, 1, SHAPE, TargetPlatform.ONNXRUNTIME, setting=setting)
    export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / "w8.onnx")
    assert sqnr(run(small_model, small_samples), run(tmp_path / "w8.onnx", small_samples)) > 30
    kinds = [n.op_type for n in onnx.load(tmp_path / "w8.onnx").graph.node]
    assert "QuantizeLinear" not in kinds
    assert kinds.count("DequantizeLinear") >= 4


def test_weights_can_stay_float_beside_their_scales_or_be_left_alone(small_model, small_samples, tmp_path):
    expected = run(small_model, small_samples)
    for baked, quantized in ((False, True), (True, False)):
        setting = QuantizationSettingFactory.default_setting()
        setting.quantize_parameter_setting.baking_parameter = baked
        setting.quantize_parameter = quantized
        graph = quantize_onnx_model(small_model, small_samples, 16, None, TargetPlatform.ONNXRUNTIME, setting=setting)
        export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / "a.onnx")
        stored = {t.name: t.data_type for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
        assert stored["w3"] == onnx.TensorProto.FLOAT
        assert sqnr(expected, run(tmp_path / "a.onnx", small_samples)) > 20


def test_a_weight_s_override_is_kept(small_model, small_samples):
    setting = QuantizationSettingFactory.default_setting()
    setting.overrides = {"w1": {"calib_algorithm": "minmax"}}
    setting.quantize_parameter_setting.calib_algorithm = "mse"
    graph = quantize_onnx_model(small_model, small_samples, 16, None, TargetPlatform.ONNXRUNTIME, setting=setting)
    assert graph.edges["conv1", 1].observer_algorithm == "minmax"
    assert graph.edges["conv3", 1].observer_algorithm == "mse"


def test_what_does_not_fit_is_refused(small_model, small_samples):
    def quantize(**changes):
        arguments = {"calib_steps": 4, "input_shape": SHAPE, "platform": TargetPlatform.ONNXRUNTIME} | changes
        return quantize_onnx_model(small_model, small_samples, **arguments)

    with pytest.raises(DataError, match=r"input_shape \[1, 3, 8, 8\]"):
        quantize(input_shape=[1, 3, 8, 8])
    with pytest.raises(DataError, match="float64"):
        quantize(input_dtype=np.float64)
    with pytest.raises(SettingError, match="unknown device 'gpu'"):
        quantize(device="gpu")
    with pytest.raises(SettingError, match="CUDAExecutionProvider"):
        quantize(device="cuda")
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = "entropie"
    with pytest.raises(SettingError, match="unknown method 'entropie'"):
        quantize(setting=setting)
    with pytest.raises(SettingError, match=r"FP32|platform"):
        quantize(platform=TargetPlatform.FP32)


def test_a_graph_is_exported_for_its_own_platform_only(small_model, small_samples, tmp_path):
    graph = quantize_onnx_model(small_model, small_samples, 4, SHAPE, TargetPlatform.ONNXRUNTIME)
    with pytest.raises(StateError, match="quantized for ONNXRUNTIME"):
        export_graph(graph, TargetPlatform.TRT_INT8, tmp_path / "x.onnx")
    assert not list(tmp_path.glob("x.onnx*"))


def test_a_table_solves_what_the_pass_solves(small_model, small_samples, tmp_path):
    table = calibrate(small_model, small_samples, steps=32)
    for method in ("minmax", "mse", "kl", "percentile"):
        setting = QuantizationSettingFactory.default_setting()
        setting.quantize_activation_setting.calib_algorithm = method
        setting.exact_simulation = False  # what the pass found, unmoved
        graph = quantize_onnx_model(small_model, small_samples, 32, None, TargetPlatform.ONNXRUNTIME, setting=setting)
        alone = [group for group in graph.groups if len(group.roots) == 1]
        assert len(alone) == 6
        for group in alone:
            assert table.solve(group.roots[0], method, group.config) == (group.config.scale, group.config.offset)


def test_a_table_is_a_file_and_merges(small_model, small_samples, tmp_path):
    whole = calibrate(small_model, small_samples)
    left, right = calibrate(small_model, small_samples[:13]), calibrate(small_model, small_samples[13:])
    for table, name in ((whole, "a"), (left.merge(right), "b"), (right.merge(left), "c")):
        table.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    again = CalibrationTable.load(tmp_path / "a")
    assert again.samples == 40
    assert {n: s.to_bytes() for n, s in again.sketches.items()} == {n: s.to_bytes() for n, s in whole.sketches.items()}
    assert again.solve("x", method="mse") == whole.solve("x", method="mse")


def test_a_table_says_what_it_lacks(small_model, small_samples, tmp_path):
    table = calibrate(small_model, small_samples[:4])
    with pytest.raises(SettingError, match="did you mean 'sum'"):
        table.solve("summ")
    with pytest.raises(calibrant.CalibrantError, match="margins"):
        table.solve("sum", method="isotone")
    table.save(tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    for broken in (b"", data[:100], data[:-5], b"x" * 50, data.replace(b'\\"schema\\": 1', b'\\"schema\\": 9')):
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(DataError, match="broken"):
            CalibrationTable.load(tmp_path / "broken")
    with pytest.raises(DataError, match="nowhere: no such file"):
        CalibrationTable.load(tmp_path / "nowhere")

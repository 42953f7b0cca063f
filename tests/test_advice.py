"""Advice: what was measured is what comes out of the same quantization, and it helps."""

import sys

import onnx
import pytest

from calibrant import QuantizationSetting, TargetPlatform
from calibrant.advice import advise
from calibrant.advice.fixes import find_fixes
from calibrant.analysis import Simulation, compare, sqnr_db
from calibrant.api import export_graph, quantize
from calibrant.core import ObservationError
from calibrant.engines.saturation import sums_saturate
from tests.analysis.networks import plain_network, quantized_by, random_samples

SAMPLES = random_samples()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    path = tmp_path_factory.mktemp("advice") / "damaged.onnx"
    onnx.save(plain_network(), path)
    return path


@pytest.fixture(scope="module")
def advice(damaged):
    quantized_by("qdq", damaged, SAMPLES, damaged.with_name("qdq.onnx"))
    return advise(damaged, damaged.with_name("qdq.onnx"), SAMPLES)


def test_the_best_fix_leaves_the_damaged_layer_in_float(advice, damaged):
    best = advice.fixes[0]
    assert "conv2" in best.leave_in_float
    assert best.gain_db > 15
    assert best.gain_db == best.sqnr_db - advice.base_db
    ran_db = as_run(damaged, damaged.with_name("qdq.onnx"), advice)
    described_db = advice.comparison.layers.base_db
    assert advice.base_db == (pytest.approx(ran_db, abs=1e-6) if sums_saturate() else described_db)
    assert best.reduce_range is sums_saturate()
    assert [fix.gain_db for fix in advice.fixes] == sorted((fix.gain_db for fix in advice.fixes), reverse=True)
    tried = [(fix.method, fix.leave_in_float) for fix in advice.fixes]
    assert {(method, ()) for method in (None, "minmax", "percentile", "mse", "kl")} < set(tried)
    assert len(tried) == 8 == len(set(tried))


def test_a_gain_is_that_of_quantizing_so(advice, damaged):
    """By another way: without a table, and with the weights found anew."""
    for fix in (advice.fixes[0], advice.fixes[-1]):
        setting = QuantizationSetting(leave_in_float=list(fix.leave_in_float))
        asked = setting.quantize_activation_setting
        asked.calib_algorithm, asked.reduce_range = fix.method, fix.reduce_range
        graph, _ = quantize(damaged, SAMPLES, setting=setting)
        model, kept = Simulation(graph), advice.comparison.kept
        exact = [load(damaged, feed) for feed in kept]
        assert sqnr_db(exact, [model.run(feed)[0] for feed in kept]) == pytest.approx(fix.sqnr_db, abs=1e-3)


def as_run(model, other, advice):
    """The dB of the other model's output in onnxruntime, on the samples that layers and fixes were tried on."""
    exact, found = ([load(path, feed) for feed in advice.comparison.kept] for path in (model, other))
    return sqnr_db(exact, found)


def load(path, feed):
    import onnxruntime as ort

    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]


def test_the_comparison_is_the_same_as_without_advice(advice, damaged):
    alone = compare(damaged, damaged.with_name("qdq.onnx"), SAMPLES)
    assert alone.outputs == advice.comparison.outputs
    assert alone.layers == advice.comparison.layers


def test_fixes_are_for_the_platform_of_the_other_model(damaged, tmp_path):
    graph, _ = quantize(damaged, SAMPLES, platform="OPENVINO_INT8")
    export_graph(graph, "OPENVINO_INT8", tmp_path / "ov.onnx")
    assert advise(damaged, tmp_path / "ov.onnx", SAMPLES[:2]).platform is TargetPlatform.OPENVINO_INT8


@pytest.mark.parametrize(("platform", "reduced"), [("ONNXRUNTIME", True), ("TRT_INT8", False)])
def test_where_sums_saturate_fixes_have_a_reduced_range(platform, reduced, damaged, tmp_path, monkeypatch):
    graph, _ = quantize(damaged, SAMPLES, platform=platform)
    export_graph(graph, platform, tmp_path / "q.onnx")

    def worse_as_run(*arguments, layers=True, **options):
        found = compare(*arguments, layers=layers, **options)
        if not layers:
            found.outputs["y"].difference.noise *= 100
        return found

    monkeypatch.setattr(sys.modules["calibrant.advice.advise"], "sums_saturate", lambda: True)
    monkeypatch.setattr(sys.modules["calibrant.advice.advise"], "compare", worse_as_run)
    found = advise(damaged, tmp_path / "q.onnx", SAMPLES[:4])
    assert {fix.reduce_range for fix in found.fixes} == {reduced}
    ran_db = as_run(damaged, tmp_path / "q.onnx", found) - 20
    assert found.base_db == (pytest.approx(ran_db, abs=1e-6) if reduced else found.comparison.layers.base_db)
    for fix in found.fixes:
        assert fix.gain_db == fix.sqnr_db - found.base_db


def test_a_reduced_range_is_kept(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["calibrant.advice.advise"], "sums_saturate", lambda: False)
    setting = QuantizationSetting()
    setting.quantize_activation_setting.reduce_range = True
    graph, _ = quantize(damaged, SAMPLES, setting=setting)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "q.onnx")
    found = advise(damaged, tmp_path / "q.onnx", SAMPLES[:4])
    assert {fix.reduce_range for fix in found.fixes} == {True}
    for fix in (found.fixes[0], found.fixes[-1]):
        setting = QuantizationSetting(leave_in_float=list(fix.leave_in_float))
        asked = setting.quantize_activation_setting
        asked.calib_algorithm, asked.reduce_range = fix.method, True
        model, kept = Simulation(quantize(damaged, SAMPLES[:4], setting=setting)[0]), found.comparison.kept
        exact = [load(damaged, feed) for feed in kept]
        assert sqnr_db(exact, [model.run(feed)[0] for feed in kept]) == pytest.approx(fix.sqnr_db, abs=1e-3)


def test_without_anything_to_mend_nothing_is_tried(damaged):
    found = advise(damaged, damaged, SAMPLES[:2])
    assert (found.fixes, found.why_none) == ([], "no layer differs")


def test_a_float_model_that_is_none_is_said(damaged, advice):
    int8 = damaged.with_name("qdq.onnx")
    found = advise(int8, damaged, SAMPLES[:2])
    assert "is quantized already" in found.why_none
    assert found.comparison.layers is not None


def test_a_way_that_is_refused_is_said():
    class Refusing:
        reduce_range = False

        def sqnr_db(self, method, leave_in_float):
            if method == "kl" or leave_in_float:
                raise ObservationError("not with me")
            return 10.0 + len(method or "")

    steps = []
    fixes, refused = find_fixes(Refusing(), 12.0, ["a", "b"], lambda done, total: steps.append((done, total)))
    assert [(fix.method, fix.gain_db) for fix in fixes] == [
        ("percentile", 8.0),
        ("minmax", 4.0),
        ("mse", 1.0),
        (None, -2.0),
    ]
    assert [sentence.split(":")[0] for sentence in refused] == [
        "kl",
        "percentile with a in float",
        "percentile with a, b in float",
    ]
    assert steps == [(number, 7) for number in range(1, 8)]

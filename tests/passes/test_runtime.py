"""RuntimeCalibrationPass and IsotoneCalibrationPass on a small classifier."""

import logging

import numpy as np
import pytest

from calibrant import (
    BaseTensorObserver,
    IsotoneCalibrationPass,
    OnnxruntimeExecutor,
    ParameterQuantizePass,
    PassiveParameterQuantizePass,
    QuantizationSetting,
    RuntimeCalibrationPass,
    TargetPlatform,
    load_onnx_graph,
    register_calibration_observer,
)
from calibrant.api import calibrate, quantize
from calibrant.core import (
    DataError,
    ObservationError,
    QuantizationStates,
    SettingError,
    StateError,
    affine,
)
from calibrant.passes.activations import activation_configs
from calibrant.quantizers import quantize_graph
from calibrant.sketches import Extremes


@pytest.fixture
def graph(small_model):
    graph = load_onnx_graph(small_model)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, QuantizationSetting())
    return graph


@pytest.fixture
def executor(graph):
    return OnnxruntimeExecutor(graph)


def states(graph):
    return {config.state for config, _ in activation_configs(graph)}


def scales(graph):
    return {tuple(roots): float(config.scale) for config, roots in activation_configs(graph)}


def passive(graph):
    return [c for c in graph.edges.values() if c.num_of_bits == 32]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "kl", None])
def test_every_config_is_activated(graph, executor, small_samples, method):
    assert states(graph) == {QuantizationStates.INITIAL}
    RuntimeCalibrationPass(method).optimize(graph, small_samples, executor)
    assert states(graph) == {QuantizationStates.ACTIVATED}
    assert all(c.scale > 0 for c, _ in activation_configs(graph))
    own = {"percentile", "mse"}  # what the Conv before a ReLU6 reads, and the others
    assert {c.observer_algorithm for c, _ in activation_configs(graph)} == ({method} if method else own)


def test_minmax_is_the_range_of_the_values(graph, executor, small_samples):
    RuntimeCalibrationPass("minmax", calib_steps=5).optimize(graph, small_samples, executor)
    x = np.stack(small_samples[:5])
    config = next(c for c, roots in activation_configs(graph) if roots == ["x"])
    assert (config.scale, config.offset) == affine(x.min(), x.max(), config)
    assert graph.calibrated_samples == 5


def test_calib_steps_is_a_limit_and_the_loader_is_not_cycled(graph, executor, small_samples, caplog):
    seen = []

    def loader():
        for sample in small_samples[:3]:
            seen.append(1)
            yield sample

    with caplog.at_level(logging.WARNING, "calibrant"):
        RuntimeCalibrationPass(calib_steps=99).optimize(graph, loader(), executor)
    assert (len(seen), graph.calibrated_samples) == (3, 3)
    assert "few samples to calibrate on: 3" in caplog.text


def test_batches_and_order_do_not_matter(graph, executor, small_samples):
    RuntimeCalibrationPass("minmax", calib_steps=99).optimize(graph, small_samples, executor)
    one = scales(graph)
    batches = [np.concatenate(small_samples[20:]), np.concatenate(small_samples[:20])[::-1].copy()]
    RuntimeCalibrationPass("minmax", override=True).optimize(graph, batches, executor)
    assert scales(graph) == pytest.approx(one, rel=1e-5)  # the engine may differ in the last bit between batch sizes
    assert graph.calibrated_samples == 40


def test_only_what_is_initial_is_calibrated_unless_override(graph, executor, small_samples):
    RuntimeCalibrationPass("minmax").optimize(graph, small_samples[:16], executor)
    before = scales(graph)
    RuntimeCalibrationPass("percentile").optimize(graph, small_samples[16:], executor)
    assert scales(graph) == before
    ParameterQuantizePass().optimize(graph)
    PassiveParameterQuantizePass().optimize(graph)
    assert {c.state for c in passive(graph)} == {QuantizationStates.PASSIVE}
    RuntimeCalibrationPass("percentile", override=True).optimize(graph, small_samples[16:], executor)
    assert scales(graph) != before
    assert {c.state for c in passive(graph)} == {QuantizationStates.PASSIVE_INIT}


def test_an_error_leaves_every_config_as_it_was(graph, executor, small_samples):
    with pytest.raises(DataError, match="NaN"):
        RuntimeCalibrationPass().optimize(graph, [small_samples[0], small_samples[1] * np.nan], executor)
    assert states(graph) == {QuantizationStates.INITIAL}
    huge = [s * np.float32(3e38) for s in np.sign(small_samples)]
    with pytest.raises(ObservationError, match=r"'c1|'r1|Inf"):
        RuntimeCalibrationPass().optimize(graph, huge, executor)
    assert states(graph) == {QuantizationStates.INITIAL}
    assert all(c.scale is None for c, _ in activation_configs(graph))


def test_missing_samples_are_named(graph, executor):
    with pytest.raises(DataError, match="needs samples"):
        RuntimeCalibrationPass().optimize(graph)
    with pytest.raises(DataError, match="no sample"):
        RuntimeCalibrationPass().optimize(graph, [], executor)


class HalfRange(BaseTensorObserver):
    """A user's observer in the sketch form: half of minmax."""

    sketches = (Extremes,)

    def solve(self, sketch):
        lo, hi = self.ends(sketch)
        return affine(lo / 2, hi / 2, self._quant_cfg)


class Count(BaseTensorObserver):
    """A user's observer in the raw form: the scale is the number of tensors seen."""

    def observe(self, value):
        self.tensors = getattr(self, "tensors", 0) + 1

    def render_quantization_config(self):
        self._quant_cfg.scale, self._quant_cfg.offset = self.tensors, 0
        self._quant_cfg.state = QuantizationStates.ACTIVATED


class Forgetful(Count):
    """Forgets the state."""

    def render_quantization_config(self):
        self._quant_cfg.scale, self._quant_cfg.offset = 1, 0


register_calibration_observer("HalfRange", HalfRange)
register_calibration_observer("count_tensors", Count)
register_calibration_observer("forgetful", Forgetful)


def test_a_user_s_sketch_observer_is_found_by_name(graph, executor, small_samples):
    RuntimeCalibrationPass("minmax").optimize(graph, small_samples, executor)
    full = scales(graph)
    RuntimeCalibrationPass("halfrange", override=True).optimize(graph, small_samples, executor)
    assert scales(graph) == pytest.approx({k: v / 2 for k, v in full.items()}, rel=1e-6)


def test_a_user_s_raw_observer_sees_every_tensor(graph, executor, small_samples):
    RuntimeCalibrationPass("Count_Tensors", calib_steps=7).optimize(graph, small_samples, executor)
    assert set(scales(graph).values()) == {7.0}


def test_an_observer_that_does_not_finish_is_named(graph, executor, small_samples):
    with pytest.raises(StateError, match="'forgetful' left"):
        RuntimeCalibrationPass("forgetful").optimize(graph, small_samples, executor)
    assert states(graph) == {QuantizationStates.INITIAL}


def test_an_unknown_method_names_the_nearest(graph, executor, small_samples):
    with pytest.raises(SettingError, match="did you mean 'percentile'"):
        RuntimeCalibrationPass("percentil").optimize(graph, small_samples, executor)


def test_isotone_for_the_whole_graph_goes_to_the_values_that_carry_an_order(graph, executor, small_samples):
    RuntimeCalibrationPass("isotone").optimize(graph, small_samples, executor)
    assert states(graph) == {QuantizationStates.ACTIVATED}
    methods = {tuple(roots): c.observer_algorithm for c, roots in activation_configs(graph)}
    assert methods.pop(("logits",)) == "isotone"
    assert set(methods.values()) == {"mse", "percentile"}


def test_isotone_pass_changes_the_outputs_alone(graph, executor, small_samples, caplog):
    RuntimeCalibrationPass("minmax").optimize(graph, small_samples, executor)
    before = scales(graph)
    assert ("logits",) not in before  # onnxruntime gives it in float
    with caplog.at_level(logging.INFO, "calibrant"):
        IsotoneCalibrationPass(calib_steps=40).optimize(graph, small_samples, executor)
    assert "isotone on logits" in caplog.text
    after = scales(graph)
    assert after.keys() - before.keys() == {("logits",)}
    assert {k: after[k] for k in before} == before
    detail = graph.config_of("logits").detail["isotone"]
    assert detail["rows"] == 40
    assert detail["kept"] >= 30


def test_isotone_pass_names_what_it_cannot_find(graph, executor, small_samples):
    with pytest.raises(SettingError, match="did you mean 'logits'"):
        IsotoneCalibrationPass(["logit"]).optimize(graph, small_samples, executor)


def span(sketch):
    """The range that minmax covers."""
    return max(sketch.extremes.hi.max(), 0) - min(sketch.extremes.lo.min(), 0)


def test_a_scale_comes_with_how_far_it_moves_between_halves_of_the_samples(small_model, small_samples):
    table = calibrate(small_model, small_samples)
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = "minmax"
    graph, summary = quantize(small_model, None, table=table, setting=setting)
    for group in graph.groups:
        halves = [half[group.roots[0]] for half in (table.sketches.even, table.sketches.odd)]
        even, odd, whole = (span(sketch) for sketch in (*halves, table.sketches[group.roots[0]]))
        assert group.config.detail["moved"] == pytest.approx(abs(even - odd) / whole, rel=1e-3, abs=1e-6)
    most = {g.roots[0]: g.config.detail["moved"] for g in graph.groups if g.config.detail["moved"] > 0.1}
    assert summary.moving == most


def test_half_of_one_sample_says_nothing_about_movement(small_model, small_samples):
    graph, summary = quantize(small_model, small_samples[:1])
    assert summary.moving == {}
    assert not any("moved" in group.config.detail for group in graph.groups)


def test_movement_is_that_of_the_scale_there_is_now(graph, executor, small_samples):
    RuntimeCalibrationPass("mse").optimize(graph, small_samples, executor)
    IsotoneCalibrationPass(["sum"], axis=-3).optimize(graph, small_samples, executor)
    config = graph.config_of("sum")
    moved = config.detail["moved"]
    assert moved > 0
    IsotoneCalibrationPass(["sum"], axis=-3).optimize(graph, small_samples[:1], executor)
    assert "moved" not in config.detail  # half of one sample says nothing
    IsotoneCalibrationPass(["sum"], axis=1, calib_steps=40).optimize(graph, small_samples[:32], executor)
    assert config.detail["moved"] == moved

"""The method `auto`: by statistics, and by what reaches the outputs."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import OnnxruntimeExecutor, QuantizationSetting, RuntimeCalibrationPass, load_onnx_graph
from calibrant.analysis import Simulation, sqnr_db
from calibrant.analysis.probabilities import logs_of
from calibrant.api import calibrate, export_graph, quantize
from calibrant.auto.choosing import choose
from calibrant.auto.judging import BEYOND_DOUBT, SURE, best_of, signal_and_noise, sqnr_of_powers, standard_error
from calibrant.auto.trials import Choice
from calibrant.core import (
    ObservationError,
    QuantizationStates,
    SettingError,
    TargetPlatform,
    TensorQuantizationConfig,
    fake_quantize,
)
from calibrant.core import QuantizationProperty as P
from calibrant.engines.halves import half_of
from calibrant.engines.kept import BYTES, MOST, Kept
from calibrant.passes import parameter
from calibrant.passes.auto import CANDIDATES, AutoCalibration
from calibrant.passes.calibration import Calibration
from calibrant.passes.least_error import least_error
from calibrant.quantizers import quantize_graph
from calibrant.sketches import Halves, SketchSpec, TensorSketch
from calibrant.table.affordable import FEWEST, affordable
from tests.arrays import softmax

RNG = np.random.default_rng(29)
SPEC = SketchSpec()


def auto(**overrides):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = "auto"
    setting.overrides = overrides
    return setting


def config(bits=8):
    return TensorQuantizationConfig(
        P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL,
        num_of_bits=bits,
        quant_min=-(1 << (bits - 1)),
        quant_max=(1 << (bits - 1)) - 1,
    )


def halves(even, odd):
    of = [{"v": TensorSketch.of(np.asarray(x, np.float32), SPEC)} for x in (even, odd)]
    return Halves(*of)


@pytest.mark.parametrize("kind", ["normal", "outlier in one half", "heavy"])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_takes_the_method_of_least_error_on_the_other_half(kind, bits):
    even, odd = RNG.normal(size=(2, 20_000)).astype(np.float32)
    if kind == "heavy":
        even, odd = RNG.standard_t(2, (2, 20_000)).astype(np.float32)
    if kind == "outlier in one half":
        even[7] = 1000
    task = AutoCalibration.of(config(bits), ["v"], "auto")
    task.solve(halves(even, odd))
    errors = {}
    for method in CANDIDATES:
        errors[method] = 0.0
        for seen, unseen in ((even, odd), (odd, even)):
            one = Calibration.of(config(bits), ["v"], method)
            one.observer.render_from(TensorSketch.of(seen, SPEC))
            errors[method] += ((unseen - fake_quantize(unseen, one.draft)) ** 2).mean(dtype=np.float64)
    assert errors[task.draft.observer_algorithm] <= 1.01 * min(errors.values())
    whole = Calibration.of(config(bits), ["v"], task.draft.observer_algorithm)
    whole.solve(halves(even, odd))
    assert task.draft.scale == whole.draft.scale


def test_a_method_that_refuses_the_config_is_no_candidate():
    x = RNG.normal(size=5000)
    task = AutoCalibration.of(config(16), ["v"], "auto")
    task.solve(halves(x, x + 0.1))
    assert task.draft.observer_algorithm in ("mse", "percentile", "minmax")


def test_one_half_without_samples_is_no_obstacle():
    task = AutoCalibration.of(config(), ["v"], "auto")
    task.solve(halves(RNG.normal(size=5000), []))
    assert task.draft.scale > 0


def test_from_a_table_without_samples(small_model, small_samples):
    table = calibrate(small_model, small_samples)
    graph, summary = quantize(small_model, None, table=table, setting=auto(logits={"calib_algorithm": "minmax"}))
    assert set(summary.methods) <= set(CANDIDATES)
    assert all(group.config.scale > 0 for group in graph.groups)
    assert not any("auto chose" in note for note in summary.notes)


def test_the_pass_takes_it_as_a_method(small_model, small_samples):
    graph = load_onnx_graph(small_model)
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    RuntimeCalibrationPass("AUTO").optimize(graph, small_samples, OnnxruntimeExecutor(graph))
    assert {group.config.observer_algorithm for group in graph.groups} <= set(CANDIDATES)


def outlier_model(path):
    """x -> Relu-free Conv -> Clip to [0, 1] -> y: what is above 1 is lost anyway, and x has rare huge values."""
    weights = {"w": np.eye(4)[:, :, None, None], "zero": np.array(0), "one": np.array(1)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Clip", ["c", "zero", "one"], ["y"], "clip"),
    ]
    shape = ["N", 4, 8, 8]
    graph = helper.make_graph(
        nodes,
        "outlier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_with_samples_it_looks_at_the_outputs(tmp_path):
    """mse keeps the huge values of x, which the Clip throws away; percentile does not, and serves the output better."""
    outlier_model(tmp_path / "m.onnx")
    samples = RNG.uniform(0, 1, (24, 1, 4, 8, 8)).astype(np.float32)
    samples[:, 0, 0, 0, 0] = 300
    setting = auto()
    setting.quantize_activation_setting.percentile = 0.99
    graph, summary = quantize(tmp_path / "m.onnx", samples, setting=setting)
    table = calibrate(tmp_path / "m.onnx", samples)
    by_table, _ = quantize(tmp_path / "m.onnx", None, table=table, setting=setting)
    assert by_table.config_of("x").observer_algorithm == "mse"
    assert graph.config_of("x").observer_algorithm == "percentile"
    (note,) = [note for note in summary.notes if note.startswith("auto chose")]
    assert "dB at the outputs on 24 samples" in note


def test_it_is_the_same_with_a_table_or_without_and_in_any_order(small_model, small_samples, tmp_path):
    table = calibrate(small_model, small_samples)
    for number, given in enumerate([None, table, None]):
        samples = small_samples if number < 2 else small_samples[::-1]
        graph, summary = quantize(small_model, samples, setting=auto(), table=given)
        export_graph(graph, "ONNXRUNTIME", tmp_path / f"{number}.onnx")
        assert summary.samples == 40
    files = {(tmp_path / f"{number}.onnx").read_bytes() for number in range(3)}
    assert len(files) == 1


def test_an_override_keeps_its_method(small_model, small_samples):
    graph, _ = quantize(small_model, small_samples, setting=auto(r1={"calib_algorithm": "kl"}))
    assert graph.config_of("r1").observer_algorithm == "kl"


def test_what_is_kept_does_not_depend_on_the_order():
    feeds = [{"x": RNG.normal(size=(1, 9)).astype(np.float32)} for _ in range(3 * MOST)]
    found = []
    for order in (feeds, feeds[::-1], [feeds[i] for i in RNG.permutation(len(feeds))]):
        kept = Kept(order)
        assert sum(1 for _ in kept) == len(feeds)
        found.append([feed["x"].tobytes() for feed in kept.samples])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == MOST
    assert {half_of(feed) for feed in kept.samples} == {0, 1}


def test_nor_where_samples_of_many_sizes_are_more_than_fits(monkeypatch):
    monkeypatch.setattr("calibrant.engines.kept.BYTES", 1000)
    feeds = [{"x": RNG.normal(size=(1, n)).astype(np.float32)} for n in RNG.integers(1, 100, 60)]
    found = set()
    for _ in range(20):
        kept = Kept([feeds[i] for i in RNG.permutation(len(feeds))])
        assert sum(1 for _ in kept) == len(feeds)
        found.add(tuple(feed["x"].tobytes() for feed in kept.samples))
    assert len(found) == 1
    assert 0 < sum(map(len, found.pop())) <= 1000


def test_a_large_model_is_measured_on_fewer_samples(small_model, small_samples, monkeypatch):
    table = calibrate(small_model, small_samples)
    numbers = sum(sketch.extremes.size for sketch in table.sketches.values()) // 40  # of one sample
    feeds = [{"x": x} for x in small_samples]
    assert len(affordable(feeds, table)) == 40
    monkeypatch.setattr("calibrant.table.affordable.NUMBERS", 36 * numbers)
    assert [id(feed) for feed in affordable(feeds, table)] == [id(feed) for feed in feeds[:36]]
    twice = [{"x": np.concatenate([x, x])} for x in small_samples]
    monkeypatch.setattr("calibrant.table.affordable.NUMBERS", 72 * numbers)
    assert len(affordable(twice, table)) == 36
    monkeypatch.setattr("calibrant.table.affordable.NUMBERS", 0)
    assert len(affordable(feeds, table)) == FEWEST < 36


def test_what_is_kept_is_copied_and_bounded(monkeypatch):
    monkeypatch.setattr("calibrant.engines.kept.BYTES", 100)
    buffer = np.zeros((1, 10), np.float32)

    def overwritten():
        for number in range(20):
            buffer[:] = number
            yield {"x": buffer}

    kept = Kept(overwritten())
    for _ in kept:
        pass
    assert len(kept.samples) == 2
    assert kept.samples[0]["x"][0, 0] != kept.samples[1]["x"][0, 0]
    assert BYTES > 100


def test_a_mistyped_method_is_told_of_it(small_model, small_samples):
    setting = auto()
    setting.quantize_activation_setting.calib_algorithm = "atuo"
    with pytest.raises(SettingError, match="did you mean 'auto'"):
        quantize(small_model, small_samples, setting=setting)


def test_sixteen_bits_leave_kl_out(small_model, small_samples):
    setting = auto()
    setting.quantize_activation_setting.num_of_bits = 16
    _, summary = quantize(small_model, small_samples[:20], setting=setting)
    assert not summary.methods.keys() & {"kl", "auto"}
    assert "kl" in calibrate(small_model, small_samples[:4], setting=setting).settings["methods"]


def test_the_weights_do_not_depend_on_the_models_that_were_compared(small_model, small_samples):
    """They are solved once for all of these, before any of them moves their scales."""
    graph, summary = quantize(small_model, small_samples, setting=auto())
    same_methods = {
        value: {"calib_algorithm": group.config.observer_algorithm} for group in graph.groups for value in group.values
    }
    other, alike = quantize(small_model, small_samples, setting=QuantizationSetting(overrides=same_methods))
    assert alike.methods == summary.methods
    assert graph.edges.keys() == other.edges.keys()
    for edge, config in graph.edges.items():
        assert config.state is other.edges[edge].state
        np.testing.assert_array_equal(config.scale, other.edges[edge].scale)
    for group, same in zip(graph.groups, other.groups, strict=True):
        assert group.config.scale == same.config.scale


def test_it_measures_what_is_handed_over(small_model, small_samples):
    """Its number is that of the quantized model on the samples: a model with other scales would be another one."""
    graph, summary = quantize(small_model, small_samples, setting=auto())
    running, executor = Simulation(graph), OnnxruntimeExecutor(graph)
    exact, found = ([run({"x": x})[0] for x in small_samples] for run in (executor.forward, running.run))
    (note,) = [note for note in summary.notes if note.startswith("auto chose")]
    assert f": {sqnr_db(exact, found):.1f} dB at the outputs on 40 samples" in note


def test_equal_samples_which_are_in_one_half_are_no_obstacle(small_model, small_samples):
    same = [small_samples[0]] * 20
    _, summary = quantize(small_model, same, setting=auto())
    assert summary.samples == 20
    assert any(note.startswith("auto chose") for note in summary.notes)


def test_weights_are_solved_once(small_model, small_samples, monkeypatch):
    solved = []
    found = least_error
    monkeypatch.setitem(parameter._BY_NAME, "mse", lambda *given: solved.append(given) or found(*given))
    graph, _ = quantize(small_model, small_samples, setting=auto())
    assert len(solved) == sum(config.state is QuantizationStates.BAKED for config in graph.edges.values()) > 0


def test_it_tells_how_far_it_is(small_model, small_samples):
    told = []
    quantize(small_model, small_samples, setting=auto(), on_run=lambda done, total: told.append((done, total)))
    runs = told[0][1]
    assert told == [(done, runs) for done in range(1, runs + 1)]
    assert runs % 40 == 0
    assert 3 <= runs // 40 <= 7  # models that differ


def powers(*noise):
    """Of samples of power 1 in one output, with so much noise each."""
    return np.array([[[1.0, n]] for n in noise])


def test_the_best_at_the_outputs_is_taken():
    noise = RNG.uniform(0.9, 1.1, 20)
    bad, good, better = (powers(*noise / scale) for scale in (10, 100, 101))
    assert best_of({"bad": (bad, bad), "good": (good, good), "better": (better, better)}) == "better"
    assert best_of({"first": (good, good), "second": (good, good), "bad": (bad, bad)}) == "first"
    assert best_of({"bad": (powers(1.0),) * 2, "good": (powers(0.1),) * 2}) == "good"  # by a single sample


def test_what_a_single_sample_decides_is_left_to_the_logarithms():
    steady = RNG.uniform(0.9, 1.1, 20) / 100
    tipped = steady * 0.9
    tipped[3] = 0.2
    assert sqnr_of_powers(powers(*steady).sum(axis=0)) - sqnr_of_powers(powers(*tipped).sum(axis=0)) > 1
    worse, better = powers(*np.full(20, 0.02)), powers(*np.full(20, 0.01))
    assert best_of({"steady": (powers(*steady), worse), "tipped": (powers(*tipped), better)}) == "tipped"
    assert best_of({"steady": (powers(*steady), worse), "all": (powers(*steady * 1.1), better)}) == "steady"


def test_the_standard_error_is_that_of_leaving_one_out():
    """Of means of independent numbers the jackknife gives the usual standard error."""
    a, b = RNG.uniform(0.01, 0.0101, (2, 50))
    ahead = 10 * np.log10(b.mean() / a.mean())
    error = (10 / np.log(10)) * np.sqrt(np.var(a / a.mean() - b / b.mean(), ddof=1) / 50)
    worse, better = powers(*np.full(50, 0.02)), powers(*np.full(50, 0.01))
    for shift, chosen in ((0.95, "b"), (1.05, "a")):  # a is ahead by so many times SURE standard errors
        level = 10 ** ((shift * SURE * error - ahead) / 10)
        assert best_of({"a": (powers(*a), worse), "b": (powers(*b * level), better)}) == chosen


def test_a_model_to_be_wary_of_is_taken_only_where_it_leads_clearly():
    noise = RNG.uniform(0.5, 1.5, 20) / 100
    other = noise[::-1]
    models = {"bad": (powers(*other * 2),) * 2, "good": (powers(*other),) * 2, "kl": (powers(*noise * 0.95),) * 2}
    assert best_of(models) == "kl"
    assert best_of(models, wary_of=["kl"]) == "good"
    assert best_of(models | {"kl": (powers(*noise * 0.1),) * 2}, wary_of=["kl"]) == "kl"
    assert best_of(models | {"kl": (powers(*noise * 4),) * 2}, wary_of=["kl"]) == "good"
    assert best_of(models, wary_of=list(models)) == "kl"
    assert best_of({"good": models["good"], "kl": models["kl"]}, wary_of=["kl", "good"]) == "kl"
    ahead = sqnr_of_powers(models["kl"][0].sum(axis=0)) - sqnr_of_powers(models["good"][0].sum(axis=0))
    error = standard_error(models["kl"][0], models["good"][0])
    for times, chosen in ((BEYOND_DOUBT * 0.95, "good"), (BEYOND_DOUBT * 1.05, "kl")):
        level = 10 ** ((ahead - times * error) / 10)  # what its noise must be changed by to be ahead so many times
        assert best_of(models | {"kl": (powers(*noise * 0.95 * level),) * 2}, wary_of=["kl"]) == chosen


def test_logarithms_are_what_the_softmax_was_given():
    exact, found = RNG.normal(0, 4, (2, 3, 7, 11))
    unlike = [np.ones((3, 4), np.float32), -softmax(exact), np.full((3, 1), 1, np.float32), np.array([1]), exact]
    logs = logs_of([softmax(exact), *unlike], [softmax(found), *unlike])
    for got, given in zip(logs, (exact, found), strict=True):
        np.testing.assert_allclose(got[0], given - given.mean(axis=-1, keepdims=True), atol=1e-5)
        assert all(one is other for one, other in zip(got[1:], unlike, strict=True))
    (certain,), _ = logs_of([np.array([[0.0, 1.0]], np.float32)], [np.array([[0.0, 1.0]], np.float32)])
    assert np.isfinite(certain).all()


class TwoModels:
    """Trials of a classifier in two classes, by mse and by another method. errors: of both in each sample's logits."""

    def __init__(self, logits, other, errors):
        self.logits, self.other = np.array(logits), other
        self.errors = dict(zip(("mse", other), errors, strict=True))
        self.executor = SimpleNamespace(forward=lambda feed: [softmax(self.logits[feed["number"]])], threads=1)

    def choices(self):
        return {method: Choice("mse", (method,)) for method in ("mse", self.other)}

    def by_layer(self, samples):
        return Choice("mse", ("mse",))

    def model(self, choice):
        def run(feed):
            number = feed["number"]
            return [softmax(self.logits[number] + [self.errors[choice.methods[0]][number], 0])]

        return SimpleNamespace(run=run)


NUMBERED = [{"number": number} for number in range(31)]


def test_of_a_softmax_that_one_sample_tips_the_logits_decide():
    """mse errs a little wherever it is, percentile much, but where the model is sure."""
    errors = np.full(31, -0.3), np.array([-3.0] * 30 + [0.0])
    trials = TwoModels([[20.0, -20.0]] * 30 + [[0.1, -0.1]], "percentile", errors)
    name, choice, found = choose(trials, NUMBERED)
    assert found["percentile"] > found["mse"] + 10
    assert (name, choice.methods) == ("mse", ("mse",))


@pytest.mark.parametrize(("other", "chosen"), [("percentile", "percentile"), ("kl", "mse")])
def test_kl_is_not_taken_for_a_lead_that_may_be_luck(other, chosen):
    errors = np.tile([-0.2, -0.3], 16)[:31], np.tile([-0.3, -0.18], 16)[:31]
    name, _, found = choose(TwoModels([[0.1, -0.1]] * 31, other, errors), NUMBERED)
    assert found[other] > found["mse"]
    assert name == chosen


@pytest.mark.parametrize("other", ["percentile", "kl"])
def test_kl_is_taken_for_a_lead_that_is_sure(other):
    name, *_ = choose(TwoModels([[0.1, -0.1]] * 31, other, (np.full(31, 0.3), np.full(31, 0.1))), NUMBERED)
    assert name == other


def test_sqnr_of_several_outputs_is_the_mean():
    exact = [np.array([3.0, 4.0], np.float32), np.array([7], np.int64), np.zeros((0, 2), np.float32)]
    found = [np.array([3.0, 4.5], np.float32), np.array([8], np.int64), np.zeros((0, 2), np.float32)]
    assert signal_and_noise(exact, found) == [(25.0, 0.25), (0.0, 0.0)]
    assert sqnr_of_powers(np.array([[25.0, 0.25], [1.0, 0.1]])) == pytest.approx(15)
    assert sqnr_of_powers(np.array([[1.0, 0.0], [np.nan, 1.0]])) == pytest.approx(0)
    assert sqnr_of_powers(np.zeros((0, 2))) == 0


def test_a_value_that_no_method_serves_is_told_of(tmp_path):
    """The square roots of negative numbers, which the Conv reads, are NaN."""
    outlier_model(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.node[0].input[0] = "root"
    model.graph.node.insert(0, helper.make_node("Sqrt", ["x"], ["root"], "sqrt"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ObservationError, match=r"'root'.*NaN"):
        quantize(tmp_path / "m.onnx", RNG.normal(size=(20, 1, 4, 8, 8)).astype(np.float32), setting=auto())

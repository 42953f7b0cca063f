"""What `collect` gives is what plain onnxruntime's values give, whatever the model, the batches and the settings."""

import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from calibrant.core import DataError, ModelError, ObservationError, SettingError
from calibrant.engines import OnnxruntimeExecutor, iterate_samples
from calibrant.engines.halves import half_of
from calibrant.graph import load_onnx_graph
from calibrant.sketches import Collector, SketchSpec, TensorSketch
from calibrant.sketches.together import Together
from tests.arrays import rows

PLAIN = SketchSpec()
SUBGRAPHS = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[N, 4] x) => (float[N, 4] out) {
    total = ReduceSum <keepdims = 0> (x)
    zero = Constant <value = float {0}> ()
    positive = Greater(total, zero)
    scaled = Mul(x, x)
    chosen = If (positive) <
        then_branch = yes () => (float[N, 4] yes_out) { yes_out = Relu(scaled) },
        else_branch = no () => (float[N, 4] no_out) { no_out = Neg(x) }>
    out = Exp(chosen)
}
"""
DATA_DEPENDENT = """
<ir_version: 8, opset_import: ["" : 17]>
nonzero (float[N] x) => (float[M] kept) {
    places = NonZero(x)
    axes = Constant <value = int64[1] {0}> ()
    flat = Squeeze(places, axes)
    kept = Gather(x, flat)
}
"""
ALIASES = """
<ir_version: 8, opset_import: ["" : 17]>
aliases (float[N, 4] x) => (float[N, 4] out, float[N, 4] same) {
    same = Identity(x)
    negative = Neg(x)
    again = Identity(negative)
    out = Identity(again)
}
"""


def collect(graph, samples, wanted, raw=None, on_step=None, **settings):
    executor = OnnxruntimeExecutor(graph, threads=2, **settings)
    return executor.collect(samples, wanted, raw, on_step), executor


def test_inputs_inner_values_and_outputs(models, elementwise):
    samples = [{"x": rows(n, seed=n), "y": rows(n, 1, seed=9)} for n in (1, 3, 2)]
    wanted = {name: SketchSpec(channel_axis=1) for name in ("product", "x", "out", "y")}
    found, executor = collect(elementwise, samples, wanted)
    assert found == models["sketches_of"](elementwise, samples, wanted)
    assert list(found) == list(wanted)
    assert executor.report == []


def test_only_inputs_run_no_model(elementwise, monkeypatch):
    samples = [{"x": rows(2), "y": rows(2, 1)}]
    monkeypatch.setattr("calibrant.engines.session.Runtime.open", None)
    found, _ = collect(elementwise, samples, {"x": PLAIN})
    assert found == {"x": TensorSketch.of(samples[0]["x"], PLAIN)}


@pytest.mark.parametrize(
    ("text", "feeds", "names"),
    [
        (SUBGRAPHS, [rows(2), -np.abs(rows(3)), np.abs(rows(1))], ["scaled", "chosen", "out"]),
        (DATA_DEPENDENT, [np.float32(x) for x in ([0, 1, 0, 2], [3, 4, 5, 0], [0], [7, 0, 0, 0])], ["kept"]),
        (ALIASES, [rows(2), rows(1)], ["same", "negative", "again", "out", "x"]),
    ],
)
def test_unusual_graphs(models, text, feeds, names):
    graph = models["parse"](text)
    wanted = dict.fromkeys(names, PLAIN)
    samples = [{"x": feed} for feed in feeds]
    found, _ = collect(graph, samples, wanted)
    assert found == models["sketches_of"](graph, samples, wanted)


@pytest.mark.parametrize(("onnx_type", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_float_types(models, onnx_type, dtype):
    graph = models["parse"](
        f'<ir_version: 8, opset_import: ["" : 17]> g ({onnx_type}[N, 4] x) => ({onnx_type}[N, 4] b) '
        "{ a = Neg(x) b = Abs(a) }"
    )
    samples = [{"x": rows(3).astype(dtype)}]
    found, _ = collect(graph, samples, {"a": PLAIN, "x": PLAIN})
    assert found["a"] == TensorSketch.of(-samples[0]["x"], PLAIN)
    assert found["x"] == TensorSketch.of(samples[0]["x"], PLAIN)


def test_nan_and_inf_are_counted_not_refused(models):
    graph = models["parse"](
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] b) { a = Log(x) b = Neg(a) }'
    )
    found, _ = collect(graph, [{"x": np.float32([-1, 0, 1])}], {"a": PLAIN})
    extremes = found["a"].extremes
    assert (extremes.nan, extremes.neg_inf, extremes.finite) == (1, 1, 1)


def test_steps_are_announced_one_by_one(elementwise):
    samples = [{"x": rows(2), "y": rows(2, 1)}] * 3
    steps = []
    collect(elementwise, samples, {"out": PLAIN}, on_step=steps.append)
    assert steps == [1, 2, 3]


def test_a_sample_may_be_overwritten_by_the_next(models, elementwise):
    def one_buffer():
        x, y = np.empty((2000, 4), np.float32), np.zeros((2000, 1), np.float32)
        for i in range(8):
            x[:] = i
            yield {"x": x, "y": y}

    found, _ = collect(elementwise, one_buffer(), {"x": PLAIN, "sum": PLAIN})
    whole = np.repeat(np.arange(8, dtype=np.float32), 8000)
    assert found["x"] == found["sum"] == TensorSketch.of(whole, PLAIN)


def test_raw_values_come_in_order_as_copies(elementwise):
    samples = [{"x": rows(2, seed=i), "y": rows(2, 1)} for i in range(3)]
    kept: dict[str, list] = {"sum": [], "x": []}

    def keep(name):
        def callback(value):
            kept[name].append(value)
            assert value.flags.owndata
            assert threading.current_thread() is threading.main_thread()

        return callback

    found, _ = collect(elementwise, samples, {"sum": PLAIN}, {name: keep(name) for name in kept})
    for values, expected in zip(kept["sum"], [s["x"] + s["y"] for s in samples], strict=True):
        np.testing.assert_array_equal(values, expected)
        values[:] = 0  # theirs to change
    np.testing.assert_array_equal(kept["x"][1], samples[1]["x"])
    assert found["sum"].extremes.size == 24


def test_values_of_any_type_can_be_had_raw(models):
    graph = models["parse"](DATA_DEPENDENT)
    seen = []
    collect(graph, [{"x": np.float32([0, 1, 2])}], {}, {"places": seen.append})
    assert seen[0].tolist() == [[1, 2]]


def test_the_same_bytes_on_any_number_of_threads(models):
    """Not only the statistics: a sample is computed by one thread, whatever their number."""
    graph = models["convolutions"]((3, 64, 96, 40))
    samples = models["images"]([(1 + i % 3, 3, 20, 17) for i in range(12)])
    wanted = {name: SketchSpec(channel_axis=1) for name in ("x", "c1", "r1", "c2", "r2", "c3", "r3")}
    one, two, many = (OnnxruntimeExecutor(graph, threads=t).collect(samples, wanted) for t in (1, 2, 8))
    for name in wanted:
        assert one[name].to_bytes() == two[name].to_bytes() == many[name].to_bytes()


@pytest.mark.parametrize(
    ("counting", "name", "spec"),
    [(Together, "count", PLAIN), (Collector, "add", SketchSpec(isotone_axis=-1))],
    ids=["together", "each by itself"],
)
def test_side_by_side_and_never_two_at_one_tally(elementwise, monkeypatch, counting, name, spec):
    """With two values only, in two halves of the samples, four threads meet at them all the time."""
    count, busy, together = getattr(counting, name), set(), []

    def watched(self, values):
        assert self not in busy
        busy.add(self)
        together.append(len(busy))
        time.sleep(0.002)
        count(self, values)
        busy.remove(self)

    monkeypatch.setattr(counting, name, watched)
    samples = [{"x": rows(5, seed=i), "y": rows(5, 1, seed=i)} for i in range(30)]
    found = OnnxruntimeExecutor(elementwise, threads=4).collect(samples, dict.fromkeys(["sum", "product"], spec))
    assert 2 <= max(together) <= 4
    assert found["sum"] == TensorSketch.of(np.concatenate([s["x"] + s["y"] for s in samples]), spec)


def test_another_number_of_channels_is_refused_where_it_comes(models):
    """Also where its half of the samples has seen the usual number only in memory that was first used for the other."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, C] x) => (float[N, C] a) { a = Neg(x) }'

    def sample(channels, half):
        feeds = ({"x": rows(2, channels, seed=seed)} for seed in range(99))
        return next(feed for feed in feeds if half_of(feed) == half)

    samples = [sample(3, 0), sample(3, 0), sample(3, 1), sample(4, 1), sample(3, 1)]
    done = []
    executor = OnnxruntimeExecutor(models["parse"](text), threads=1)
    with pytest.raises(DataError, match="value 'a': expected 3 channels on axis 1, got 4"):
        executor.collect(samples, {"a": SketchSpec(channel_axis=1)}, on_step=done.append)
    assert done[-1] == 3


def test_nothing_wanted_runs_through_the_samples(elementwise):
    steps = []
    found, _ = collect(elementwise, [{"x": rows(2), "y": rows(2, 1)}], {}, on_step=steps.append)
    assert (found, steps) == ({}, [1])


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("prodcut", SettingError, "no value 'prodcut'; did you mean 'product'?"),
        ("yes_out", SettingError, "no value 'yes_out'"),
        ("positive", ObservationError, "'positive' is tensor(bool): only floating"),
    ],
)
def test_values_that_cannot_be_observed(models, elementwise, name, error, words):
    graph = elementwise if name == "prodcut" else models["parse"](SUBGRAPHS)
    with pytest.raises(error) as caught:
        collect(graph, [{"x": rows(2), "y": rows(2, 1)}], {name: PLAIN})
    assert words in str(caught.value)


def test_integer_inputs_cannot_be_observed(models):
    graph = models["parse"](
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[N] x) => (float[N] b) { b = Cast<to = 1>(x) }'
    )
    with pytest.raises(ObservationError, match="'x' is int64: only floating"):
        collect(graph, [{"x": np.array([1])}], {"x": PLAIN})


def test_a_failure_while_running_names_the_sample(elementwise):
    samples = [{"x": rows(3), "y": rows(3, 1)}, {"x": rows(3), "y": rows(2, 1)}]
    with pytest.raises(ModelError, match=r"sample 2: onnxruntime failed on 'x' float32\[3, 4\], 'y' float32\[2, 1\]"):
        collect(elementwise, samples, {"out": PLAIN})


def test_a_model_that_onnxruntime_cannot_run():
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nowhere")
    graph = helper.make_graph(
        [node, helper.make_node("Neg", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    model = load_onnx_graph(helper.make_model(graph, opset_imports=opsets, ir_version=8), simplify=False)
    with pytest.raises(ModelError, match=r"onnxruntime \d.* cannot run the model: .*NoSuchOperator"):
        collect(model, [], {"z": PLAIN})


def broken_collector(monkeypatch, error):
    def add(self, x):
        raise error

    monkeypatch.setattr(Collector, "add", add)


def test_our_errors_in_a_worker_name_the_value(elementwise, monkeypatch):
    broken_collector(monkeypatch, DataError("lacks an axis"))
    with pytest.raises(DataError, match="value 'sum': lacks an axis"):
        collect(elementwise, [{"x": rows(2), "y": rows(2, 1)}] * 3, {"sum": PLAIN})


def test_other_errors_in_a_worker_carry_a_note(elementwise, monkeypatch):
    broken_collector(monkeypatch, MemoryError("no room"))
    with pytest.raises(MemoryError, match="no room") as caught:
        collect(elementwise, [{"x": rows(2), "y": rows(2, 1)}], {"sum": PLAIN})
    assert any("'sum'" in note for note in caught.value.__notes__)


def test_an_error_in_a_raw_callback_carries_a_note(elementwise):
    def refuse(value):
        raise ValueError("not like that")

    with pytest.raises(ValueError, match="not like that") as caught:
        collect(elementwise, [{"x": rows(2), "y": rows(2, 1)}], {}, {"product": refuse})
    assert any("'product'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_leaves_no_threads_and_no_files(models, tmp_path, monkeypatch, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    graph = models["convolutions"]()
    during = []

    def interrupt(step):
        during.extend(tmp_path.iterdir())
        if step == 2:
            raise error

    with pytest.raises(error) as caught:  # `caught` keeps the frames alive, so nothing is cleaned up by chance
        collect(graph, models["images"]([(1, 3, 8, 8)] * 4), {"r1": PLAIN}, on_step=interrupt)
    assert caught
    assert during
    assert not list(tmp_path.iterdir())
    assert not [t for t in threading.enumerate() if t.name.startswith("calibrant-sample")]


def test_buffers_are_reused_and_never_under_the_statistics(models, monkeypatch):
    """One set of buffers for each thread, once the shapes are known, which are two here."""
    addresses: list[int] = []
    plain_count = Together.count

    def count(self, places):
        addresses.extend(places.addresses[:, 0])
        before = [place.copy() for place in places.arrays]
        plain_count(self, places)
        assert all(map(np.array_equal, before, places.arrays))

    monkeypatch.setattr(Together, "count", count)
    graph = models["convolutions"]()
    samples = models["images"]([(1, 3, 32, 32)] * 20 + [(2, 3, 24, 16)] * 20)
    collect(graph, samples, {"r1": PLAIN, "r3": PLAIN}, blocked=False)
    assert 74 <= len(addresses) <= 80  # what is seen for the first time lies in onnxruntime's own memory
    assert len(set(addresses)) <= 2 * 2 * 2 + 2 * 2


def test_weights_outside_of_the_model(models, tmp_path):
    inside = models["convolutions"]()
    path = tmp_path / "model.onnx"
    ir.save(inside.model, path, external_data="weights.bin", size_threshold_bytes=0)
    outside = load_onnx_graph(path, simplify=False)
    assert any(isinstance(v.const_value, ir.ExternalTensor) for v in outside.model.graph.initializers.values())
    samples = models["images"]([(1, 3, 8, 8)] * 2)
    wanted = {"r2": PLAIN, "r5": PLAIN}
    found, executor = collect(outside, samples, wanted)
    assert found == collect(inside, samples, wanted)[0]
    assert executor.forward(samples[0])[0].shape == (1, 1, 8, 8)


def test_large_models_go_through_a_file(models, monkeypatch):
    graph = models["convolutions"]()
    samples = models["images"]([(1, 3, 8, 8)] * 2)
    small, _ = collect(graph, samples, {"r2": PLAIN})
    monkeypatch.setattr("calibrant.engines.working.BYTES_LIMIT", 10)
    opened: list[object] = []
    really_open = OnnxruntimeExecutor(graph)._runtime.__class__.open

    def spy(self, model, *threads, **options):
        opened.append(model)
        return really_open(self, model, *threads, **options)

    monkeypatch.setattr("calibrant.engines.session.Runtime.open", spy)
    assert collect(graph, samples, {"r2": PLAIN})[0] == small
    assert all(isinstance(model, Path) for model in opened)


def test_forward(elementwise):
    executor = OnnxruntimeExecutor(elementwise)
    x, y = rows(3), rows(3, 1)
    np.testing.assert_allclose(executor.forward((x, y))[0], np.tanh((x + y) * x), rtol=1e-5)
    total, given = executor.forward({"x": x, "y": y}, ["sum", "x"])
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(given, x)
    with pytest.raises(SettingError, match="did you mean 'product'"):
        executor.forward((x, y), ["produc"])
    with pytest.raises(DataError, match="input 'y'"):
        executor.forward((x, rows(3, 2)))


def test_forward_after_the_graph_was_changed(elementwise, models):
    executor = OnnxruntimeExecutor(elementwise)
    x = rows(2)
    executor.forward((x, rows(2, 1)))
    executor.load_graph(models["parse"](ALIASES))
    np.testing.assert_array_equal(executor.forward(x)[0], -x)


def test_the_road_from_a_loader(models, elementwise):
    pairs = [(rows(2, seed=i), rows(2, 1, seed=i)) for i in range(3)]
    executor = OnnxruntimeExecutor(elementwise)
    samples = iterate_samples(iter(pairs), executor.input_specs, 8)
    found = executor.collect(samples, {"sum": PLAIN})
    assert found["sum"] == TensorSketch.of(np.concatenate([x + y for x, y in pairs]), PLAIN)


def test_the_model_of_the_graph_is_left_alone(models):
    graph = models["convolutions"]()
    before = graph.to_bytes()
    collect(graph, models["images"]([(1, 3, 8, 8)]), {"r1": PLAIN})
    assert onnx.load_from_string(graph.to_bytes()) == onnx.load_from_string(before)

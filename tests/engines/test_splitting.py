"""Batches beyond the memory budget: the same sketch from parts, or a word about why not."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from calibrant.core import SettingError
from calibrant.engines import InputSpec, OnnxruntimeExecutor
from calibrant.engines.session import Runtime
from calibrant.engines.splitting import Splitter
from calibrant.engines.statistics import Statistics
from calibrant.graph import load_onnx_graph
from calibrant.sketches import SketchSpec

ROW = 3 * 4 * 4  # bytes that sum, product and out take for one row
WANTED = dict.fromkeys(["sum", "product", "out"], SketchSpec(channel_axis=1))
FREE = [InputSpec("x", np.dtype(np.float32), ("N", None))]


def batch(count, seed=0, other=None):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(count, 4)).astype(np.float32),
        "y": rng.normal(size=(other or count, 1)).astype(np.float32),
    }


@pytest.fixture
def added(monkeypatch):
    """How many rows each value had that was counted."""
    sizes: list[int] = []
    add = Statistics.add

    def spy(self, batch, half):
        sizes.extend(len(taken.array) for taken in batch.taken)
        add(self, batch, half)

    monkeypatch.setattr(Statistics, "add", spy)
    return sizes


def test_parts_give_the_same_sketch(elementwise, added):
    samples = [batch(n, seed=n) for n in (7, 1, 20, 3)]
    whole = OnnxruntimeExecutor(elementwise, threads=2).collect(samples, WANTED)
    assert max(added) == 20
    added.clear()
    executor = OnnxruntimeExecutor(elementwise, threads=2, memory_budget=2 * 3 * ROW)
    parts = executor.collect(samples, WANTED)
    assert max(added) == 3  # two samples run side by side, so each gets half of the budget
    assert parts == whole
    assert executor.report == ["batches are run in parts of 3 row(s), so that their values fit the memory budget"]


def test_a_batch_that_fits_is_run_whole(elementwise, added):
    executor = OnnxruntimeExecutor(elementwise, threads=2, memory_budget=2 * 20 * ROW)
    executor.collect([batch(20), batch(5)], WANTED)
    assert set(added) == {20, 5}
    assert executor.report == []


def test_one_row_too_large_is_said(elementwise):
    executor = OnnxruntimeExecutor(elementwise, threads=2, memory_budget=8)
    executor.collect([batch(3), batch(1)], WANTED)
    assert len(executor.report) == 2
    assert "parts of 1 row(s)" in " ".join(executor.report)
    assert "could not be split: one row alone" in " ".join(executor.report)


def test_inputs_that_share_no_axis_are_run_whole_and_that_is_said(elementwise, added):
    executor = OnnxruntimeExecutor(elementwise, threads=2, memory_budget=2 * ROW)
    executor.collect([batch(3, other=1)] * 2, WANTED)
    assert set(added) == {3}
    (said,) = executor.report
    assert "could not be split" in said
    assert "share a first axis" in said


def test_a_batch_size_built_into_the_model(models, added):
    graph = models["parse"](
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[2, 8] out) '
        "{ shape = Constant <value = int64[2] {2, 8}> () a = Neg(x) out = Reshape(a, shape) }"
    )
    sample = {"x": np.arange(16, dtype=np.float32).reshape(4, 4)}
    executor = OnnxruntimeExecutor(graph, threads=2, memory_budget=16)
    found = executor.collect([sample] * 2, {"a": SketchSpec()})
    assert set(added) == {4}
    assert found["a"].extremes.size == 32
    assert "could not be split" in executor.report[0]


def test_a_batch_size_built_into_a_model_of_convolutions(models):
    graph = models["convolutions"]((3, 16, 15))
    model = onnx.load_from_string(graph.to_bytes())
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, -1]), "shape"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["r2", "shape"], ["flat"]))
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["flat"], ["total"], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, []))
    graph = load_onnx_graph(model, simplify=False)
    samples = models["images"]([(2, 3, 5, 5)] * 2)  # one image alone is odd: it makes no two rows
    wanted = {"r1": SketchSpec(channel_axis=1), "flat": SketchSpec()}
    executor = OnnxruntimeExecutor(graph, threads=2)
    assert executor.collect(samples, wanted) == models["sketches_of"](graph, samples, wanted)
    assert executor.report == []


def test_other_shapes_are_estimated_from_those_seen():
    notes: list[str] = []
    splitter = Splitter(1000, FREE, notes.append)

    def rows_of(count, width):
        feed = {"x": np.zeros((count, width), np.float32)}
        return [len(part["x"]) for part in splitter.parts(feed)]

    splitter.record({"x": np.zeros((1, 10), np.float32)}, 100)
    assert rows_of(25, 10) == [10, 10, 5]
    assert rows_of(25, 20) == [5] * 5  # estimated: twice as long, twice the bytes
    splitter.record({"x": np.zeros((5, 20), np.float32)}, 2500)
    assert rows_of(6, 20) == [2, 2, 2]  # seen since: 500 bytes a row
    assert len(notes) == 1


@pytest.mark.parametrize(("rows", "workers", "each"), [(8, 8, 1), (3, 3, 2), (1, 1, 8), (0.5, 1, 8)])
def test_threads_share_a_sample_where_memory_is_short(elementwise, monkeypatch, rows, workers, each):
    opened, started, submit = [], [], ThreadPoolExecutor.submit
    really_open = Runtime.open
    monkeypatch.setattr(
        Runtime, "open", lambda self, model, *a, **k: opened.append(a[0]) or really_open(self, model, *a, **k)
    )

    def watched(pool, *arguments):
        if pool._thread_name_prefix == "calibrant-sample":
            started.append(pool._max_workers)
        return submit(pool, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", watched)
    executor = OnnxruntimeExecutor(elementwise, threads=8, memory_budget=int(rows * ROW))
    found = executor.collect([batch(1, seed=i) for i in range(9)], WANTED)
    assert found["sum"].extremes.size == 36
    assert opened == [1] + [each] * (each > 1)
    assert set(started) == {workers}


def test_larger_samples_than_the_first_run_one_by_one(elementwise, monkeypatch):
    """Two small ones fit the budget together, two large ones do not."""
    alive, most, add = [0], [], Statistics.add

    def spy(self, values, half):
        rows = len(values.taken[0].array) if values.taken else 0
        alive[0] += rows
        most.append(alive[0])
        time.sleep(0.003)
        add(self, values, half)
        alive[0] -= rows

    monkeypatch.setattr(Statistics, "add", spy)
    executor = OnnxruntimeExecutor(elementwise, threads=2, memory_budget=2 * 3 * ROW)
    samples = [batch(3, other=1), *[batch(5, seed=i, other=1) for i in range(6)]]  # not to be split
    assert executor.collect(samples, WANTED)["sum"].extremes.size == 4 * 33
    assert max(most) == 5


def test_the_budget_is_positive(elementwise):
    with pytest.raises(SettingError, match="memory_budget"):
        OnnxruntimeExecutor(elementwise, memory_budget=0)

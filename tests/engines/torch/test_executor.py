"""TorchExecutor gives what onnxruntime gives, and says what it did otherwise."""

import pickle

import numpy as np
import onnx
import pytest
import torch

from calibrant import OnnxruntimeExecutor, TorchExecutor, load_onnx_graph
from calibrant.core import DataError, ModelError, ObservationError, SettingError
from calibrant.sketches import SketchSpec, TensorSketch
from tests.arrays import rows

PLAIN = SketchSpec()
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def on_cpu(graph, **settings):
    return TorchExecutor(graph, "cpu", threads=1, **settings)


def test_values_anywhere_are_those_of_onnxruntime(small_model, small_samples):
    graph = load_onnx_graph(small_model)
    names = ["logits", "r1", "x", "sum", "r1"]
    found = on_cpu(graph).forward(small_samples[0], names)
    for mine, theirs in zip(found, OnnxruntimeExecutor(graph).forward(small_samples[0], names), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_outputs_are_memory_of_their_own(models):
    graph = models["parse"](
        f"{HEADER} g (float[N] x) => (float[N] y, float[2] z, int64[2] w) "
        "<float[2] c = {1, 2}, int64[2] d = {3, 4}> { y = Identity(x) z = Identity(c) w = Identity(d) }"
    )
    executor = on_cpu(graph)
    x = np.float32([1, 2, 3])
    for array in executor.forward(x, ["y", "z", "w", "x"]):
        array[:] = 9
    assert x.tolist() == [1, 2, 3]
    assert [array.tolist() for array in executor.forward(x)] == [[1, 2, 3], [1, 2], [3, 4]]


def test_statistics_are_those_of_the_values(models, elementwise):
    executor = on_cpu(elementwise)
    samples = [{"x": rows(n, seed=n), "y": rows(n, 1, seed=9)} for n in (1, 3, 2, 4)]
    wanted = {name: SketchSpec(channel_axis=1) for name in ("product", "x", "out")}
    steps = []
    found = executor.collect(samples, wanted, on_step=steps.append)
    for name, spec in wanted.items():
        values = np.concatenate([executor.forward(sample, [name])[0] for sample in samples])
        assert found[name] == TensorSketch.of(values, spec)
    assert (list(found), steps, executor.report) == (list(wanted), [1, 2, 3, 4], [])
    assert 0 < sum(sketch.extremes.size for sketch in found.even.values()) < found["x"].extremes.size * 3


def test_the_halves_are_those_of_onnxruntime(elementwise):
    samples = [{"x": rows(2, seed=n), "y": rows(2, 1, seed=n)} for n in range(9)]
    one, other = (e.collect(samples, {"x": PLAIN}) for e in (on_cpu(elementwise), OnnxruntimeExecutor(elementwise)))
    assert (one.even, one.odd) == (other.even, other.odd)


def test_raw_values_come_in_order_as_copies(elementwise):
    samples = [{"x": rows(2, seed=i), "y": rows(2, 1)} for i in range(3)]
    kept = {"sum": [], "x": []}
    on_cpu(elementwise).collect(samples, {"sum": PLAIN}, {name: values.append for name, values in kept.items()})
    for values, sample in zip(kept["sum"], samples, strict=True):
        np.testing.assert_array_equal(values, sample["x"] + sample["y"])
    kept["x"][0][:] = 0
    assert samples[0]["x"].any()


def test_an_error_in_a_raw_callback_names_the_value(elementwise):
    def refuse(value):
        raise ValueError("not like that")

    with pytest.raises(ValueError, match="not like that") as caught:
        on_cpu(elementwise).collect([{"x": rows(2), "y": rows(2, 1)}], {}, {"product": refuse})
    assert any("'product'" in note for note in caught.value.__notes__)


def test_blocks_of_samples_one_after_the_other(elementwise):
    samples = [{"x": rows(2, seed=i), "y": rows(2, 1)} for i in range(4)]
    executor = on_cpu(elementwise)
    with executor.collecting({"sum": PLAIN}) as collect:
        halves = collect(samples[:1]).merge(collect(samples[1:]))
    assert halves["sum"] == executor.collect(samples, {"sum": PLAIN})["sum"]
    with pytest.raises(SettingError, match="the model is closed"):
        collect(samples)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("prodcut", SettingError, "no value 'prodcut'; did you mean 'product'?"),
        ("flag", ObservationError, "'flag' is BOOL: only floating"),
        ("n", ObservationError, "'n' is int64: only floating"),
    ],
)
def test_values_that_cannot_be_observed(models, elementwise, name, error, words):
    counted = models["parse"](
        f"{HEADER} g (float[N] x, int64[N] n) => (float[N] y) "
        "{ m = Cast<to = 1>(n) flag = Greater(x, m) f = Cast<to = 1>(flag) y = Add(f, m) }"
    )
    graph = elementwise if name == "prodcut" else counted
    with pytest.raises(error, match=words.replace("?", r"\?")):
        on_cpu(graph).collect([], {name: PLAIN})


def test_a_sample_that_does_not_fit_is_refused(small_model):
    with pytest.raises(DataError, match="expected 'x'"):
        on_cpu(load_onnx_graph(small_model)).forward(np.zeros((3, 16, 16), np.float32))


def test_a_failure_names_sample_node_and_shapes(elementwise):
    samples = [{"x": rows(3), "y": rows(3, 1)}, {"x": rows(3), "y": rows(2, 1)}]
    words = r"sample 2: node '.*' \(Add\) failed on float32\[3, 4\], float32\[2, 1\]: torch: .*; onnxruntime"
    with pytest.raises(ModelError, match=words):
        on_cpu(elementwise).collect(samples, {"out": PLAIN})


@pytest.mark.parametrize(
    ("text", "number", "words"),
    [
        ("g (int64 n) => (int64[N] y) { y = Range(n, n, n) }", 0, r"\(Range\) failed on int64.*: torch: "),
        (
            "g (int64 n) => (int64 y) { s = SequenceConstruct(n, n) y = SequenceAt(s, n) }",
            9,
            r"\(SequenceAt\) failed on list, int64.*onnxruntime failed on 's' a sequence of 2, 'n' int64",
        ),
        ("g (int64 n) => (int64 y) { s = SequenceEmpty() t = SequenceErase(s, n) y = SequenceLength(t) }", 0, "Erase"),
    ],
)
def test_whatever_fails_in_an_operator_is_an_error_of_the_model(parsed, text, number, words):
    with pytest.raises(ModelError, match=words):
        on_cpu(parsed(f"{HEADER} {text}")).forward({"n": np.array(number)})


def test_nan_and_inf_are_counted_not_refused(models):
    graph = models["parse"](f"{HEADER} g (float[N] x) => (float[N] b) {{ a = Log(x) b = Neg(a) }}")
    extremes = on_cpu(graph).collect([{"x": np.float32([-1, 0, 1])}], {"a": PLAIN})["a"].extremes
    assert (extremes.nan, extremes.neg_inf, extremes.finite) == (1, 1, 1)


# --- operators that the table lacks


def test_onnxruntime_runs_what_the_table_lacks_and_it_is_said_once(models):
    graph = models["parse"](
        f"{HEADER} g (float[2, 3] x) => (float[M] y) {{ a = Mul(x, x) b = Unique(a) y = Unique(b) }}"
    )
    executor = on_cpu(graph)
    x = rows(2, 3)
    np.testing.assert_allclose(executor.forward(x)[0], np.unique(x * x), rtol=1e-6)
    executor.collect([{"x": x}] * 3, {"y": PLAIN})
    assert len(executor.report) == 1
    assert executor.report[0].startswith("Unique is run by onnxruntime on the host (node")
    executor.collect([{"x": x}], {"a": PLAIN})
    assert executor.report == []


def test_functions_of_the_model_run():
    text = """<ir_version: 8, opset_import: ["" : 17, "ours" : 1]>
    g (float[N] x) => (float[N] y) { a = ours.twice(x) y = Neg(a) }
    <domain: "ours", opset_import: ["" : 17]> twice (x) => (y) { y = Add(x, x) }"""
    graph = load_onnx_graph(onnx.parser.parse_model(text))
    assert on_cpu(graph).forward(np.float32([1, 2]))[0].tolist() == [-2, -4]


def test_a_function_that_was_not_inlined_goes_to_onnxruntime(parsed):
    graph = parsed("""<ir_version: 8, opset_import: ["" : 17, "ours" : 1]>
    g (float[N] x) => (float[N] y) { a = ours.twice(x) y = Neg(a) }
    <domain: "ours", opset_import: ["" : 17]> twice (x) => (y) { y = Add(x, x) }""")
    executor = on_cpu(graph)
    assert executor.forward(np.float32([1, 2]))[0].tolist() == [-2, -4]
    assert "twice is run by onnxruntime" in executor.report[0]


def test_an_attribute_that_the_table_does_not_know_is_no_error(parsed):
    graph = parsed("""<ir_version: 3, opset_import: ["" : 7]>
    g (float[1, 1, 2] x, float[1] s, float[1] b, float[1] m, float[1] v) => (float[1, 1, 2] y) {
        y = BatchNormalization <spatial = 1> (x, s, b, m, v)
    }""")
    executor = on_cpu(graph)
    feed = {"x": [[[1, 3]]], "s": [2], "b": [1], "m": [1], "v": [4]}
    y = executor.forward({name: np.float32(numbers) for name, numbers in feed.items()})[0]
    np.testing.assert_allclose(y, [[[1, 3]]], rtol=1e-5)
    assert executor.report[0].endswith("the torch engine does not know its attribute spatial")


def test_what_a_function_refuses_is_no_error(parsed):
    text = f"{HEADER} g (float[1, 1, 4] x) => (float[1, 1, 2] y, int64[1, 1, 2] i)"
    text += " { y, i = MaxPool <kernel_shape = [2], strides = [2], pads = [1, 0], ceil_mode = 1> (x) }"
    executor = on_cpu(parsed(text))
    y, i = executor.forward(np.float32([[[3, 1, 2, 5]]]))
    assert (y.tolist(), i.tolist()) == ([[[3, 2, 5]]], [[[0, 2, 3]]])
    assert "MaxPool is run by onnxruntime" in executor.report[0]


def test_what_nobody_knows_is_an_error(parsed):
    graph = parsed("""<ir_version: 8, opset_import: ["" : 17, "nowhere" : 1]>
    g (float[N] x) => (float[N] y) { y = nowhere.Nothing(x) }""")
    with pytest.raises(ModelError, match="Nothing"):
        on_cpu(graph).forward(np.float32([1]))


# --- settings


def test_settings_that_are_refused(elementwise):
    with pytest.raises(SettingError, match="unknown precision 'float23'; did you mean 'float32'"):
        on_cpu(elementwise, precision="float23")
    with pytest.raises(SettingError, match="'gpu0' is no device: expected cpu, cuda or cuda:N"):
        TorchExecutor(elementwise, "gpu0")
    with pytest.raises(SettingError, match="device 'mps': the torch engine runs on cpu and on cuda"):
        TorchExecutor(elementwise, "mps")
    with pytest.raises(SettingError, match="threads must be a whole number from 1, got 0"):
        TorchExecutor(elementwise, "cpu", threads=0)


def test_a_device_that_is_not_there_is_no_other_device(elementwise, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingError, match=r"device 'cuda:1' is not there: torch .* finds 1 CUDA device"):
        TorchExecutor(elementwise, "cuda:1")


def test_without_torch_the_error_says_what_to_install(elementwise, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'calibrant\[torch\]'"):
        TorchExecutor(elementwise)


def test_an_executor_can_be_made_elsewhere(elementwise):
    made = pickle.loads(pickle.dumps(on_cpu(elementwise, precision="bfloat16").settings(3)))(elementwise)
    assert (made.threads, made.description) == (3, f"torch {torch.__version__} cpu bfloat16")


def test_a_changed_graph_is_seen_after_loading_it(elementwise, models):
    executor = on_cpu(elementwise)
    sample = {"x": rows(2), "y": rows(2, 1)}
    before = executor.forward(sample)[0]
    executor.load_graph(
        models["parse"](f"{HEADER} g (float[N,4] x, float[N,1] y) => (float[N,4] out) {{ out = Sub(x, y) }}")
    )
    np.testing.assert_array_equal(executor.forward(sample)[0], sample["x"] - sample["y"])
    assert before.shape == (2, 4)


# --- precision


@pytest.mark.parametrize(("precision", "low", "high"), [("float16", 1e-6, 3e-3), ("bfloat16", 1e-4, 3e-2)])
def test_other_precisions_give_float32_that_is_about_right(small_model, small_samples, precision, low, high):
    graph = load_onnx_graph(small_model)
    exact = on_cpu(graph).forward(small_samples[0], ["sum"])[0]
    executor = on_cpu(graph, precision=precision)
    found = executor.forward(small_samples[0], ["sum"])[0]
    assert found.dtype == np.float32
    assert low < np.abs(found - exact).max() / np.abs(exact).max() < high
    sketch = executor.collect([{"x": small_samples[0]}], {"sum": PLAIN})["sum"]
    assert sketch == TensorSketch.of(found, PLAIN)


def test_shapes_are_exact_in_any_precision(models):
    """3001 is no float16; a size computed in floats, as Resize has it, must not suffer."""
    graph = models["parse"](
        f"{HEADER} g (float[1, N] x) => (float[1, M] y) <float[2] half = {{1.0, 0.5}}> "
        "{ s = Shape(x) f = Cast<to = 1>(s) h = Mul(f, half) n = Cast<to = 7>(h) y = Resize(x, , , n) }"
    )
    assert on_cpu(graph, precision="float16").forward(np.zeros((1, 6002), np.float32))[0].shape == (1, 3001)


def test_what_the_process_has_set_comes_back(elementwise):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before, threads = matmul.fp32_precision, torch.get_num_threads()
    seen = []

    def look(value):
        seen.append((matmul.fp32_precision, conv.fp32_precision, torch.get_num_threads()))

    sample = {"x": rows(2), "y": rows(2, 1)}
    try:
        matmul.fp32_precision = "tf32"
        torch.set_num_threads(2)
        set_before = matmul.fp32_precision, conv.fp32_precision, 2
        on_cpu(elementwise).collect([sample], {}, {"sum": look})
        on_cpu(elementwise, precision="tf32").collect([sample], {}, {"sum": look})
        assert (matmul.fp32_precision, conv.fp32_precision, torch.get_num_threads()) == set_before
    finally:
        matmul.fp32_precision = before
        torch.set_num_threads(threads)
    assert seen == [("ieee", "ieee", 1), ("tf32", "tf32", 1)]

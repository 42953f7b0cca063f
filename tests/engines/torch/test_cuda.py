"""On CUDA: the values of the CPU, nothing waits, and a step can be captured. `make test-gpu`."""

import numpy as np
import pytest
import torch

from calibrant import OnnxruntimeExecutor, TorchExecutor, load_onnx_graph
from calibrant.engines.torch.interpreter import Interpreter
from calibrant.engines.torch.precision import arithmetic
from calibrant.sketches import SketchSpec
from demo import data, efficientnet_lite0

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

NAMES = ["x", "c1", "r1", "r2", "sum", "pooled", "logits"]
DEVICE = torch.device("cuda")
# A row of tokens that attend to each other, with its shapes computed as exporters write them.
TOKENS = """<ir_version: 8, opset_import: ["" : 17]>
g (int64[N, L] ids, float[32, 8] table, float[8, 24] weight) => (float[N, L, D] out)
<int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] three = {3},
 int64[1] rest = {-1}, float root = {2.828}> {
    shape = Shape(ids)
    length = Gather(shape, one)
    places = Range(zero, length, one)
    positions = Gather(table, places)
    tokens = Gather(table, ids)
    x = Add(tokens, positions)
    flat = MatMul(x, weight)
    q, k, v = Split<axis = -1>(flat)
    turned = Transpose<perm = [0, 2, 1]>(k)
    scores = MatMul(q, turned)
    scaled = Div(scores, root)
    weights = Softmax(scaled)
    mixed = MatMul(weights, v)
    batch = Gather(shape, zero)
    b = Unsqueeze(batch, first)
    l = Unsqueeze(length, first)
    target = Concat<axis = 0>(b, l, rest)
    out = Reshape(mixed, target)
}"""


def test_values_are_those_of_the_cpu(small_model, small_samples):
    graph = load_onnx_graph(small_model)
    found = TorchExecutor(graph, "cuda").forward(small_samples[0], NAMES)
    for mine, theirs in zip(found, TorchExecutor(graph, "cpu").forward(small_samples[0], NAMES), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_the_values(small_model, small_samples):
    graph = load_onnx_graph(small_model)
    executor = TorchExecutor(graph, "cuda")
    samples = [{"x": sample} for sample in small_samples[:6]]
    kept = []
    found = executor.collect(samples, {"sum": SketchSpec()}, {"sum": kept.append})["sum"]
    values = np.concatenate(kept)
    assert (found.extremes.size, found.extremes.lo, found.extremes.hi) == (values.size, values.min(), values.max())


@pytest.mark.parametrize(("precision", "near"), [("tf32", 5e-3), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_precisions(small_model, small_samples, precision, near):
    graph = load_onnx_graph(small_model)
    exact = TorchExecutor(graph, "cuda").forward(small_samples[0], ["sum"])[0]
    found = TorchExecutor(graph, "cuda", precision).forward(small_samples[0], ["sum"])[0]
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() <= near * np.abs(exact).max()


def stepped(graph, inputs):
    """An interpreter that has run once, its plan, and its inputs on the device."""
    interpreter = Interpreter(graph.model, DEVICE, torch.float32, 1, print)
    plan = interpreter.plan([graph.value(name) for name in graph.output_names])
    fed = {graph.value(name): torch.from_numpy(x).to(DEVICE) for name, x in inputs.items()}
    with torch.no_grad(), arithmetic("float32", 1):
        interpreter.run(plan, fed)
    return interpreter, plan, fed


@pytest.fixture(params=["images", "tokens"])
def model(request, small_model, parsed):
    """A graph, and two feeds of the same shapes."""
    rng = np.random.default_rng(0)
    if request.param == "images":
        feeds = [{"x": rng.normal(size=(4, 3, 16, 16)).astype(np.float32)} for _ in range(2)]
        return load_onnx_graph(small_model), *feeds
    weights = {
        name: rng.normal(size=size).astype(np.float32) for name, size in (("table", (32, 8)), ("weight", (8, 24)))
    }
    return parsed(TOKENS), *({"ids": rng.integers(0, 32, (2, 7))} | weights for _ in range(2))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device(model):
    graph, feed, _ = model
    interpreter, plan, fed = stepped(graph, feed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad(), arithmetic("float32", 1):
            (out,) = interpreter.run(plan, fed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = TorchExecutor(graph, "cpu").forward(feed)[0]
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):  # so that it would have been seen
            out.cpu()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_can_be_captured(model):
    graph, feed, other = model
    interpreter, plan, fed = stepped(graph, feed)
    captured = torch.cuda.CUDAGraph()
    with torch.no_grad(), arithmetic("float32", 1):
        torch.cuda.synchronize()
        with torch.cuda.graph(captured):
            (out,) = interpreter.run(plan, fed)
    for name, x in other.items():
        fed[graph.value(name)].copy_(torch.from_numpy(x))
    captured.replay()
    expected = TorchExecutor(graph, "cpu").forward(other)[0]
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_efficientnet_lite0(tmp_path):
    try:
        checkpoint = efficientnet_lite0.installed_checkpoint()
        photos = data.calibration_photos()
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing}; `make test-all` installs it")
    efficientnet_lite0.build(checkpoint, tmp_path / "float.onnx")
    graph = load_onnx_graph(tmp_path / "float.onnx")
    sample = next(iter(data.calibration_samples(photos)))
    mine, theirs = (e.forward(sample)[0] for e in (TorchExecutor(graph, "cuda"), OnnxruntimeExecutor(graph)))
    assert np.abs(mine - theirs).max() <= 1e-4 * np.abs(theirs).max()

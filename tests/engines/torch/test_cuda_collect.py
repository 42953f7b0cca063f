"""Collecting on CUDA: captured or not, the same counts; nothing waits for the device. `make test-gpu`."""

import gc

import numpy as np
import pytest
import torch

from calibrant import (
    QuantizationSettingFactory,
    TargetPlatform,
    TorchExecutor,
    export_graph,
    load_onnx_graph,
    quantize_torch_model,
)
from calibrant.engines.torch import statistics
from calibrant.engines.torch.cuda import Cuda
from calibrant.sketches import SketchSpec, TensorSketch
from tests.runtime import opened
from tests.sketches.devices import on_gpu

pytestmark = on_gpu

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
WANTED = {
    "x": SketchSpec(),
    "r1": SketchSpec(channel_axis=1, per_channel=True),
    "sum": SketchSpec(channel_axis=1),
    "logits": SketchSpec(isotone_axis=-1),
}


def samples_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(n, 3, 16, 16)).astype(np.float32)} for n in rows]


def collected(graph, samples, wanted=WANTED, **settings):
    executor = TorchExecutor(graph, "cuda", **settings)
    halves = executor.collect(samples, wanted)
    return (halves.even, halves.odd), executor.report


@pytest.fixture
def host_statistics(monkeypatch):
    """From when it is called, values of CUDA are counted on the host."""

    def use():
        monkeypatch.setattr(
            "calibrant.engines.torch.session.statistics_on",
            lambda device, wanted, threads, note: statistics.HostStatistics(wanted, threads),
        )

    return use


@pytest.mark.parametrize(
    "rows", [(4, 4, 4, 4, 4, 4), (4, 2, 4, 2, 1, 4, 2, 4, 2, 4)], ids=["one shape", "taking turns"]
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_captured_or_not_the_same_bytes(small_model, host_statistics, rows, precision):
    graph, samples = load_onnx_graph(small_model), samples_of(rows)
    captured, report = collected(graph, samples, precision=precision)
    assert report == []
    assert captured == collected(graph, samples, precision=precision, capture=False)[0]
    host_statistics()
    assert captured == collected(graph, samples, precision=precision, capture=False)[0]
    assert sum(sketch.extremes.size for sketch in (captured[0]["x"], captured[1]["x"])) == 768 * sum(rows)


def test_the_third_sample_of_a_shape_is_replayed(small_model, monkeypatch):
    captures, replays = [], []
    capture = Cuda.capture

    def counted(self, step):
        captures.append(step)
        replay = capture(self, step)
        return lambda: (replays.append(step), replay())

    monkeypatch.setattr(Cuda, "capture", counted)
    collected(load_onnx_graph(small_model), samples_of((4, 4, 2, 4, 4, 2)))
    assert (len(captures), len(replays)) == (2, 2)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device(small_model):
    graph, samples, steps = load_onnx_graph(small_model), samples_of((4,) * 12), []

    def watched(samples):
        """From the first of them on, what waits for the device is an error; the sketches at the end may."""
        torch.cuda.set_sync_debug_mode("error")
        yield from samples
        torch.cuda.set_sync_debug_mode("default")

    try:
        with TorchExecutor(graph, "cuda").collecting(WANTED) as collect:
            collect(samples[:6])
            found = collect(watched(samples[6:]), on_step=steps.append)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.even, found.odd) == collected(graph, samples[6:])[0]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_blocks_count_into_the_same_memory(small_model):
    graph, samples = load_onnx_graph(small_model), samples_of((4,) * 9)
    with TorchExecutor(graph, "cuda").collecting(WANTED) as collect:
        first, second = collect(samples[:5]), collect(samples[5:])
    merged = first.merge(second)
    assert (merged.even, merged.odd) == collected(graph, samples)[0]


def test_memory_does_not_grow_with_the_samples(small_model):
    graph, peaks = load_onnx_graph(small_model), []
    wanted = {name: spec for name, spec in WANTED.items() if spec.isotone_axis is None}  # rows wait, up to a limit
    for count in (4, 64):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        collected(graph, samples_of((64,) * count), wanted)  # each 192 KiB
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= peaks[0] + (1 << 20)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{ p = Compress<axis = 0>(x, c) c = Cast<to = 9>(r) r = Relu(x) y = Relu(p) }", "waits for the device"),
        ("{ u = Unique(x) y = Relu(u) }", "waits for the device"),
    ],
    ids=["size decided by data", "run by onnxruntime"],
)
def test_what_cannot_be_captured_runs_and_is_told_once(parsed, body, why):
    graph = parsed(f"{HEADER} g (float[N] x) => (float[M] y) {body}")
    graph.model.graph.sort()
    samples = [{"x": np.random.default_rng(seed).normal(size=50).astype(np.float32)} for seed in range(6)]
    executor = TorchExecutor(graph, "cuda")
    found = executor.collect(samples, {"y": SketchSpec()})["y"]
    values = np.concatenate([executor.forward(sample, ["y"])[0] for sample in samples])
    assert found == TensorSketch.of(values, SketchSpec())
    assert sum(why in sentence for sentence in executor.report) == 1


def test_a_failed_capture_leaves_no_trace(parsed, monkeypatch):
    """Where looking ahead has missed that a step waits."""
    graph = parsed(f"{HEADER} g (float[N] x) => (float[M] y) {{ r = Relu(x) u = Unique(r) y = Relu(u) }}")
    samples = [{"x": np.random.default_rng(seed).normal(size=50).astype(np.float32)} for seed in range(6)]
    expected = collected(graph, samples, {"y": SketchSpec()}, capture=False)[0]
    monkeypatch.setattr(Cuda, "waits", lambda self, step: step())
    found, report = collected(graph, samples, {"y": SketchSpec()})
    assert found == expected
    assert any("operator by operator" in sentence for sentence in report)
    assert collected(graph, samples, {"y": SketchSpec()}, capture=False)[0] == expected


def test_margins_of_many_captured_steps(parsed):
    """More rows than wait at once: they are folded between replays, and two shapes take turns."""
    graph = parsed(f"{HEADER} g (float[N, L] x) => (float[N, L] y) {{ y = Neg(x) }}")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(n, 2)).astype(np.float32)} for n in (100_000, 300_000) * 5]
    wanted = {"y": SketchSpec(isotone_axis=-1)}
    found, report = collected(graph, samples, wanted)
    assert report == []
    values = -np.concatenate([sample["x"] for sample in samples])
    assert found[0]["y"].merge(found[1]["y"]) == TensorSketch.of(values, wanted["y"])


def test_quantize_torch_model(tmp_path):
    """The scales of a torchvision model are those of the CPU, and onnxruntime runs what is exported."""
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    torch.manual_seed(0)
    module, setting = models.mobilenet_v2().eval(), QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = "minmax"
    samples = [torch.randn(4, 3, 64, 64) for _ in range(4)]
    scales = []
    for device in ("cuda", "cpu"):
        graph = quantize_torch_model(
            module, samples, 4, [4, 3, 64, 64], TargetPlatform.ONNXRUNTIME, setting=setting, device=device
        )
        scales.append({group.roots[0]: float(group.config.scale) for group in graph.groups})
        export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / f"{device}.onnx")
    assert scales[0] == pytest.approx(scales[1], rel=5e-3)
    session = opened(tmp_path / "cuda.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: samples[0].numpy()})
    assert found.shape == (4, 1000)


def test_raw_values_come_as_before(small_model):
    graph, samples, kept = load_onnx_graph(small_model), samples_of((2, 2, 2, 2)), []
    executor = TorchExecutor(graph, "cuda")
    found = executor.collect(samples, {"sum": SketchSpec()}, {"sum": kept.append})["sum"]
    assert found == TensorSketch.of(np.concatenate(kept), SketchSpec())
    assert executor.report == []

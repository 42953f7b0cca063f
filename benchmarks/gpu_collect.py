"""What calibrating costs on a GPU: ResNet-50 and ViT-B/16 of torchvision, their weights random, in batches of 32.

Bare: the forward pass, of whose values only the extremes of the last one are taken. All: every value that the platform
ONNXRUNTIME quantizes, with all that the five methods need of it. Both by the same engine, float32, TF32 off, on the
same batches, in turn, captured into CUDA graphs and operator by operator; per batch, once the first ones are through.
Then what the profiler saw of some captured steps, peak memory, and the time to have every scale by every method.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers import observed
from benchmarks.tasks import PLATFORM
from calibrant import QuantizationSettingFactory, TorchExecutor, calibrate, load_onnx_graph
from calibrant.graph import Graph
from calibrant.quantizers import quantize_graph
from calibrant.sketches import SketchSpec
from calibrant.table.collecting import METHODS, empty_table

STEPS, ROUNDS = 24, 3  # of a timing
TARGETS = {"resnet50": "1.25", "vit_b_16": "1.05"}
WARM = 4  # steps before anything is measured
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
Wanted = Mapping[str, SketchSpec]
Feed = dict[str, NDArray[np.float32]]


def models(names: Sequence[str] = ("resnet50", "vit_b_16"), batch: int = 32) -> Iterator[str]:
    """The tables, as lines of Markdown; `benchmarks.gpu` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from tables({name: load_onnx_graph(exported(name, Path(folder), batch)) for name in names}, batch)


def tables(graphs: Mapping[str, Graph], batch: int) -> Iterator[str]:
    wanted: dict[str, Wanted] = {}
    for name, graph in graphs.items():
        quantize_graph(graph, PLATFORM, QuantizationSettingFactory.default_setting())
        sketches = empty_table(graph, PLATFORM, METHODS, "").sketches.even
        wanted[name] = {value: sketch.spec for value, sketch in sketches.items()}
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)} for _ in range(4)]
    yield "## Calibrating whole models"
    yield ""
    yield from (__doc__ or "").strip().split("\n")
    yield ""
    yield f"ms per batch, {STEPS} batches, median of {ROUNDS} rounds:"
    yield ""
    yield "| model | values | way | bare | all observers | ratio | wanted |"
    yield "|---|---|---|---|---|---|---|"
    for name, graph in graphs.items():
        for way, capture in (("captured", True), ("operator by operator", False)):
            bare, everything = times(graph, wanted[name], feeds, capture)
            ratio = statistics.median(everything / bare)
            target = TARGETS.get(name, "–") if capture else "–"
            yield (
                f"| {name} | {len(wanted[name])} | {way} | {np.median(bare):.2f} | {np.median(everything):.2f} | "
                f"{ratio:.3f} | {target} |"
            )
    yield ""
    yield f"| | {' | '.join(graphs)} |"
    yield f"|---{'|---' * len(graphs)}|"
    columns = [dict(facts(graph, wanted[name], feeds)) for name, graph in graphs.items()]
    for label in columns[0]:
        yield f"| {label} | {' | '.join(column[label] for column in columns)} |"


def exported(name: str, folder: Path, batch: int) -> Path:
    """The model as torch.onnx writes it, with the same random weights each time."""
    torchvision: Any = import_module("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    path = folder / f"{name}.onnx"
    torch.onnx.export(model, (torch.randn(batch, 3, 224, 224),), path, input_names=["x"], dynamo=True, verbose=False)
    return path


def times(
    graph: Graph, wanted: Wanted, feeds: Sequence[Feed], capture: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ms per batch of each round, bare and with all observers."""
    contents: list[Wanted] = [{graph.output_names[0]: SketchSpec(histogram=False)}, wanted]
    found: list[list[float]] = [[], []]
    with ExitStack() as stack:
        collects = [
            stack.enter_context(TorchExecutor(graph, "cuda", capture=capture).collecting(content))
            for content in contents
        ]
        for collect in collects:
            collect(islice(cycle(feeds), WARM))
        for _ in range(ROUNDS):
            for some, collect in zip(found, collects, strict=True):
                some.append(ms_per_step(collect, islice(cycle(feeds), WARM + STEPS)))
    return np.array(found[0]), np.array(found[1])


def ms_per_step(collect: Any, feeds: Iterator[Feed]) -> float:
    """Time on the device from the end of one step to the end of the last, for each step between."""
    ends: list[torch.cuda.Event] = []

    def record(_: int) -> None:
        ends.append(torch.cuda.Event(enable_timing=True))
        ends[-1].record()

    collect(feeds, record)
    return float(ends[WARM].elapsed_time(ends[-1])) / (len(ends) - 1 - WARM)


def facts(graph: Graph, wanted: Wanted, feeds: Sequence[Feed]) -> Iterator[tuple[str, str]]:
    """What the profiler saw, memory, and how long it takes to have all scales."""
    yield from profiled(graph, wanted, feeds)
    peaks = ", ".join(f"{peak_mib(graph, wanted, feeds, count):.0f}" for count in (4, 32))
    yield "peak memory of 4 and of 32 batches, MiB", peaks
    start = time.perf_counter()
    table = calibrate(graph, islice(cycle(feeds), 8), methods=METHODS, executor=TorchExecutor(graph, "cuda"))
    yield "`calibrate`, 8 batches, from a new executor to a table, s", f"{time.perf_counter() - start:.2f}"
    yield "of a table's sketches, from the device to the host, s", f"{seconds_of_copying(graph, wanted, feeds):.2f}"
    todo = [
        (value, method, config)
        for value, config in observed(graph)
        for method in METHODS
        if value in table.sketches and (method != "isotone" or table.sketches[value].margins is not None)
    ]
    for _ in range(2):
        start = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda job: table.solve(*job), todo))
        took = time.perf_counter() - start
    yield "all methods for all values, solved on the CPU, s", f"{took:.2f} ({len(todo)} times)"


def seconds_of_copying(graph: Graph, wanted: Wanted, feeds: Sequence[Feed]) -> float:
    """From when the device is through until the sketches are on the host."""
    through = []

    def on_step(number: int) -> None:
        if number == 8:
            torch.cuda.synchronize()
            through.append(time.perf_counter())

    TorchExecutor(graph, "cuda").collect(islice(cycle(feeds), 8), wanted, on_step=on_step)
    return time.perf_counter() - through[0]


def profiled(graph: Graph, wanted: Wanted, feeds: Sequence[Feed], steps: int = 8) -> Iterator[tuple[str, str]]:
    """Of some captured steps: what waited, what was copied to the host, and where the device's time went."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)
    mark = torch.profiler.record_function("steps")

    def on_step(number: int) -> None:
        if number == WARM:
            profiler.start()
            mark.__enter__()
        if number == WARM + steps:
            mark.__exit__(None, None, None)
            torch.cuda.synchronize()
            profiler.stop()

    with TorchExecutor(graph, "cuda").collecting(wanted) as collect:
        collect(islice(cycle(feeds), WARM + steps), on_step)
    events = list(profiler.events())
    (whole,) = [e.time_range for e in events if e.name == "steps" and e.device_type.name == "CPU"]
    calls = Counter(e.name for e in events if whole.start <= e.time_range.start <= whole.end)
    on_device = [e for e in events if e.device_type.name == "CUDA" and e.name != "steps"]
    yield f"of {steps} captured steps: host waits", ", ".join(f"{calls[name]} {name}" for name in WAITS)
    yield "copies to the host", str(sum("DtoH" in e.name for e in on_device))
    yield (
        "launches of a graph, of single kernels",
        f"{calls['cudaGraphLaunch']}, {calls['cudaLaunchKernel'] + calls['cuLaunchKernelEx']}",
    )


def peak_mib(graph: Graph, wanted: Wanted, feeds: Sequence[Feed], count: int) -> float:
    """The most memory that torch has held on the device at once."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    TorchExecutor(graph, "cuda").collect(islice(cycle(feeds), count), wanted)
    return float(torch.cuda.max_memory_allocated()) / (1 << 20)

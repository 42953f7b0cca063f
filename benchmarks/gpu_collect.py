"""What calibrating costs on a GPU: ResNet-50 and ViT-B/16 of torchvision, their weights random, in batches of 32.

Bare: the forward pass, of whose values only the extremes of the last one are taken. All: every value that the platform
quantizes, with all that the five methods need of it. Both by the same engine, on the same batches, in turn, captured
into CUDA graphs and operator by operator; per batch, once the first ones are through. Then what the profiler saw of
some captured steps, peak memory with few and with many batches, and the time to solve every value by every method.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import command, description
from benchmarks.peers import METHODS, observed
from calibrant import QuantizationSettingFactory, TargetPlatform, TorchExecutor, calibrate, load_onnx_graph
from calibrant.graph import Graph
from calibrant.quantizers import quantize_graph
from calibrant.sketches import SketchSpec
from calibrant.table.collecting import empty_table

PLATFORM = TargetPlatform.ONNXRUNTIME
WARM = 4  # steps before anything is measured
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
Wanted = Mapping[str, SketchSpec]
Feed = dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_collect", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_b_16"], help="names of torchvision")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24, help="batches of a timing (24)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the timing, whose median counts (3)")
    options = parser.parse_args()
    console = Console(width=120)
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    console.print(f"{device}; {description()}\n{command()}\n", highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            for table in measured(name, exported(name, Path(folder), options.batch), options):
                console.print(table)


def exported(name: str, folder: Path, batch: int) -> Path:
    """The model as torch.onnx writes it, with the same random weights each time."""
    torchvision: Any = import_module("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    path = folder / f"{name}.onnx"
    torch.onnx.export(model, (torch.randn(batch, 3, 224, 224),), path, input_names=["x"], dynamo=True, verbose=False)
    return path


def measured(name: str, path: Path, options: argparse.Namespace) -> Iterator[Table]:
    """The tables of one model."""
    graph = load_onnx_graph(path)
    quantize_graph(graph, PLATFORM, QuantizationSettingFactory.default_setting())
    wanted = {n: s.spec for n, s in empty_table(graph, PLATFORM, METHODS, "").sketches.even.items()}
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(options.batch, 3, 224, 224)).astype(np.float32)} for _ in range(4)]
    yield time_table(f"{name}, {len(wanted)} values, ms per batch of {options.batch}", graph, wanted, feeds, options)
    yield facts(graph, wanted, feeds)
    yield solving(graph, feeds)


def time_table(title: str, graph: Graph, wanted: Wanted, feeds: Sequence[Feed], options: argparse.Namespace) -> Table:
    contents: dict[str, Wanted] = {"bare": {graph.output_names[0]: SketchSpec(histogram=False)}, "all": wanted}
    ways = {"captured": True, "operator by operator": False}
    found: dict[tuple[str, str], list[float]] = {(way, what): [] for way in ways for what in contents}
    first: dict[tuple[str, str], float] = {}
    for way, capture in ways.items():
        collects = {}
        for what, content in contents.items():
            collects[what] = TorchExecutor(graph, "cuda", capture=capture).collecting(content)
        opened = {what: collecting.__enter__() for what, collecting in collects.items()}
        for what, collect in opened.items():
            start = time.perf_counter()
            collect(islice(cycle(feeds), WARM))
            first[way, what] = time.perf_counter() - start
        for _ in range(options.rounds):
            for what, collect in opened.items():
                found[way, what].append(ms_per_step(collect, islice(cycle(feeds), WARM + options.steps)))
        for collecting in collects.values():
            collecting.__exit__(None, None, None)
    table = Table(title=title, title_justify="left")
    for heading in ("", "bare", "all observers", "ratio", f"first {WARM} batches, s"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for way in ways:
        bare, everything = (np.array(found[way, what]) for what in contents)
        ratio = f"{statistics.median(everything / bare):.3f}"
        seconds = " / ".join(f"{first[way, what]:.1f}" for what in contents)
        table.add_row(way, f"{np.median(bare):.2f}", f"{np.median(everything):.2f}", ratio, seconds)
    return table


def ms_per_step(collect: Any, feeds: Iterator[Feed]) -> float:
    """Time on the device from the end of one step to the end of the last, for each step between."""
    ends: list[torch.cuda.Event] = []

    def record(_: int) -> None:
        ends.append(torch.cuda.Event(enable_timing=True))
        ends[-1].record()

    collect(feeds, record)
    return float(ends[WARM].elapsed_time(ends[-1])) / (len(ends) - 1 - WARM)


def facts(graph: Graph, wanted: Wanted, feeds: Sequence[Feed]) -> Table:
    """What the profiler saw, and memory."""
    table = Table(show_header=False)
    for label, value in profiled(graph, wanted, feeds):
        table.add_row(label, value)
    for count in (4, 32):
        table.add_row(f"peak memory of {count} batches", f"{peak_mib(graph, wanted, feeds, count):.0f} MiB")
    return table


def solving(graph: Graph, feeds: Sequence[Feed]) -> Table:
    """How long it takes to have all scales, from the first sample on."""
    table = Table(show_header=False)
    start = time.perf_counter()
    collected = calibrate(graph, islice(cycle(feeds), 8), methods=METHODS, executor=TorchExecutor(graph, "cuda"))
    table.add_row("calibrate, 8 batches, from a new executor to a table", f"{time.perf_counter() - start:.2f} s")
    todo = [
        (value, method, config)
        for value, config in observed(graph)
        for method in METHODS
        if value in collected.sketches and (method != "isotone" or collected.sketches[value].margins is not None)
    ]
    for label in ("first, with compiling", "again"):
        start = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda job: collected.solve(*job), todo))
        table.add_row(f"solving {len(todo)} times, {label}", f"{time.perf_counter() - start:.2f} s")
    return table


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
    busy: Counter[str] = Counter()
    for event in on_device:
        busy[event.name] += event.time_range.elapsed_us()
    yield "device busy, ms per step", f"{sum(busy.values()) / 1000 / steps:.2f}"
    for name, micros in busy.most_common(8):
        yield f"  {name[:70]}", f"{micros / 1000 / steps:.3f}"


def peak_mib(graph: Graph, wanted: Wanted, feeds: Sequence[Feed], count: int) -> float:
    """The most memory that torch has held on the device at once."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    TorchExecutor(graph, "cuda").collect(islice(cycle(feeds), count), wanted)
    return float(torch.cuda.max_memory_allocated()) / (1 << 20)


if __name__ == "__main__":
    main()

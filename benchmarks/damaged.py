"""One layer of a real model is damaged on purpose so that INT8 fails: do `compare` and the report name it first?

A layer that has an input channel which is zero in all samples: its weights for that channel are scaled, the largest to
1,000 times the largest of the others. Zeros times whatever are zeros, so the float model says the same as before. In
INT8 the scales of the weights serve the large ones, and next to nothing is left of the others. Nothing else is changed,
and nothing is switched off: the models are quantized by the commands as a user types them, without options.

Whether the damaged layer alone is guilty is measured apart from both: with it left in float, INT8 should be as good as
that of the healthy model. Where it is not, the channel is no longer zero once what makes it is rounded.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from rich.console import Console

import calibrant
from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.subjects import find_subject
from benchmarks.tasks import add_data_options, add_model_options
from calibrant import OnnxruntimeExecutor, load_onnx_graph
from calibrant.analysis import Simulation
from calibrant.api import quantize
from calibrant.engines import iterate_samples
from calibrant.graph import Graph

MODELS = ("EfficientNet-Lite0", "MobileNetV2", "PP-OCRv4 recogniser")
TIMES = 1000
WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damaged", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "lines")
    parser.add_argument("--samples", type=int, default=32, help="samples to quantize with and to compare on: 32")
    parser.add_argument("--layers", type=int, default=3, help="of each model, one damaged at a time: 3")
    add_model_options(parser, MODELS)
    options = parser.parse_args()
    console = Console()
    rows = []
    for name in options.models:
        subject = find_subject(name, options)
        if subject is None:
            console.print(f"{name}: left out, its data are not given", highlight=False)
            continue
        spread = [subject.items[i * len(subject.items) // options.samples] for i in range(options.samples)]
        samples = [sample for item in spread for sample in subject.samples(item)]
        rows += [[name, *row] for row in measure(subject.model, samples, options.layers)]
    headings = ["model", "damaged", "healthy", "damaged", "it in float", "compare", "seconds", "CPU seconds"]
    headings += ["report", "seconds", "CPU seconds", "report of a table"]
    console.print(f"{description()}\n\n    {command()}\n", highlight=False, soft_wrap=True)
    console.print(table(headings, rows), highlight=False, soft_wrap=True)


def measure(model: Path, samples: Sequence[Any], layers: int) -> list[list[str]]:
    """A row for each damage to the model, but for its name."""
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder))
        commands.give(samples)
        load_onnx_graph(model).save_float(commands.place / "healthy.onnx")
        commands.run("quantize", "healthy.onnx", "--data", "samples", "--output", "healthy.int8.onnx")
        healthy = commands.sqnr("healthy.onnx", "healthy.int8.onnx")
        return [
            [weak.layer, f"{healthy:.1f}", *measure_one(model, weak, commands)]
            for weak in spread_of(model, samples, layers)
        ]


def measure_one(model: Path, weak: "WeakPoint", commands: "Commands") -> list[str]:
    """INT8 of the damaged model, and with the layer in float; what each names first, and how long it took."""
    graph = load_onnx_graph(model)
    damage(graph, weak)
    graph.save_float(commands.place / "damaged.onnx")
    onto = ("quantize", "damaged.onnx", "--data", "samples", "--force", "--output")
    commands.run(*onto, "spared.onnx", "--leave-in-float", re.escape(weak.layer))
    spared = commands.sqnr("damaged.onnx", "spared.onnx")
    report = commands.run(*onto, "int8.onnx", "--report", "report.html")
    compare = commands.run("compare", "damaged.onnx", "int8.onnx", "--data", "samples", "--json")
    commands.run("calibrate", "damaged.onnx", "--data", "samples", "--force", "--output", "damaged.table")
    commands.run("report", "damaged.table", "damaged.onnx", "--force", "--output", "table.html")
    found = json.loads(compare.out)
    return [
        f"{next(iter(found['outputs'].values()))['sqnr_db']:.1f}",
        f"{spared:.1f}",
        said(found["worst"][0], weak),
        f"{compare.seconds:.0f}",
        f"{compare.cpu:.0f}",
        said(worst_of(commands.place / "report.html"), weak),
        f"{report.seconds:.0f}",
        f"{report.cpu:.0f}",
        said(worst_of(commands.place / "table.html"), weak),
    ]


def said(name: str, weak: "WeakPoint") -> str:
    """What was named, in short where it is right."""
    return "it" if name == weak.layer else name


def worst_of(page: Path) -> str:
    """The operation that the report puts first."""
    found = DATA.search(page.read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError(f"{page} holds no data")
    data = json.loads(found[1])
    return str(data["operations"][data["suspects"][0]["operation"]]["name"])


# The damage


@dataclass(frozen=True)
class WeakPoint:
    """A layer, and the channel of its input that is zero in all samples."""

    layer: str
    channel: int


def spread_of(model: Path, samples: Sequence[Any], most: int) -> list[WeakPoint]:
    """At most so many of the model's weak points, from the first to the last, one in a layer."""
    found = weak_points(model, samples)
    return [found[round(i * (len(found) - 1) / max(most - 1, 1))] for i in range(most)] if len(found) > most else found


def weak_points(model: Path, samples: Sequence[Any]) -> list[WeakPoint]:
    """The layers that read a channel which is always zero, in INT8 as well, by weights that are not, in order."""
    graph, _ = quantize(model, samples)
    nodes = [node for node in graph.model.graph if has_dense_weights(node)]
    read = {str(node.name): str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None}
    names = list(dict.fromkeys(read.values()))
    largest: dict[str, NDArray[Any]] = {}
    executor = OnnxruntimeExecutor(load_onnx_graph(model))
    int8 = Simulation(graph, outputs=names)
    for feed in iterate_samples(samples, executor.input_specs):
        for name, x, y in zip(names, executor.forward(feed, names), int8.run(feed), strict=True):
            channels = np.moveaxis(np.abs(x) + np.abs(y), 1 if x.ndim == 4 else -1, 0)
            largest[name] = np.maximum(largest.get(name, 0), channels.reshape(len(channels), -1).max(axis=1))
    found = []
    for node in nodes:
        weights = np.abs(by_input(node)).reshape(len(by_input(node)), -1).max(axis=1)
        dead = np.flatnonzero((largest[read[str(node.name)]] == 0) & (weights > 0))
        found += [WeakPoint(str(node.name), int(dead[0]))] if len(dead) else []
    return found


def has_dense_weights(node: ir.Node) -> bool:
    """Whether it multiplies all channels of its input by constant weights."""
    weights = node.inputs[1] if node.op_type in WITH_WEIGHTS else None
    return (
        weights is not None
        and weights.const_value is not None
        and len(weights.const_value.shape) >= 2
        and node.attributes.get_int("group", 1) == 1
    )


def by_input(node: ir.Node) -> NDArray[Any]:
    """A view of its weights, channels of the input first."""
    array = node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
    last = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    return np.moveaxis(array, 1 if last else 0, 0)


def damage(graph: Graph, weak: WeakPoint) -> None:
    """Make the weights of that channel TIMES as large as the others. What the float model computes stays the same."""
    node = graph.node(weak.layer)
    value = node.inputs[1]
    array = np.array(value.const_value.numpy())  # type: ignore[union-attr]
    value.const_value = ir.tensor(array, name=value.name)  # type: ignore[union-attr]
    channels = by_input(node)
    others = np.delete(channels, weak.channel, axis=0)
    scaled = channels[weak.channel].astype(np.float64) / np.abs(channels[weak.channel]).max()
    channels[weak.channel] = scaled * np.abs(others).max() * TIMES


# The commands


@dataclass(frozen=True)
class Done:
    """What a command wrote on stdout, how long it took, and how long its processors were busy."""

    out: str
    seconds: float
    cpu: float


@dataclass(frozen=True)
class Commands:
    """Runs `calibrant` in a folder, as a user does."""

    place: Path

    def give(self, samples: Sequence[Any]) -> None:
        """Lay the samples into its folder `samples`."""
        (self.place / "samples").mkdir()
        for number, sample in enumerate(samples):
            np.save(self.place / "samples" / f"{number:04}.npy", sample)

    def run(self, *words: str) -> Done:
        """Run one. RuntimeError where it fails."""
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(
            [sys.executable, "-m", "calibrant", *words],
            cwd=self.place,
            env=os.environ | {"PYTHONPATH": str(Path(calibrant.__file__).parents[1])},  # this one, installed or not
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if ran.returncode != 0:
            raise RuntimeError(f"calibrant {' '.join(words)}: {ran.stderr}")
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return Done(ran.stdout, seconds, cpu)

    def sqnr(self, model: str, other: str) -> float:
        """Of the first output of the other model, in dB, on all samples."""
        ran = self.run("compare", model, other, "--data", "samples", "--no-layers", "--json")
        return float(next(iter(json.loads(ran.out)["outputs"].values()))["sqnr_db"])


if __name__ == "__main__":
    main()

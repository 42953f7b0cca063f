"""One layer of a real model is damaged on purpose so that INT8 fails: does `compare` name it first, and how soon?

A channel of the layer is made 1,000 times as large, and what reads it divides by that: the float model does the same
as before. In INT8 the whole value has one scale, and nothing is left of its other channels. Each model is quantized
healthy and damaged, without equalization, on the samples that both are then compared on.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.console import Console

from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.models import default_cache
from benchmarks.subjects import find_subject
from benchmarks.tasks import add_data_options
from calibrant import QuantizationSetting, export_graph, load_onnx_graph
from calibrant.advice import advise
from calibrant.api import quantize
from calibrant.cli.compared import in_db
from calibrant.graph import Graph

PLATFORM = "ONNXRUNTIME"
SETTING = QuantizationSetting(equalization=False, smooth_quant=False)  # which would mend the damage
FACTOR = 1000


@dataclass(frozen=True)
class Damage:
    """Channel `made` of what `node` makes becomes larger; `reader` reads it as channel `read`, and divides it again."""

    node: str
    made: int
    reader: str
    read: int


DAMAGES = {
    "EfficientNet-Lite0": Damage("_blocks.0._project_conv", 3, "_blocks.1._expand_conv", 3),
    "MobileNetV2": Damage("features.17.conv.2", 3, "features.18.0", 3),
    "PP-OCRv4 recogniser": Damage("p2o.Conv.22", 42, "p2o.Conv.23", 42),  # a Relu between; the channel that is largest
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damaged", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "lines")
    parser.add_argument("--samples", type=int, default=32, help="samples to quantize with and to compare on: 32")
    parser.add_argument("--models", nargs="+", choices=DAMAGES, default=list(DAMAGES), help="by default all")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where built models are kept")
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
        rows.append([name, *measure(subject.model, samples, DAMAGES[name])])
    headings = [
        "model",
        "layers, both scaled",
        "healthy",
        "damaged",
        "named first",
        "with its fix",
        "seconds",
        "CPU seconds",
    ]
    console.print(f"{description()}\n{command()}\n", highlight=False)
    console.print(table(headings, rows), highlight=False, soft_wrap=True)


def measure(model: Path, samples: Sequence[Any], damage: Damage) -> list[str]:
    """The row of one model, but for its name."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.onnx" for kind in ("healthy", "damaged")}
        load_onnx_graph(model).save_float(paths["healthy"])
        graph = load_onnx_graph(model)
        apply(damage, graph)
        graph.save_float(paths["damaged"])
        found = {}
        for kind, path in paths.items():
            quantized, _ = quantize(path, samples, platform=PLATFORM, setting=SETTING)
            int8 = path.with_suffix(".int8.onnx")
            export_graph(quantized, PLATFORM, int8)
            start, cpu = time.perf_counter(), time.process_time()
            found[kind] = advise(path, int8, samples)
            seconds = time.perf_counter() - start, time.process_time() - cpu
    layers = {kind: advice.comparison.layers for kind, advice in found.items()}
    if layers["healthy"] is None or layers["damaged"] is None:
        raise RuntimeError(f"{model}: the layers were not compared: {found['damaged'].comparison.notes}")
    return [
        f"{damage.node}, {damage.reader}",
        in_db(layers["healthy"].base_db),
        in_db(layers["damaged"].base_db),
        layers["damaged"].worst[0].name,
        in_db(found["damaged"].fixes[0].sqnr_db),
        *(f"{taken:.1f}" for taken in seconds),
    ]


def apply(damage: Damage, graph: Graph) -> None:
    """Damage the float model. Its outputs stay as they were, but for rounding."""
    node, reader = graph.node(damage.node), graph.node(damage.reader)
    multiply(node.inputs[1], 0 if node.op_type == "Conv" else -1, damage.made, FACTOR)
    adding = next((use.node for use in node.outputs[0].uses() if use.node.op_type == "Add"), None)
    bias = node.inputs[2] if len(node.inputs) > 2 else adding.inputs[1] if adding is not None else None
    multiply(bias, 0, damage.made, FACTOR)
    multiply(reader.inputs[1], 1 if reader.op_type == "Conv" else 0, damage.read, 1 / FACTOR)


def multiply(constant: ir.Value | None, axis: int, index: int, factor: float) -> None:
    """Multiply that part of a constant."""
    if constant is None or constant.const_value is None:
        raise ValueError("the damaged operator has no weight, or no bias, where it is expected")
    array = np.array(constant.const_value.numpy())
    np.moveaxis(array, axis, 0)[index] *= np.float32(factor)
    constant.const_value = ir.tensor(array, name=constant.name)


if __name__ == "__main__":
    main()

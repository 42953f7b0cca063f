"""The exported model as arithmetic describes it, and as the runtime runs it: do they agree?

With its optimizations off, onnxruntime computes every QuantizeLinear and DequantizeLinear as written, and everything in
between in float: the simulation. With them on it runs integer kernels. What differs is told in steps of the last scale.

A control names the cause. It runs the model as written, in float, with kernels that only add in another order. Where a
value lies between two integers the last bit decides which it becomes, and the layers that follow amplify that; what the
control shows of the difference between simulation and integer run is not due to the integers.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.machine import command, description
from benchmarks.models import MODELS, default_cache
from benchmarks.tasks import IMAGENET, LITE, PLATFORM, Array, add_data_options, classifier_input, images, logits, split
from calibrant import export_graph
from calibrant.api import quantize
from demo.measure import agreement, sqnr_db

CLASSIFIERS = {"EfficientNet-Lite0": LITE, "MobileNetV2": IMAGENET}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.integer_run", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos")
    parser.add_argument("--calibration", type=int, default=64, help="photos to calibrate with: 64, half at most")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where built models are kept")
    options = parser.parse_args()
    photos = images(options.photos)
    to_calibrate, _ = split(photos, options.calibration)
    console = Console()
    console.print(f"{description()}\n{command()}\n", highlight=False)
    table = Table(caption=f"calibrated on {len(to_calibrate)} photos, run on all {len(photos)}", caption_justify="left")
    table.add_column("")
    columns = []
    for name, normalization in CLASSIFIERS.items():
        table.add_column(name, justify="right", no_wrap=True)
        model = MODELS[name].path(options.cache)
        calibration = [classifier_input(path, normalization) for path in to_calibrate]
        columns.append(compare(model, calibration, [classifier_input(path, normalization) for path in photos]))
    for line in columns[0]:
        table.add_row(line, *(column[line] for column in columns))
    console.print(table)


def compare(model: Path, calibration: list[Array], inputs: list[Array]) -> dict[str, str]:
    """Quantize `model`, run it both ways over the inputs, and say how they compare."""
    graph, _ = quantize(model, calibration, platform=PLATFORM)
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        export_graph(graph, PLATFORM, int8)
        simulated, integer = logits(int8, inputs, optimized=False), logits(int8, inputs)
        control = logits(int8, inputs, integer_kernels=False)
        step = last_step(int8)
    exact = logits(model, inputs)
    between, to_float = sqnr_db(simulated, integer), sqnr_db(exact, integer)
    result = {
        "top-1, simulation and integer run": f"{agreement(simulated, integer):.3f}",
        "top-1, FP32 and integer run": f"{agreement(exact, integer):.3f}",
        "logits SQNR, simulation to integer run": f"{between:.1f} dB",
        "logits SQNR, FP32 to integer run": f"{to_float:.1f} dB",
        "the first above the second": f"{between - to_float:.1f} dB",
        "control: top-1, simulation and float in another order": f"{agreement(simulated, control):.3f}",
        "control: logits SQNR, the same two": f"{sqnr_db(simulated, control):.1f} dB",
    }
    if step is not None:
        steps = np.abs(np.rint((simulated - integer) / step)).astype(int)
        shares = [f"{np.mean(steps == k):.2f}" for k in range(3)] + [f"{np.mean(steps >= 3):.2f}"]
        result["logits 0, 1, 2, more steps apart"] = " ".join(shares)
    return result


def last_step(model: Path) -> float | None:
    """The scale of the DequantizeLinear that makes the first graph output; None where it is not quantized."""
    graph = onnx.load(model).graph
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] == graph.output[0].name:
            return next(float(numpy_helper.to_array(i)) for i in graph.initializer if i.name == node.input[1])
    return None


if __name__ == "__main__":
    main()

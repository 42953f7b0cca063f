"""What calibrating with all five observers at once costs: time against bare inference, and memory against more samples.

Time: EfficientNet-Lite0 runs over the samples in bare onnxruntime, then `calibrate` collects for all five methods and
every value is solved by each; the same samples, the same threads, in turn; the median of several rounds. Compiling the
kernels happens once in an installation and is stated apart. onnxruntime's own min-max calibrator runs beside them.

Memory: the peak resident size of fresh processes that calibrate on few and on many samples, read as they come.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import command, description, peak_mb
from benchmarks.models import MODELS, default_cache
from benchmarks.tasks import LITE, add_data_options, classifier_input, images
from calibrant import TensorQuantizationConfig, calibrate, load_onnx_graph
from calibrant.graph import Graph
from demo.measure import session

METHODS = ("minmax", "percentile", "mse", "kl", "isotone")
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
BARE = "bare onnxruntime inference"
PARTS = ("one pass, sketches", "solving")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos")
    parser.add_argument("--samples", type=int, default=256, help="samples of the timing (256)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing, whose median counts (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of everything (2)")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD", help="collect and solve for these")
    parser.add_argument("--memory", type=int, nargs=2, default=(32, 512), metavar="N", help="few and many samples")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where built models are kept")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)  # the child that measures its own memory
    options = parser.parse_args()
    model = MODELS["EfficientNet-Lite0"].path(options.cache)
    if options.peak is not None:
        calibrate(model, varied(options.photos, options.peak), methods=options.methods, threads=options.threads)
        print(json.dumps({"peak_mb": peak_mb()}))
        return
    console = Console()
    console.print(f"{description()}\n{command()}\n", highlight=False)
    console.print(time_table(model, list(varied(options.photos, options.samples)), options))
    console.print(memory_table(options))


def varied(photos: Path, count: int) -> Iterator[F32]:
    """`count` different inputs, read as they are asked for: the photos, then the photos flipped, shifted and dimmed."""
    files = images(photos)
    for number in range(count):
        turn, place = divmod(number, len(files))
        x = classifier_input(files[place], LITE)
        if turn % 2:
            x = x[..., ::-1]
        x = np.roll(x, 7 * (turn // 2), axis=-2) * np.float32(0.97 ** (turn // 2))
        yield np.ascontiguousarray(x)


def time_table(model: Path, samples: list[F32], options: argparse.Namespace) -> Table:
    """Seconds, and ratios to bare inference."""
    start = time.perf_counter()
    collect_and_solve(model, samples[:2], options)
    compiling = time.perf_counter() - start
    contestants = {
        BARE: bare_inference,
        "calibrant, all observers at once": collect_and_solve,
        "onnxruntime's MinMax calibrator": onnxruntime_minmax,
    }
    rounds = [{name: run(model, samples, options) for name, run in contestants.items()} for _ in range(options.rounds)]
    table = Table(
        caption=f"{len(samples)} samples, {options.threads} threads, median of {options.rounds} rounds; "
        f"methods: {', '.join(options.methods)}",
        caption_justify="left",
    )
    for heading in ("", "seconds", "x bare inference", "spread"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name in contestants:
        add_rows(table, name, np.array([r[name] for r in rounds]), np.array([r[BARE] for r in rounds]))
    table.add_row("apart: first use, with compiling", f"{compiling:.2f}")
    return table


def add_rows(table: Table, name: str, seconds: F64, bare: F64) -> None:
    """A row for what was measured, and one for each of its parts. seconds: (rounds, parts), bare: (rounds, 1)."""
    names = [name, *(f"  of that {part}" for part in PARTS)] if seconds.shape[1] > 1 else [name]
    for label, column in zip(names, [seconds.sum(1), *seconds.T], strict=False):
        ratio = column / bare[:, 0]  # within a round, as a machine with other work is slower at some times
        spread = f"{ratio.min():.2f} .. {ratio.max():.2f}"
        table.add_row(label, f"{np.median(column):.2f}", f"{np.median(ratio):.2f}", spread if name != BARE else "")


def bare_inference(model: Path, samples: list[F32], options: argparse.Namespace) -> tuple[float, ...]:
    """The FP32 model over the samples, one at a time; nothing else. Building the session is not counted."""
    running = session(model, options.threads)
    running.run(None, {"input": samples[0]})
    start = time.perf_counter()
    for x in samples:
        running.run(None, {"input": x})
    return (time.perf_counter() - start,)


def collect_and_solve(model: Path, samples: list[F32], options: argparse.Namespace) -> tuple[float, ...]:
    """Load, collect for all methods, solve every value by each method. Seconds of collecting, and of solving.

    isotone solves the values that carry an order, which are those whose margins are collected.
    """
    start = time.perf_counter()
    graph = load_onnx_graph(model)
    table = calibrate(graph, samples, methods=options.methods, threads=options.threads)
    collected = time.perf_counter()
    todo = [
        (name, method, config)
        for name, config in solvable(graph)
        for method in options.methods
        if method != "isotone" or table.sketches[name].margins is not None
    ]
    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(lambda job: table.solve(*job), todo))
    return collected - start, time.perf_counter() - collected


def solvable(graph: Graph) -> list[tuple[str, TensorQuantizationConfig]]:
    """Every observed value with the config it is solved for."""
    groups = [*graph.groups, *graph.float_outputs]
    return [(root, group.config) for group in groups for root in group.roots]


def onnxruntime_minmax(model: Path, samples: list[F32], options: argparse.Namespace) -> tuple[float, ...]:
    """The min-max calibrator that comes with onnxruntime, from creating it to its ranges. It takes no thread count."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> dict[str, F32] | None:
            x = next(self._samples, None)
            return None if x is None else {"input": x}

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        calibrator = create_calibrator(
            model, augmented_model_path=f"{folder}/augmented.onnx", calibrate_method=CalibrationMethod.MinMax
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()
        return (time.perf_counter() - start,)


def memory_table(options: argparse.Namespace) -> Table:
    """Peak resident size for few and for many samples."""
    table = Table(caption="peak resident size of a fresh process", caption_justify="left")
    for heading in ("samples", "MB", "to the first"):
        table.add_column(heading, justify="right")
    peaks: list[float] = []
    for count in options.memory:
        arguments = ["--photos", options.photos, "--threads", options.threads, "--cache", options.cache]
        arguments += ["--methods", *options.methods, "--peak", count]
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.calibration", *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        peaks.append(json.loads(child.stdout)["peak_mb"])
        table.add_row(str(count), f"{peaks[-1]:.0f}", f"{100 * (peaks[-1] / peaks[0] - 1):+.1f} %")
    return table


if __name__ == "__main__":
    main()

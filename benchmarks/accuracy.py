"""Method x model: the accuracy that each calibration method leaves, on samples it did not see. Writes accuracy.md."""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from numba.core.event import install_timer
from rich.console import Console

from benchmarks.machine import command, description
from benchmarks.models import MODELS, default_cache, minilm_vocabulary
from benchmarks.tasks import IMAGENET, LITE, Classifier, Encoder, Recogniser, Task, add_data_options
from calibrant import QuantizationSettingFactory, export_graph
from calibrant.api import QuantizationSummary, quantize
from calibrant.graph import Graph

TASKS = ("EfficientNet-Lite0", "MobileNetV2", "PP-OCRv4 recogniser", "MiniLM-L6")
METHODS = ("default", "minmax", "percentile", "mse", "kl", "isotone", "auto")
PLATFORM = "ONNXRUNTIME"
COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Row:
    """One method on one model: the measures of each split of the data; the rest is of the first."""

    method: str
    measures: list[dict[str, float]]
    summary: QuantizationSummary
    integer_nodes: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    add_data_options(parser, "photos", "lines", "text")
    parser.add_argument("--minilm", type=Path, help="MiniLM-L6 as ONNX, where torch is not there to export it")
    parser.add_argument("--vocab", type=Path, help="MiniLM's vocab.txt (default: that of its package)")
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS), metavar="MODEL", help="only these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument(
        "--calibration", type=int, default=64, help="photos and texts to calibrate with: 64, half of them at most"
    )
    parser.add_argument("--calibration-lines", type=int, default=32, help="text lines to calibrate with: 32")
    parser.add_argument("--splits", type=int, default=1, help="how often the data are split anew: 1")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where built models are kept")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("accuracy.md"))
    options = parser.parse_args()
    console = Console(stderr=True)
    sections = [HEAD.format(description=description(), command=command())]
    for name in options.models:
        tasks = [task for seed in range(options.splits) if (task := find_task(name, options, seed)) is not None]
        if not tasks:
            console.print(f"[yellow]{name}: left out, its data are not given[/] (see --help)")
            continue
        path = options.minilm if name == "MiniLM-L6" and options.minilm else MODELS[name].path(options.cache)
        sections.append(section(name, path, tasks, options.methods, console))
    options.output.write_text("\n".join(sections), encoding="utf-8")
    Console(soft_wrap=True).print("\n".join(sections), markup=False, highlight=False)
    console.print(f"written to {options.output}")


HEAD = """# Accuracy by calibration method

Every model is quantized with nothing set but the method; `default` is the platform's own choice. All are measured in
onnxruntime on samples that were not calibrated on. SQNR: power of the FP32 output over the power of the error, in dB.
Where the data are split anew several times: the mean, and the lowest and highest. Seconds: load, calibrate, quantize;
without compiling kernels, which happens once on a machine.

{description}

    {command}
"""


def find_task(name: str, options: argparse.Namespace, seed: int) -> Task | None:
    """The task of a model on one split of its data, or None where they are not given."""
    if name == "PP-OCRv4 recogniser":
        return Recogniser(options.lines, options.calibration_lines, seed) if options.lines else None
    if name == "MiniLM-L6":
        if not options.text:
            return None
        return Encoder(options.text, options.vocab or minilm_vocabulary(), options.calibration, seed)
    normalization = LITE if name == "EfficientNet-Lite0" else IMAGENET
    return Classifier(options.photos, normalization, options.calibration, seed)


def section(name: str, path: Path, tasks: list[Task], methods: list[str], console: Console) -> str:
    """Heading, table and notes of one model."""
    references = [task.measure(path, path) for task in tasks]
    rows = []
    for method in methods:
        if method == "isotone" and not isinstance(tasks[0], Classifier):
            continue  # it keeps the order of a row of scores
        rows.append(quantized(path, tasks, method))
        found = ", ".join(f"{column} {_numbers(column, rows[-1].measures)}" for column in tasks[0].columns)
        console.print(f"{name} {method}: {found} ({rows[-1].seconds:.0f} s)", highlight=False)
    reference, measured = [measures for measures, _ in references], references[0][1]
    return "\n".join(_lines(name, tasks, measured, reference, rows))


def quantized(path: Path, tasks: list[Task], method: str) -> Row:
    """Quantize with that method, export, measure; once for each task."""
    setting = QuantizationSettingFactory.default_setting()
    setting.quantize_activation_setting.calib_algorithm = None if method == "default" else method
    found = []
    for task in tasks:
        samples = task.calibration()
        compiling: list[float] = []
        start = time.perf_counter()
        with install_timer("numba:compiler_lock", compiling.append):
            graph, summary = quantize(path, samples, platform=PLATFORM, setting=setting)
        seconds = time.perf_counter() - start - sum(compiling)
        with tempfile.TemporaryDirectory() as folder:
            int8 = Path(folder) / "int8.onnx"
            export_graph(graph, PLATFORM, int8)
            found.append((task.measure(path, int8)[0], summary, integer_nodes(graph, summary), seconds))
    return Row(method, [measures for measures, *_ in found], *found[0][1:])


def _lines(
    name: str, tasks: list[Task], measured: int, reference: list[dict[str, float]], rows: list[Row]
) -> Iterator[str]:
    columns, samples = tasks[0].columns, len(tasks[0].calibration())
    yield f"\n## {name}\n"
    splits = "" if len(tasks) == 1 else f", {len(tasks)} splits"
    yield f"Calibrated on {samples} samples, measured on {measured} others{splits}.\n"
    yield "| method | " + " | ".join(columns) + " | seconds |"
    yield "|---|" + "---|" * (len(columns) + 1)
    if tasks[0].has_truth:
        yield "| FP32 | " + " | ".join(_numbers(column, reference) for column in columns) + " | |"
    for row in rows:
        numbers = " | ".join(_numbers(column, row.measures) for column in columns)
        used = f" ({', '.join(sorted(row.summary.methods))})" if row.method in ("default", "isotone", "auto") else ""
        yield f"| {row.method}{used} | {numbers} | {row.seconds:.1f} |"
    if rows:
        yield f"\nIn 8 bits: {rows[0].integer_nodes}."
        yield _left_in_float(rows[0].summary)


def integer_nodes(graph: Graph, summary: QuantizationSummary) -> str:
    """How many of the nodes that compute most are quantized, by operator: `Conv 51 of 51`."""
    every = Counter(node.op_type for node in graph.model.graph)
    in_float = Counter(node.op_type for node in graph.model.graph if node.name in summary.left_in_float)
    return ", ".join(f"{op} {every[op] - in_float[op]} of {every[op]}" for op in COMPUTING if every[op])


def _left_in_float(summary: QuantizationSummary) -> str:
    """Which nodes stay in float, by reason."""
    by_reason: dict[str, list[str]] = {}
    for node, reason in summary.left_in_float.items():
        by_reason.setdefault(reason, []).append(node)
    if not by_reason:
        return "Nothing is left in float."
    listed = "\n".join(f"- {reason}: {_names(nodes)}" for reason, nodes in sorted(by_reason.items()))
    count = len(summary.left_in_float)
    return f"\n<details><summary>Left in float: {count} nodes</summary>\n\n{listed}\n\n</details>"


def _names(nodes: list[str], most: int = 3) -> str:
    rest = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(f"`{node}`" for node in nodes[:most]) + rest


def _numbers(column: str, measures: list[dict[str, float]]) -> str:
    """The mean over the splits; of several, the lowest and the highest as well."""
    digits = 1 if column.endswith("dB") else 3
    found = [one[column] for one in measures]
    spread = f" ({min(found):.{digits}f} .. {max(found):.{digits}f})" if len(found) > 1 else ""
    return f"{sum(found) / len(found):.{digits}f}{spread}"


if __name__ == "__main__":
    main()

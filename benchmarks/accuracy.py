"""What is left of each real model in 8 bits: by Calibrant, with either effort, and by its peers. Writes accuracy.md.

Everyone gets the same samples, and is measured in the same onnxruntime on others. Calibrant by single methods, which
methods.md shows: `--contestants default minmax percentile mse kl isotone auto`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba.core.event import install_timer
from rich.console import Console

from benchmarks.detector import Detector
from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.models import MODELS, minilm_vocabulary
from benchmarks.peer_model import PEERS
from benchmarks.tasks import (
    IMAGENET,
    LITE,
    PLATFORM,
    Classifier,
    Encoder,
    Recogniser,
    Sample,
    Task,
    add_data_options,
    add_model_options,
)
from calibrant import QuantizationSettingFactory, export_graph
from calibrant.api import QuantizationSummary, quantize
from calibrant.graph import Graph, load_onnx_graph
from calibrant.quantizers import quantize_graph
from calibrant.table.collecting import METHODS
from demo.measure import session

TASKS = ("EfficientNet-Lite0", "MobileNetV2", "PP-OCRv4 recogniser", "MiniLM-L6", "Silero VAD")
TRANSFORMERS = ("MiniLM-L6",)
OWN = ("default", "high effort")
LIMITED = "high effort, 5 % in float"
CONTESTANTS = (*OWN, LIMITED, *METHODS, "auto", *PEERS)
TOOLS = tuple(dict.fromkeys(peer.rpartition("-")[0] for peer in PEERS))
TOGETHER = ("onnxruntime", "nncf")  # the peers that can share an environment: that of `make bench`
COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LONGEST = 900  # seconds that a peer may take
MOST_WORDS = 100  # characters of what a contestant failed with


class Failed(Exception):
    """A contestant that gave no model; the message says why."""


@dataclass(frozen=True)
class Row:
    """One contestant on one model: the measures of each split of the data; the rest is of the first."""

    name: str
    measures: list[dict[str, float]]
    seconds: float
    notes: list[str]


HEAD = """# Accuracy in 8 bits

Every contestant is asked for 8 bits and given the same samples; all are measured in the same onnxruntime, on samples
that were not calibrated on. `default`: Calibrant with nothing set; `high effort`: with `--effort high`; `5 % in float`:
with `--most-in-float` as well, a twentieth of the operations. Peers: static, Q/DQ, 8-bit activations, asymmetric where
that is offered, int8 weights per channel. `-default`: with nothing else set; `-best`, or a method: with what its
documentation offers to do better, within {longest} s; peer_model.py says what that is. SQNR: power of the FP32 output
over the power of the error, in dB. Agreement: with FP32. Where the data are split anew several times: the mean, and the
lowest and highest. Seconds: load, calibrate, quantize; without compiling kernels, which happens once on a machine.

{description}

    {command}
"""


def main() -> None:
    options = _options()
    console = Console(stderr=True, soft_wrap=True)
    sections = [HEAD.format(longest=LONGEST, description=description(), command=command())]
    for name in options.models:
        path = options.minilm if name == "MiniLM-L6" and options.minilm else MODELS[name].path(options.cache)
        tasks = [task for seed in range(options.splits) if (task := find_task(name, path, options, seed)) is not None]
        if not tasks:
            console.print(f"[yellow]{name}: left out, its data are not given[/] (see --help)")
            continue
        sections.append(section(name, path, tasks, options, console))
        options.output.write_text("\n".join(sections), encoding="utf-8")
    Console(soft_wrap=True).print("\n".join(sections), markup=False, highlight=False)
    console.print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "labelled", "lines", "text")
    add_model_options(parser, TASKS, "accuracy.md")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=CONTESTANTS,
        metavar="NAME",
        help=f"only these (default: Calibrant, {' and '.join(TOGETHER)}, and the peers that --peers-python names)",
    )
    parser.add_argument(
        "--peers-python",
        nargs="+",
        type=interpreter,
        default=[],
        metavar="[PEER=]PYTHON",
        help="which has the peers, or that peer: `python ppq=other/python` (default: this one)",
    )
    parser.add_argument(
        "--calibration", type=int, default=64, help="photos and texts to calibrate with: 64, half of them at most"
    )
    parser.add_argument("--calibration-lines", type=int, default=32, help="text lines to calibrate with: 32")
    parser.add_argument("--splits", type=int, default=1, help="how often the data are split anew: 1")
    options = parser.parse_args()
    options.contestants = options.contestants or installed(dict(options.peers_python))
    return options


def find_task(name: str, path: Path, options: argparse.Namespace, seed: int) -> Task | None:
    """The task of a model on one split of its data, or None where they are not given."""
    if name == "Silero VAD":
        return Detector(path, seed)
    if name == "PP-OCRv4 recogniser":
        return Recogniser(options.lines, options.calibration_lines, seed) if options.lines else None
    if name == "MiniLM-L6":
        if not options.text:
            return None
        return Encoder(options.text, options.vocab or minilm_vocabulary(), options.calibration, seed)
    normalization = LITE if name == "EfficientNet-Lite0" else IMAGENET
    return Classifier(options.photos, normalization, options.calibration, seed, options.labelled)


def section(name: str, path: Path, tasks: list[Task], options: argparse.Namespace, console: Console) -> str:
    """Heading, table and notes of one model."""
    references = [task.measure(path, path) for task in tasks]
    rows = [Row("FP32", [measures for measures, _ in references], 0.0, [])] if tasks[0].has_truth else []
    for contestant in options.contestants:
        if contestant == "isotone" and not isinstance(tasks[0], Classifier):
            continue  # it keeps the order of a row of scores
        try:
            rows.append(measured(contestant, name, path, tasks, python_of(contestant, dict(options.peers_python))))
        except Failed as error:
            rows.append(Row(f"{contestant}: {error}", [], 0.0, []))
        found = ", ".join(f"{column} {numbers(column, rows[-1].measures)}" for column in tasks[0].columns)
        console.print(f"{name} {rows[-1].name}: {found} ({rows[-1].seconds:.0f} s)", markup=False, highlight=False)
    return "\n".join(_lines(name, tasks, references[0][1], rows))


def measured(contestant: str, name: str, path: Path, tasks: list[Task], python: str) -> Row:
    """Quantize as the contestant does, measure; once for each task."""
    found: list[tuple[dict[str, float], float, list[str]]] = []
    for task in tasks:
        with tempfile.TemporaryDirectory(prefix="calibrant-benchmark-") as folder:
            int8 = Path(folder) / "int8.onnx"
            if contestant in PEERS:
                seconds = by_peer(contestant, name, path, task.calibration(), int8, python)
                notes: list[str] = []
            else:
                seconds, notes = by_calibrant(contestant, path, task.calibration(), int8)
            try:
                found.append((task.measure(path, int8)[0], seconds, notes))
            except Exception as error:  # onnxruntime's own types share no base but Exception
                why = _first_line(str(error).split(" failed:")[-1])
                raise Failed(f"onnxruntime does not run its model: {why}") from error
    return Row(contestant, [measures for measures, *_ in found], *found[0][1:])


def by_calibrant(contestant: str, path: Path, samples: list[Sample], int8: Path) -> tuple[float, list[str]]:
    """Write the model of Calibrant with that method or effort; the seconds, and what is to be told of it."""
    setting = QuantizationSettingFactory.default_setting()
    if contestant in ("high effort", LIMITED):
        setting.effort = "high"
    if contestant == LIMITED:
        setting.most_in_float = int(0.05 * operations(path))
    setting.quantize_activation_setting.calib_algorithm = contestant if contestant in (*METHODS, "auto") else None
    compiling: list[float] = []
    start = time.perf_counter()
    with install_timer("numba:compiler_lock", compiling.append):
        graph, summary = quantize(path, samples, platform=PLATFORM, setting=setting)
    seconds = time.perf_counter() - start - sum(compiling)
    export_graph(graph, PLATFORM, int8)
    if summary.target is not None:
        lost = f"{summary.target.in_float} of {summary.target.operations} operations in float"
        return seconds, [f"{contestant}: {lost} ({_names(summary.target.left, most=5)})."]
    return seconds, [f"In 8 bits: {integer_nodes(graph, summary)}.", _left_in_float(summary)]


def operations(path: Path) -> int:
    """How many operations of a model are quantized by default."""
    graph = load_onnx_graph(path)
    quantize_graph(graph, PLATFORM, QuantizationSettingFactory.default_setting())
    return len(graph.operations)


def interpreter(text: str) -> tuple[str, str]:
    """`PYTHON`, for all peers, or `PEER=PYTHON`: the peer, "" for all, and its interpreter."""
    peer, _, python = text.rpartition("=")
    if peer and peer not in TOOLS:
        raise argparse.ArgumentTypeError(f"no peer {peer!r}; there are {', '.join(TOOLS)}")
    found = shutil.which(python)
    if found is None:
        raise argparse.ArgumentTypeError(f"no interpreter {python!r}")
    return peer, str(Path(found).absolute())


def installed(interpreters: Mapping[str, str]) -> list[str]:
    """Calibrant, the peers that share an environment, and those that have one of their own here."""
    return [*OWN, *(peer for peer in PEERS if tool_of(peer) in (*TOGETHER, *interpreters))]


def python_of(contestant: str, interpreters: Mapping[str, str]) -> str:
    """The interpreter of a contestant: that of its peer, else that of all peers, else this one."""
    return interpreters.get(tool_of(contestant)) or interpreters.get("") or sys.executable


def tool_of(contestant: str) -> str:
    """The peer, of a contestant that is a peer with one of its settings."""
    return contestant.rpartition("-")[0]


def by_peer(peer: str, name: str, path: Path, samples: Sequence[Sample], int8: Path, python: str) -> float:
    """Write the peer's model, in a process of its own; the seconds. Raises Failed with the last line of its error."""
    folder = int8.with_name("samples")
    folder.mkdir()
    first = session(path, 1).get_inputs()[0].name
    for number, sample in enumerate(samples):
        np.savez(folder / f"{number:05}.npz", **(sample if isinstance(sample, dict) else {first: sample}))
    script = Path(__file__).with_name("peer_model.py")
    # isolated: what lies beside the script is none of the peer's modules; in a folder where it may leave its own files
    arguments = [python, "-I", str(script.resolve()), peer, str(path.resolve()), str(folder), str(int8)]
    if name in TRANSFORMERS:
        arguments.append("--transformer")
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=LONGEST, cwd=folder.parent)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{type(error).__name__}, after {LONGEST} s at most") from error
    if done.returncode:
        raise Failed(_last_line(done.stderr) or f"exit code {done.returncode}")
    return float(done.stdout.split("seconds ")[-1].split()[0])


def _lines_of(text: str) -> list[str]:
    """Those with something in them; at least one."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]


def _first_line(text: str) -> str:
    return _lines_of(text)[0][:MOST_WORDS]


def _last_line(text: str) -> str:
    return _lines_of(text)[-1][:MOST_WORDS]


def _lines(name: str, tasks: list[Task], measured: int, rows: list[Row]) -> Iterator[str]:
    columns, samples = tasks[0].columns, len(tasks[0].calibration())
    yield f"\n## {name}\n"
    splits = "" if len(tasks) == 1 else f", {len(tasks)} splits"
    yield f"Calibrated on {samples} samples, measured on {measured} others{splits}.\n"
    yield table(
        ["", *columns, "seconds"],
        [
            [
                row.name,
                *(numbers(column, row.measures) for column in columns),
                f"{row.seconds:.1f}" if row.seconds else "",
            ]
            for row in rows
        ],
    )
    told = [row for row in rows if row.notes]
    for row in told:
        if row is told[0] or row.name == LIMITED:
            yield from (f"\n{note}" for note in row.notes)


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
    return f"<details><summary>Left in float: {count} nodes</summary>\n\n{listed}\n\n</details>"


def _names(nodes: list[str], most: int = 3) -> str:
    rest = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(f"`{node}`" for node in nodes[:most]) + rest


def numbers(column: str, measures: list[dict[str, float]]) -> str:
    """The mean over the splits; of several, the lowest and the highest as well; nothing where there is nothing."""
    if not measures:
        return ""
    digits = 1 if column.endswith("dB") else 3
    found = [one[column] for one in measures]
    spread = f" ({min(found):.{digits}f} .. {max(found):.{digits}f})" if len(found) > 1 else ""
    return f"{sum(found) / len(found):.{digits}f}{spread}"


if __name__ == "__main__":
    main()

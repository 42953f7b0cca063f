"""Does `auto` with samples choose well? Every single method beside it, on seven real models. Writes auto.md.

For each split of a model's data one table is collected, from which every method is solved; `auto` is given the samples
as well. All are measured by output SQNR, in onnxruntime, on samples that neither the table nor `auto` has seen.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.subjects import SUBJECTS, Subject, find_subject
from benchmarks.tasks import PLATFORM, Array, Sample, add_data_options, add_model_options
from calibrant import QuantizationSettingFactory, calibrate, export_graph, load_onnx_graph
from calibrant.api import quantize
from calibrant.auto.judging import signal_and_noise, sqnr_of_powers, standard_error
from calibrant.passes.activations import order_carrying
from calibrant.table.collecting import METHODS
from demo.measure import session

CONTESTANTS = (*METHODS, "auto")

F64 = NDArray[np.float64]

HEAD = """# The method `auto` beside every single method

Output SQNR on samples that were not calibrated on, in dB: the power of the FP32 outputs over that of the error, in
onnxruntime; where there are several outputs, the mean. The data are split anew a few times, from split {first} on;
numbers are means over the splits. (How `auto` chooses was not decided on these splits.) `auto`
is given the samples that were calibrated on. Behind: how far `auto` is behind the single method that is best in the
mean, and the standard error of that (jackknife over the samples measured on); at worst: behind the best of one split.
Chose: what `auto` took, and how often. Seconds: of `auto`, with samples read and weights solved, without collecting.

{description}

    {command}
"""


def main() -> None:
    options = _options()
    console = Console(stderr=True, soft_wrap=True)
    rows: list[list[str]] = []
    seeds = range(options.first, options.first + options.splits)
    for name in options.models:
        subject = find_subject(name, options)
        if subject is None:
            console.print(f"[yellow]{name}: left out, its data are not given[/] (see --help)")
            continue
        rows.append(row(subject.name, [of_split(subject, seed, console) for seed in seeds]))
    head = HEAD.format(first=options.first, description=description(), command=command())
    headings = ["", "splits", "calibrated on", "measured on", *CONTESTANTS, "behind", "at worst", "chose", "seconds"]
    page = f"{head}\n{table(headings, rows)}\n"
    options.output.write_text(page, encoding="utf-8")
    Console(soft_wrap=True).print(page, markup=False, highlight=False)
    console.print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auto", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "lines", "text")
    add_model_options(parser, SUBJECTS, "auto.md")
    parser.add_argument("--splits", type=int, default=3, help="how often the data are split anew (3)")
    parser.add_argument("--first", type=int, default=0, help="number of the first split, its seed (0)")
    return parser.parse_args()


@dataclass(frozen=True)
class Split:
    """What one split of a model's data gave: how each method did, what `auto` chose, and how long it took.

    powers: by method, (samples, outputs, 2): of each floating output of each sample, and of its error.
    """

    calibrated: int
    measured: int
    powers: dict[str, F64]
    chosen: str
    seconds: float

    @property
    def db(self) -> dict[str, float]:
        """The SQNR of each method."""
        return {method: float(sqnr_of_powers(powers.sum(axis=0))) for method, powers in self.powers.items()}


def best_single(db: Mapping[str, float]) -> str:
    """The single method of the highest SQNR."""
    return max((method for method in METHODS if method in db), key=lambda method: db[method])


def of_split(subject: Subject, seed: int, console: Console) -> Split:
    """Every method, calibrated on one part of the data and measured on another."""
    calibration, measuring = subject.divided(seed)
    wanted = outputs(session(subject.model), measuring)
    graph = load_onnx_graph(subject.model)
    collected = calibrate(graph, calibration)
    ordered = bool(order_carrying(graph))
    powers: dict[str, F64] = {}
    for method in CONTESTANTS:
        if method == "isotone" and not ordered:
            continue
        setting = QuantizationSettingFactory.default_setting()
        setting.quantize_activation_setting.calib_algorithm = method
        start = time.perf_counter()
        samples = calibration if method == "auto" else None
        quantized, summary = quantize(graph, samples, platform=PLATFORM, setting=setting, table=collected)
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            int8 = Path(folder) / "int8.onnx"
            export_graph(quantized, PLATFORM, int8)
            powers[method] = powers_of(wanted, outputs(session(int8), measuring))
    (chosen,) = [match[1] for note in summary.notes if (match := re.match(r"auto chose '(.*?)':", note))]
    found = Split(len(calibration), len(measuring), powers, chosen, seconds)
    told = ", ".join(f"{method} {value:.2f}" for method, value in found.db.items())
    console.print(f"{subject.name}, split {seed}: {told} ({chosen}, {seconds:.0f} s)", markup=False, highlight=False)
    return found


def outputs(running: ort.InferenceSession, samples: Sequence[Sample]) -> list[list[Array]]:
    """What a model makes of each sample."""
    first = running.get_inputs()[0].name
    return [running.run(None, sample if isinstance(sample, dict) else {first: sample}) for sample in samples]


def powers_of(wanted: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> F64:
    """(samples, outputs, 2) float64: see `Split`."""
    return np.array([signal_and_noise(exact, other) for exact, other in zip(wanted, found, strict=True)])


def row(name: str, splits: Sequence[Split]) -> list[str]:
    """The model's row of the table."""
    means = {m: mean(s.db[m] for s in splits) for m in CONTESTANTS if m in splits[0].powers}
    best = best_single(means)
    errors = [standard_error(s.powers[best], s.powers["auto"]) for s in splits]
    chosen = Counter(s.chosen for s in splits)
    return [
        name,
        str(len(splits)),
        str(splits[0].calibrated),
        str(splits[0].measured),
        *(f"{means[m]:.2f}" if m in means else "" for m in CONTESTANTS),
        f"{means[best] - means['auto']:.2f} ± {np.hypot.reduce(errors) / len(errors):.2f}",
        f"{max(s.db[best_single(s.db)] - s.db['auto'] for s in splits):.2f}",
        ", ".join(f"{name} {times}" if times > 1 else name for name, times in chosen.most_common()),
        f"{mean(s.seconds for s in splits):.1f}",
    ]


if __name__ == "__main__":
    main()

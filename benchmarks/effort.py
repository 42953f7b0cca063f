"""What accuracy costs in time: calibration alone, the default, and high effort. Writes effort.md.

Alone: every scale is found as by default, weights are rounded to the nearest, and nothing else is done.
"""

import argparse
import time
from itertools import islice
from statistics import median

from benchmarks.machine import command, description
from benchmarks.subjects import SUBJECTS, Subject, write_rows
from benchmarks.tasks import add_data_options, add_model_options
from calibrant import QuantizationSetting
from calibrant.api import quantize
from calibrant.engines.session import usable_processors

ALONE, DEFAULT, HIGH = CONTESTANTS = ("alone", "default", "high")
COLUMNS = ("", "samples", "calibration alone, s", "default, s", "default adds", "lowest .. highest", "high effort, s")

HEAD = """# What accuracy costs in time

Seconds of a whole quantization, from the model's file to the quantized graph, with {threads} threads. Calibration
alone: every scale is found as by default, weights are rounded to the nearest, and nothing is equalized or balanced.
Alone and default take turns, {rounds} times after a first time that does not count; medians. High effort runs once.

{description}

    {command}

"""


def main() -> None:
    options = _options()
    head = HEAD.format(description=description(), command=command(), threads=options.threads, rounds=options.rounds)
    write_rows(options, head, COLUMNS, lambda subject: row(subject, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effort", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "lines", "text")
    add_model_options(parser, SUBJECTS, "effort.md")
    parser.add_argument("--samples", type=int, default=128, help="samples to calibrate with, at most (128)")
    parser.add_argument("--rounds", type=int, default=5, help="whose median counts (5)")
    parser.add_argument("--threads", type=int, default=usable_processors(), help="threads of everything (all)")
    parser.add_argument("--high", action="store_true", help="high effort too: minutes for each model")
    return parser.parse_args()


def row(subject: Subject, options: argparse.Namespace) -> list[str]:
    """Of one model."""
    samples = list(islice((sample for item in subject.items for sample in subject.samples(item)), options.samples))

    def seconds(contestant: str) -> float:
        start = time.perf_counter()
        quantize(subject.model, samples, setting=setting(contestant), threads=options.threads)
        return time.perf_counter() - start

    turns = [(seconds(ALONE), seconds(DEFAULT)) for _ in range(options.rounds + 1)][1:]
    added = [100 * (default / alone - 1) for alone, default in turns]
    return [
        subject.name,
        str(len(samples)),
        *(f"{median(times):.2f}" for times in zip(*turns, strict=True)),
        f"{median(added):.0f} %",
        f"{min(added):.0f} .. {max(added):.0f} %",
        f"{seconds(HIGH):.0f}" if options.high else "–",
    ]


def setting(contestant: str) -> QuantizationSetting:
    """What the contestant sets."""
    made = QuantizationSetting()
    if contestant == ALONE:
        made.equalization = made.smooth_quant = made.quantize_parameter_setting.balanced_rounding = False
    if contestant == HIGH:
        made.effort = "high"
    return made


if __name__ == "__main__":
    main()

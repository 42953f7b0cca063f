"""INT8 models where sums of uint8 x int8 overflow 16 bits, and what helps there. Writes saturation.md.

To be run on an x86 processor without VNNI; elsewhere nothing overflows, and little differs.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.auto import outputs, powers_of
from benchmarks.machine import command, description
from benchmarks.subjects import SUBJECTS, Subject, write_rows
from benchmarks.tasks import PLATFORM, add_data_options, add_model_options
from calibrant import QuantizationSetting, export_graph
from calibrant.api import quantize
from calibrant.auto.judging import sqnr_of_powers
from demo.measure import session

WAYS = ("default", "session option", "--reduce-range")
COLUMNS = ("", "calibrated on", "measured on", *(f"{way}, dB" for way in WAYS), *(f"{way}, time" for way in WAYS))
ROUNDS = 3

HEAD = """# Processors without VNNI

Output SQNR in dB, on samples that were not calibrated on, as onnxruntime runs the model on this processor, and the
time of all runs as a ratio to FP32, on one thread, the best of {rounds} rounds. Default: what `calibrant quantize`
writes, opened as it is. Session option: the same file, opened with `session.x64quantprecision` set to 1.
`--reduce-range`: quantized with it, opened as it is. On processors with VNNI, and on ARM, the first two say the same,
and the third loses what a bit of the weights is worth.

{description}

    {command}

"""


def main() -> None:
    options = _options()
    head = HEAD.format(description=description(), command=command(), rounds=ROUNDS)
    write_rows(options, head, COLUMNS, row)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "lines", "text")
    add_model_options(parser, SUBJECTS, "saturation.md")
    return parser.parse_args()


def row(subject: Subject) -> list[str]:
    """Of one model."""
    calibration, measuring = subject.divided()
    with tempfile.TemporaryDirectory() as folder:
        default, reduced = Path(folder) / "default.onnx", Path(folder) / "reduced.onnx"
        for path in (default, reduced):
            setting = QuantizationSetting()
            setting.quantize_activation_setting.reduce_range = path is reduced
            graph, _ = quantize(subject.model, calibration, platform=PLATFORM, setting=setting)
            export_graph(graph, PLATFORM, path)
        sessions = [session(subject.model, 1), session(default, 1)]
        sessions += [session(default, 1, exact_sums=True), session(reduced, 1)]
        wanted, *found = (outputs(one, measuring) for one in sessions)
        seconds = [float("inf")] * len(sessions)
        for _ in range(ROUNDS):
            for number, one in enumerate(sessions):
                start = time.perf_counter()
                outputs(one, measuring)
                seconds[number] = min(seconds[number], time.perf_counter() - start)
    decibels = [float(sqnr_of_powers(powers_of(wanted, one).sum(axis=0))) for one in found]
    return [
        subject.name,
        str(len(calibration)),
        str(len(measuring)),
        *(f"{db:.1f}" for db in decibels),
        *(f"{one / seconds[0]:.2f} ×" for one in seconds[1:]),
    ]


if __name__ == "__main__":
    main()

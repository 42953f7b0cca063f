"""INT8 models where sums of uint8 x int8 overflow 16 bits, and what helps there. Writes saturation.md.

To be run on an x86 processor without VNNI; elsewhere nothing overflows, and little differs.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
from rich.console import Console

from benchmarks.auto import powers_of
from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.subjects import SUBJECTS, Subject, find_subject
from benchmarks.tasks import PLATFORM, Array, Sample, add_data_options, add_model_options, split
from calibrant import QuantizationSetting, export_graph
from calibrant.api import quantize
from calibrant.auto.judging import sqnr_of_powers

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
    console = Console(stderr=True, soft_wrap=True)
    head = HEAD.format(description=description(), command=command(), rounds=ROUNDS)
    rows = []
    for name in options.models:
        subject = find_subject(name, options)
        rows.append([name, *["not given its data"] * (len(COLUMNS) - 1)] if subject is None else row(subject))
        console.print(", ".join(rows[-1]), markup=False, highlight=False)
        options.output.write_text(head + table(COLUMNS, rows) + "\n", encoding="utf-8")
    console.print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "lines", "text")
    add_model_options(parser, SUBJECTS, "saturation.md")
    return parser.parse_args()


def row(subject: Subject) -> list[str]:
    """Of one model."""
    to_calibrate, to_measure = split(subject.items, subject.calibration, seed=0)
    calibration = [sample for item in to_calibrate for sample in subject.samples(item)]
    measuring = [sample for item in to_measure for sample in subject.samples(item)]
    measuring = measuring[:: max(1, len(measuring) // subject.measured)][: subject.measured]
    with tempfile.TemporaryDirectory() as folder:
        default, reduced = Path(folder) / "default.onnx", Path(folder) / "reduced.onnx"
        for path in (default, reduced):
            setting = QuantizationSetting()
            setting.quantize_activation_setting.reduce_range = path is reduced
            graph, _ = quantize(subject.model, calibration, platform=PLATFORM, setting=setting)
            export_graph(graph, PLATFORM, path)
        sessions = [opened(subject.model), opened(default), opened(default, exact=True), opened(reduced)]
        wanted, *found = (outputs(session, measuring) for session in sessions)
        seconds = [float("inf")] * len(sessions)
        for _ in range(ROUNDS):
            for number, session in enumerate(sessions):
                start = time.perf_counter()
                outputs(session, measuring)
                seconds[number] = min(seconds[number], time.perf_counter() - start)
    decibels = [float(sqnr_of_powers(powers_of(wanted, one).sum(axis=0))) for one in found]
    return [
        subject.name,
        str(len(calibration)),
        str(len(measuring)),
        *(f"{db:.1f}" for db in decibels),
        *(f"{one / seconds[0]:.2f} ×" for one in seconds[1:]),
    ]


def opened(model: Path, exact: bool = False) -> ort.InferenceSession:
    """On one thread. exact: with the option that keeps sums from overflowing."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def outputs(session: ort.InferenceSession, samples: Sequence[Sample]) -> list[list[Array]]:
    """What the model makes of each sample."""
    first = session.get_inputs()[0].name
    return [session.run(None, sample if isinstance(sample, dict) else {first: sample}) for sample in samples]


if __name__ == "__main__":
    main()

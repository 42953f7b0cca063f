"""What is left of the classifiers with weights of 4 bits, and with one scale for a whole weight. Writes low_bits.md.

Beside plain rounding (each weight's own range, to the nearest, nothing else), which is what both settings are hard for.
Calibrated is on some of the photos; agreement and SQNR are of the other photos and the labelled ones together.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.integer_run import CLASSIFIERS
from benchmarks.machine import command, description
from benchmarks.markdown import table
from benchmarks.models import MODELS
from benchmarks.tasks import (
    PLATFORM,
    Array,
    accepted_labels,
    add_data_options,
    add_model_options,
    classifier_input,
    images,
    logits,
    split,
)
from calibrant import QuantizationSetting, export_graph
from calibrant.api import quantize
from demo.measure import sqnr_db

WEIGHTS = {"W4A8": (4, True), "per-tensor": (8, False)}  # bits, scales per channel
CONTESTANTS = ("plain rounding", "default", "high effort")
COLUMNS = ("", "top-1", "top-1 lost", "agreement", "logits SQNR, dB", "CPU seconds")

HEAD = """# Low-bit weights

Activations have 8 bits. W4A8: weights have 4, with a scale for each channel; onnxruntime has no 4-bit Conv, so their
integers, -7 to 7, are stored in 8 bits. Per-tensor: weights of 8 bits have one scale for all. `Plain rounding`:
weights are rounded to the nearest on the range of their values (minmax), nothing is equalized or balanced; activations
as by default. `default`: nothing set beside the weights; `high effort`: with `--effort high`.

After ± stands the standard error over the photos: of `top-1 lost` that of the paired difference to FP32, in points.
Top-1 is of the labelled photos; agreement (with FP32, in top-1) and SQNR are of these and of all photos that were not
calibrated on. CPU seconds: load, calibrate, quantize, on {threads} thread(s), with kernels that were compiled before.

{description}

    {command}
"""


@dataclass(frozen=True)
class Photos:
    """What a model is calibrated on and asked about. accepted: of each labelled photo, the classes that are right."""

    calibration: list[Array]
    labelled: list[Array]
    others: list[Array]
    accepted: list[set[int]]

    @property
    def asked(self) -> list[Array]:
        """The labelled photos, then the others."""
        return [*self.labelled, *self.others]

    def right(self, said: Array) -> NDArray[np.bool_]:
        """Of each labelled photo, whether these logits (of those asked about) are largest at a class that is right."""
        return np.array([int(c) in classes for c, classes in zip(said.argmax(-1), self.accepted, strict=False)])


def main() -> None:
    options = _options()
    console = Console(stderr=True, soft_wrap=True)
    sections = [HEAD.format(description=description(), command=command(), threads=options.threads)]
    for weights in options.weights:
        for name in options.models:
            sections.append("\n".join(section(name, weights, read(name, options), options, console)))
            options.output.write_text("\n".join(sections), encoding="utf-8")
    console.print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.low_bits", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos", "labelled")
    add_model_options(parser, CLASSIFIERS, "low_bits.md")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS), help="only these")
    parser.add_argument("--calibration", type=int, default=128, help="photos to calibrate with: 128, half at most")
    parser.add_argument("--threads", type=int, default=1, help="of calibration and passes: 1")
    options = parser.parse_args()
    if options.labelled is None:
        parser.error("--labelled is needed: what is lost is told in top-1")
    return options


def read(name: str, options: argparse.Namespace) -> Photos:
    """The photos as that model takes them."""
    normalization = CLASSIFIERS[name]
    to_calibrate, others = split(images(options.photos), options.calibration)
    labels = accepted_labels(options.labelled)
    return Photos(
        [classifier_input(path, normalization) for path in to_calibrate],
        [classifier_input(path, normalization) for path, _ in labels],
        [classifier_input(path, normalization) for path in others],
        [accepted for _, accepted in labels],
    )


def section(name: str, weights: str, photos: Photos, options: argparse.Namespace, console: Console) -> Iterator[str]:
    """Heading and table of one model with weights of that kind."""
    model = MODELS[name].path(options.cache)
    exact = logits(model, photos.asked)
    rows = [["FP32", _share(photos.right(exact)), "", "", "", ""]]
    for contestant in CONTESTANTS:
        with tempfile.TemporaryDirectory(prefix="calibrant-benchmark-") as folder:
            int8 = Path(folder) / "int8.onnx"
            start = time.process_time()
            graph, _ = quantize(
                model,
                photos.calibration,
                platform=PLATFORM,
                setting=setting(contestant, weights),
                threads=options.threads,
            )
            seconds = time.process_time() - start
            export_graph(graph, PLATFORM, int8)
            rows.append([contestant, *judged(photos, exact, logits(int8, photos.asked)), f"{seconds:.0f}"])
        told = ", ".join(f"{column} {cell}" for column, cell in zip(COLUMNS, rows[-1], strict=True))
        console.print(f"{name}, {weights}{told}", markup=False, highlight=False)
    asked = f"{len(photos.labelled)} labelled ones and {len(photos.others)} others"
    yield f"## {weights}: {name}\n"
    yield f"Calibrated on {len(photos.calibration)} photos, measured on {asked}.\n"
    yield table(COLUMNS, rows) + "\n"


def setting(contestant: str, weights: str) -> QuantizationSetting:
    """What the contestant sets."""
    made = QuantizationSetting()
    asked = made.quantize_parameter_setting
    asked.num_of_bits, asked.per_channel = WEIGHTS[weights]
    if contestant == "plain rounding":
        made.equalization = made.smooth_quant = asked.balanced_rounding = False
        asked.calib_algorithm = "minmax"
    elif contestant == "high effort":
        made.effort = "high"
    return made


def judged(photos: Photos, exact: Array, found: Array) -> list[str]:
    """The cells of a row but for its name and its seconds."""
    lost = 100 * (photos.right(exact).astype(np.float64) - photos.right(found))
    same = exact.argmax(-1) == found.argmax(-1)
    return [
        _share(photos.right(found)),
        f"{lost.mean():.1f} ± {_standard_error(lost):.1f}",
        _share(same),
        f"{sqnr_db(exact, found):.1f}",
    ]


def _share(hits: Array) -> str:
    return f"{hits.mean():.3f} ± {_standard_error(hits):.3f}"


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


if __name__ == "__main__":
    main()

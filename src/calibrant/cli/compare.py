"""`calibrant compare`: what quantization did to the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from calibrant.cli import options as o
from calibrant.cli.console import Console, Stages
from calibrant.cli.exits import one_line_errors
from calibrant.core import SettingError

if TYPE_CHECKING:
    from calibrant.analysis import Comparison
    from calibrant.cli.reading import Reading

COMPARE_HELP = """Compare two models on samples: how far the outputs of the second are from those of the first.

Any two models of the same inputs, whichever tool made them. Both run in onnxruntime, on the CPU.

  calibrant compare model.onnx int8.onnx --data photos --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

Other = Annotated[Path, typer.Argument(metavar="OTHER", help="The quantized model, or any other.", show_default=False)]


def compare(
    model: o.Model,
    other: Other,
    data: o.Data = None,
    samples: o.SampleCount = None,
    batch_size: o.BatchSize = None,
    skip_bad: o.SkipBad = False,
    resize: o.ResizeTo = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
    pixels: o.Pixels = None,
    layout: o.Layout = None,
    color: o.Color = None,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    if quiet and (verbose or debug):
        raise typer.BadParameter("--quiet contradicts --verbose and --debug")
    console = Console(verbose, quiet, debug)
    images = {"resize": resize, "crop": crop, "mean": mean, "std": std, "layout": layout, "color": color}
    images["pixels"] = int(pixels) if pixels else None
    with console.logging(), one_line_errors(console):
        from calibrant.cli.reading import Reading

        reading = Reading(data, samples, batch_size, skip_bad, images)
        console.out.print(as_table(compared(console, model, other, reading), model, other))


def compared(console: Console, model: Path, other: Path, reading: Reading) -> Comparison:
    """Run both. Raises as `analysis.compare` does, and SettingError where no samples are named."""
    from calibrant.analysis import compare as run
    from calibrant.analysis.models import input_specs, open_model
    from calibrant.cli.reading import naming_the_file

    if reading.data is None:
        raise SettingError("--data is missing: the models are compared on samples")
    with Stages(console) as stages:
        stages.begin("loading the models")
        found = reading.open(input_specs(open_model(model)))
        stages.begin("comparing", found.expected)
        with naming_the_file(found):
            return run(model, other, found, on_step=lambda _: stages.done(found.given))


def as_table(found: Comparison, model: Path, other: Path) -> Table:
    """What `compare` found, for people."""
    from calibrant.cli.words import megabytes

    table = Table(caption=f"{found.samples} samples, in onnxruntime on the CPU", caption_justify="left")
    table.add_column("")
    table.add_column(model.name, justify="right", overflow="fold")
    table.add_column(other.name, justify="right", overflow="fold")
    for name, output in found.outputs.items():
        label = "" if len(found.outputs) == 1 else f"{name}: "
        table.add_row(f"{label}SQNR of the output", "", f"{output.sqnr_db:.1f} dB")
        if output.agreement is not None:
            table.add_row(
                f"{label}same largest value", "", f"{output.agreement:.3f} ({output.agreeing} of {output.rows})"
            )
        table.add_row(f"{label}largest difference", "", f"{output.largest:.3g}")
    table.add_row("one sample", *(f"{milliseconds:.1f} ms" for milliseconds in found.milliseconds))
    table.add_row("size", *(megabytes(size) for size in found.size))
    return table

"""`calibrant compare`: what quantization did to the outputs, which layer did it, and what would help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibrant.cli import options as o
from calibrant.cli import table_options as t
from calibrant.cli.console import Console, Stages
from calibrant.cli.exits import one_line_errors
from calibrant.cli.gathered import console_of, images_of
from calibrant.core import DataError, SettingError

if TYPE_CHECKING:
    from calibrant.advice import Advice
    from calibrant.analysis.outputs import Metric
    from calibrant.cli.reading import Reading
    from calibrant.engines.samples import Feed

COMPARE_HELP = """Compare two models on samples: how far their outputs are apart, which layer does it, what would help.

Any two models of one network, whichever tool made them. Both run in onnxruntime, on the CPU.

  calibrant compare model.onnx int8.onnx --data photos --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

For what would help, the first model is quantized anew in several ways, each of which is run; nothing is written.
"""

Other = Annotated[Path, typer.Argument(metavar="OTHER", help="The quantized model, or any other.", show_default=False)]
MetricName = Annotated[
    str | None,
    o.option(
        "--metric",
        panel=o.OUTPUT,
        metavar="MODULE:FUNCTION",
        help="A function of your own, called for either model as function(outputs, about): a list of arrays, in the "
        "order of the model's outputs, and the sample's number from 0, or its label if the function of --data gives "
        "one behind the inputs. It returns a number; the mean over samples is shown.",
    ),
]
CutOff = Annotated[
    str | None,
    o.option(
        "--mask",
        panel=o.DATA,
        metavar="INPUT",
        help="The input, such as attention_mask, that is 1 where a position counts and 0 where it is padding: each "
        "sample is compared alone, its padding cut off.",
    ),
]
NoLayers = Annotated[bool, o.flag("--no-layers", panel=o.OUTPUT, help="Compare outputs alone, which is quicker.")]
NoFixes = Annotated[bool, o.flag("--no-fixes", panel=o.OUTPUT, help="Do not try what would help, which takes longest.")]
Csv = Annotated[bool, o.flag("--csv", panel=t.SHOWN, help="Print CSV: a row for each layer.")]


def compare(
    model: o.Model,
    other: Other,
    data: o.Data = None,
    samples: o.SampleCount = None,
    batch_size: o.BatchSize = None,
    skip_bad: o.SkipBad = False,
    mask: CutOff = None,
    resize: o.ResizeTo = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
    pixels: o.Pixels = None,
    layout: o.Layout = None,
    color: o.Color = None,
    metric: MetricName = None,
    no_layers: NoLayers = False,
    no_fixes: NoFixes = False,
    json: t.Json = False,
    csv: Csv = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    console = console_of(verbose, quiet, debug)
    if json and csv:
        raise typer.BadParameter("--json contradicts --csv")
    if csv and no_layers:
        raise typer.BadParameter("--csv has a row for each layer: it contradicts --no-layers")
    images = images_of(resize, crop, mean, std, pixels, layout, color)
    with console.logging(), one_line_errors(console):
        from calibrant.cli.compared import Compared
        from calibrant.cli.compared_machine import as_csv, as_json
        from calibrant.cli.inspection import write_out
        from calibrant.cli.reading import Reading

        reading = Reading(data, samples, batch_size, skip_bad, images, mask)
        fixes = not (no_layers or no_fixes)
        advice = compared(console, model, other, reading, metric, layers=not no_layers, fixes=fixes)
        found = Compared(model, other, reading, advice, fixes)
        if json or csv:
            write_out(as_json(found) if json else as_csv(found))
        elif not quiet:
            found.show(console)


def compared(
    console: Console, model: Path, other: Path, reading: Reading, metric: str | None, *, layers: bool, fixes: bool
) -> Advice:
    """Run both. Raises as `calibrant.advice.advise` does, and SettingError where no samples are named."""
    from calibrant.advice import advise
    from calibrant.analysis.models import OpenPair
    from calibrant.cli.output import check_model
    from calibrant.cli.reading import naming_the_file
    from calibrant.engines import iterate_samples
    from calibrant.graph.check import quantized_operators
    from calibrant.graph.load import read_onnx

    if reading.data is None:
        raise SettingError("--data is missing: the models are compared on samples")
    if reading.mask is not None and metric is not None:
        raise SettingError("--metric is told which sample it is given, and --mask takes batches apart: leave one out")
    first = quantized_operators(read_onnx(check_model(model)))
    second = quantized_operators(read_onnx(check_model(other, "the other model")))
    if first and not second and not console.quiet:
        console.say(f"warning: '{model}' is quantized and '{other}' is not: the float model comes first", "yellow")
    with Stages(console) as stages:
        stages.begin("loading the models")
        specs = OpenPair.open(model, other).specs
        found = reading.open(specs)
        samples = taken(found, found.steps)
        if reading.mask is not None:
            samples = without_padding(iterate_samples(samples, specs), model, reading.mask)
        function = metric_of(metric) if metric is not None else None
        stages.begin("comparing", found.expected, then="trying the layers")
        with naming_the_file(found):
            return advise(
                model,
                other,
                samples,
                on_step=lambda _: stages.done(found.given),
                metric=function,
                layers=layers,
                fixes=fixes,
                on_run=lambda count, total: stages.counting("trying the layers", count, total, "samples"),
                on_trial=lambda count, total: stages.counting("trying what would help", count, total, "ways"),
            )


def taken(samples: Iterable[Any], steps: int) -> Iterable[Any]:
    """At most so many of the samples: a function may go on for ever."""
    return islice(samples, steps)


def without_padding(samples: Iterable[Feed], model: Path, mask: str) -> Iterator[Feed]:
    """The samples of padded batches, each alone. SettingError for a mask that is none, DataError as `each_alone`."""
    from calibrant.engines.unpadding import each_alone
    from calibrant.graph import load_onnx_graph
    from calibrant.graph.mask import name_mask

    graph = load_onnx_graph(model, simplify=False)
    name_mask(graph, mask)

    def alone() -> Iterator[Feed]:
        for number, feed in enumerate(samples, 1):
            yield from each_alone(feed, graph, mask, number)

    return alone()


def metric_of(spec: str) -> Metric:
    """The user's function, whose errors are said with their place. Raises DataError where there is none."""
    from calibrant.data.functions import blame, load_function

    function = load_function(spec, "outputs", "about")

    def metric(outputs: list[Any], about: Any) -> float:
        try:
            return float(function(outputs, about))
        except Exception as error:
            raise DataError(f"the metric '{spec}' raised {blame(error)}") from error

    return metric

"""`calibrant calibrate`: the options, gathered; the work is in `calibrant.cli.collect`."""

from __future__ import annotations

from calibrant.cli import options as o
from calibrant.cli import table_options as t
from calibrant.cli.choices import Choices
from calibrant.cli.exits import one_line_errors
from calibrant.cli.gathered import console_of, images_of
from calibrant.core import TargetPlatform

CALIBRATE_HELP = """Collect the statistics of a model's values over samples, as a table: once, for any number of models.

The table serves every method and any number of bits, without the samples; tables merge. Which values are observed
depends on the platform, on --symmetric and --activation-type, and on the layers: say those as for quantize.

  calibrant calibrate model.onnx --data photos -o model.table
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  calibrant quantize model.onnx --table model.table --method mse -o int8.onnx

[dim]A long run, which may be interrupted at any time and goes on with the same command:[/dim]

  calibrant calibrate model.onnx --data photos -o model.table --checkpoint model.part

[dim]On all machines of a Ray cluster that see the photos at that path:[/dim]

  calibrant calibrate model.onnx --data /shared/photos -o model.table --ray head:6379
"""


def calibrate(
    model: o.Model,
    data: o.Data = None,
    output: t.TableOutput = None,
    samples: o.SampleCount = None,
    batch_size: o.BatchSize = None,
    skip_bad: o.SkipBad = False,
    mask: o.Mask = None,
    platform: o.Platform = None,
    methods: t.Methods = None,
    symmetric: o.Symmetric = None,
    activation_type: o.ActivationType = None,
    per_channel_activations: o.PerChannelActivations = False,
    equalize: o.Equalize = None,
    smooth_quant: o.SmoothQuant = None,
    imports: o.Import = None,
    leave_in_float: o.LeaveInFloat = None,
    only: o.Only = None,
    override: o.Override = None,
    setting: o.Setting = None,
    resize: o.ResizeTo = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
    pixels: o.Pixels = None,
    layout: o.Layout = None,
    color: o.Color = None,
    threads: o.Threads = None,
    provider: o.Provider = None,
    memory_budget: o.MemoryBudget = None,
    checkpoint: t.Checkpoint = None,
    every: t.Every = None,
    ray: t.Ray = None,
    workers: t.Workers = None,
    block_size: t.BlockSize = None,
    force: o.Force = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    console = console_of(verbose, quiet, debug)
    choices = Choices(
        setting=setting,
        mask=mask,
        symmetric=symmetric,
        activation_type=activation_type,
        per_channel_activations=per_channel_activations,
        equalize=equalize,
        smooth_quant=smooth_quant,
        leave_in_float=leave_in_float or [],
        only=only or [],
        overrides=override or [],
    )
    images = images_of(resize, crop, mean, std, pixels, layout, color)
    with console.logging(), one_line_errors(console):
        from calibrant.cli.collect import Collecting, Keeping, Sharing
        from calibrant.cli.reading import Reading, Running

        Collecting(
            model,
            output,
            platform or TargetPlatform.ONNXRUNTIME,
            methods,
            choices,
            Reading(data, samples, batch_size, skip_bad, images),
            Running(threads, provider, memory_budget, imports or []),
            Keeping(checkpoint, every),
            Sharing(ray, workers, block_size),
            force,
        ).run(console)

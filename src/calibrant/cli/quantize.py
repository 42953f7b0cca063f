"""`calibrant quantize`: the options, gathered; the work is in `calibrant.cli.job`."""

from __future__ import annotations

from calibrant.cli import options as o
from calibrant.cli import table_options as t
from calibrant.cli.choices import Choices
from calibrant.cli.exits import one_line_errors
from calibrant.cli.gathered import console_of, images_of

QUANTIZE_HELP = """Quantize a float ONNX model, calibrated on samples.

The samples show which values the layers really take: a few hundred that look like what the model will meet are enough.

[dim]A model that takes photos, normalized as ImageNet's are:[/dim]

  calibrant quantize model.onnx --data photos -o int8.onnx
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

[dim]From a table that `calibrant calibrate` wrote, in seconds, with any method:[/dim]

  calibrant quantize model.onnx --table model.table --method mse -o int8.onnx

[dim]As accurate as it has to be, with as few layers in float as that takes:[/dim]

  calibrant quantize model.onnx --data photos -o int8.onnx --target-sqnr 25

[dim]What would be quantized, and how; no samples needed:[/dim]

  calibrant quantize model.onnx --dry-run
"""


def quantize(
    model: o.Model,
    data: o.Data = None,
    table: t.FromTable = None,
    output: o.Output = None,
    samples: o.SampleCount = None,
    batch_size: o.BatchSize = None,
    skip_bad: o.SkipBad = False,
    mask: o.Mask = None,
    platform: o.Platform = None,
    method: o.Method = None,
    percentile: o.Percentile = None,
    bits: o.Bits = None,
    weight_bits: o.WeightBits = None,
    weight_method: o.WeightMethod = None,
    per_channel: o.PerChannel = None,
    per_channel_activations: o.PerChannelActivations = False,
    symmetric: o.Symmetric = None,
    activation_type: o.ActivationType = None,
    reduce_range: o.ReduceRange = False,
    power_of_2: o.PowerOf2 = False,
    effort: o.Effort = None,
    target_sqnr: o.TargetSqnr = None,
    max_drop: o.MaxDrop = None,
    most_in_float: o.MostInFloat = None,
    metric: o.MetricFunction = None,
    measure_latency: o.MeasureLatency = False,
    analyse: o.Analyse = False,
    equalize: o.Equalize = None,
    smooth_quant: o.SmoothQuant = None,
    reconstruct: o.Reconstruct = None,
    lsq: o.Lsq = False,
    weights_only: o.WeightsOnly = False,
    ignore_nonfinite: o.IgnoreNonfinite = False,
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
    report: o.Report = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The command's body; typer makes the options of its signature."""
    console = console_of(verbose, quiet, debug)
    choices = Choices(
        setting=setting,
        mask=mask,
        method=method.casefold() if method else None,
        bits=bits,
        weight_bits=weight_bits,
        weight_method=weight_method,
        per_channel=per_channel,
        per_channel_activations=per_channel_activations,
        symmetric=symmetric,
        activation_type=activation_type,
        reduce_range=reduce_range,
        power_of_2=power_of_2,
        effort=effort,
        target_sqnr=target_sqnr,
        max_drop=max_drop,
        most_in_float=most_in_float,
        equalize=equalize,
        smooth_quant=smooth_quant,
        reconstruct=reconstruct,
        lsq=lsq,
        weights_only=weights_only,
        percentile=percentile,
        ignore_nonfinite=ignore_nonfinite,
        leave_in_float=leave_in_float or [],
        only=only or [],
        overrides=override or [],
    )
    images = images_of(resize, crop, mean, std, pixels, layout, color)
    with console.logging(), one_line_errors(console):
        from calibrant.cli.job import Job
        from calibrant.cli.reading import Reading, Running

        job = Job(
            model,
            output,
            platform,
            choices,
            Reading(data, samples, batch_size, skip_bad, images),
            Running(threads, provider, memory_budget, imports or []),
            force,
            table,
            report,
            metric,
            analyse,
            measure_latency,
        )
        job.show(console) if dry_run else job.run(console)

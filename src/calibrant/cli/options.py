"""The options, with their help: what several commands share lies here once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from calibrant.cli import parse
from calibrant.settings import EFFORTS

DATA, IMAGES, ACTIVATIONS, WEIGHTS = "Samples", "Images", "Activations", "Weights"
ACCURACY = "Accuracy"
METHOD, LAYERS, RUNNING, OUTPUT, MESSAGES = "Quantization", "Layers", "Running", "Output", "Messages"


def option(*names: str, panel: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


def flag(*names: str, panel: str, help: str) -> Any:
    return option(*names, panel=panel, help=help, metavar=" ")


def whole(*names: str, panel: str, help: str, least: int = 1, most: int | None = None) -> Any:
    return option(*names, panel=panel, help=help, metavar="N", parser=parse.whole(least, most))


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The float model, an .onnx file.", show_default=False)]

Data = Annotated[
    str | None,
    option(
        "--data",
        "-d",
        panel=DATA,
        metavar="SAMPLES",
        help="A folder of images; a folder or file of .npy, .npz (a key per input) or .parquet (a column per input); "
        "or package.module:function, which returns samples as the model takes them.",
    ),
]
SampleCount = Annotated[
    Any,
    whole(
        "--samples",
        "-n",
        panel=DATA,
        help="Take N samples, evenly spread over files; the first N of a function. By default at most 512.",
    ),
]
BatchSize = Annotated[
    Any,
    whole(
        "--batch-size",
        panel=DATA,
        help="Run N samples of equal shape at once. By default what the model fixes, else 1.",
    ),
]
SkipBad = Annotated[
    bool,
    flag(
        "--skip-bad",
        panel=DATA,
        help="Leave out samples in files that cannot be read, do not fit the model, or hold NaN or Inf; each is named.",
    ),
]
Mask = Annotated[
    str | None,
    option(
        "--mask",
        panel=DATA,
        metavar="INPUT",
        help="The model's input, such as attention_mask, that is 1 where a position counts and 0 where it is padding: "
        "padded positions do not count in the statistics.",
    ),
]
IMPORT_HELP = "Import this Python module first; it may register calibration methods of your own. Repeatable."
Import = Annotated[
    list[str] | None,
    option(
        "--import",
        panel=METHOD,
        metavar="MODULE",
        help=IMPORT_HELP,
    ),
]

ResizeTo = Annotated[
    Any,
    option(
        "--resize",
        panel=IMAGES,
        parser=parse.resize,
        metavar="N|HxW|original",
        help="N: the shorter side becomes N. HxW: exactly that. By default just enough to cover the model's size.",
    ),
]
Crop = Annotated[
    Any,
    option(
        "--crop",
        panel=IMAGES,
        parser=parse.crop,
        metavar="N|HxW",
        help="Crop the centre. By default to the model's size.",
    ),
]
Mean = Annotated[
    Any,
    option(
        "--mean",
        panel=IMAGES,
        parser=parse.numbers,
        metavar="M|M,M,M",
        help="Subtracted: one number, or one per channel in the order of --color, such as 0.485,0.456,0.406. "
        "Above 1 it counts in 0..255, as 127 does; see --pixels.",
    ),
]
Std = Annotated[
    Any,
    option(
        "--std",
        panel=IMAGES,
        parser=parse.numbers,
        metavar="S|S,S,S",
        help="Divided by, after --mean; in the same units.",
    ),
]
Pixels = Annotated[
    Any,
    option(
        "--pixels",
        panel=IMAGES,
        parser=parse.one_of("range of pixels", ("1", "255")),
        metavar="1|255",
        help="Pixels count from 0 to 1, or from 0 to 255. By default 255 if --mean or --std is above 1, else 1.",
    ),
]
Layout = Annotated[
    Any,
    option(
        "--layout",
        panel=IMAGES,
        parser=parse.one_of("layout", ("nchw", "nhwc")),
        metavar="nchw|nhwc",
        help="Channels first or last. By default as the model's input shape has it.",
    ),
]
Color = Annotated[
    Any,
    option(
        "--color",
        panel=IMAGES,
        parser=parse.one_of("color", ("rgb", "bgr", "gray")),
        metavar="rgb|bgr|gray",
        help="Order of the channels. By default rgb; gray where the model takes one channel.",
    ),
]

Platform = Annotated[
    Any,
    option(
        "--platform",
        "-p",
        panel=METHOD,
        parser=parse.platform,
        metavar="NAME",
        help="The runtime: ONNXRUNTIME (the default), TRT_INT8, OPENVINO_INT8, PPL_CUDA_INT8.",
    ),
]
Effort = Annotated[
    Any,
    option(
        "--effort",
        panel=METHOD,
        parser=parse.one_of("effort", EFFORTS),
        metavar="default|high",
        help="high: more accurate, slower. Layers are optimized one by one, measured on the samples; Ctrl-C keeps "
        "what is done.",
    ),
]
Equalize = Annotated[
    bool | None,
    flag(
        "--equalize/--no-equalize",
        panel=METHOD,
        help="Bring the channels of values to like ranges, through activations as well, or never. By default in "
        "residual streams alone. For a table: collect what that takes.",
    ),
]
Reconstruct = Annotated[
    bool | None,
    flag(
        "--reconstruct/--no-reconstruct",
        panel=WEIGHTS,
        help="Choose the integers of weights by what they do to the output of their layer, or not. By default with "
        "--effort high.",
    ),
]
Lsq = Annotated[
    bool,
    flag(
        "--lsq",
        panel=WEIGHTS,
        help="Train weights, biases and scales block by block; needs PyTorch, and takes its time.",
    ),
]
SmoothQuant = Annotated[
    bool | None,
    flag(
        "--smooth-quant/--no-smooth-quant",
        panel=METHOD,
        help="The same for what MatMul and Gemm read, by a Mul before them. By default where no --method is given.",
    ),
]
Method = Annotated[
    str | None,
    option(
        "--method",
        "-m",
        panel=ACTIVATIONS,
        metavar="NAME",
        help="How activation ranges are found: minmax, percentile, mse, kl, isotone, auto (for each value the best), "
        "or one of your own (--import). By default the platform's.",
    ),
]
Percentile = Annotated[
    Any,
    option(
        "--percentile",
        panel=ACTIVATIONS,
        parser=parse.share,
        metavar="P",
        help="For the percentile method: the share of values inside the range, 0.9999 by default.",
    ),
]
Bits = Annotated[
    Any,
    whole("--bits", panel=ACTIVATIONS, least=2, most=16, help="Bits of activations: 2 to 16, 8 by default."),
]
WeightBits = Annotated[
    Any,
    whole("--weight-bits", panel=WEIGHTS, least=2, most=16, help="Bits of weights: 2 to 16, 8 by default."),
]
WeightMethod = Annotated[
    Any,
    option(
        "--weight-method",
        panel=WEIGHTS,
        parser=parse.one_of("weight method", ("minmax", "mse")),
        metavar="minmax|mse",
        help="How weight ranges are found. By default the platform's.",
    ),
]
PerChannel = Annotated[
    bool | None,
    flag("--per-channel/--per-tensor", panel=WEIGHTS, help="One weight scale per channel (default), or per tensor."),
]
PerChannelActivations = Annotated[
    bool,
    flag("--per-channel-activations", panel=METHOD, help="A scale per channel of activations; few runtimes can."),
]
Symmetric = Annotated[
    bool | None,
    flag(
        "--symmetric/--asymmetric",
        panel=ACTIVATIONS,
        help="Activations without or with a zero point. By default the platform's.",
    ),
]
ActivationType = Annotated[
    Any,
    option(
        "--activation-type",
        panel=ACTIVATIONS,
        parser=parse.one_of("activation type", ("int8", "uint8")),
        metavar="int8|uint8",
        help="How activations are stored. By default the platform's.",
    ),
]
ReduceRange = Annotated[
    bool,
    flag(
        "--reduce-range",
        panel=WEIGHTS,
        help="Weights keep one bit less, but in depthwise convolutions: for x86 processors without VNNI.",
    ),
]
PowerOf2 = Annotated[bool, flag("--power-of-2", panel=METHOD, help="Scales are powers of two.")]
WeightsOnly = Annotated[
    bool, flag("--weights-only", panel=WEIGHTS, help="Quantize weights, leave activations in float: needs no --data.")
]
IgnoreNonfinite = Annotated[
    bool,
    flag(
        "--ignore-nonfinite",
        panel=ACTIVATIONS,
        help="Where values within the model are NaN or Inf, calibrate on the finite ones. Samples must be finite.",
    ),
]

TargetSqnr = Annotated[
    Any,
    option(
        "--target-sqnr",
        panel=ACCURACY,
        parser=parse.number("a number of dB"),
        metavar="DB",
        help="Leave as many layers in float as it takes for so many dB at the outputs, and no more.",
    ),
]
MaxDrop = Annotated[
    Any,
    option(
        "--max-drop",
        panel=ACCURACY,
        parser=parse.number("a drop, 0 or more", least=0.0),
        metavar="D",
        help="The same, until --metric is at most D below the float model's.",
    ),
]
MostInFloat = Annotated[
    Any,
    option(
        "--most-in-float",
        panel=ACCURACY,
        parser=parse.whole(0),
        metavar="N",
        help="Leave at most N layers in float for that; without a target, those that gain most.",
    ),
]
MetricFunction = Annotated[
    str | None,
    option(
        "--metric",
        panel=ACCURACY,
        metavar="MODULE:FUNCTION",
        help="A measure of your own, more is better: package.module:function is given a model, which is a function "
        "from a sample to the outputs, and returns a number.",
    ),
]
MeasureLatency = Annotated[
    bool,
    flag(
        "--measure-latency",
        panel=ACCURACY,
        help="Also say how long each model on the way to the target takes, and the float model: run in onnxruntime.",
    ),
]
Analyse = Annotated[
    bool,
    flag("--analyse", panel=ACCURACY, help="Also measure every layer on some of the samples, and show the worst."),
]
LeaveInFloat = Annotated[
    list[str] | None,
    option(
        "--leave-in-float",
        panel=LAYERS,
        metavar="PATTERN",
        help="Leave these layers in float: a node's name, an operator such as Softmax, or a regular expression. "
        "Repeatable.",
    ),
]
Only = Annotated[
    list[str] | None,
    option(
        "--only", panel=LAYERS, metavar="PATTERN", help="Quantize these layers alone; patterns as above. Repeatable."
    ),
]
Override = Annotated[
    list[Any] | None,
    option(
        "--override",
        panel=LAYERS,
        parser=parse.override,
        metavar="VALUE:KEY=...",
        help="Another way for one value, or for those that a regular expression matches: "
        "'/head/.*:bits=16,symmetric=true'. Repeatable.",
    ),
]
Setting = Annotated[
    Path | None,
    option(
        "--setting",
        panel=METHOD,
        metavar="FILE.json",
        help="A setting saved with QuantizationSetting.to_json; options given beside it come first.",
    ),
]

Threads = Annotated[
    Any,
    whole("--threads", panel=RUNNING, help="By default as many as this process may use."),
]
Provider = Annotated[
    list[str] | None,
    option(
        "--provider",
        panel=RUNNING,
        metavar="NAME",
        help="onnxruntime's execution provider: cpu (the default), cuda, ... Repeatable, the preferred one first.",
    ),
]
MemoryBudget = Annotated[
    Any,
    option(
        "--memory-budget",
        panel=RUNNING,
        parser=parse.size_in_bytes,
        metavar="SIZE",
        help="Split batches whose activations would need more than this, such as 512MB. By default 1GiB.",
    ),
]

Output = Annotated[
    Path | None, option("--output", "-o", panel=OUTPUT, metavar="FILE", help="Where the quantized model goes.")
]
Report = Annotated[
    Path | None,
    option(
        "--report",
        panel=OUTPUT,
        metavar="FILE.html",
        help="Also write a page about it: every value's histogram, the error of each layer, the worst and what to do.",
    ),
]
Force = Annotated[bool, flag("--force", "-f", panel=OUTPUT, help="Replace the output file if there is one.")]
DryRun = Annotated[
    bool,
    flag("--dry-run", panel=OUTPUT, help="Show what would be quantized and how; reads no samples, writes nothing."),
]

Verbose = Annotated[bool, flag("--verbose", "-v", panel=MESSAGES, help="Say more, and list everything in full.")]
Quiet = Annotated[bool, flag("--quiet", "-q", panel=MESSAGES, help="Say nothing but errors.")]
Debug = Annotated[bool, flag("--debug", panel=MESSAGES, help="Say everything; errors come with their traceback.")]

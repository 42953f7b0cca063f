"""What calibrating costs, Calibrant and its peers on the same samples in the same run. Writes calibration.md.

Time: the whole call, from the model's file to the last scale, as a ratio to bare onnxruntime inference of the same
samples. Memory: the largest resident size of a process that does nothing else. Growth: lines through the times of few
and many samples, few and many threads, small and large networks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks import growth, resnet
from benchmarks.costs import SLOW, memory_table, start_note, time_table
from benchmarks.machine import command, description
from benchmarks.models import MODELS, CachedModel
from benchmarks.once import Failed, Found, Job, measure
from benchmarks.peers import CONTESTANTS, PEERS
from benchmarks.tasks import LITE, add_data_options, add_model_options
from benchmarks.varied import save_inputs
from calibrant.engines.session import usable_processors

RESNETS = [
    CachedModel(f"ResNet-{layers}, random weights", f"resnet{layers}_random.onnx", partial(resnet.build, blocks=blocks))
    for layers, blocks in {26: (2, 2, 2, 2), 50: resnet.RESNET_50, 101: (3, 4, 23, 3)}.items()
]
MEASURED = {"lite0": MODELS["EfficientNet-Lite0"], "resnet50": RESNETS[1]}
SECTIONS = ("time", "memory", "growth")
GROWING = ("calibrant", "nncf-openvino")
PHOTOS = 256  # that are decoded; more samples are made of them

HEAD = """# What calibrating costs

{description}; {threads} threads, and processes confined to as many processors

    {command}

A whole call goes from the model's file to the last scale. Calibrant collects for minmax, percentile, mse, kl and
isotone at once and solves every value by each, with what equalization needs (the default) and without; a peer does one
method. Ratios are to bare onnxruntime inference
(default options, one sample at a time, its session built before) of the same samples in the same process, before and
after: the median of the rounds, in which contestants take turns. CPU seconds: of all threads. A peer that keeps all
activations of every sample is given as many samples as fit {gigabytes:g} GB. A contestant beyond {slow} times bare
inference is not run again in later rounds. Memory: of a process that does nothing else, reading samples as they come.
Growth: seconds = what is at 0 + slope times x, by least squares of the relative errors; the slope over bare
inference's is what calibrating costs without what every call costs once.
"""


def main() -> None:
    options = _options()
    console = Console(stderr=True, soft_wrap=True)
    facts = {"description": description(), "command": command(), "slow": SLOW}
    head = HEAD.format(**facts, threads=options.threads, gigabytes=options.gigabytes)
    with tempfile.TemporaryDirectory(prefix="calibrant-benchmark-") as folder:
        inputs = Path(folder) / "inputs.npy"
        save_inputs(options.photos, LITE, PHOTOS, inputs)
        page = "\n".join([head, *_sections(options, inputs, console)])
    options.output.write_text(page + "\n", encoding="utf-8")
    Console(soft_wrap=True).print(page, markup=False, highlight=False)
    console.print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.split("\n")[0])
    add_data_options(parser, "photos")
    add_model_options(parser, MEASURED, "calibration.md")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="only these")
    parser.add_argument("--samples", type=int, default=128, help="samples of the timing (128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing, whose median counts (5)")
    parser.add_argument("--threads", type=int, default=usable_processors(), help="threads of everything (all)")
    parser.add_argument("--memory", type=int, nargs="+", default=(32, 128, 512, 2048), metavar="N", help="samples")
    parser.add_argument("--gigabytes", type=float, default=16, help="that a peer may keep activations in (16)")
    parser.add_argument("--growth", type=int, nargs="+", default=(32, 64, 128, 256), metavar="N", help="samples")
    parser.add_argument("--growing", nargs="+", choices=CONTESTANTS, default=GROWING, help="contestants with growth")
    parser.add_argument("--growth-rounds", type=int, default=2, metavar="N", help="rounds of the growth (2)")
    return parser.parse_args()


def _sections(options: argparse.Namespace, inputs: Path, console: Console) -> Iterator[str]:
    """The page below its head, a piece at a time."""
    told = partial(_told, console)
    jobs = [
        Job("calibrant", MEASURED[name].path(options.cache), inputs, options.samples, options.threads)
        for name in options.models
    ]
    for name, job in zip(options.models, jobs, strict=True):
        yield f"\n## {MEASURED[name].name}"
        if "time" in options.sections:
            yield f"\n{time_table(job, options.peers, options.rounds, options.gigabytes, told)}"
            yield f"\n{start_note(job, told)}"
        if "memory" in options.sections:
            yield f"\n{memory_table(job, options.peers, options.memory, options.gigabytes, told)}"
        if "growth" in options.sections:
            axes = [growth.with_samples(job, options.growth), growth.with_threads(job)]
            yield f"\n{growth.growth_table(axes, options.growing, options.growth_rounds, told)}"
    if "growth" in options.sections:
        job = Job("calibrant", inputs, inputs, min(options.growth), options.threads)
        axis = growth.with_size(job, RESNETS, options.cache)
        yield f"\n## Growth with the model: {', '.join(model.name for model in RESNETS)}"
        yield f"\n{job.samples} samples.\n"
        yield growth.growth_table([axis], options.growing, options.growth_rounds, told)


def _told(console: Console, job: Job, environment: Mapping[str, str] | None = None) -> Found:
    """`measure`, telling what it does."""
    what = f"{job.contestant}, {job.model.stem}, {job.samples} samples, {job.threads} threads, {job.purpose}"
    try:
        found = measure(job, environment)
    except Failed as error:
        console.print(f"{what}: {error}", markup=False, highlight=False)
        raise
    result = {
        "time": f"{found.seconds:.2f} s, {found.seconds / max(found.bare, 1e-9):.2f} x bare",
        "memory": f"{found.peak_mb:.0f} MB",
        "start": f"{found.start:.2f} s, then {found.start_again:.2f} s",
    }
    console.print(f"{what}: {result[job.purpose]}", markup=False, highlight=False)
    return found


if __name__ == "__main__":
    main()
